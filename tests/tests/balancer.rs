//! Nodes of the ingress that die, hang, are slow and come back, under load: what clients see of it,
//! and what the nodes get.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use portico_tests::client::{Client, get, post};
use portico_tests::gate::Gate;
use portico_tests::node::{self, Node};
use portico_tests::origin::Origin;
use portico_tests::portico::{Builder, Portico};
use portico_tests::{SOON, eventually, free_address};

const HOST: &str = "tool.toolforge.org";
const WORKERS: usize = 2;
/// Clients that ask all the time.
const CLIENTS: usize = 24;
/// Between two requests of a client.
const PAUSE: Duration = Duration::from_millis(2);

/// What [`Node`] starts.
#[test]
fn node_process() {
    node::serve_if_asked();
}

/// Clients that ask all the time, and what they got.
#[derive(Default)]
struct Crowd {
    stop: AtomicBool,
    answered: AtomicUsize,
    got: Mutex<Vec<Got>>,
}

/// An answer, or none.
#[derive(Clone, Debug)]
struct Got {
    sent: Instant,
    took: Duration,
    /// The status and who answered.
    answer: Result<(u16, String), String>,
}

impl Crowd {
    fn start<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>, address: SocketAddr) {
        for _ in 0..CLIENTS {
            scope.spawn(move || self.ask(address));
        }
        self.go_on();
    }

    fn ask(&self, address: SocketAddr) {
        let mut kept = None;
        while !self.stop.load(Ordering::SeqCst) {
            let sent = Instant::now();
            let mut client = kept.take().unwrap_or_else(|| Client::tcp(address));
            let answer = client.wire.send(get(HOST, "/")).and_then(|()| {
                let answer = client.try_response(false)?;
                answer.ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
            });
            let answer = answer.map(|answer| (answer.status, backend(&answer.text())));
            if answer.is_ok() {
                kept = Some(client);
            }
            let got = Got {
                sent,
                took: sent.elapsed(),
                answer: answer.map_err(|error| error.to_string()),
            };
            lock(&self.got).push(got);
            self.answered.fetch_add(1, Ordering::SeqCst);
            thread::sleep(PAUSE);
        }
    }

    /// Waits for many more answers.
    #[track_caller]
    fn go_on(&self) {
        let until = self.answered.load(Ordering::SeqCst) + 50 * CLIENTS;
        eventually("the clients go on", SOON, || {
            (self.answered.load(Ordering::SeqCst) >= until).then_some(())
        });
    }

    /// Ends it, also when the test has failed: the threads are waited for.
    fn stop(&self) -> Vec<Got> {
        self.stop.store(true, Ordering::SeqCst);
        lock(&self.got).clone()
    }
}

/// Stops the crowd when the test fails, so that its threads end.
struct Stops<'a>(&'a Crowd);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The name of the echo that answered.
fn backend(text: &str) -> String {
    let rest = text.strip_prefix("{\"backend\": \"").unwrap_or(text);
    rest.split('"').next().unwrap_or_default().to_owned()
}

/// How many each node answered, of the requests sent between these moments. Panics if one got
/// anything else.
#[track_caller]
fn shares(got: &[Got], from: Instant, to: Instant) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for one in got.iter().filter(|got| got.sent >= from && got.sent < to) {
        match &one.answer {
            Ok((200, name)) => *shares.entry(name.clone()).or_default() += 1,
            other => panic!("{:?} after {:?}: {other:?}", one.took, one.sent - from),
        }
    }
    shares
}

/// Checks that only connect.
const TCP: &str = "kind = \"tcp\", rise = 2";

/// portico before these nodes, which it checks five times a second.
fn before(addresses: &[SocketAddr], check: &str, more: &str) -> Portico {
    let check = format!(
        "check = {{ {check}, interval = \"200ms\", down_interval = \"200ms\", timeout = \"200ms\", fall = 2 }}"
    );
    Builder::new()
        .ingress(addresses)
        .with(&format!("[server]\nworkers = {WORKERS}"))
        .with(&format!(
            "[pools.ingress]\nslow_start = \"1s\"\n{check}\n{more}"
        ))
        .start()
}

fn is_up(portico: &Portico, node: SocketAddr) -> bool {
    let series = format!("portico_node_up{{pool=\"ingress\",node=\"{node}\"}}");
    portico.metric(&series).expect("a node") == 1.0
}

#[track_caller]
fn wait_until(portico: &Portico, node: SocketAddr, up: bool) {
    eventually("the node is up, or down", SOON, || {
        (is_up(portico, node) == up).then_some(())
    });
}

fn connects(portico: &Portico, result: &str) -> usize {
    let series =
        format!("portico_upstream_connects_total{{destination=\"ingress\",result=\"{result}\"}}");
    portico.metric(&series).expect("a counter") as usize
}

#[test]
fn a_node_is_killed_under_load_and_comes_back() {
    let mut nodes = ["a", "b", "c"].map(|name| Node::start(name, free_address()));
    let addresses = nodes.each_ref().map(|node| node.address);
    let portico = before(&addresses, TCP, "");
    let crowd = Crowd::default();
    thread::scope(|scope| {
        let _stops = Stops(&crowd);
        crowd.start(scope, portico.http);
        crowd.go_on();
        let failed_before = connects(&portico, "failed");
        let killed = Instant::now();
        nodes[0].kill();
        wait_until(&portico, addresses[0], false);
        let down = Instant::now();
        crowd.go_on();
        let failed = connects(&portico, "failed") - failed_before;
        let back = Instant::now();
        nodes[0].restart();
        wait_until(&portico, addresses[0], true);
        wait_for(&portico, addresses[0], " of 1000 requests");
        // It takes its share again, sooner or later: a machine that stands still may take it out once
        // more.
        eventually("a third goes to it", SOON, || {
            let whole = Instant::now();
            crowd.go_on();
            crowd.go_on();
            let with = shares(&lock(&crowd.got).clone(), whole, Instant::now());
            let all = with.values().sum::<usize>();
            let its = with.get("a").copied().unwrap_or_default();
            (its * 100 / all >= 25).then_some(())
        });
        let got = crowd.stop();

        // Until it is known: GETs in flight are made good at another node, as far as the budget
        // allows.
        let between = got
            .iter()
            .filter(|got| got.sent >= killed && got.sent < down);
        for one in between {
            assert!(matches!(one.answer, Ok((200 | 502, _))), "{one:?}");
        }
        let without = shares(&got, down, back);
        assert_eq!(without.keys().collect::<Vec<_>>(), ["b", "c"]);
        assert!(failed <= WORKERS, "{failed} connects failed");
    });
}

/// One worker, whose requests go to the first node, and hardly any to the second.
fn nearly_all_at(first: SocketAddr, second: SocketAddr) -> Portico {
    let nodes = format!(
        "nodes = [{{ address = \"{first}\", weight = 1000 }}, {{ address = \"{second}\", weight = 1 }}]\n\
         check = {{ kind = \"tcp\", interval = \"1h\" }}"
    );
    Builder::new()
        .with(&format!("[server]\nworkers = 1\n[pools.ingress]\n{nodes}"))
        .start()
}

#[test]
fn requests_in_flight_at_a_node_that_is_killed() {
    let mut dies = Node::start("dies", free_address());
    let lives = Origin::echo("lives");
    let portico = nearly_all_at(dies.address, lives.address());
    let ask = |request: String| {
        let mut client = portico.tcp();
        client.send(request);
        client
    };
    // So many connections to the node that each of the next requests finds an idle one.
    let mut warm = [(); 6].map(|()| ask(get(HOST, "/sleep/300")));
    for client in &mut warm {
        assert_eq!(backend(&client.response().text()), "dies");
    }
    let failed = connects(&portico, "failed");
    let mut gets = [(); 3].map(|()| ask(get(HOST, "/sleep/4000")));
    let mut posts = [(); 2].map(|()| ask(post(HOST, "/sleep/4000", "x")));
    wait_for(&portico, dies.address, ", 5 of ");
    dies.kill();
    for client in &mut posts {
        let answer = client.response();
        assert_eq!(answer.status, 502, "a POST may have run: {answer:?}");
        assert!(answer.text().contains("closed the connection"));
    }
    for client in &mut gets {
        let answer = client.response();
        assert_eq!((answer.status, &*backend(&answer.text())), (200, "lives"));
    }
    assert_eq!(lives.take().len(), 3);
    // They went to the other node at once.
    assert_eq!(connects(&portico, "failed"), failed);
    let retries = "portico_upstream_retries_total{destination=\"ingress\"}";
    assert_eq!(portico.metric(retries), Some(3.0));
}

/// Waits until explanations say this of a node.
#[track_caller]
fn wait_for(portico: &Portico, node: SocketAddr, words: &str) {
    eventually(words, SOON, || {
        let target = format!("/explain?url=http://{HOST}/");
        let text = portico.admin_get(&target).text();
        let mut lines = text.lines().filter(|line| line.contains(&node.to_string()));
        lines.any(|line| line.contains(words)).then_some(())
    });
}

#[test]
fn a_node_that_hangs_gets_no_requests_and_its_own_end_when_it_goes_on() {
    let nodes = ["a", "b", "c"].map(|name| Node::start(name, free_address()));
    let addresses = nodes.each_ref().map(|node| node.address);
    let portico = before(
        &addresses,
        "kind = \"http\", path = \"/status/200\", rise = 2",
        "",
    );
    nodes[0].stop();
    // As many as go round all nodes: some hang.
    let mut patient = [(); 6].map(|()| {
        let mut client = portico.tcp();
        client.send(get(HOST, "/"));
        client
    });
    wait_until(&portico, addresses[0], false);
    let crowd = Crowd::default();
    thread::scope(|scope| {
        let _stops = Stops(&crowd);
        let down = Instant::now();
        crowd.start(scope, portico.http);
        crowd.go_on();
        let got = crowd.stop();
        let shares = shares(&got, down, Instant::now());
        assert_eq!(shares.keys().collect::<Vec<_>>(), ["b", "c"]);
    });
    nodes[0].go_on();
    let by = patient.each_mut().map(|client| {
        let answer = client.response();
        assert_eq!(answer.status, 200);
        backend(&answer.text())
    });
    assert!(by.iter().any(|name| name == "a"), "{by:?}");
    wait_until(&portico, addresses[0], true);
}

#[test]
fn a_slow_node_fills_and_the_others_serve() {
    const PLACES: usize = 3;
    const REQUESTS: usize = 200;
    let slow = Gate::shut();
    let fast = [(); 2].map(|()| Gate::open(Duration::ZERO));
    let addresses = [slow.address(), fast[0].address(), fast[1].address()];
    let portico = before(&addresses, TCP, &format!("max_connections = {PLACES}"));
    let answered = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..REQUESTS / 10 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let answer = portico.tcp().exchange(get(HOST, "/"));
                    assert_eq!(answer.status, 200);
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        // All but those that the slow node has, and what their clients would ask for next.
        eventually("the others serve", SOON, || {
            (answered.load(Ordering::SeqCst) >= REQUESTS - PLACES * 10).then_some(())
        });
        assert_eq!(slow.now(), PLACES);
        slow.release_all();
    });
    assert_eq!(slow.most(), PLACES);
    assert!(fast.iter().all(|node| node.most() <= PLACES));
}

#[test]
fn all_nodes_are_dead() {
    let dead = [(); 3].map(|()| free_address());
    let portico = before(&dead, TCP, "");
    for _ in 0..20 {
        let answer = portico.tcp().exchange(get(HOST, "/"));
        assert_eq!(answer.status, 502, "{answer:?}");
        assert!(answer.text().contains("The platform has a problem"));
    }
    let refused = "portico_pool_retries_refused_total{pool=\"ingress\"}";
    assert!(portico.metric(refused).is_some_and(|refused| refused > 0.0));
    assert_eq!(portico.stderr().matches("the retry budget").count(), 1);
    // The budget is kept to: else each request would try all three.
    let failed = connects(&portico, "failed");
    assert!((20..60).contains(&failed), "{failed} connects");
}

#[test]
fn each_node_is_tried_once() {
    let dead = [(); 2].map(|()| free_address());
    let portico = before(&dead, TCP, "");
    assert_eq!(portico.tcp().exchange(get(HOST, "/")).status, 502);
    assert_eq!(connects(&portico, "failed"), 2);
}

#[test]
fn few_of_many_requests_in_flight_are_repeated() {
    const MANY: usize = 24;
    let mut dies = Node::start("dies", free_address());
    let lives = Origin::echo("lives");
    let portico = nearly_all_at(dies.address, lives.address());
    let ask = |request: String| {
        let mut client = portico.tcp();
        client.send(request);
        client
    };
    let mut warm: Vec<_> = (0..MANY).map(|_| ask(get(HOST, "/sleep/3000"))).collect();
    wait_for(&portico, dies.address, &format!(", {MANY} of "));
    for client in &mut warm {
        assert_eq!(client.response().status, 200);
    }
    let mut gets: Vec<_> = (0..MANY).map(|_| ask(get(HOST, "/sleep/3000"))).collect();
    wait_for(&portico, dies.address, &format!(", {MANY} of "));
    dies.kill();
    let answers: Vec<_> = gets.iter_mut().map(Client::response).collect();
    let good = answers.iter().filter(|answer| answer.status == 200).count();
    // A fifth of those in flight and three; the rest is for a machine that stands still meanwhile.
    assert!((3..MANY - 6).contains(&good), "{good} were repeated");
    assert!(
        answers
            .iter()
            .all(|answer| matches!(answer.status, 200 | 502))
    );
    assert_eq!(lives.take().len(), good);
    let retries = "portico_upstream_retries_total{destination=\"ingress\"}";
    assert_eq!(portico.metric(retries), Some(good as f64));
}

#[test]
fn a_node_that_breaks_new_connections_is_taken_out() {
    let good = Origin::echo("good");
    let bad = Origin::scripted("bad", |connection| {
        connection.read_request();
    });
    let bad_for_good = "kind = \"tcp\", rise = 1000";
    let portico = before(&[good.address(), bad.address()], bad_for_good, "");
    let mut client = portico.tcp();
    let mut broken = 0;
    for _ in 0..60 {
        let answer = client.exchange(get(HOST, "/"));
        assert!(matches!(answer.status, 200 | 502), "{answer:?}");
        broken += usize::from(answer.status == 502);
    }
    // Its checks go on to succeed.
    assert!(!is_up(&portico, bad.address()));
    assert!((1..=5).contains(&broken), "{broken} requests broke");
    assert!(portico.stderr().contains("connections in a row"));
    // A new connection that broke may have done anything: not even a GET is repeated.
    let retries = "portico_upstream_retries_total{destination=\"ingress\"}";
    assert_eq!(portico.metric(retries), Some(0.0));
}

#[test]
fn who_waits_for_the_rest_of_a_request_in_vain_is_not_taken_out() {
    let nodes = ["a", "b", "c"].map(|name| {
        Origin::scripted(name, |connection| {
            // Its patience has ended.
            connection.read_head();
        })
    });
    let addresses = nodes.each_ref().map(Origin::address);
    let portico = before(&addresses, TCP, "");
    let request = format!(
        "POST / HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: test\r\nContent-Length: 100\r\n\r\nthe beginning"
    );
    for _ in 0..30 {
        assert_eq!(portico.tcp().exchange(&request).status, 502);
    }
    for node in addresses {
        assert!(is_up(&portico, node), "{}", portico.stderr());
    }
    nodes.iter().for_each(Origin::forgive);
}

/// Some requests make a server break the connection: that is no reason to take it from the others.
#[test]
fn a_node_that_breaks_some_connections_stays() {
    let good = Origin::echo("good");
    let moody = Origin::scripted("moody", |connection| {
        let broken = connection
            .read_request()
            .is_none_or(|one| one.target == "/break");
        if !broken {
            connection.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let portico = before(&[good.address(), moody.address()], TCP, "");
    let mut client = portico.tcp();
    for _ in 0..12 {
        // Until one of these comes to it, and then until one of the others does.
        eventually("it breaks a connection", SOON, || {
            (client.exchange(get(HOST, "/break")).status == 502).then_some(())
        });
        moody.take();
        eventually("it answers", SOON, || {
            assert_eq!(client.exchange(get(HOST, "/")).status, 200);
            (!moody.take().is_empty()).then_some(())
        });
    }
    assert!(is_up(&portico, moody.address()));
    assert!(!portico.stderr().contains("connections in a row"));
}

/// Where requests of so many tools go.
fn homes(portico: &Portico) -> Vec<String> {
    let mut client = portico.tcp();
    let tools = (0..300).map(|tool| format!("tool{tool}.toolforge.org"));
    let homes = tools.map(|host| backend(&client.exchange(get(&host, "/")).text()));
    homes.collect()
}

#[test]
fn tools_stay_where_they_are_and_few_move_when_the_split_does() {
    let origins = ["ingress", "gateway"].map(Origin::echo);
    let pool = |origin: usize| format!("nodes = [\"{}\"]", origins[origin].address());
    let split = |gateway: usize| {
        let ingress = 100 - gateway;
        format!("[ingress]\nsplit = {{ ingress = {ingress}, gateway = {gateway} }}")
    };
    let mut portico = Builder::new()
        .with(&format!(
            "[pools.ingress]\n{}\n[pools.gateway]\n{}\n{}",
            pool(0),
            pool(1),
            split(10)
        ))
        .start();
    let first = homes(&portico);
    assert_eq!(homes(&portico), first, "the same tool, the same pool");
    portico.change(&split(30));
    assert!(portico.reload());
    let second = homes(&portico);
    let of = |homes: &[String]| homes.iter().filter(|home| *home == "gateway").count();
    // 30 and 90 of 300, as hashing has it.
    assert!((15..=45).contains(&of(&first)), "{}", of(&first));
    assert!((65..=115).contains(&of(&second)), "{}", of(&second));
    for (tool, (before, after)) in first.iter().zip(&second).enumerate() {
        let moved_back = before == "gateway" && after != "gateway";
        assert!(!moved_back, "tool{tool} moved for nothing");
    }
}

/// Every idle connection is found dead in the same moment, as after the keep-alive time of the
/// nodes: that is no sign that nobody listens any more.
#[test]
fn nodes_that_close_idle_connections_get_the_next_burst() {
    let nodes = ["a", "b", "c"].map(|name| {
        Origin::scripted(name, |connection| {
            // Closed without a word once it has answered.
            if connection.read_request().is_some() {
                connection.send_text("ok");
            }
        })
    });
    let portico = Builder::new()
        .ingress(&nodes.each_ref().map(Origin::address))
        .with("[server]\nworkers = 1\n[pools.ingress.check]\ninterval = '1h'")
        .start();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| portico.tcp()).collect();
    for _ in 0..20 {
        for client in &mut clients {
            client.wire.send(get(HOST, "/")).unwrap();
        }
        for client in &mut clients {
            assert_eq!(client.response().status, 200);
        }
    }
}
