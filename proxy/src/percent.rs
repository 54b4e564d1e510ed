//! Names and values in the query of a URL, as text and percent-encoded. Not for the paths of requests,
//! which are bytes: `routing` decodes those.

/// `%2F` to `/`, and `+` to a space, as forms write it.
///
/// # Errors
/// What is wrong, for people.
pub fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match first {
            b'%' => {
                let (digits, after) = rest.split_at_checked(2).unwrap_or_default();
                let digit = |index: usize| {
                    let digit = digits.get(index).copied()?;
                    char::from(digit).to_digit(16)
                };
                let (Some(high), Some(low)) = (digit(0), digit(1)) else {
                    return Err(format!("{text:?} is not percent-encoded properly"));
                };
                bytes.push((high * 16 + low) as u8);
                rest = after;
            }
            b'+' => bytes.push(b' '),
            other => bytes.push(*other),
        }
    }
    String::from_utf8(bytes).map_err(|_| format!("{text:?} is not UTF-8"))
}

/// For a value in a query.
pub fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(text in "\\PC*") {
            prop_assert_eq!(decode(&encode(&text)), Ok(text));
        }
    }
}
