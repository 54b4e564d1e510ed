//! How a server tells of changes: what its answers to the probes mean.
//!
//! `link.rs` asks at each connect: HELLO 3, CLIENT TRACKING, PSUBSCRIBE, and which keyspace
//! notifications are on. Here its answers become a [`Mode`] and a sentence for people: why not a
//! better one, and what to do. Sends nothing, and changes no setting of redis.
//!
//! Invariant: an answer that means "not now" is an error of the connection and never a reason for a
//! worse mode.

use redis::{ErrorKind, RedisError, ServerError, Value};

use super::link_error::{LinkError, refused, server_sentence};
use super::mode::Mode;
use super::stored::{PREFIX, REDIRECT};

/// The events without which a change of a route may not be told: generic, string, list, set, hash
/// and sorted set commands (any of these types may replace a hash), keys that expire or are evicted.
const NEEDED_EVENTS: &str = "g$lshzxe";

/// The letters that `A` stands for, in every version of redis.
const ALL_EVENTS: &str = NEEDED_EVENTS;

/// Codes of errors that say nothing about what the server can do or allows.
const NOT_NOW: [&str; 7] = [
    "LOADING",
    "MASTERDOWN",
    "BUSY",
    "TRYAGAIN",
    "CLUSTERDOWN",
    "NOAUTH",
    "WRONGPASS",
];

/// What the server said to the probes; each `Err` is its refusal. The later ones are asked only
/// when the earlier ones were refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answers {
    /// HELLO 3.
    pub(super) resp3: Result<(), String>,
    /// CLIENT TRACKING.
    pub(super) tracking: Result<(), String>,
    /// PSUBSCRIBE.
    pub(super) subscribed: Result<(), String>,
    /// The value of `notify-keyspace-events`.
    pub(super) events: Result<String, String>,
}

impl Answers {
    /// How changes become known, and in a sentence why not in a better way and what to do about it
    /// (empty: it is the best). `user` and `database` are those of the connection.
    pub(super) fn mode(&self, user: &str, database: i64) -> (Mode, String) {
        if let Err(refusal) = &self.resp3 {
            let why = format!(
                "it does not speak RESP3 ({refusal}); redis 6 or later does, and a proxy in between may not"
            );
            return (Mode::Polling, why);
        }
        let Err(refusal) = &self.tracking else {
            return (Mode::Tracking, String::new());
        };
        let mut why = format!("it refuses CLIENT TRACKING ({refusal}");
        let mut allow = String::new();
        if is_a_right(refusal) {
            allow.push_str(" +client|tracking");
        } else {
            why.push_str("; redis 6 or later has it, and a proxy in between may not");
        }
        why.push(')');
        let lacking = match (&self.subscribed, &self.events) {
            (Err(refusal), _) => {
                if is_a_right(refusal) && allow.is_empty() {
                    allow = format!(
                        " +psubscribe +config|get &__keyspace@{database}__:{PREFIX}* \
                         &__keyspace@{database}__:{REDIRECT}*"
                    );
                }
                format!(" and PSUBSCRIBE to keyspace notifications ({refusal})")
            }
            (Ok(()), Err(refusal)) => {
                if is_a_right(refusal) && allow.is_empty() {
                    allow.push_str(" +config|get");
                }
                format!(
                    " and CONFIG GET notify-keyspace-events ({refusal}), so nobody knows which changes it tells"
                )
            }
            (Ok(()), Ok(events)) => {
                let missing = missing_events(events);
                if missing.is_empty() {
                    return (Mode::Keyspace, with_advice(why, user, &allow));
                }
                let set = if allow.is_empty() {
                    "; set it to KA"
                } else {
                    ""
                };
                format!(", and its notify-keyspace-events lacks {missing}{set}")
            }
        };
        why.push_str(&lacking);
        (Mode::Polling, with_advice(why, user, &allow))
    }
}

fn with_advice(why: String, user: &str, allow: &str) -> String {
    if allow.is_empty() {
        why
    } else {
        format!("{why}; allow it with ACL SETUSER {user}{allow}")
    }
}

fn is_a_right(refusal: &str) -> bool {
    refusal.starts_with("NOPERM")
}

/// The letters that `notify-keyspace-events` must have and has not.
fn missing_events(events: &str) -> String {
    let has =
        |letter| events.contains(letter) || (events.contains('A') && ALL_EVENTS.contains(letter));
    let needed = std::iter::once('K').chain(NEEDED_EVENTS.chars());
    needed.filter(|letter| !has(*letter)).collect()
}

/// Whether the server, asked for something that it may refuse, does it.
pub(super) fn granted(answer: &Value) -> Result<Result<(), String>, LinkError> {
    match answer {
        Value::ServerError(error) => refusal(error).map(Err),
        _ => Ok(Ok(())),
    }
}

/// The value in the answer to CONFIG GET `notify-keyspace-events`.
pub(super) fn events_of(answer: Value) -> Result<Result<String, String>, LinkError> {
    match answer {
        Value::ServerError(error) => refusal(&error).map(Err),
        Value::Map(pairs) => match pairs.into_iter().next() {
            Some((_, Value::BulkString(value))) => {
                Ok(Ok(String::from_utf8_lossy(&value).into_owned()))
            }
            // Hosted services hide settings in this way.
            None => Ok(Err("it does not say".into())),
            Some(_) => Err(LinkError::Answer("CONFIG GET")),
        },
        _ => Err(LinkError::Answer("CONFIG GET")),
    }
}

fn refusal(error: &ServerError) -> Result<String, LinkError> {
    if NOT_NOW.contains(&error.code()) {
        Err(refused(error))
    } else {
        Ok(server_sentence(error))
    }
}

/// Whether a connection failed because HELLO 3 was refused, and in which words. `password`: one was
/// sent along.
pub(super) fn refusal_of_resp3(error: &RedisError, password: bool) -> Option<String> {
    let detail = error.detail().unwrap_or_default().to_ascii_lowercase();
    let refused = match (error.kind(), error.code()) {
        (ErrorKind::RESP3NotSupported, _) => return Some("unknown command HELLO".into()),
        (_, Some("NOPROTO" | "NOPERM")) => true,
        // The password was within the HELLO, which only a proxy that does not know it overlooks.
        (_, Some("NOAUTH")) => password,
        (_, Some("ERR")) => {
            ["unknown command", "hello", "protocol version"]
                .iter()
                .any(|words| detail.contains(words))
                // Redis: "ERR max number of clients reached", "ERR DB index is out of range".
                && !detail.contains("max number")
        }
        _ => false,
    };
    let code = error.code().unwrap_or_default();
    refused.then(|| {
        super::link_error::bounded(&format!("{code} {}", error.detail().unwrap_or_default()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOPERM: &str = "NOPERM this user has no permissions";
    const UNKNOWN: &str = "ERR unknown command";

    fn answers() -> Answers {
        Answers {
            resp3: Ok(()),
            tracking: Err(NOPERM.into()),
            subscribed: Ok(()),
            events: Ok("AK".into()),
        }
    }

    #[track_caller]
    fn check(answers: &Answers, mode: Mode, why: &[&str], silent: &[&str]) {
        let got = answers.mode("someone", 3);
        assert_eq!(got.0, mode, "{}", got.1);
        for words in why {
            assert!(got.1.contains(words), "{words}: {}", got.1);
        }
        for words in silent {
            assert!(!got.1.contains(words), "{words}: {}", got.1);
        }
        assert_eq!(got.1.is_empty(), mode == Mode::Tracking);
    }

    #[test]
    fn the_best_mode_that_is_complete_is_chosen_and_the_sentence_says_why_and_what_to_do() {
        let acl = "ACL SETUSER someone";
        let tracking = Answers {
            tracking: Ok(()),
            ..answers()
        };
        check(&tracking, Mode::Tracking, &[], &[]);
        let allow = format!("{acl} +client|tracking");
        check(
            &answers(),
            Mode::Keyspace,
            &["CLIENT TRACKING", NOPERM, &allow],
            &["RESP3", "PSUBSCRIBE"],
        );
        let unknown = Answers {
            tracking: Err(UNKNOWN.into()),
            ..answers()
        };
        check(
            &unknown,
            Mode::Keyspace,
            &[UNKNOWN, "a proxy in between"],
            &["ACL"],
        );

        let events = |events: Result<&str, &str>, tracking: &str| Answers {
            tracking: Err(tracking.into()),
            events: events.map(str::to_owned).map_err(str::to_owned),
            ..answers()
        };
        check(
            &events(Ok(""), UNKNOWN),
            Mode::Polling,
            &["lacks Kg$lshzxe", "set it to KA"],
            &["ACL"],
        );
        check(
            &events(Ok("AE"), NOPERM),
            Mode::Polling,
            &["lacks K", &allow],
            &["KA"],
        );
        check(
            &events(Ok("Kg$lszxe"), UNKNOWN),
            Mode::Polling,
            &["lacks h;"],
            &[],
        );
        check(
            &events(Ok("Kg$lshzxe"), UNKNOWN),
            Mode::Keyspace,
            &[],
            &["lacks"],
        );
        check(
            &events(Err(NOPERM), NOPERM),
            Mode::Polling,
            &["CONFIG GET", &allow],
            &["+config"],
        );
        check(
            &events(Err(NOPERM), UNKNOWN),
            Mode::Polling,
            &[&format!("{acl} +config|get")],
            &["tracking;"],
        );

        let deaf = |tracking: &str| Answers {
            tracking: Err(tracking.into()),
            subscribed: Err(NOPERM.into()),
            ..answers()
        };
        check(
            &deaf(NOPERM),
            Mode::Polling,
            &["PSUBSCRIBE", &allow],
            &["&__keyspace"],
        );
        check(
            &deaf(UNKNOWN),
            Mode::Polling,
            &[
                "+psubscribe",
                "&__keyspace@3__:prefix:* &__keyspace@3__:redirect:*",
            ],
            &["+client"],
        );
        let old = Answers {
            resp3: Err(UNKNOWN.into()),
            ..answers()
        };
        check(&old, Mode::Polling, &["RESP3", UNKNOWN], &["TRACKING"]);
    }

    fn server_error(line: &str) -> Value {
        redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap()
    }

    /// `expected`: refused, or an error of the connection (`None`).
    #[track_caller]
    fn check_refusal(line: &str, expected: Option<&str>) {
        let got = granted(&server_error(line));
        let expected = expected.map(|text| Err(text.to_owned()));
        assert_eq!(got.ok(), expected);
        let got = events_of(server_error(line)).ok();
        assert_eq!(got.map(|events| events.map(drop)), expected);
    }

    #[test]
    fn not_now_is_no_refusal() {
        for line in [
            "LOADING Redis is loading the dataset in memory",
            "MASTERDOWN Link with MASTER is down",
            "BUSY Redis is busy running a script",
            "NOAUTH Authentication required.",
        ] {
            check_refusal(line, None);
        }
        check_refusal("NOPERM no", Some("NOPERM no"));
        check_refusal("ERR unknown command", Some("ERR unknown command"));
    }

    #[test]
    fn the_setting_is_read_and_may_be_hidden() {
        let text = |text: &str| Value::BulkString(text.into());
        let map = |pairs| events_of(Value::Map(pairs));
        assert_eq!(
            map(vec![(text("notify-keyspace-events"), text("AK"))]),
            Ok(Ok("AK".into()))
        );
        assert_eq!(map(vec![]), Ok(Err("it does not say".into())));
        assert!(map(vec![(text("x"), Value::Nil)]).is_err());
        assert!(events_of(Value::Nil).is_err());
    }

    #[track_caller]
    fn check_resp3(line: &str, password: bool, refused: bool) {
        let Value::ServerError(error) = server_error(line) else {
            panic!("{line}");
        };
        let got = refusal_of_resp3(&RedisError::from(error), password);
        assert_eq!(got.as_deref(), refused.then_some(line));
    }

    #[test]
    fn only_a_refused_hello_leads_to_resp2() {
        check_resp3(
            "ERR unknown command 'HELLO', with args beginning with: '3'",
            false,
            true,
        );
        check_resp3("NOPROTO unsupported protocol version", false, true);
        check_resp3("ERR command 'HELLO' is not allowed", false, true);
        check_resp3("NOAUTH Authentication required.", true, true);
        check_resp3(
            "NOAUTH HELLO must be called with the client already authenticated",
            false,
            false,
        );
        check_resp3("WRONGPASS invalid username-password pair", true, false);
        check_resp3("ERR max number of clients reached", false, false);
        check_resp3(
            "LOADING Redis is loading the dataset in memory",
            false,
            false,
        );
    }
}
