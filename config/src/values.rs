//! The kinds of values that a configuration holds.
//!
//! Each says what may stand for it and reads it; none knows where it is used. A password of a URL
//! is never quoted in a mistake.

mod header;
mod network;
mod quantity;
mod sentinel;
mod url;

use std::path::PathBuf;

use crate::config::{LogTarget, blank_password};
use crate::diagnostic::nearest;
use crate::reader::{FromText, Mistake};

pub(crate) use header::{HeaderName, HeaderPattern, MediaType, ViaName};
pub(crate) use network::{Domain, HostField, MaybeAdmin, MaybeHost, Name};
pub(crate) use quantity::{DurationOrZero, Number, Size};
pub use sentinel::{Credentials, SentinelUrl};
pub(crate) use url::{ApexWord, MaybeBackend, MaybePage, page_host};

/// The text as TOML would write it, shortened when it is long. A URL with a password may have got
/// anywhere: it is blanked.
pub(crate) fn quote(text: &str) -> String {
    const SHOWN: usize = 80;
    let url = text.contains("://");
    let text = &if text.contains('@') || (url && text.contains("pass")) {
        blank_password(text)
    } else {
        text.to_owned()
    };
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}...", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}

impl FromText for PathBuf {
    fn allowed() -> String {
        "the path of a file; a relative one starts at the working directory".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        match text {
            "" => Err(Mistake::new("the path is empty")),
            _ if text.contains('\0') => {
                Err(Mistake::new(format!("{} holds a NUL byte", quote(text))))
            }
            _ => Ok(Self::from(text)),
        }
    }
}

/// The path of a directory, or nothing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MaybeDirectory(pub(crate) Option<PathBuf>);

impl FromText for MaybeDirectory {
    fn allowed() -> String {
        "\"\", or the path of a directory; a relative one starts at the working directory"
            .to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        PathBuf::from_text(text).map(|path| Self(Some(path)))
    }
}

impl FromText for LogTarget {
    fn allowed() -> String {
        "\"off\", \"stderr\", or the absolute path of a file".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        match text {
            "off" => return Ok(Self::Off),
            "stderr" => return Ok(Self::Stderr),
            _ if text.contains('\0') => {}
            _ if text.ends_with('/') => {
                return Err(Mistake::new(format!("{} is a directory", quote(text))));
            }
            _ if text.starts_with('/') => return Ok(Self::File(PathBuf::from(text))),
            _ => {}
        }
        let word = || nearest(text, ["off", "stderr"]).map(|word| format!("{word:?}"));
        Err(Mistake::new(format!("{} is no log target", quote(text))).suggest(word()))
    }
}

/// The path and query of a request, such as `/healthz`.
#[derive(Debug)]
pub(crate) struct RequestPath(pub(crate) Box<str>);

impl FromText for RequestPath {
    fn allowed() -> String {
        "a path such as \"/healthz\"".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        let valid =
            text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
        valid.then(|| Self(text.into())).ok_or_else(|| {
            let meant =
                (!text.starts_with('/') && !text.is_empty()).then(|| format!("\"/{text}\""));
            Mistake::new(format!("{} is no path", quote(text))).suggest(meant)
        })
    }
}

/// How the tests of values look at them.
#[cfg(test)]
pub(crate) mod testing {
    use std::fmt::Debug;

    use super::*;

    /// The text is read, and as this.
    #[track_caller]
    pub(crate) fn good<T: FromText + Debug + PartialEq>(text: &str, expected: T) {
        assert_eq!(T::from_text(text), Ok(expected));
    }

    /// The text is refused, with this suggestion.
    #[track_caller]
    pub(crate) fn bad<T: FromText + Debug>(text: &str, suggestion: Option<&str>) {
        let mistake = T::from_text(text).expect_err("a mistake");
        assert_eq!(mistake.suggestion.as_deref(), suggestion, "{mistake:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use ipnet::IpNet;
    use proptest::prelude::*;

    use super::*;
    use crate::config::{HeaderTemplate, NamePattern, NodeAddress, SecretUrl};

    #[test]
    fn log_targets() {
        testing::good("off", LogTarget::Off);
        testing::good("stderr", LogTarget::Stderr);
        testing::good("/a", LogTarget::File("/a".into()));
        testing::bad::<LogTarget>("stdrr", Some("\"stderr\""));
        for none in ["", "access.log", "logs/access.log", "/var/log/", "/a\0b"] {
            testing::bad::<LogTarget>(none, None);
        }
    }

    #[test]
    fn quoted_values_hide_passwords() {
        assert_eq!(quote("redis://u:secret@h"), "\"redis://u:***@h\"");
        let url = "redis+sentinel://h/m?sentinel_password=secret";
        assert_eq!(quote(url), "\"redis+sentinel://h/m?sentinel_password=***\"");
        assert_eq!(quote(&"x".repeat(100)), format!("{:?}...", "x".repeat(80)));
    }

    proptest! {
        #[test]
        fn no_text_makes_a_reader_panic(text in "\\PC*") {
            let _ = (Duration::from_text(&text), SocketAddr::from_text(&text));
            let _ = (IpNet::from_text(&text), Name::from_text(&text), Domain::from_text(&text));
            let _ = (NodeAddress::from_text(&text), SecretUrl::from_text(&text), HeaderTemplate::from_text(&text));
            let _ = (HostField::from_text(&text), NamePattern::from_text(&text), DurationOrZero::from_text(&text));
            let _ = (ApexWord::from_text(&text), MaybePage::from_text(&text), HeaderName::from_text(&text));
            let _ = (HeaderPattern::from_text(&text), LogTarget::from_text(&text), RequestPath::from_text(&text));
            let _ = (SecretUrl::new(text.as_str()).to_string(), quote(&text));
        }
    }
}
