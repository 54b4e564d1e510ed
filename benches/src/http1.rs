//! One request of HTTP/1.1 and its answer, as the load programs need it: every answer is looked at, and one that is not
//! what was asked for is an error.
//!
//! Not a client for anything else: it knows no chunks, no redirects and no answers before the final one.

use std::io;

use anyhow::{Context, bail};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// One request, and the whole of its answer, which must be a 200 with Content-Length on a
/// connection that stays open.
///
/// # Errors
/// Anything else.
pub async fn exchange<S>(stream: &mut S, request: &[u8]) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(request).await?;
    let mut answer = Vec::with_capacity(2048);
    loop {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(length) = answer_length(&answer).map_err(io::Error::other)? {
            if answer.len() == length {
                return Ok(());
            }
            if answer.len() > length {
                return Err(io::Error::other("more bytes than the answer has"));
            }
        }
    }
}

/// Bytes of head and body together; `None` while the head is not complete.
fn answer_length(answer: &[u8]) -> anyhow::Result<Option<usize>> {
    let Some(end) = memchr::memmem::find(answer, b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&answer[..end])?.to_ascii_lowercase();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("http/1.1 200") {
        bail!("answered {status}");
    }
    let mut length = None;
    for line in lines {
        match line.split_once(':') {
            Some(("content-length", value)) => length = Some(value.trim().parse::<usize>()?),
            Some(("connection", value)) if value.trim() == "close" => bail!("closes"),
            _ => {}
        }
    }
    let body = length.context("no Content-Length")?;
    Ok(Some(end + 4 + body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(answer: &str, expected: Result<Option<usize>, &str>) {
        let found = answer_length(answer.as_bytes()).map_err(|error| error.to_string());
        assert_eq!(found, expected.map_err(str::to_string));
    }

    #[test]
    fn answers() {
        check("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n", Ok(None));
        check("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", Ok(Some(41)));
        check("HTTP/1.1 200 OK\r\n\r\n", Err("no Content-Length"));
        check(
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\n",
            Err("closes"),
        );
        check(
            "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n",
            Err("answered http/1.1 503 no"),
        );
    }
}
