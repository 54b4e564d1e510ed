//! What comes on a stream, taken in section by section and checked as it comes.

use std::fmt;
use std::io;

use super::breach;
use crate::wire::{self, Body, Fields};

/// What came on a stream so far.
#[derive(Clone, Default)]
pub struct Answer {
    /// Statuses and fields of the 1xx before it.
    pub interim: Vec<(u16, Fields)>,
    /// 0 before the head came.
    pub status: u16,
    /// Without the pseudo-field.
    pub fields: Fields,
    /// What came of it.
    pub body: Body,
    /// In their order.
    pub trailers: Fields,
    /// Whether END_STREAM came.
    pub ended: bool,
    /// The code of RST_STREAM.
    pub reset: Option<u32>,
    pub(super) head_request: bool,
}

impl fmt::Debug for Answer {
    /// Without the body, which would fill screens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let interim: Vec<u16> = self.interim.iter().map(|(status, _)| *status).collect();
        let (status, length) = (self.status, self.body.length);
        let start: String = self.text().chars().take(80).collect();
        write!(
            f,
            "{interim:?} {status} {:?}, {length} bytes {start:?}",
            self.fields
        )?;
        write!(
            f,
            ", trailers {:?}, ended {}, reset {:?}",
            self.trailers, self.ended, self.reset
        )
    }
}

impl Answer {
    /// The first field of that name.
    pub fn field(&self, name: &str) -> Option<&str> {
        wire::field(&self.fields, name)
    }

    /// The kept part of the body as text.
    pub fn text(&self) -> String {
        self.body.text()
    }

    /// Takes in a field section: interim, final or trailers.
    pub(super) fn add(&mut self, section: &[(Vec<u8>, Vec<u8>)], end: bool) -> io::Result<()> {
        let mut fields = Fields::new();
        let mut status = None;
        for (name, value) in section {
            let text = |bytes: &[u8]| bytes.iter().map(|byte| char::from(*byte)).collect();
            let (name, value): (String, String) = (text(name), text(value));
            if name == ":status" && fields.is_empty() && status.is_none() {
                status = value.parse::<u16>().ok().filter(|_| value.len() == 3);
                continue;
            }
            check_field(&name, &value)?;
            fields.push((name, value));
        }
        match (status, self.status) {
            (Some(interim @ 100..=199), 0) if !end && interim != 101 => {
                self.interim.push((interim, fields));
            }
            (Some(status @ 200..), 0) => (self.status, self.fields) = (status, fields),
            (None, 200..) if end => self.trailers = fields,
            _ => return Err(breach(format!("8.1: {section:?} behind {self:?}"))),
        }
        Ok(())
    }

    pub(super) fn end(&mut self, check_length: bool) -> io::Result<()> {
        self.ended = true;
        let bodiless = self.head_request || matches!(self.status, 204 | 304);
        let length = self.field("content-length").map(str::parse::<u64>);
        let wrong = match length {
            Some(Ok(length)) => length != self.body.length && !bodiless && check_length,
            Some(Err(_)) => true,
            None => false,
        };
        if self.status == 0 || wrong || bodiless && self.body.length > 0 {
            return Err(breach(format!("8.1.1: an end after {self:?}")));
        }
        Ok(())
    }
}

/// RFC 9113, 8.2: what no sender may write.
fn check_field(name: &str, value: &str) -> io::Result<()> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let hop = [
        "connection",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
    ];
    let bad_name =
        name.is_empty() || !name.bytes().all(token) || *name != name.to_ascii_lowercase();
    let bad_value = value.chars().any(|c| matches!(c, '\0' | '\r' | '\n')) || value.trim() != value;
    if bad_name || bad_value || hop.contains(&name) {
        return Err(breach(format!("8.2: field {name:?}: {value:?}")));
    }
    Ok(())
}
