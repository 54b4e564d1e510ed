//! Bytes of clients in lines of the access log: they end no line, close no quote, and mean nothing
//! to a terminal. All that is written is printable ASCII.

/// Appends `bytes` as nginx writes them (`log_format` with `escape=default`): `"`, `\`, controls and
/// everything beyond ASCII as `\xXX`.
pub(super) fn nginx(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut rest = bytes;
    while let Some((&byte, behind)) = copy_plain(out, rest).split_first() {
        let (high, low) = (
            DIGITS[usize::from(byte >> 4)],
            DIGITS[usize::from(byte & 15)],
        );
        out.extend_from_slice(&[b'\\', b'x', high, low]);
        rest = behind;
    }
}

/// Appends `bytes` as the inside of a JSON string (RFC 8259 section 7). What is not ASCII is written as
/// `\uXXXX`, and bytes that are no UTF-8 as U+FFFD.
pub(super) fn json(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut rest = copy_plain(out, bytes);
    while let Some((&byte, behind)) = rest.split_first() {
        rest = match byte {
            b'"' | b'\\' => {
                out.extend_from_slice(&[b'\\', byte]);
                behind
            }
            0..0x80 => {
                unit(out, u16::from(byte));
                behind
            }
            0x80.. => beyond_ascii(out, rest),
        };
        rest = copy_plain(out, rest);
    }
}

/// Appends what needs no escape, and gives the rest. Most text needs none at all, and is looked at
/// in pieces that the compiler can compare at once.
fn copy_plain<'a>(out: &mut Vec<u8>, bytes: &'a [u8]) -> &'a [u8] {
    const PIECE: usize = 16;
    let (pieces, _) = bytes.as_chunks::<PIECE>();
    let all_plain = |piece: &&[u8; PIECE]| piece.iter().fold(true, |all, b| all & is_plain(*b));
    let sure = pieces.iter().take_while(all_plain).count() * PIECE;
    let plain = bytes[sure..]
        .iter()
        .position(|byte| !is_plain(*byte))
        .map_or(bytes.len(), |more| sure + more);
    let (plain, rest) = bytes.split_at(plain);
    out.extend_from_slice(plain);
    rest
}

/// Whether a byte stands for itself, in both formats.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') & (byte != b'"') & (byte != b'\\')
}

/// The run of bytes beyond ASCII that `bytes` begins with; gives the rest. No character of UTF-8
/// goes beyond such a run.
fn beyond_ascii<'a>(out: &mut Vec<u8>, bytes: &'a [u8]) -> &'a [u8] {
    let run = bytes.iter().position(u8::is_ascii).unwrap_or(bytes.len());
    let (run, rest) = bytes.split_at(run);
    for chunk in run.utf8_chunks() {
        for character in chunk.valid().chars() {
            for word in character.encode_utf16(&mut [0; 2]) {
                unit(out, *word);
            }
        }
        if !chunk.invalid().is_empty() {
            unit(out, 0xfffd);
        }
    }
    rest
}

fn unit(out: &mut Vec<u8>, unit: u16) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |shift: u16| DIGITS[usize::from(unit >> shift & 15)];
    out.extend_from_slice(&[b'\\', b'u', digit(12), digit(8), digit(4), digit(0)]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], as_nginx: &str, as_json: &str) {
        let (mut one, mut other) = (Vec::new(), Vec::new());
        nginx(&mut one, bytes);
        json(&mut other, bytes);
        assert_eq!(String::from_utf8(one).unwrap(), as_nginx);
        assert_eq!(String::from_utf8(other).unwrap(), as_json);
    }

    #[test]
    fn hostile_bytes_are_escaped() {
        check(b"", "", "");
        check(b"curl/8.0 (x; y)", "curl/8.0 (x; y)", "curl/8.0 (x; y)");
        check(b"a\"b\\c", r"a\x22b\x5Cc", r#"a\"b\\c"#);
        check(
            b"\r\n\t\0",
            r"\x0D\x0A\x09\x00",
            r"\u000d\u000a\u0009\u0000",
        );
        check(b"\x1b[31m\x7f", r"\x1B[31m\x7F", r"\u001b[31m\u007f");
        check("é".as_bytes(), r"\xC3\xA9", r"\u00e9");
        check("\u{2028}".as_bytes(), r"\xE2\x80\xA8", r"\u2028");
        check("\u{9b}x".as_bytes(), r"\xC2\x9Bx", r"\u009bx");
        check("😀".as_bytes(), r"\xF0\x9F\x98\x80", r"\ud83d\ude00");
        check(b"a\xffb\xc3", r"a\xFFb\xC3", r"a\ufffdb\ufffd");
        check(b"\xff\xfe\"", r"\xFF\xFE\x22", r#"\ufffd\ufffd\""#);
    }

    proptest! {
        #[test]
        fn all_is_printable_and_can_be_read_back(bytes: Vec<u8>) {
            let (mut one, mut other) = (Vec::new(), vec![b'"']);
            nginx(&mut one, &bytes);
            json(&mut other, &bytes);
            other.push(b'"');
            let printable = |byte: &u8| matches!(byte, b' '..=b'~');
            prop_assert!(one.iter().all(|b| printable(b) && *b != b'"') && other.iter().all(printable));
            let back: String = serde_json::from_slice(&other).unwrap();
            prop_assert_eq!(back, String::from_utf8_lossy(&bytes));
            // The naive twin of nginx's way.
            let naive: String = bytes.iter().map(|byte| match byte {
                b'"' | b'\\' | 0..32 | 127.. => format!("\\x{byte:02X}"),
                _ => char::from(*byte).to_string(),
            }).collect();
            prop_assert_eq!(one, naive.into_bytes());
        }
    }
}
