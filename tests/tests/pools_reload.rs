//! Pools change while requests are under way: no client notices, and nobody loses a place.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use portico_tests::client::{Client, Response, get};
use portico_tests::load::{Expected, Load};
use portico_tests::origin::Origin;
use portico_tests::portico::{Builder, Portico};
use portico_tests::{SOON, eventually, free_address};
use serde_json::Value;

const TOOL: &str = "tool.toolforge.org";

/// Lays this over the configuration and has it loaded.
#[track_caller]
fn reload(portico: &mut Portico, toml: &str) {
    portico.change(toml);
    assert!(portico.reload(), "{}", portico.stderr());
}

fn nodes(nodes: &[&Origin]) -> String {
    let addresses: Vec<SocketAddr> = nodes.iter().map(|node| node.address()).collect();
    let texts: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    format!("nodes = {texts:?}")
}

/// A node whose requests wait until they are let go, each with its name in the answer.
struct Gate {
    origin: Origin,
    go: Sender<()>,
}

impl Gate {
    fn new(name: &'static str) -> Gate {
        let (go, wait) = channel();
        let wait: Arc<Mutex<Receiver<()>>> = Arc::new(Mutex::new(wait));
        let origin = Origin::scripted(name, move |connection| {
            while let Some(request) = connection.read_request() {
                connection.note(&request);
                let _ = wait.lock().unwrap().recv_timeout(SOON);
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}",
                    name.len()
                );
                if !connection.send(answer) {
                    return;
                }
            }
        });
        Gate { origin, go }
    }

    fn let_one_go(&self) {
        self.go.send(()).unwrap();
    }

    /// Waits until it has as many requests.
    #[track_caller]
    fn has(&self, requests: usize) {
        eventually("the node has them", SOON, || {
            (self.origin.heads() == requests).then_some(())
        });
    }
}

/// A request that is under way.
#[track_caller]
fn ask(portico: &Portico) -> Client {
    let mut client = portico.tcp();
    client.send(get(TOOL, "/"));
    client
}

/// Waits until portico has so many requests, at nodes or in queues.
#[track_caller]
fn has(portico: &Portico, requests: u64) {
    eventually("portico has them", SOON, || {
        let status = portico.admin_get("/status").text();
        let status: Value = serde_json::from_str(&status).unwrap();
        (status["requests"]["in_flight"] == requests).then_some(())
    });
}

#[track_caller]
fn check_answer(answer: &Response, name: &str) {
    assert_eq!((answer.status, &*answer.text()), (200, name), "{answer:?}");
}

#[test]
fn all_of_a_pool_changes_under_load() {
    // Their answers look alike: who answers is counted.
    let [first, second, third] = ["node"; 3].map(Origin::echo);
    let mut portico = Builder::new()
        .with(&format!(
            "[pools.ingress]\nslow_start = '0s'\n{}\n\
             check = {{ interval = '100ms', down_interval = '100ms', timeout = '100ms' }}",
            nodes(&[&first, &second])
        ))
        .start();
    let tools: Vec<Expected> = (0..10)
        .map(|tool| Expected::from(&format!("tool-{tool}"), "node"))
        .collect();
    let load = Load::start(&portico, &tools);
    let mut step = |what: &str| {
        reload(&mut portico, &format!("[pools.ingress]\n{what}"));
        load.go_on();
    };
    assert_eq!(third.heads(), 0);
    step(&nodes(&[&first, &second, &third]));
    assert!(third.heads() > 0, "a node that was added gets its share");
    let [a, b] = [first.address(), third.address()];
    step(&format!(
        "nodes = [{{ address = '{a}', weight = 1 }}, {{ address = '{b}', weight = 1000 }}]"
    ));
    let before = second.heads();
    step("balance = 'least-requests'");
    assert_eq!(
        second.heads(),
        before,
        "a node that was removed gets nothing"
    );
    step("max_connections = 3\nmax_queue = 7\nqueue_timeout = '1s'");
    step("check = { kind = 'http', path = '/status/204', expect = 204 }");
    // All checks fail, and all nodes go on.
    step("check = { kind = 'http', path = '/status/503', expect = 200, fall = 1 }");
    eventually("it is said", SOON, || {
        portico
            .stderr()
            .contains("no node of the pool")
            .then_some(())
    });
    load.go_on();
    let mut step = |what: &str| {
        reload(&mut portico, what);
        load.go_on();
    };
    step("[pools.ingress]\ncheck = { path = '/', rise = 1 }");
    step("[pools.ingress]\nbalance = 'round-robin'\nmax_connections = 1000");
    let other = format!("[pools.other]\n{}", nodes(&[&second]));
    step(&format!(
        "[ingress.split]\ningress = 50\nother = 50\n{other}"
    ));
    step("[ingress.split]\ningress = 10\nother = 90");
    step("[ingress.split]\ningress = 0\nother = 100");
    assert!(second.heads() > before, "the other pool has the tools");
    let counts = load.finish();
    assert!(counts.requests > 200, "{counts:?}");
}

/// Who answers each of many tools.
#[track_caller]
fn owners(portico: &Portico) -> BTreeMap<String, String> {
    let mut client = portico.tcp();
    let owner = |tool: usize| {
        let tool = format!("tool-{tool}");
        let answer = client.exchange(get(&format!("{tool}.toolforge.org"), "/"));
        assert_eq!(answer.status, 200, "{answer:?}");
        let text = answer.text();
        let name = text.split('"').nth(3).expect("a name").to_owned();
        (tool, name)
    };
    (0..TOOLS).map(owner).collect()
}

const TOOLS: usize = 300;

#[test]
fn a_split_moves_no_more_tools_than_it_must() {
    let (old, new) = (Origin::echo("old"), Origin::echo("new"));
    let mut portico = Builder::new()
        .with(&format!(
            "[pools.old]\n{}\n[pools.new]\n{}\n[ingress.split]\nold = 100\nnew = 0",
            nodes(&[&old]),
            nodes(&[&new])
        ))
        .start();
    let mut before = owners(&portico);
    assert!(before.values().all(|owner| owner == "old"));
    for percent in [10, 20, 50, 100, 30, 0] {
        reload(
            &mut portico,
            &format!("[ingress.split]\nold = {}\nnew = {percent}", 100 - percent),
        );
        let after = owners(&portico);
        let of_new = |owners: &BTreeMap<String, String>| {
            owners.values().filter(|owner| *owner == "new").count()
        };
        let (had, has) = (of_new(&before), of_new(&after));
        let moved = after
            .iter()
            .filter(|(tool, owner)| before[*tool] != **owner);
        assert_eq!(
            moved.count(),
            had.abs_diff(has),
            "{percent} %: only one way"
        );
        // By chance: more than four standard deviations (26 of 300) are no chance.
        let wanted = TOOLS * percent / 100;
        assert!(has.abs_diff(wanted) <= 35, "{percent} %: {has} tools");
        if percent % 100 == 0 {
            assert_eq!(has, wanted);
        }
        // Another connection, the other worker: the same.
        assert_eq!(owners(&portico), after);
        before = after;
    }
}

#[test]
fn who_waits_is_served_by_a_node_that_a_reload_brings() {
    let (busy, idle) = (Gate::new("busy"), Gate::new("idle"));
    let mut portico = Builder::new()
        .with(&format!(
            "[pools.ingress]\nmax_connections = 1\nqueue_timeout = '1m'\n{}",
            nodes(&[&busy.origin])
        ))
        .start();
    let mut first = ask(&portico);
    busy.has(1);
    let mut second = ask(&portico);
    has(&portico, 2);
    idle.let_one_go();
    reload(
        &mut portico,
        &format!("[pools.ingress]\n{}", nodes(&[&busy.origin, &idle.origin])),
    );
    check_answer(&second.response(), "idle");
    busy.let_one_go();
    check_answer(&first.response(), "busy");
    assert_eq!((busy.origin.heads(), idle.origin.heads()), (1, 1));
}

#[test]
fn places_are_counted_on_over_reloads() {
    let node = Gate::new("node");
    let mut portico = Builder::new()
        .with(&format!(
            "[pools.ingress]\nmax_connections = 1\nmax_queue = 0\n{}",
            nodes(&[&node.origin])
        ))
        .start();
    let mut first = ask(&portico);
    node.has(1);
    let refused = |portico: &Portico| {
        let answer = ask(portico).response();
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(answer.field("retry-after").is_some(), "{answer:?}");
    };
    refused(&portico);
    for change in ["balance = 'least-requests'", "slow_start = '1s'"] {
        reload(&mut portico, &format!("[pools.ingress]\n{change}"));
        refused(&portico);
    }
    // One more place, and then one less than are taken.
    reload(&mut portico, "[pools.ingress]\nmax_connections = 2");
    let mut second = ask(&portico);
    node.has(2);
    refused(&portico);
    reload(&mut portico, "[pools.ingress]\nmax_connections = 1");
    node.let_one_go();
    node.let_one_go();
    check_answer(&first.response(), "node");
    check_answer(&second.response(), "node");
    let mut third = ask(&portico);
    node.has(3);
    refused(&portico);
    node.let_one_go();
    check_answer(&third.response(), "node");
}

#[test]
fn what_is_in_flight_at_a_node_that_a_reload_removes_ends_there() {
    let (old, new) = (Gate::new("old"), Gate::new("new"));
    let mut portico = Builder::new()
        .with(&format!("[pools.ingress]\n{}", nodes(&[&old.origin])))
        .start();
    let mut first = ask(&portico);
    old.has(1);
    reload(
        &mut portico,
        &format!("[pools.ingress]\n{}", nodes(&[&new.origin])),
    );
    new.let_one_go();
    check_answer(&ask(&portico).response(), "new");
    old.let_one_go();
    check_answer(&first.response(), "old");
}

/// A pool that is taken away while somebody waits in its queue: the wait goes on, and is served.
#[test]
fn who_waits_in_a_pool_that_a_reload_removes_is_served() {
    let (old, new) = (Gate::new("old"), Gate::new("new"));
    let mut portico = Builder::new()
        .with(&format!(
            "[ingress]\npool = 'old'\n[pools.old]\nmax_connections = 1\nqueue_timeout = '1m'\n{}",
            nodes(&[&old.origin])
        ))
        .start();
    let mut first = ask(&portico);
    old.has(1);
    let mut second = ask(&portico);
    has(&portico, 2);
    let text = std::fs::read_to_string(portico.folder.path().join("portico.toml")).unwrap();
    let text = text
        .replace("[pools.old]", "[pools.new]")
        .replace("pool = \"old\"", "pool = \"new\"")
        .replace(
            &old.origin.address().to_string(),
            &new.origin.address().to_string(),
        );
    portico.restore(&text);
    assert!(portico.reload(), "{}", portico.stderr());
    new.let_one_go();
    check_answer(&ask(&portico).response(), "new");
    old.let_one_go();
    check_answer(&first.response(), "old");
    old.let_one_go();
    check_answer(&second.response(), "old");
}

/// Requests and TCP connections take the same places at a node.
#[test]
fn a_pool_of_both_counts_both() {
    let node = Gate::new("node");
    let tcp = free_address();
    let mut portico = Builder::new()
        .with(&format!(
            "[pools.ingress]\nmax_connections = 1\nmax_queue = 0\n{}\n\
             [[tcp]]\nname = 'tcp'\nlisten = ['{tcp}']\npool = 'ingress'",
            nodes(&[&node.origin])
        ))
        .start();
    let mut connection = Client::tcp(tcp);
    connection.send(get(TOOL, "/"));
    node.has(1);
    assert_eq!(ask(&portico).response().status, 503);
    // A listener that a reload takes away leaves its connections alone, with their places.
    let text = std::fs::read_to_string(portico.folder.path().join("portico.toml")).unwrap();
    let mut config: toml::Table = text.parse().unwrap();
    config.remove("tcp");
    portico.restore(&toml::to_string(&config).unwrap());
    assert!(portico.reload(), "{}", portico.stderr());
    assert_eq!(ask(&portico).response().status, 503);
    node.let_one_go();
    check_answer(&connection.response(), "node");
    drop(connection);
    node.let_one_go();
    let answer = eventually("its place is free", SOON, || {
        let answer = ask(&portico).response();
        (answer.status != 503).then_some(answer)
    });
    check_answer(&answer, "node");
}
