//! The routing table twice: as portico serves it, and as redis holds it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::client::{Client, get, post};
use crate::load::{Expected, Load};
use crate::origin::Origin;
use crate::portico::{Builder, Portico};
use crate::redis::{Redis, Reply};
use crate::{SOON, eventually};

/// A pattern that is none, for routes that must be skipped.
pub const BAD_PATTERN: &str = "(";

/// A backend that is none.
pub const BAD_BACKEND: &str = "nonsense";

/// A redis with some tools in it, and the two echoes that they are at.
#[derive(Debug)]
pub struct Site {
    /// The registry.
    pub redis: Redis,
    /// The backend of all tools at first.
    pub a: Origin,
    /// Another.
    pub b: Origin,
}

impl Site {
    /// So many tools are there from the start: enough that a few are a small part of them.
    pub const TOOLS: usize = 20;

    /// `tool0` to `tool19` and `moved`, which has a redirect too.
    pub fn new() -> Site {
        Site::on(Redis::start())
    }

    /// The same in this redis.
    pub fn on(redis: Redis) -> Site {
        let site = Site {
            redis,
            a: Origin::echo("a"),
            b: Origin::echo("b"),
        };
        site.seed();
        site
    }

    /// Registers all tools, again perhaps.
    pub fn seed(&self) {
        for index in 0..Site::TOOLS {
            self.redis
                .route(&format!("tool{index}"), ".*", &self.a.url());
        }
        self.seed_moved();
    }

    /// Registers `moved`, at once: a tool is what redis holds of it, and a load asks.
    pub fn seed_moved(&self) {
        let url = self.a.url();
        let commands = vec![
            vec!["MULTI"],
            vec!["HSET", "prefix:moved", ".*", &url],
            vec!["HSET", "redirect:moved", ".*", "x"],
            vec!["EXEC"],
        ];
        let answers = self.redis.session().ask_all(&commands);
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    }

    /// A portico on this redis.
    #[track_caller]
    pub fn start(&self) -> Portico {
        Builder::new().registry(&self.redis).start()
    }

    /// Requests that have the same answer all the time, if nobody writes to `tool0` and `moved`.
    #[track_caller]
    pub fn load(&self, portico: &Portico) -> Load {
        let expected = [
            Expected::from("tool0", "a"),
            Expected::unknown("nobody"),
            Expected::moved("moved"),
        ];
        Load::start(portico, &expected)
    }

    /// The snapshot that a portico on this redis leaves behind.
    #[track_caller]
    pub fn snapshot(&self) -> Vec<u8> {
        let portico = self.start();
        let path = portico.folder.path().join("routes.snapshot");
        eventually("the snapshot is written", SOON, || {
            std::fs::read(&path).ok()
        })
    }
}

impl Default for Site {
    fn default() -> Site {
        Site::new()
    }
}

/// What a tool has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tool {
    /// Patterns and their backends.
    pub routes: BTreeMap<String, String>,
    /// Patterns that are skipped; the empty one: the whole key cannot be used.
    pub bad: BTreeSet<String>,
    /// Whether its legacy paths lead to its own host.
    pub redirect: bool,
}

/// Tools by name.
pub type Table = BTreeMap<String, Tool>;

/// Where a tool's requests go: the name of an echo, or the status of portico's own answer.
#[track_caller]
pub fn goes(portico: &Portico, tool: &str) -> String {
    let answer = portico
        .tcp()
        .exchange(get(&format!("{tool}.toolforge.org"), "/"));
    let text = answer.text();
    let name = text
        .strip_prefix("{\"backend\": \"")
        .and_then(|rest| rest.split('"').next());
    name.map_or(answer.status.to_string(), str::to_owned)
}

/// Waits until a tool's requests go there.
#[track_caller]
pub fn soon_goes(portico: &Portico, tool: &str, to: &str) {
    eventually(&format!("{tool} goes to {to}"), SOON, || {
        (goes(portico, tool) == to).then_some(())
    });
}

/// A number of `/status`, under `registry`; booleans are 0 and 1.
#[track_caller]
pub fn status(portico: &Portico, key: &str) -> u64 {
    let text = portico.admin_get("/status").text();
    let status: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let value = &status["registry"][key];
    value
        .as_u64()
        .or(value.as_bool().map(u64::from))
        .unwrap_or_else(|| panic!("registry.{key} is {value} in {text}"))
}

/// Waits until portico says that it is in step with redis, or is not.
#[track_caller]
pub fn connected(portico: &Portico, wanted: bool) {
    eventually(&format!("connected is {wanted}"), SOON, || {
        (status(portico, "connected") == u64::from(wanted)).then_some(())
    });
}

/// How often portico has said this.
pub fn said(portico: &Portico, what: &str) -> usize {
    portico.stderr().matches(what).count()
}

/// Waits until portico says this.
#[track_caller]
pub fn soon_says(portico: &Portico, what: &str) {
    eventually(&format!("it says {what:?}"), SOON, || {
        portico.stderr().contains(what).then_some(())
    });
}

/// The table that portico serves: all pages of `/routes`.
#[track_caller]
pub fn served(portico: &Portico) -> Table {
    let mut table = Table::new();
    let mut target = "/routes?page_size=1000".to_owned();
    loop {
        let text = portico.admin_get(&target).text();
        let page: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        for listed in page["tools"].as_array().expect("a list") {
            let entry = &listed["entries"][0];
            if entry.is_null() {
                // It left while the page was made.
                continue;
            }
            let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
            let lines = |name: &str| entry[name].as_array().expect("a list").clone();
            let tool = Tool {
                routes: (lines("routes").iter())
                    .map(|line| (text(&line["pattern"]), text(&line["backend"])))
                    .collect(),
                bad: (lines("bad").iter())
                    .map(|line| text(&line["pattern"]))
                    .collect(),
                redirect: entry["redirect"].as_bool().expect("a boolean"),
            };
            table.insert(text(&listed["tool"]), tool);
        }
        match page["next"].as_str() {
            Some(next) => target = next.to_owned(),
            None => return table,
        }
    }
}

/// The table that database 0 of redis holds. Knows only of [`BAD_PATTERN`] and [`BAD_BACKEND`] that
/// they are bad, and of keys that hold no hash.
#[track_caller]
pub fn stored(redis: &Redis) -> Table {
    let mut session = redis.session();
    let mut names = |pattern: &str| {
        let keys = list(session.ask(&["KEYS", pattern]).expect("KEYS"));
        keys.into_iter().collect::<Vec<String>>()
    };
    let (prefixes, redirects) = (names("prefix:*"), names("redirect:*"));
    let reads: Vec<Vec<&str>> = prefixes.iter().map(|key| vec!["HGETALL", key]).collect();
    let mut table = Table::new();
    for (key, answer) in prefixes.iter().zip(session.ask_all(&reads)) {
        let tool = table.entry(key["prefix:".len()..].to_owned()).or_default();
        let fields = match answer {
            Ok(reply) => list(reply),
            Err(error) => {
                assert!(error.starts_with("WRONGTYPE"), "{key}: {error}");
                tool.bad.insert(String::new());
                continue;
            }
        };
        for pair in fields.chunks(2) {
            if pair[0] == BAD_PATTERN || pair[1] == BAD_BACKEND {
                tool.bad.insert(pair[0].clone());
            } else {
                tool.routes.insert(pair[0].clone(), pair[1].clone());
            }
        }
    }
    for key in redirects {
        let tool = key["redirect:".len()..].to_owned();
        table.entry(tool).or_default().redirect = true;
    }
    table
}

/// `POST /routes/refresh`: compares the whole table with redis now.
#[track_caller]
pub fn refresh(portico: &Portico) {
    let admin = portico.admin.to_string();
    let mut client = Client::tcp(portico.admin);
    let answer = client.exchange(post(&admin, "/routes/refresh", ""));
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// Waits until portico serves what redis holds.
#[track_caller]
pub fn in_step(portico: &Portico, redis: &Redis) {
    let start = Instant::now();
    loop {
        let (served, stored) = (served(portico), stored(redis));
        if served == stored {
            return;
        }
        if start.elapsed() > SOON {
            let names: BTreeSet<_> = served.keys().chain(stored.keys()).collect();
            let differ: Vec<_> = names
                .into_iter()
                .filter(|name| served.get(*name) != stored.get(*name))
                .collect();
            let first = differ[0];
            panic!(
                "not in step: {} of {} tools differ; {first} is {:?}, in redis {:?}",
                differ.len(),
                stored.len(),
                served.get(first),
                stored.get(first)
            );
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

fn list(reply: Reply) -> Vec<String> {
    let Reply::List(items) = reply else {
        panic!("no list: {reply:?}");
    };
    let text = |item| match item {
        Reply::Bulk(Some(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
        other => panic!("no text: {other:?}"),
    };
    items.into_iter().map(text).collect()
}
