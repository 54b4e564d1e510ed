//! URLs: of backends, of pages, of redis. A mistake never quotes a URL that has a host: it
//! may hold a password.

use portico_routing::backend::Backend;

use super::quote;
use crate::config::SecretUrl;
use crate::diagnostic::nearest;
use crate::reader::{FromText, Mistake};
use crate::values::sentinel::SentinelUrl;

impl FromText for Backend {
    fn allowed() -> String {
        "a URL such as \"http://192.0.2.10:8000\", \"https://host.example/base\" or \"h2c://192.0.2.10:50051\", without user, query and fragment"
            .to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        Self::parse(text).map_err(|error| Mistake::new(format!("no backend URL: {error}")))
    }
}

/// The URL of a backend, or nothing.
#[derive(Debug)]
pub(crate) struct MaybeBackend(pub(crate) Option<Backend>);

impl FromText for MaybeBackend {
    fn allowed() -> String {
        format!("\"\", or {}", <Backend as FromText>::allowed())
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let backend = Backend::from_text(text).map_err(|mistake| Mistake {
            allowed: None,
            ..mistake
        })?;
        Ok(Self(Some(backend)))
    }
}

/// The URL of a page for people, or nothing.
#[derive(Debug)]
pub(crate) struct MaybePage(pub(crate) Option<String>);

impl FromText for MaybePage {
    fn allowed() -> String {
        "\"\", or a URL that starts with http:// or https://".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        check_page_url(text)?;
        Ok(Self(Some(text.to_owned())))
    }
}

/// What the bare canonical domain is.
#[derive(Debug)]
pub(crate) enum ApexWord {
    Ingress,
    Redirect(Box<str>),
}

impl FromText for ApexWord {
    fn allowed() -> String {
        "\"ingress\", or a URL that starts with http:// or https:// to redirect to".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        if text == "ingress" {
            return Ok(Self::Ingress);
        }
        if !text.contains("://") {
            let meant = nearest(text, ["ingress"]).map(|word| format!("{word:?}"));
            let message = format!("{} is neither the word ingress nor a URL", quote(text));
            return Err(Mistake::new(message).suggest(meant));
        }
        check_page_url(text)?;
        Ok(Self::Redirect(text.into()))
    }
}

/// A URL that may stand in a Location header and in a page: absolute, http or https, printable
/// ASCII, nobody's password.
fn check_page_url(text: &str) -> Result<(), Mistake> {
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    let Some(rest) = rest else {
        return Err(Mistake::new("no URL of the web"));
    };
    if !text
        .bytes()
        .all(|b| b.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&b))
    {
        return Err(Mistake::new(
            "a URL holds no spaces, control characters, quotes or other letters than ASCII",
        ));
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err(Mistake::new(
            "a URL that everybody gets to see holds no user or password",
        ));
    }
    // A page URL may name an IP address; the backend's parser knows all forms of a host.
    Backend::parse(&format!("http://{authority}"))
        .map(|_| ())
        .map_err(|_| Mistake::new("the URL's host is not valid"))
}

/// The host of a URL that [`check_page_url`] accepts, in lower case.
pub(crate) fn page_host(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority
        .rsplit_once(':')
        .map_or(authority, |(host, _)| host);
    host.trim_end_matches('.').to_ascii_lowercase()
}

impl FromText for SecretUrl {
    fn allowed() -> String {
        "redis://[user:password@]host[:port][/database], rediss://... (TLS), unix:///path/of/socket, \
         redis+sentinel://[user:password@]sentinel[:port][,sentinel[:port]...]/master[/database][?sentinel_user=...&sentinel_password=...], \
         rediss+sentinel://... (TLS)"
            .to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(Mistake::new("the URL has no scheme, such as redis://"));
        };
        if text.chars().any(|c| c.is_control() || c == ' ') {
            return Err(Mistake::new(
                "the URL holds a space or a control character (write it as %20, %0A ...)",
            ));
        }
        match scheme {
            "redis" | "rediss" => check_redis_authority(rest)?,
            "redis+sentinel" | "rediss+sentinel" => {
                SentinelUrl::parse(text).transpose()?;
            }
            "unix" | "redis+unix" if !rest.starts_with('/') => {
                return Err(Mistake::new(
                    "the path of a unix socket is absolute: three slashes follow the colon",
                ));
            }
            "unix" | "redis+unix" => {}
            _ => {
                let meant = if scheme.contains("sentinel") {
                    let secure = scheme.starts_with("rediss");
                    Some(if secure {
                        "rediss+sentinel"
                    } else {
                        "redis+sentinel"
                    })
                } else {
                    nearest(scheme, ["redis", "rediss", "unix", "redis+unix"])
                };
                let meant = meant.map(|scheme| format!("{scheme}://"));
                return Err(Mistake::new("portico does not know this scheme").suggest(meant));
            }
        }
        Ok(Self::new(text))
    }
}

/// Checks `[user:password@]host[:port][/database]`.
fn check_redis_authority(rest: &str) -> Result<(), Mistake> {
    let rest = rest.split('?').next().unwrap_or_default();
    // The user information ends at the last `@`; a password that holds a `/`
    // has to write it as %2F.
    let (user, rest) = rest
        .rsplit_once('@')
        .map_or((None, rest), |(user, rest)| (Some(user), rest));
    if user.is_some_and(|user| user.contains(['/', '@', '#'])) {
        return Err(Mistake::new(
            "in the password /, @ and # are written %2F, %40 and %23",
        ));
    }
    let (host, database) = rest.split_once('/').unwrap_or((rest, ""));
    Backend::parse(&format!("http://{host}"))
        .map_err(|_| Mistake::new("the URL's host or port is not valid"))?;
    if !database.is_empty() && database.parse::<u32>().is_err() {
        return Err(Mistake::new(
            "the database behind the last slash is a number",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::testing::{bad, good};

    #[test]
    fn registry_urls() {
        for url in [
            "redis://127.0.0.1:6379/0",
            "redis://h",
            "rediss://user:p%40ss@h.example:6380/1",
            "redis://:pw@[::1]:6379",
            "unix:///run/redis.sock",
            "redis+unix:///run/redis.sock?db=1",
            "redis+sentinel://a:1,b:2/mymaster/0",
            "rediss+sentinel://u:p@a/mymaster?sentinel_password=x",
        ] {
            good(url, SecretUrl::new(url));
        }
        bad::<SecretUrl>("127.0.0.1:6379", None);
        bad::<SecretUrl>("reddis://h", Some("redis://"));
        bad::<SecretUrl>("http://h", None);
        bad::<SecretUrl>("sentinel://h/m", Some("redis+sentinel://"));
        bad::<SecretUrl>("rediss-sentinel://h/m", Some("rediss+sentinel://"));
        bad::<SecretUrl>("redis+sentinel://h", None);
        bad::<SecretUrl>("redis://a,b/m", None);
        bad::<SecretUrl>("redis://h:99999", None);
        bad::<SecretUrl>("redis://h/zero", None);
        bad::<SecretUrl>("redis://", None);
        bad::<SecretUrl>("redis://:a/b@h", None);
        bad::<SecretUrl>("redis://h /0", None);
        bad::<SecretUrl>("unix://run/redis.sock", None);
    }

    #[track_caller]
    fn check_page(url: &str, valid: bool) {
        assert_eq!(MaybePage::from_text(url).is_ok(), valid);
    }

    #[test]
    fn pages() {
        check_page("", true);
        check_page(
            "https://wikitech.wikimedia.org/wiki/Help:Toolforge?a=b#c",
            true,
        );
        check_page("http://[2001:db8::1]:8080/", true);
        check_page("/help", false);
        check_page("javascript:alert(1)", false);
        check_page("https://", false);
        check_page("https://h/\r\nX: y", false);
        check_page("https://h/<script>", false);
        check_page("https://user:pw@h/", false);
        assert_eq!(page_host("https://ToolForge.org.:443/x"), "toolforge.org");
    }
}
