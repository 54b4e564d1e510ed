//! The registry on a redis that Sentinel watches, and on a replica.
//!
//! Prints how long a failover kept changes from being seen: `cargo test -p portico-tests --test
//! registry_sentinel -- --nocapture`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use portico_tests::client::{Client, get};
use portico_tests::origin::Origin;
use portico_tests::portico::{Builder, Portico};
use portico_tests::sentinel::{Fake, Node, PATIENCE, url};
use portico_tests::{SOON, eventually, free_address};

/// A failover takes its time: to notice, to vote, to promote.
const FAILOVER: Duration = Duration::from_secs(40);

/// Where a tool's requests go: `a`, `b`, or the status of portico's own answer.
fn goes(portico: &Portico, tool: &str) -> String {
    let host = format!("{tool}.toolforge.org");
    let answer = portico.tcp().exchange(get(&host, "/"));
    let text = answer.text();
    let name = text.strip_prefix("{\"backend\": \"");
    let name = name.and_then(|rest| rest.split('"').next());
    name.map_or(answer.status.to_string(), str::to_owned)
}

#[track_caller]
fn soon_goes(portico: &Portico, tool: &str, to: &str) {
    eventually(&format!("{tool} goes to {to}"), SOON, || {
        (goes(portico, tool) == to).then_some(())
    });
}

/// Waits until portico has said this.
#[track_caller]
fn says(portico: &Portico, words: &str) {
    eventually(&format!("it says {words:?}"), FAILOVER, || {
        portico.stderr().contains(words).then_some(())
    });
}

fn with_url(builder: Builder, url: &str) -> Builder {
    let snapshot = builder.snapshot();
    builder.with(&format!(
        "[registry]\nurl = {url:?}\nsnapshot = {snapshot:?}"
    ))
}

#[track_caller]
fn start(url: &str) -> Portico {
    with_url(Builder::new(), url).start()
}

/// A master with ten tools at `a`, a replica, and sentinels that know of both.
struct Site {
    a: Origin,
    b: Origin,
    master: Node,
    replica: Node,
    sentinels: Vec<Node>,
}

impl Site {
    fn new(sentinels: usize) -> Site {
        let (a, b) = (Origin::echo("a"), Origin::echo("b"));
        let master = Node::redis(&[]);
        for index in 0..10 {
            master.route(&format!("tool{index}"), &a.url());
        }
        let replica = Node::replica(&master, &["--replica-read-only", "no"]);
        let quorum = sentinels / 2 + 1;
        let sentinels: Vec<Node> = (0..sentinels)
            .map(|_| Node::sentinel(master.address(), quorum, ""))
            .collect();
        for sentinel in &sentinels {
            sentinel.wait_for_peers(1, sentinels.len() - 1);
        }
        Site {
            a,
            b,
            master,
            replica,
            sentinels,
        }
    }

    fn url(&self) -> String {
        let sentinels: Vec<SocketAddr> = self.sentinels.iter().map(Node::address).collect();
        url(&sentinels)
    }

    /// Waits until the replica is master and portico sees what is written there; says how long
    /// that took.
    #[track_caller]
    fn wait_for_failover(&self, portico: &Portico, what: &str) {
        let since = Instant::now();
        let set_patience = |time| self.sentinels.iter().for_each(|s| s.set_patience(time));
        set_patience(Duration::from_millis(500));
        self.replica.wait_for_promotion();
        set_patience(PATIENCE);
        let promoted = since.elapsed();
        self.replica.route("new", &self.b.url());
        eventually("a change at the new master is seen", SOON, || {
            (goes(portico, "new") == "b").then_some(())
        });
        let seen = since.elapsed();
        println!("{what}: promoted after {promoted:.1?}, its changes seen after {seen:.1?}");
    }
}

/// Requests for a tool that never stop; every answer has to be 200.
struct Load {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    thread: Option<JoinHandle<Vec<String>>>,
}

impl Load {
    fn on(portico: &Portico, tool: &'static str) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicU64::new(0));
        let address = portico.http;
        let thread = thread::spawn({
            let (stop, count) = (Arc::clone(&stop), Arc::clone(&count));
            move || {
                let mut failures = Vec::new();
                let mut client = Client::tcp(address);
                let request = get(&format!("{tool}.toolforge.org"), "/");
                while !stop.load(Relaxed) {
                    let start = Instant::now();
                    let status = client.exchange(&request).status;
                    count.fetch_add(1, Relaxed);
                    if status != 200 || start.elapsed() > Duration::from_secs(2) {
                        failures.push(format!("{status} after {:?}", start.elapsed()));
                    }
                    thread::sleep(Duration::from_millis(2));
                }
                failures
            }
        });
        Load {
            stop,
            count,
            thread: Some(thread),
        }
    }

    #[track_caller]
    fn end(mut self) {
        self.stop.store(true, Relaxed);
        let failures = self.thread.take().unwrap().join().unwrap();
        let count = self.count.load(Relaxed);
        assert!(failures.is_empty(), "of {count} requests: {failures:?}");
        assert!(count > 10, "only {count} requests");
        println!("{count} requests, none failed");
    }
}

#[test]
fn a_failover_loses_no_request_and_no_change() {
    let mut site = Site::new(3);
    let builder = with_url(Builder::new(), &site.url());
    let check = builder.command("check", &[]);
    check.expect(0, &[]);
    assert!(check.stdout.contains("10 tools in redis"), "{check:#?}");
    let portico = builder.start();
    says(&portico, &format!("({}/0)", site.master.address()));
    assert_eq!(goes(&portico, "tool0"), "a");
    site.master.route("tool1", &site.b.url());
    soon_goes(&portico, "tool1", "b");

    let load = Load::on(&portico, "tool0");
    // Everything is in step before the master goes.
    site.master.route("end", &site.b.url());
    site.replica.wait_for_tool("end");
    site.master.kill();
    site.wait_for_failover(&portico, "the master was killed");
    load.end();
    assert_eq!(goes(&portico, "tool0"), "a");
    assert_eq!(goes(&portico, "tool1"), "b");
    says(&portico, &format!("({}/0)", site.replica.address()));

    // The old one comes back, empty, and nobody minds.
    site.master.restart();
    eventually("the old master is a replica", FAILOVER, || {
        (site.master.role() == "slave").then_some(())
    });
    site.replica.route("tool2", &site.b.url());
    soon_goes(&portico, "tool2", "b");
    assert_eq!(goes(&portico, "tool0"), "a");
    assert_eq!(portico.metric("portico_registry_held_back"), Some(0.0));
}

#[test]
fn routes_do_not_point_at_the_registry_wherever_it_moves() {
    let mut site = Site::new(1);
    let portico = start(&site.url());
    let sentinel = site.sentinels[0].address();
    let (old, new) = (site.master.address(), site.replica.address());
    for (tool, address) in [("loop0", sentinel), ("loop1", old), ("loop2", new)] {
        site.master.route(tool, &format!("http://{address}"));
    }
    site.master
        .route("name", &format!("http://localhost:{}", new.port()));
    site.master.route("last", &site.b.url());
    soon_goes(&portico, "last", "b");
    assert_eq!(goes(&portico, "loop0"), "404");
    assert_eq!(goes(&portico, "loop1"), "404");
    // It is a server as any other until it is the registry.
    assert_eq!(goes(&portico, "loop2"), "502");
    site.replica.wait_for_tool("last");
    site.master.kill();
    site.wait_for_failover(&portico, "the master was killed");
    for tool in ["loop0", "loop1", "loop2"] {
        soon_goes(&portico, tool, "404");
    }
    let page = portico.tcp().exchange(get("name.toolforge.org", "/"));
    assert_eq!(page.status, 502);
    let bad = portico.admin_get("/routes").text();
    assert!(bad.contains("the registry's own"), "{bad}");
}

#[test]
fn a_manual_failover_is_followed() {
    let site = Site::new(1);
    let portico = start(&site.url());
    let load = Load::on(&portico, "tool0");
    site.sentinels[0].ask(&["SENTINEL", "FAILOVER", "mymaster"]);
    site.wait_for_failover(&portico, "SENTINEL FAILOVER");
    load.end();
    says(&portico, "the master has moved");
    assert!(!portico.stderr().contains("ERROR"), "{}", portico.stderr());
    eventually("the old master is a replica", FAILOVER, || {
        (site.master.role() == "slave").then_some(())
    });
    site.replica.route("tool1", &site.b.url());
    soon_goes(&portico, "tool1", "b");
}

#[test]
fn a_master_that_hangs_is_left() {
    let site = Site::new(1);
    let portico = start(&site.url());
    let load = Load::on(&portico, "tool0");
    site.master.freeze();
    site.wait_for_failover(&portico, "the master was frozen");
    load.end();
    // Awake again it believes to be master, until it is told.
    site.master.thaw();
    eventually("the old master is a replica", FAILOVER, || {
        (site.master.role() == "slave").then_some(())
    });
    site.replica.route("tool1", &site.b.url());
    soon_goes(&portico, "tool1", "b");
    assert_eq!(goes(&portico, "new"), "b");
}

#[test]
fn after_a_failover_to_a_lagging_replica_the_table_is_what_that_one_holds() {
    let mut site = Site::new(1);
    let portico = start(&site.url());
    site.master.cut_off_replicas();
    site.master.route("tool1", &site.b.url());
    site.master.route("late", &site.b.url());
    site.master.ask(&["DEL", "prefix:tool2"]);
    soon_goes(&portico, "late", "b");
    soon_goes(&portico, "tool2", "404");
    let load = Load::on(&portico, "tool0");
    site.master.kill();
    site.wait_for_failover(&portico, "the master was killed, its replica was behind");
    // What redis does not hold leaves when all that it holds was taken in.
    soon_goes(&portico, "late", "404");
    assert_eq!(goes(&portico, "tool1"), "a");
    assert_eq!(goes(&portico, "tool2"), "a");
    load.end();
}

#[test]
fn a_new_master_that_lost_the_table_is_not_believed_at_once() {
    let mut site = Site::new(1);
    let portico = with_url(Builder::new(), &site.url())
        .with("[registry]\nmass_removal = { percent = 50, grace = '8s' }")
        .start();
    site.master.cut_off_replicas();
    site.replica.ask(&["FLUSHALL"]);
    let load = Load::on(&portico, "tool0");
    site.master.kill();
    site.wait_for_failover(&portico, "the master was killed, its replica was empty");
    says(&portico, "vanished from redis at once");
    assert_eq!(portico.metric("portico_registry_held_back"), Some(10.0));
    load.end();
    for index in 0..10 {
        site.replica.route(&format!("tool{index}"), &site.b.url());
    }
    soon_goes(&portico, "tool0", "b");
    eventually("nothing is held back", SOON, || {
        (portico.metric("portico_registry_held_back") == Some(0.0)).then_some(())
    });
}

#[test]
fn sentinels_that_are_away_harm_nothing_while_redis_works() {
    let mut site = Site::new(1);
    let portico = start(&site.url());
    site.sentinels[0].kill();
    says(&portico, "the sentinels cannot be asked");
    site.master.route("tool1", &site.b.url());
    soon_goes(&portico, "tool1", "b");
    assert_eq!(portico.metric("portico_registry_connected"), Some(1.0));
    site.sentinels[0].restart();
    says(&portico, "the sentinels answer again");
    // A hung one is no better than a dead one, and no worse.
    site.sentinels[0].freeze();
    let address = site.sentinels[0].address();
    says(
        &portico,
        &format!("{address}: it did not answer within 2 s"),
    );
    site.master.route("tool1", &site.a.url());
    soon_goes(&portico, "tool1", "a");
    assert_eq!(portico.metric("portico_registry_connected"), Some(1.0));
    site.sentinels[0].thaw();
}

#[test]
fn a_hung_or_wrong_sentinel_only_costs_its_bound() {
    let site = Site::new(1);
    let right = site.sentinels[0].address();
    let hung = Fake::saying("");
    let answers = [
        "*0\r\n",
        "*2\r\n$2\r\n\x01\x02\r\n$1\r\n1\r\n",
        "$5\r\nhello\r\n",
        "*2\r\n$1\r\nh\r\n$5\r\n99999\r\n",
        "HTTP/1.1 400 Bad Request\r\n\r\n",
        ":1\r\n",
    ];
    let wrong: Vec<Fake> = answers.into_iter().map(Fake::saying).collect();
    let mut sentinels = vec![hung.address(), free_address(), site.master.address()];
    sentinels.extend(wrong.iter().map(Fake::address));
    let none = with_url(Builder::new(), &url(&sentinels)).command("run", &[]);
    none.expect(
        1,
        &[
            "no sentinel names a usable master mymaster",
            &format!("{}: it did not answer within 2 s", hung.address()),
            "refused",
            &format!("{}: it is no sentinel", site.master.address()),
            "its answer makes no sense",
            "and 5 more sentinels",
        ],
    );
    sentinels.push(right);
    let begin = Instant::now();
    let portico = start(&url(&sentinels));
    let taken = begin.elapsed();
    assert!(taken < Duration::from_secs(8), "the start took {taken:?}");
    assert_eq!(goes(&portico, "tool0"), "a");
}

#[test]
fn a_sentinel_that_knows_no_such_master_says_so() {
    let site = Site::new(1);
    let sentinel = site.sentinels[0].address();
    let with_name = |name: &str| {
        with_url(
            Builder::new(),
            &format!("redis+sentinel://:s3cret@{sentinel}/{name}"),
        )
    };
    let finished = with_name("mistress").command("run", &[]);
    finished.expect(
        1,
        &[
            "no sentinel names a usable master mistress",
            &format!("{sentinel}: it knows no master of this name"),
            "SENTINEL MASTERS",
        ],
    );
    let check = with_name("mistress").command("check", &[]);
    check.expect(
        0,
        &["a start right now would fail", "no master of this name"],
    );
    for run in [finished, check] {
        assert!(!run.stderr.contains("s3cret"), "{run:#?}");
    }
}

#[test]
fn sentinels_and_redis_may_want_passwords() {
    let a = Origin::echo("a");
    let master = Node::redis(&["--requirepass", "r3dis/p@ss"]).with_password("r3dis/p@ss");
    master.route("tool0", &a.url());
    let more = "requirepass s3ntinel\n\
                user portico on >s3ntinel allchannels +sentinel|get-master-addr-by-name\n";
    let sentinel = Node::sentinel(master.address(), 1, more).with_password("s3ntinel");
    sentinel.ask(&["SENTINEL", "SET", "mymaster", "auth-pass", "r3dis/p@ss"]);
    let address = sentinel.address();
    let refused = |query: &str, reason: &str| {
        let url = format!("redis+sentinel://:r3dis%2Fp%40ss@{address}/mymaster{query}");
        let finished = with_url(Builder::new(), &url).command("run", &[]);
        finished.expect(1, &[&format!("{address}: {reason}")]);
        for secret in ["r3dis", "s3nt"] {
            assert!(!finished.stderr.contains(secret), "{finished:#?}");
        }
    };
    let no_password = "it wants a password and registry.url has no sentinel_password";
    refused("", no_password);
    let wrong = "it refuses the sentinel_user or the sentinel_password";
    refused("?sentinel_password=s3ntinelx", wrong);
    refused("?sentinel_user=nobody&sentinel_password=s3ntinel", wrong);

    let query = "?sentinel_user=default&sentinel_password=s3ntine%6C";
    let finished = with_url(
        Builder::new(),
        &format!("redis+sentinel://:r3diss@{address}/mymaster{query}"),
    )
    .command("run", &[]);
    let redis = master.address();
    finished.expect(
        1,
        &[&format!(
            "{address}: it names {redis}, but it refuses the user or the password"
        )],
    );
    let portico = start(&format!(
        "redis+sentinel://default:r3dis%2Fp%40ss@{address}/mymaster{query}"
    ));
    assert_eq!(goes(&portico, "tool0"), "a");
    // Users that may do no more than portico needs.
    let rights = "on >r3dis-user %R~prefix:* %R~redirect:* -@all +ping +select +scan +hlen +exists +hgetall +client|tracking";
    let words = [
        &["ACL", "SETUSER", "portico"][..],
        &rights.split(' ').collect::<Vec<_>>(),
    ];
    master.ask(&words.concat());
    let few = start(&format!(
        "redis+sentinel://portico:r3dis-user@{address}/mymaster?sentinel_user=portico&sentinel_password=s3ntinel"
    ));
    assert_eq!(goes(&few, "tool0"), "a");
    let shown = portico.admin_get("/config").text();
    assert!(
        shown.contains(&format!("default:***@{address}/mymaster")),
        "{shown}"
    );
    let pages = ["/status", "/routes", "/metrics"].map(|page| portico.admin_get(page).text());
    for text in [shown, portico.stderr(), few.stderr(), pages.concat()] {
        for secret in ["r3dis", "s3nt"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

#[test]
fn sentinels_and_redis_may_speak_tls() {
    let a = Origin::echo("a");
    let builder = Builder::new();
    let ca = builder.folder().join("ca.pem").display().to_string();
    let pair = builder.authority().issue(&["localhost", "127.0.0.1"]);
    let (chain, key) = pair.write(builder.folder(), "redis");
    let (chain, key) = (chain.display().to_string(), key.display().to_string());
    let (secure, plain) = (free_address(), free_address());
    let port = secure.port().to_string();
    let master = Node::redis(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        &chain,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
        "--tls-auth-clients",
        "no",
    ]);
    master.route("tool0", &a.url());
    let sentinel_port = plain.port();
    let sentinel = Node::sentinel(
        secure,
        1,
        &format!(
            "tls-port {sentinel_port}\ntls-cert-file {chain}\ntls-key-file {key}\ntls-ca-cert-file {ca}\n\
             tls-auth-clients no\ntls-replication yes"
        ),
    );
    let portico = with_url(
        builder,
        &format!("rediss+sentinel://localhost:{sentinel_port}/mymaster"),
    )
    .env("SSL_CERT_FILE", &ca)
    .start();
    assert_eq!(goes(&portico, "tool0"), "a");
    // Without TLS it is not taken for something else.
    let finished = with_url(
        Builder::new(),
        &url(&[SocketAddr::from(([127, 0, 0, 1], sentinel_port))]),
    )
    .command("run", &[]);
    finished.expect(1, &["no sentinel names a usable master mymaster"]);
    drop(sentinel);
}

#[test]
fn only_a_master_is_followed() {
    let site = Site::new(1);
    let other = Node::redis(&[]);
    for index in 0..10 {
        other.route(&format!("tool{index}"), &site.b.url());
    }
    let master = site.master.address();
    let fake = Fake::naming(site.replica.address());
    let finished = with_url(Builder::new(), &url(&[fake.address()])).command("run", &[]);
    let named = format!("it names {}, but that is a replica", site.replica.address());
    finished.expect(1, &[&named]);

    // Behind one that is behind there may be one that is not.
    let sentinels = [fake.address(), site.sentinels[0].address()];
    let second = start(&url(&sentinels));
    assert_eq!(goes(&second, "tool0"), "a");
    drop(second);

    fake.name(master);
    let portico = start(&url(&[fake.address()]));
    // A sentinel that is cut off from the others moves nobody to what is no master.
    fake.name(site.replica.address());
    says(&portico, "names another server as the master");
    site.master.route("tool1", &site.b.url());
    soon_goes(&portico, "tool1", "b");
    assert_eq!(
        portico.metric("portico_registry_disconnects_total"),
        Some(0.0)
    );
    // The master moved and the old one does not know.
    fake.name(other.address());
    soon_goes(&portico, "tool0", "b");
    says(&portico, "the master has moved");
    other.route("tool0", &site.a.url());
    soon_goes(&portico, "tool0", "a");
}

#[test]
fn a_master_that_became_a_replica_is_given_up() {
    let site = Site::new(1);
    let other = Node::redis(&[]);
    other.route("tool0", &site.b.url());
    let fake = Fake::naming(site.master.address());
    let portico = with_url(Builder::new(), &url(&[fake.address()]))
        .with("[registry]\nmass_removal = { percent = 100, grace = '1s' }")
        .start();
    assert_eq!(goes(&portico, "tool0"), "a");
    // Nothing closes the connection here, but the role tells.
    let port = site.replica.address().port().to_string();
    site.replica.ask(&["REPLICAOF", "NO", "ONE"]);
    site.master.ask(&["REPLICAOF", "127.0.0.1", &port]);
    says(&portico, "is a replica");
    assert_eq!(goes(&portico, "tool0"), "a");
    fake.name(other.address());
    soon_goes(&portico, "tool0", "b");
}

#[test]
fn a_replica_will_do() {
    let mut site = Site::new(0);
    let portico = start(&site.replica.url());
    let load = Load::on(&portico, "tool0");
    site.master.route("tool1", &site.b.url());
    soon_goes(&portico, "tool1", "b");

    // Another master, so everything is copied anew.
    let other = Node::redis(&[]);
    for index in 0..10 {
        other.route(&format!("tool{index}"), &site.a.url());
    }
    other.route("other", &site.b.url());
    let port = other.address().port().to_string();
    site.replica.ask(&["REPLICAOF", "127.0.0.1", &port]);
    soon_goes(&portico, "other", "b");
    soon_goes(&portico, "tool1", "a");

    // Promoted: it is followed all the same.
    site.replica.ask(&["REPLICAOF", "NO", "ONE"]);
    site.replica.route("promoted", &site.b.url());
    soon_goes(&portico, "promoted", "b");

    // And demoted again.
    let port = site.master.address().port().to_string();
    site.replica.ask(&["REPLICAOF", "127.0.0.1", &port]);
    soon_goes(&portico, "promoted", "404");
    soon_goes(&portico, "tool1", "b");
    site.master.kill();
    assert_eq!(goes(&portico, "tool1"), "b");
    load.end();
}

#[test]
fn a_replica_that_serves_nothing_stale_is_not_an_empty_one() {
    let mut site = Site::new(0);
    site.replica
        .ask(&["CONFIG", "SET", "replica-serve-stale-data", "no"]);
    let portico = start(&site.replica.url());
    let load = Load::on(&portico, "tool0");
    site.master.kill();
    says(&portico, "MASTERDOWN");
    assert_eq!(goes(&portico, "tool9"), "a");
    site.master.restart();
    for index in 0..10 {
        site.master.route(&format!("tool{index}"), &site.a.url());
    }
    site.master.route("new", &site.b.url());
    soon_goes(&portico, "new", "b");
    load.end();
}
