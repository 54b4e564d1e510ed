//! URLs of a redis that is found by asking Sentinel:
//! `redis+sentinel://[user:password@]sentinel[:port][,...]/master[/database]`.
//!
//! This is the one reading of such a URL: the check of the configuration and the client both have
//! it. User and password are for the redis servers, as other clients of such URLs have it; those of
//! the sentinels themselves stand in the query. Asks nobody and resolves no name.
//!
//! Invariant: no mistake and no `Debug` holds a part of the URL that may be a password.

use std::collections::HashSet;
use std::fmt;

use percent_encoding::percent_decode_str;
use portico_routing::backend::Backend;

use crate::diagnostic::nearest;
use crate::reader::Mistake;

/// Where sentinels listen unless the URL says otherwise.
const DEFAULT_PORT: u16 = 26379;

/// More sentinels than this watch nothing; asking all of them in turn must not take for ever.
const MAX_SENTINELS: usize = 16;

/// The names that a query may hold.
const QUERY: [&str; 2] = ["sentinel_user", "sentinel_password"];

/// The longest name of a master, in bytes.
const MAX_MASTER: usize = 200;

/// Where sentinels are, and what to ask them for.
#[derive(Clone, PartialEq, Eq)]
pub struct SentinelUrl {
    /// Whether the sentinels and redis are spoken to in TLS: `rediss+sentinel://`.
    pub tls: bool,
    /// Host, without the brackets of IPv6, and port; at least one, none twice.
    pub sentinels: Vec<(String, u16)>,
    /// The name of the master, as in `sentinel monitor`: printable ASCII.
    pub master: String,
    /// The number of the database.
    pub database: u32,
    /// For redis.
    pub credentials: Option<Credentials>,
    /// For the sentinels.
    pub sentinel_credentials: Option<Credentials>,
}

/// A password, and whose it is.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// `None`: the default user.
    pub user: Option<String>,
    /// The password, not empty.
    pub password: String,
}

impl fmt::Debug for SentinelUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SentinelUrl")
            .field("tls", &self.tls)
            .field("sentinels", &self.sentinels)
            .field("master", &self.master)
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(***)")
    }
}

impl SentinelUrl {
    /// Reads a URL; `None` if its scheme is another one.
    pub(crate) fn parse(url: &str) -> Option<Result<Self, Mistake>> {
        let (scheme, rest) = url.split_once("://")?;
        let tls = match scheme {
            "redis+sentinel" => false,
            "rediss+sentinel" => true,
            _ => return None,
        };
        Some(read(tls, rest))
    }
}

fn read(tls: bool, rest: &str) -> Result<SentinelUrl, Mistake> {
    let (base, query) = rest.split_once('?').unwrap_or((rest, ""));
    // Only one of the two can be meant when there is an `@` behind a `?`.
    if query.contains('@') {
        return Err(Mistake::new(
            "in a password ? and @ are written %3F and %40",
        ));
    }
    // A password with a stray `/` or `@` must not be taken for a host.
    let (user, place) = base
        .rsplit_once('@')
        .map_or((None, base), |(user, place)| (Some(user), place));
    if base.contains('#') || user.is_some_and(|user| user.contains(['/', '@'])) {
        return Err(Mistake::new(
            "in the password /, @ and # are written %2F, %40 and %23",
        ));
    }
    let mut parts = place.split('/');
    let hosts = parts.next().unwrap_or_default();
    let (master, database) = (parts.next(), parts.next());
    if parts.next().is_some() {
        return Err(Mistake::new(
            "behind the sentinels stand the name of the master and the number of the database, nothing else",
        ));
    }
    Ok(SentinelUrl {
        tls,
        sentinels: read_sentinels(hosts)?,
        master: read_master(master.unwrap_or_default())?,
        database: read_database(database.unwrap_or_default())?,
        credentials: user.map(read_credentials).transpose()?.flatten(),
        sentinel_credentials: read_query(query)?,
    })
}

fn read_sentinels(hosts: &str) -> Result<Vec<(String, u16)>, Mistake> {
    let mut seen = HashSet::new();
    let mut sentinels = Vec::new();
    for (index, text) in hosts.split(',').enumerate() {
        if index == MAX_SENTINELS {
            let message = format!("there are more than {MAX_SENTINELS} sentinels");
            return Err(Mistake::new(message));
        }
        let number = index + 1;
        let sentinel = read_sentinel(text).ok_or_else(|| {
            let fault = if text.is_empty() {
                "is missing: there is nothing where it should stand"
            } else {
                "is not valid: it is a host name or an IP address (IPv6 in brackets), perhaps with a port"
            };
            Mistake::new(format!("the address of sentinel {number} {fault}"))
        })?;
        if !seen.insert(sentinel.clone()) {
            let message = format!("sentinel {number} stands there twice");
            return Err(Mistake::new(message));
        }
        sentinels.push(sentinel);
    }
    Ok(sentinels)
}

fn read_sentinel(text: &str) -> Option<(String, u16)> {
    // The parser of backends knows all forms of a host; the port is optional here.
    Backend::parse(&format!("http://{text}")).ok()?;
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
        _ => (text, DEFAULT_PORT),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some((host.to_ascii_lowercase(), port))
}

fn read_master(text: &str) -> Result<String, Mistake> {
    if text.is_empty() {
        return Err(Mistake::new(
            "behind the sentinels stands the name of the master, as in their \"sentinel monitor\": /mymaster",
        ));
    }
    let name = decode(text)?;
    if name.len() <= MAX_MASTER && name.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(name)
    } else {
        Err(Mistake::new(format!(
            "the name of a master is printable ASCII without spaces, up to {MAX_MASTER} characters"
        )))
    }
}

fn read_database(text: &str) -> Result<u32, Mistake> {
    if text.is_empty() {
        return Ok(0);
    }
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    (text.parse().ok())
        .filter(|_| digits)
        .ok_or_else(|| Mistake::new("the database behind the name of the master is a number"))
}

/// `user:password` or `:password`; nothing and `:` are nobody.
fn read_credentials(text: &str) -> Result<Option<Credentials>, Mistake> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    credentials(
        Some(decode(user)?),
        Some(decode(password)?),
        "there is a user without a password in front of the @: write user:password@, or :password@ for the default user",
    )
}

fn credentials(
    user: Option<String>,
    password: Option<String>,
    no_password: &str,
) -> Result<Option<Credentials>, Mistake> {
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    match (given(user), given(password)) {
        (user, Some(password)) => Ok(Some(Credentials { user, password })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(Mistake::new(no_password)),
    }
}

fn read_query(query: &str) -> Result<Option<Credentials>, Mistake> {
    let [mut user, mut password] = [None, None];
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let place = match name {
            "sentinel_user" => &mut user,
            "sentinel_password" => &mut password,
            _ => {
                let message = "there is a name in the query that portico does not know: it may hold sentinel_user and sentinel_password";
                return Err(Mistake::new(message).suggest(nearest(name, QUERY)));
            }
        };
        if place.replace(decode(value)?).is_some() {
            return Err(Mistake::new("a name stands twice in the query"));
        }
    }
    credentials(
        user,
        password,
        "there is a sentinel_user without a sentinel_password",
    )
}

/// A plus sign is one: this is no form.
fn decode(text: &str) -> Result<String, Mistake> {
    percent_decode_str(text)
        .decode_utf8()
        .map(|text| text.into_owned())
        .map_err(|_| Mistake::new("what stands percent-encoded in the URL is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The parts of a URL, one after the other.
    fn shown(url: &SentinelUrl) -> String {
        let who = |of: &Option<Credentials>| {
            of.as_ref().map_or("nobody".to_owned(), |of| {
                format!("{}:{}", of.user.as_deref().unwrap_or("-"), of.password)
            })
        };
        let sentinels = url.sentinels.iter();
        let sentinels: Vec<String> = sentinels
            .map(|(host, port)| format!("{host} {port}"))
            .collect();
        format!(
            "{} {} / {} / {} / {} / {}",
            if url.tls { "tls" } else { "plain" },
            sentinels.join(", "),
            url.master,
            url.database,
            who(&url.credentials),
            who(&url.sentinel_credentials)
        )
    }

    #[track_caller]
    fn check(url: &str, expected: &str) {
        let read = SentinelUrl::parse(url).expect("the scheme is known");
        assert_eq!(read.as_ref().map(shown), Ok(expected.to_owned()), "{url}");
        let debug = format!("{:?}", read.expect("read above"));
        assert!(!debug.contains("s3cret"), "{debug}");
    }

    #[test]
    fn urls_are_read() {
        check(
            "redis+sentinel://192.0.2.1/mymaster",
            "plain 192.0.2.1 26379 / mymaster / 0 / nobody / nobody",
        );
        check(
            "redis+sentinel://A.example:1,[2001:db8::1]:2,[::1],h/my-master.2/7",
            "plain a.example 1, 2001:db8::1 2, ::1 26379, h 26379 / my-master.2 / 7 / nobody / nobody",
        );
        check(
            "rediss+sentinel://u%40x:s3cret%2F%3f%40+@h:1/m/?sentinel_password=s3cret%26%3D%40+&sentinel_user=w%20w",
            "tls h 1 / m / 0 / u@x:s3cret/?@+ / w w:s3cret&=@+",
        );
        check(
            "redis+sentinel://:s3cret:1@h/m?",
            "plain h 26379 / m / 0 / -:s3cret:1 / nobody",
        );
        check(
            "redis+sentinel://:@h/m?sentinel_password=&sentinel_user=",
            "plain h 26379 / m / 0 / nobody / nobody",
        );
        check(
            "redis+sentinel://h/m%3A1",
            "plain h 26379 / m:1 / 0 / nobody / nobody",
        );
    }

    #[track_caller]
    fn check_mistake(rest: &str, words: &str, suggestion: Option<&str>) {
        let url = format!("redis+sentinel://{rest}");
        let mistake = SentinelUrl::parse(&url)
            .expect("the scheme is known")
            .expect_err("a mistake");
        assert!(mistake.message.contains(words), "{mistake:?}");
        assert_eq!(mistake.suggestion.as_deref(), suggestion);
        assert!(!mistake.message.contains("s3cret"), "{mistake:?}");
    }

    #[test]
    fn mistakes_say_what_is_wrong_and_quote_nothing() {
        check_mistake("", "sentinel 1 is missing", None);
        check_mistake("/mymaster", "sentinel 1 is missing", None);
        check_mistake("h", "the name of the master", None);
        check_mistake("h/", "the name of the master", None);
        check_mistake("h//0", "the name of the master", None);
        check_mistake("a:1,,b:2/m", "sentinel 2 is missing", None);
        check_mistake("a:1,/m", "sentinel 2 is missing", None);
        check_mistake("a:1,b:0/m", "sentinel 2 is not valid", None);
        check_mistake("a:port/m", "sentinel 1 is not valid", None);
        check_mistake("a:/m", "sentinel 1 is not valid", None);
        check_mistake("a:99999/m", "sentinel 1 is not valid", None);
        check_mistake(":26379/m", "sentinel 1 is not valid", None);
        check_mistake("2001:db8::1/m", "sentinel 1 is not valid", None);
        check_mistake("[::1/m", "sentinel 1 is not valid", None);
        check_mistake("a;b/m", "sentinel 1 is not valid", None);
        check_mistake("h,H:26379/m", "sentinel 2 stands there twice", None);
        let many: Vec<String> = (1..=17).map(|n| format!("h{n}")).collect();
        check_mistake(&format!("{}/m", many.join(",")), "more than 16", None);
        check_mistake("h/m/zero", "is a number", None);
        check_mistake("h/m/+1", "is a number", None);
        check_mistake("h/m/-1", "is a number", None);
        check_mistake("h/m/1/2", "nothing else", None);
        check_mistake("h/m%20m", "printable", None);
        check_mistake("h/m%ff", "UTF-8", None);
        check_mistake("s3cret@h/m", "without a password", None);
        check_mistake(":s3/cret@h/m", "%2F", None);
        check_mistake(":s3cret#x@h/m", "%23", None);
        check_mistake(":s3cret?x@h/m", "%3F", None);
        check_mistake(
            "h/m?sentinel_pasword=s3cret",
            "does not know",
            Some("sentinel_password"),
        );
        check_mistake("h/m?s3cret", "does not know", None);
        check_mistake("h/m?sentinel_password=s3cret@x", "%40", None);
        check_mistake("h/m?sentinel_user=u", "without a sentinel_password", None);
        check_mistake(
            "h/m?sentinel_password=s3cret&sentinel_password=s3cret",
            "twice",
            None,
        );
        check_mistake(&format!("h/{}", "m".repeat(201)), "up to 200", None);
    }

    #[test]
    fn other_schemes_are_not_for_here() {
        for url in ["redis://h/m", "sentinel://h/m", "h/m", "redis+sentinel:h"] {
            assert!(SentinelUrl::parse(url).is_none(), "{url}");
        }
    }

    proptest! {
        #[test]
        fn passwords_survive_encoding(user in "\\PC{1,9}", password in "\\PC{1,9}", own in "\\PC{1,9}") {
            let encode = |text: &str| text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
            let url = format!(
                "redis+sentinel://{}:{}@h/m?sentinel_password={}",
                encode(&user), encode(&password), encode(&own)
            );
            let read = SentinelUrl::parse(&url).expect("the scheme is known").expect("valid");
            prop_assert_eq!(read.credentials, Some(Credentials { user: Some(user), password }));
            prop_assert_eq!(read.sentinel_credentials, Some(Credentials { user: None, password: own }));
        }

        #[test]
        fn no_text_makes_it_panic(rest in "\\PC*") {
            let _ = SentinelUrl::parse(&format!("redis+sentinel://{rest}"));
        }
    }
}
