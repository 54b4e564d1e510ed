//! A changed configuration without a restart: what takes effect, what a failure leaves alone, and
//! that nobody notices the change who is not meant to.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use portico_tests::client::{Client, get, post};
use portico_tests::http2::Head;
use portico_tests::origin::Origin;
use portico_tests::portico::{Builder, HOST, Portico};
use portico_tests::redis::Redis;
use portico_tests::websocket::{self, TEXT, frame};
use portico_tests::{SOON, eventually, free_address};
use serde_json::Value;

const CHAT: &str = "chat.toolforge.org";

/// Changes the configuration and has it loaded.
#[track_caller]
fn reload(portico: &mut Portico, toml: &str) {
    portico.change(toml);
    assert!(portico.reload(), "{}", portico.stderr());
}

/// The backend's name in the answer to a GET.
#[track_caller]
fn served_by(client: &mut Client, host: &str) -> String {
    let answer = client.exchange(get(host, "/"));
    let text = answer.text();
    let name = text.strip_prefix("{\"backend\": \"");
    match name.and_then(|rest| rest.split('"').next()) {
        Some(name) => name.to_owned(),
        None => answer.status.to_string(),
    }
}

#[test]
fn routes_headers_limits_and_pools_change_on_open_connections() {
    let (first, second) = (Origin::echo("first"), Origin::echo("second"));
    let mut portico = Builder::new()
        .route("grid", &first.url())
        .with("[limits]\nheader = '4KiB'\nuri = '1KiB'")
        .start();
    let mut client = portico.tls();
    let mut http2 = portico.http2();
    assert_eq!(served_by(&mut client, HOST), "first");
    assert_eq!(served_by(&mut client, "other.toolforge.org"), "404");
    assert_eq!(http2.exchange(&Head::get(HOST, "/")).status, 200);

    let changed = format!(
        "[routes]\ngrid = '{}'\n[headers.set]\nX-Version = 'two'\n[limits]\nbody = '4B'\nheader = '2KiB'\n\
         [pools.ingress]\nnodes = ['{}']\n[ingress]\npool = 'ingress'",
        second.url(),
        first.address(),
    );
    reload(&mut portico, &changed);
    assert_eq!(served_by(&mut client, HOST), "second");
    assert_eq!(served_by(&mut client, "other.toolforge.org"), "first");
    let answer = client.exchange(get(HOST, "/"));
    assert_eq!(answer.field("x-version"), Some("two"));
    let answer = http2.exchange(&Head::get(HOST, "/"));
    assert_eq!(answer.field("x-version"), Some("two"), "{answer:?}");
    let answer = client.exchange(post(HOST, "/", "12345"));
    assert_eq!(answer.status, 413, "{answer:?}");
    let long = format!(
        "GET / HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\nX: {}\r\n\r\n",
        "x".repeat(3000)
    );
    assert_eq!(portico.tls().exchange(&long).status, 431);

    reload(&mut portico, "[limits]\nheader = '8KiB'");
    assert_eq!(portico.tls().exchange(&long).status, 200);
}

#[test]
fn listeners_come_and_go_and_their_connections_stay() {
    let origin = Origin::echo("grid");
    let mut portico = Portico::before(&origin);
    let (old, new, https) = (portico.http, free_address(), portico.https);
    let mut stays = portico.tcp();
    assert_eq!(served_by(&mut stays, HOST), "grid");

    reload(&mut portico, &format!("[listen]\nhttp = ['{new}']"));
    // For each worker its own socket.
    eventually("the old address is given back", SOON, || {
        (sockets(&portico, new) == 2 && sockets(&portico, old) == 0).then_some(())
    });
    for _ in 0..20 {
        assert_eq!(served_by(&mut Client::tcp(new), HOST), "grid");
    }
    assert!(TcpStream::connect(old).is_err());
    assert_eq!(served_by(&mut stays, HOST), "grid");

    // There and back, and another kind of listener on the same address.
    reload(
        &mut portico,
        &format!("[listen]\nhttp = ['{new}', '{old}']"),
    );
    for address in [old, new] {
        assert_eq!(served_by(&mut Client::tcp(address), HOST), "grid");
    }
    reload(
        &mut portico,
        &format!("[listen]\nhttp = []\nhttps = ['{new}', '{}']", https),
    );
    // A worker that is busy takes it for plain HTTP a while longer.
    let over_tls = || {
        let mut client = Client::try_tls(new, portico.tls_client(), HOST).ok()?;
        client.wire.send(get(HOST, "/")).ok()?;
        client.try_response(false).ok()?
    };
    let answer = eventually("TLS on what was plain", SOON, over_tls);
    assert_eq!(answer.status, 200);
}

/// How many sockets listen on this address.
fn sockets(portico: &Portico, address: SocketAddr) -> usize {
    const LISTENS: &str = "0A";
    let table = std::fs::read_to_string(format!("/proc/{}/net/tcp", portico.pid())).unwrap();
    let local = format!("0100007F:{:04X}", address.port());
    let of = |line: &&str| {
        let mut words = line.split_whitespace().skip(1);
        words.next() == Some(&local) && words.nth(1) == Some(LISTENS)
    };
    table.lines().filter(of).count()
}

/// Every mistake is said, nothing changes, and the next good file is taken.
#[test]
fn a_failure_changes_nothing() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = Origin::echo("grid");
    let mut portico = Portico::before(&origin);
    let good = std::fs::read_to_string(portico.folder.path().join("portico.toml")).unwrap();
    let mut client = portico.tls();
    for (change, said) in [
        (
            "[limits]\nbody = 'much'\n[timeouts]\nconect = '1s'",
            &["limits.body", "conect", "connect"][..],
        ),
        (
            "[headers.set]\nX-Version = 'two'\n[tls]\ncertificates = [{ chain = '/nowhere.pem', key = '/nowhere.key' }]",
            &["/nowhere.pem"],
        ),
        (
            &format!(
                "[headers.set]\nX-Version = 'two'\n[listen]\nhttp = ['{}']",
                taken.local_addr().unwrap()
            ),
            &["in use"],
        ),
    ] {
        portico.change(change);
        let before = portico.stderr().len();
        assert!(!portico.reload(), "{change}");
        let stderr = portico.stderr().split_off(before);
        for word in said {
            assert!(stderr.contains(word), "{word:?} is not said: {stderr}");
        }
        let answer = client.exchange(get(HOST, "/"));
        assert_eq!((answer.status, answer.field("x-version")), (200, None));
        assert_eq!(served_by(&mut portico.tcp(), HOST), "grid");
        portico.restore(&good);
    }
    reload(&mut portico, "[headers.set]\nX-Version = 'three'");
    let answer = client.exchange(get(HOST, "/"));
    assert_eq!(answer.field("x-version"), Some("three"));
}

#[test]
fn what_needs_a_restart_is_said_and_stays() {
    let redis = Redis::start();
    let origin = Origin::echo("grid");
    redis.route("grid", ".*", &origin.url());
    let mut portico = Builder::new().registry(&redis).start();
    reload(
        &mut portico,
        "[server]\nworkers = 5\n[registry]\nurl = 'redis://127.0.0.1:1/0'\nmass_removal = { percent = 10, grace = '1s' }",
    );
    let stderr = portico.stderr();
    for key in ["server.workers", "registry.url", "registry.mass_removal"] {
        let said = format!("{key} has changed, which takes effect at a restart only");
        assert!(stderr.contains(&said), "{key}: {stderr}");
    }
    let status: Value = serde_json::from_str(&portico.admin_get("/status").text()).unwrap();
    assert_eq!(status["workers"], 2);
    let config = portico.admin_get("/config").text();
    assert!(config.contains(&redis.url()), "{config}");
    assert!(!config.contains("127.0.0.1:1/"), "{config}");
    redis.route("late", ".*", &origin.url());
    eventually("the old registry is followed", SOON, || {
        (served_by(&mut portico.tcp(), "late.toolforge.org") == "grid").then_some(())
    });
}

/// A registry neither comes nor goes; its own address stays no backend.
#[test]
fn the_registry_stays_what_it_is() {
    let redis = Redis::start();
    let origin = Origin::echo("grid");
    redis.route("grid", ".*", &origin.url());
    let own = redis.url().replace("redis://", "http://");
    let own = own.rsplit_once('/').map_or(&*own, |(address, _)| address);
    let mut with = Builder::new().registry(&redis).route("own", own).start();
    let mut client = with.tcp();
    assert_eq!(served_by(&mut client, HOST), "grid");
    let forbidden = |client: &mut Client| client.exchange(get("own.toolforge.org", "/")).text();
    assert!(
        forbidden(&mut client).contains("is not allowed"),
        "{}",
        forbidden(&mut client)
    );
    let config = std::fs::read_to_string(with.folder.path().join("portico.toml")).unwrap();
    let mut config: toml::Table = config.parse().unwrap();
    let registry = config.remove("registry").unwrap();
    with.restore(&config.to_string());
    assert!(with.reload(), "{}", with.stderr());
    let said = "[registry] has changed, which takes effect at a restart only";
    assert!(with.stderr().contains(said), "{}", with.stderr());
    assert_eq!(served_by(&mut client, HOST), "grid");
    assert!(forbidden(&mut client).contains("is not allowed"));

    let mut without = Portico::before(&origin);
    let mut table = toml::Table::new();
    table.insert("registry".to_owned(), registry);
    reload(&mut without, &table.to_string());
    assert!(without.stderr().contains(said), "{}", without.stderr());
    assert_eq!(without.admin_get("/readyz").status, 200);
}

/// What is odd about the new file is said, as at a start.
#[test]
fn warnings_are_told() {
    let origin = Origin::echo("grid");
    let mut portico = Portico::before(&origin);
    let before = portico.stderr().len();
    reload(&mut portico, "[domains]\nlegacy = ['old.example']");
    let said = portico.stderr().split_off(before);
    assert!(
        said.contains("no certificate in tls.certificates names old.example"),
        "{said}"
    );
    let port = free_address().port();
    reload(&mut portico, &format!("[listen]\nadmin = '0.0.0.0:{port}'"));
    let said = portico.stderr().split_off(before);
    assert!(said.contains("listen.admin"), "{said}");
}

#[test]
fn routes_of_the_registry_are_judged_by_the_new_networks() {
    let redis = Redis::start();
    let origin = Origin::echo("grid");
    redis.route("grid", ".*", &origin.url());
    let mut portico = Builder::new().registry(&redis).start();
    let mut client = portico.tcp();
    assert_eq!(served_by(&mut client, HOST), "grid");
    // A route that may not be is a bad one: the tool is as good as unknown.
    reload(&mut portico, "[registry]\nbackends = ['10.0.0.0/8']");
    eventually("the route is gone", SOON, || {
        (served_by(&mut client, HOST) == "404").then_some(())
    });
    reload(&mut portico, "[registry]\nbackends = ['127.0.0.0/8']");
    eventually("the route is back", SOON, || {
        (served_by(&mut client, HOST) == "grid").then_some(())
    });
}

#[test]
fn a_node_that_is_down_stays_down() {
    let (alive, dead) = (Origin::echo("alive"), free_address());
    let mut portico = Builder::new()
        .ingress(&[dead, alive.address()])
        .with("[pools.ingress]\ncheck = { interval = '1h', down_interval = '1h' }")
        .start();
    let mut client = portico.tcp();
    for _ in 0..4 {
        assert_eq!(served_by(&mut client, "x.toolforge.org"), "alive");
    }
    let downs = |portico: &Portico| portico.stderr().matches("node is down").count();
    eventually("it was said", SOON, || (downs(&portico) == 1).then_some(()));
    let nodes = format!("['{dead}', '{}']", alive.address());
    reload(
        &mut portico,
        &format!(
            "[pools.ingress]\nnodes = {nodes}\ncheck = {{ interval = '2h', down_interval = '2h' }}"
        ),
    );
    for _ in 0..4 {
        assert_eq!(served_by(&mut client, "x.toolforge.org"), "alive");
    }
    assert_eq!(downs(&portico), 1, "{}", portico.stderr());
}

/// The nodes of the new pool are checked, those of the old one no more.
#[test]
fn checks_follow_the_pool() {
    let (old, new, dead) = (Origin::echo("old"), Origin::echo("new"), free_address());
    let mut portico = Builder::new()
        .ingress(&[old.address()])
        .with("[pools.ingress]\ncheck = { interval = '100ms', down_interval = '100ms' }")
        .start();
    eventually("the old node is checked", SOON, || {
        (old.connections() > 2).then_some(())
    });
    let nodes = format!("['{}', '{dead}']", new.address());
    reload(&mut portico, &format!("[pools.ingress]\nnodes = {nodes}"));
    let before = old.connections();
    eventually("the new nodes are checked", SOON, || {
        let said = portico.stderr();
        let down = said
            .lines()
            .any(|line| line.contains("its checks fail") && line.contains(&dead.to_string()));
        (down && new.connections() > 10).then_some(())
    });
    // One was under way, and one may not have been counted yet.
    assert!(old.connections() <= before + 2, "{}", old.connections());
}

/// A name in a route is resolved before somebody asks for it.
#[test]
fn names_of_new_routes_are_resolved() {
    let origin = Origin::echo("grid");
    let mut portico = Portico::before(&origin);
    let port = origin.address().port();
    reload(
        &mut portico,
        &format!("[routes]\nnamed = 'http://localhost:{port}'"),
    );
    let question = "/explain?url=https://named.toolforge.org/&format=json";
    eventually("it has an address", SOON, || {
        let explained: Value = serde_json::from_str(&portico.admin_get(question).text()).unwrap();
        explained["backend"]["addresses"][0]["address"]
            .is_string()
            .then_some(())
    });
}

/// A fallback that is down is not said again after each reload.
#[test]
fn a_fallback_stays_itself() {
    let dead = free_address();
    let mut portico = Builder::new()
        .with(&format!("[fallback]\nbackend = 'http://{dead}'"))
        .start();
    for version in ["one", "two"] {
        assert_eq!(served_by(&mut portico.tcp(), "foreign.example"), "404");
        // What it has said by then is before the end of the reload.
        reload(
            &mut portico,
            &format!("[headers.set]\nX-Version = '{version}'"),
        );
    }
    let said = portico.stderr();
    assert_eq!(
        said.matches("the fallback backend is down").count(),
        1,
        "{said}"
    );
}

#[test]
fn the_log_level_changes() {
    let origin = Origin::echo("grid");
    let mut portico = Portico::before(&origin);
    let finished = |portico: &Portico| portico.stderr().contains("request finished");
    served_by(&mut portico.tcp(), HOST);
    assert!(!finished(&portico));
    reload(&mut portico, "[log]\nlevel = 'debug'");
    served_by(&mut portico.tcp(), HOST);
    eventually("debug messages", SOON, || finished(&portico).then_some(()));
}

#[test]
fn fewer_connections_are_let_in_and_more_again() {
    let origin = Origin::echo("grid");
    let mut portico = Portico::before(&origin);
    let hold = |portico: &Portico| {
        let mut client = portico.tcp();
        assert_eq!(served_by(&mut client, HOST), "grid");
        client
    };
    let limits = |portico: &Portico| {
        let status = portico.admin_get("/status").text();
        let status: Value = serde_json::from_str(&status).unwrap();
        ["connections", "backend_connections"].map(|of| status[of]["limit"].as_u64().unwrap())
    };
    let mut held: Vec<_> = (0..4).map(|_| hold(&portico)).collect();
    let [clients, backends] = limits(&portico);
    reload(&mut portico, "[limits]\nconnections = 4");
    // What clients do not get is for backends.
    assert_eq!(limits(&portico), [4, backends + clients - 4]);
    assert_eq!(portico.metric("portico_accept_waits_total"), Some(0.0));
    // The fifth waits in the kernel until another ends.
    let mut fifth = portico.tcp();
    fifth.send(get(HOST, "/"));
    eventually("it waits", SOON, || {
        let waits = portico.metric("portico_accept_waits_total");
        (waits >= Some(1.0)).then_some(())
    });
    thread::sleep(Duration::from_millis(300));
    assert_eq!(origin.heads(), 4);
    held.pop();
    assert_eq!(fifth.response().status, 200);
    reload(&mut portico, "[limits]\nconnections = 100");
    assert_eq!(limits(&portico), [100, backends + clients - 100]);
    held.push(hold(&portico));
}

/// What the load has done.
#[derive(Default)]
struct Load {
    over: AtomicBool,
    done: AtomicUsize,
}

/// Ends the load when it is dropped: also when the test fails, which would wait for it otherwise.
struct Over<'a>(&'a Load);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

impl Load {
    fn repeat(&self, mut step: impl FnMut()) {
        while !self.over.load(Ordering::Relaxed) {
            step();
            self.done.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Requests over HTTP/1.1 and HTTP/2, on connections that stay and on new ones, and WebSockets over
/// both: none fails, and no memory is kept.
#[test]
fn a_hundred_reloads_under_load_lose_nothing() {
    let (grid, chat) = (
        Origin::echo("grid"),
        Origin::scripted("chat", websocket::echo),
    );
    let spare = free_address();
    let mut portico = Builder::new()
        .route("grid", &grid.url())
        .route("chat", &chat.url())
        .ingress(&[grid.address()])
        .start();
    let load = Load::default();
    let (plain, https, tls_client) = (portico.http, portico.https, portico.tls_client().clone());
    let mut over_http2 = portico.http2();
    let mut tunnel = portico.tls();
    websocket::upgrade(&mut tunnel, CHAT, "/");
    let mut tunnels = portico.http2();
    let connect = Head::new("CONNECT", CHAT, "/").first(":protocol", "websocket");
    let stream = tunnels.request(&connect.with("sec-websocket-version", "13"), false);
    assert_eq!(tunnels.head(stream).status, 200);

    thread::scope(|scope| {
        let load = &load;
        let over = Over(load);
        scope.spawn(move || {
            let mut client = Client::tcp(plain);
            load.repeat(|| assert_eq!(client.exchange(get(HOST, "/bytes/20000")).status, 200));
        });
        scope.spawn(move || {
            load.repeat(|| {
                let mut client = Client::tls(https, &tls_client, "x.toolforge.org");
                assert_eq!(served_by(&mut client, "x.toolforge.org"), "grid");
            });
        });
        scope.spawn(move || {
            load.repeat(|| {
                let streams: Vec<u32> = (0..8)
                    .map(|_| over_http2.request(&Head::get(HOST, "/chunked/5000"), true))
                    .collect();
                for stream in streams {
                    let answer = over_http2.answer(stream);
                    assert_eq!((answer.status, answer.body.length), (200, 5000));
                }
            });
        });
        scope.spawn(move || {
            load.repeat(|| {
                tunnel.send(frame(TEXT, b"hello", true));
                let echoed = websocket::read_frame(&mut tunnel.wire).unwrap();
                assert_eq!(echoed, (TEXT, b"hello".to_vec()));
            });
        });
        scope.spawn(move || {
            let mut echoed = 0;
            load.repeat(|| {
                tunnels.send_body(stream, &frame(TEXT, b"hello", true), false);
                echoed += frame(TEXT, b"hello", false).len() as u64;
                while tunnels.so_far(stream).body.length < echoed {
                    tunnels.read_frame().unwrap().expect("the tunnel lasts");
                }
            });
        });
        let mut settled = 0;
        for round in 0..100 {
            let more = if round % 2 == 0 {
                format!(", '{spare}'")
            } else {
                String::new()
            };
            reload(
                &mut portico,
                &format!(
                    "[listen]\nhttp = ['{plain}'{more}]\n[headers.set]\nX-Round = '{round}'\n\
                     [limits]\nheader = '{}KiB'",
                    8 + round % 3
                ),
            );
            let done = load.done.load(Ordering::Relaxed);
            eventually("the load goes on", SOON, || {
                (load.done.load(Ordering::Relaxed) > done + 20).then_some(())
            });
            if round == 30 {
                settled = portico.resident_bytes();
            }
        }
        drop(over);
        let grown = portico.resident_bytes().saturating_sub(settled);
        assert!(grown < 8 << 20, "70 reloads have taken {grown} bytes");
    });
    let answer = portico.tcp().exchange(get(HOST, "/"));
    assert_eq!(answer.field("x-round"), Some("99"));
}
