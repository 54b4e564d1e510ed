//! `/pools`: pools and nodes, as a table or as JSON; and what changes a node: `POST /pools/drain`,
//! `/pools/ready`, `/pools/maintenance`, `/pools/weight`. What the changes mean is in `pools::live`.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::{Request, Response, StatusCode};
use serde_json::{Value, json};

use super::State;
use super::answer::{self, Body, Form, bad_request, text};
use super::query::Query;
use crate::pools::live::{self, Change, ChangeError, Changed, Setting, Wish};
use crate::pools::report::{LastCheck, NodeReport, PoolReport, State as NodeState, report};
use crate::terminal::visible;
use crate::time_text::in_words;

/// What a page does to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Wish(Wish),
    Weight,
}

pub(super) async fn page<B>(request: &Request<B>, state: &Arc<State>) -> Response<Body> {
    let query = Query::parse(request, &["format"]);
    let form = match query.and_then(|query| Form::of(request, &query, Form::Json)) {
        Ok(form) => form,
        Err(why) => return bad_request(&why),
    };
    let made = state.aside(false, move |state| {
        let snapshot = state.process.snapshot.load_full();
        let pools = report(&snapshot, SystemTime::now());
        match form {
            Form::Json => answer::json(StatusCode::OK, &json!({ "pools": pools })),
            Form::Text => text(StatusCode::OK, table(&pools)),
        }
    });
    made.await.unwrap_or_else(|response| response)
}

/// Changes a node. It takes no time, so that it is done here and not beside.
pub(super) fn act<B>(request: &Request<B>, state: &Arc<State>, act: Act) -> Response<Body> {
    let asked = Asked::of(request, act);
    let Asked {
        form,
        pool,
        node,
        change,
    } = match asked {
        Ok(asked) => asked,
        Err(why) => return bad_request(&why),
    };
    let snapshot = state.process.snapshot.load_full();
    match live::change(&snapshot.pools, &pool, &node, change) {
        Ok(changed) => done(form, &pool, &node, changed),
        Err(error) => refused(form, &error),
    }
}

/// A change that somebody asks for.
struct Asked {
    form: Form,
    pool: String,
    node: String,
    change: Change,
}

impl Asked {
    fn of<B>(request: &Request<B>, act: Act) -> Result<Self, String> {
        let known: &[&str] = match act {
            Act::Wish(_) => &["pool", "node", "format"],
            Act::Weight => &["pool", "node", "weight", "format"],
        };
        let query = Query::parse(request, known)?;
        let required = |name: &str| {
            let value = query.one(name)?;
            let value = value.ok_or_else(|| format!("the parameter {name} is missing"))?;
            Ok::<_, String>(value.to_owned())
        };
        Ok(Self {
            form: Form::of(request, &query, Form::Text)?,
            pool: required("pool")?,
            node: required("node")?,
            change: match act {
                Act::Wish(wish) => Change::Wish(wish),
                Act::Weight => Change::Weight(weight(&required("weight")?)?),
            },
        })
    }
}

/// `0` to `1000`, or `default`.
fn weight(text: &str) -> Result<Option<u32>, String> {
    if text == "default" {
        return Ok(None);
    }
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(weight) if digits => Ok(Some(weight)),
        _ => Err(format!(
            "{text:?} is no weight: 0 to {}, or default",
            live::MAX_WEIGHT
        )),
    }
}

fn done(form: Form, pool: &str, node: &str, changed: Changed) -> Response<Body> {
    let Changed {
        before,
        now,
        in_flight,
        left,
    } = changed;
    if form == Form::Text {
        return text(StatusCode::OK, told(pool, node, changed));
    }
    let said = json!({
        "pool": pool, "node": node, "changed": before != now,
        "before": setting(before), "now": setting(now), "in_flight": in_flight,
        "warning": left.map(live::Left::in_words),
    });
    answer::json(StatusCode::OK, &said)
}

fn setting(setting: Setting) -> Value {
    json!({
        "wish": setting.wish.as_str(),
        "weight": { "set": setting.weight, "configured": setting.configured },
    })
}

fn told(pool: &str, node: &str, changed: Changed) -> String {
    let Changed {
        before,
        now,
        in_flight,
        left,
    } = changed;
    let was = match before == now {
        true => "as before".to_owned(),
        false => format!("was {before}"),
    };
    let ending = match now.wish {
        Wish::Ready => String::new(),
        Wish::Drain | Wish::Maintenance => format!("; {in_flight} in flight may end"),
    };
    let mut said = format!("{pool} {node}: {now} ({was}){ending}\n");
    if let Some(left) = left {
        let _ = writeln!(said, "WARNING: {}", left.in_words());
    }
    said
}

fn refused(form: Form, error: &ChangeError) -> Response<Body> {
    let status = match error {
        ChangeError::NoPool { .. } | ChangeError::NoNode { .. } => StatusCode::NOT_FOUND,
        ChangeError::Weight(_) => StatusCode::BAD_REQUEST,
    };
    let why = error.to_string();
    match form {
        Form::Text => text(status, format!("{}\n", visible(&why))),
        Form::Json => answer::json(status, &json!({ "changed": false, "reason": why })),
    }
}

const COLUMNS: [&str; 9] = [
    "POOL",
    "NODE",
    "STATE",
    "FOR",
    "WEIGHT",
    "IN FLIGHT",
    "WAITING",
    "SESSIONS",
    "LAST CHECK",
];

/// A line for each node, and one for each pool behind its nodes. `WEIGHT` is what counts now of what is
/// configured.
pub(super) fn table(pools: &[PoolReport]) -> String {
    if pools.is_empty() {
        return "# no pool is configured\n".to_owned();
    }
    let mut rows = vec![COLUMNS.map(str::to_owned)];
    for pool in pools {
        rows.extend(pool.nodes.iter().map(|node| node_row(&pool.name, node)));
        rows.push(pool_row(pool));
    }
    let mut widths = [0; COLUMNS.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut out = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, &width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn node_row(pool: &str, node: &NodeReport) -> [String; COLUMNS.len()] {
    let state = match (node.state, node.wish) {
        (NodeState::Down, Wish::Drain) => "DOWN (drain)".to_owned(),
        (state, _) => state.to_string(),
    };
    let set = match node.weight.set {
        Some(set) => format!(" (set {set})"),
        None => String::new(),
    };
    [
        pool.to_owned(),
        node.address.clone(),
        state,
        in_words(Duration::from_secs(node.seconds)),
        format!("{}/{}{set}", node.weight.now.ceil(), node.weight.configured),
        format!("{}/{}", node.in_flight, node.limit),
        "-".to_owned(),
        node.counts.sessions.to_string(),
        match &node.checks.last {
            _ if node.state == NodeState::Maintenance => "not checked".to_owned(),
            Some(check) => check_in_words(check) + &node.why_down(),
            None => "none yet".to_owned() + &node.why_down(),
        },
    ]
}

fn check_in_words(check: &LastCheck) -> String {
    let status = check
        .status
        .map_or_else(String::new, |status| format!(" {status}"));
    let ago = in_words(Duration::from_secs(check.seconds_ago));
    let why = match &check.error {
        Some(why) => format!(": {}", visible(why)),
        None => String::new(),
    };
    format!(
        "{}{status} in {} ms, {ago} ago{why}",
        check.code.as_str(),
        check.took.as_millis()
    )
}

fn pool_row(pool: &PoolReport) -> [String; COLUMNS.len()] {
    let sum = |of: fn(&NodeReport) -> u32| {
        let nodes = pool.nodes.iter();
        nodes.map(|node| u64::from(of(node))).sum::<u64>()
    };
    let weight: f64 = pool.nodes.iter().map(|node| node.weight.now.ceil()).sum();
    [
        pool.name.to_string(),
        "(all)".to_owned(),
        pool.state.to_string(),
        "-".to_owned(),
        format!("{weight}/{}", sum(|node| node.weight.configured)),
        format!("{}/{}", sum(|node| node.in_flight), sum(|node| node.limit)),
        format!("{}/{}", pool.waiting, pool.queue_limit),
        pool.totals().sessions.to_string(),
        pool.trouble.unwrap_or("-").to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pools::live::Left;
    use crate::pools::report::tests::sample;

    #[test]
    fn a_table_to_read_at_night() {
        let expected = "\
POOL     NODE              STATE                 FOR      WEIGHT           IN FLIGHT  WAITING  SESSIONS  LAST CHECK
ingress  192.0.2.1:30000   UP                    3d 04h   100/100          12/1000    -        123456    L7OK 200 in 3 ms, 4s ago
ingress  192.0.2.2:30000   UP (slow start 35 %)  21s      36/100           4/1000     -        77        L7OK 200 in 3 ms, 4s ago
ingress  192.0.2.3:30000   DOWN                  5m 02s   0/100            0/1000     -        4         L4CON in 3 ms, 4s ago: refused\\u{1b}
ingress  192.0.2.4:30000   DOWN (drain)          5m 02s   0/100            0/1000     -        4         L4CON in 3 ms, 4s ago: refused\\u{1b}
ingress  192.0.2.5:30000   MAINT                 2h 00m   0/100 (set 7)    0/1000     -        0         not checked
ingress  (all)             UP                    -        136/500          16/5000    3/512    123541    -
";
        let squeeze = |text: &str| -> Vec<String> {
            let lines = text.lines();
            lines
                .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
                .collect()
        };
        let shown = table(&[sample()]);
        assert_eq!(squeeze(&shown), squeeze(expected), "{shown}");
        // The columns stand below each other.
        let column = shown.lines().next().unwrap().find("WEIGHT").unwrap();
        for line in shown.lines().skip(1) {
            assert_eq!(line.as_bytes().get(column - 1), Some(&b' '), "{shown}");
            assert_ne!(line.as_bytes().get(column), Some(&b' '), "{shown}");
        }
    }

    /// A node whose checks succeed, and whose connections break.
    #[test]
    fn why_a_node_is_down() {
        let mut pool = sample();
        let node = &mut pool.nodes[2];
        node.down_because = Some("it broke\u{1b} 5 connections".into());
        node.held_seconds = Some(70);
        if let Some(last) = &mut node.checks.last {
            last.error = None;
        }
        let shown = table(&[pool]);
        let said = "4s ago; down: it broke\\u{1b} 5 connections; held down for 1m 10s more\n";
        assert!(shown.contains(said), "{shown}");
    }

    #[track_caller]
    fn check_told(before: Wish, now: Wish, left: Option<Left>, expected: &str) {
        let setting = |wish| Setting {
            wish,
            weight: None,
            configured: 100,
        };
        let changed = Changed {
            before: setting(before),
            now: setting(now),
            in_flight: 3,
            left,
        };
        assert_eq!(told("ingress", "192.0.2.1:80", changed), expected);
    }

    #[test]
    fn what_was_done_in_words() {
        check_told(
            Wish::Ready,
            Wish::Drain,
            None,
            "ingress 192.0.2.1:80: drain, weight 100 as configured (was ready, weight 100 as configured); \
             3 in flight may end\n",
        );
        check_told(
            Wish::Drain,
            Wish::Ready,
            None,
            "ingress 192.0.2.1:80: ready, weight 100 as configured (was drain, weight 100 as configured)\n",
        );
        check_told(
            Wish::Maintenance,
            Wish::Maintenance,
            Some(Left::Nothing),
            "ingress 192.0.2.1:80: maintenance, weight 100 as configured (as before); 3 in flight may end\n\
             WARNING: no node of the pool is in rotation any more: clients get 503 (of [[tcp]]: a reset) \
             until portico pool ready, or a weight above 0, brings one back\n",
        );
    }

    #[track_caller]
    fn check_weight(text: &str, expected: Option<Option<u32>>) {
        assert_eq!(weight(text).ok(), expected, "{text}");
    }

    #[test]
    fn weights() {
        check_weight("0", Some(Some(0)));
        check_weight("1000", Some(Some(1000)));
        check_weight("default", Some(None));
        for bad in ["", "-1", "+1", "1.5", "50%", "99999999999", "Default"] {
            check_weight(bad, None);
        }
    }
}
