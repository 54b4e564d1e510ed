use super::*;
use std::net::{SocketAddr, TcpListener};

use super::super::health::News;

const S: Duration = Duration::from_secs(1);

/// A process whose pool has this node and this check.
fn process(node: SocketAddr, check: &str) -> Arc<Process> {
    let config = format!(
        "[listen]\nhttps = []\nredirect = false\n[domains]\ncanonical = 'toolforge.org'\n\
         [pools.ingress]\nnodes = ['{node}']\ncheck = {{ {check} }}"
    );
    let config = portico_config::parse("test", &config).unwrap().config;
    let prepared = crate::start::prepare_config(config, Vec::new()).unwrap();
    prepared.process
}

fn pool(process: &Process) -> Arc<Pool> {
    Arc::clone(process.snapshot.load().pools.get("ingress").unwrap())
}

fn run<T>(paused: bool, test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(paused)
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test)
}

/// Blocks this thread once it is waited for something.
fn block_soon(duration: Duration) {
    tokio::task::spawn_local(async move { std::thread::sleep(duration) });
}

#[test]
fn what_fails_while_the_control_thread_is_late_says_nothing() {
    // Takes connections, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let process = process(address, "kind = 'http', timeout = '400ms', fall = 1");
    let pool = pool(&process);
    let node = Arc::clone(&pool.members().nodes[0]);
    let discarded = || node.standing(|standing| standing.health.discarded_checks);
    run(false, async {
        block_soon(Duration::from_millis(700));
        check(&process, &pool, &node).await;
        assert_eq!((node.is_up(), discarded()), (true, 1));
        // The machine that runs this may be late, too.
        while node.is_up() {
            check(&process, &pool, &node).await;
        }
        let failed = node.standing(|standing| standing.health.failed_checks);
        assert_eq!(failed, 1);
    });
}

#[test]
fn a_check_under_way_says_nothing_of_a_node_in_maintenance() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let process = process(address, "kind = 'http', timeout = '2s', fall = 1");
    let pool = pool(&process);
    let node = Arc::clone(&pool.members().nodes[0]);
    run(false, async {
        let stops = async { pool.set_wish(&node, Wish::Maintenance) };
        // In this order: the check has begun.
        tokio::join!(check(&process, &pool, &node), stops);
    });
    node.standing(|standing| {
        let health = &standing.health;
        assert!(health.is_up() && health.last_check.is_none());
        assert_eq!((health.discarded_checks, health.failed_checks), (0, 0));
    });
}

#[test]
fn what_succeeds_counts_however_late() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let process = process(listener.local_addr().unwrap(), "timeout = '400ms'");
    let pool = pool(&process);
    let node = Arc::clone(&pool.members().nodes[0]);
    run(false, async {
        block_soon(Duration::from_millis(200));
        check(&process, &pool, &node).await;
    });
    node.standing(|standing| {
        assert_eq!(standing.health.discarded_checks, 0);
        let record = standing.health.last_check.as_ref().unwrap();
        assert_eq!(record.outcome, Ok(()));
    });
}

#[test]
fn intervals_differ_and_are_what_was_asked_for_on_average() {
    let draws: Vec<Duration> = (0..10_000).map(|luck| jittered(S * 10, luck)).collect();
    assert_eq!(draws.iter().min(), Some(&(S * 9)));
    assert_eq!(draws.iter().max(), Some(&(S * 11)));
    let mean = draws.iter().sum::<Duration>() / 10_000;
    assert!(mean.abs_diff(S * 10) < S / 10, "{mean:?}");
    assert_eq!(jittered(Duration::ZERO, 7), Duration::ZERO);
}

#[test]
fn when_a_node_is_due() {
    let address = "127.0.0.1:9".parse().unwrap();
    let process = process(address, "interval = '100s', down_interval = '20s'");
    let pool = pool(&process);
    let node = Arc::clone(&pool.members().nodes[0]);
    run(true, async {
        let start = Instant::now();
        let waited = async |begun| {
            wait_until_due(&pool, &node, begun).await;
            start.elapsed().as_secs_f64().round() as u64
        };
        assert_eq!(waited(None).await, 0, "the first check is at once");
        let after = waited(Some(start)).await;
        assert!((90..=110).contains(&after), "{after}");
        // Ejected at 160: not checked after the rest of a long interval.
        let begun = Some(Instant::now());
        sleep_until(start + S * 160).await;
        let ejected = Instant::now().into_std();
        let news = pool.judge(&node, |health, _| health.connect_failed(false, ejected));
        assert_eq!(
            news,
            Some(News::Down {
                held: Duration::ZERO
            })
        );
        let after = waited(begun).await;
        assert!((178..=182).contains(&after), "{after}");
    });
}

/// Something changes while a node waits for its check.
#[test]
fn changes_wake_those_who_wait() {
    let address = "127.0.0.1:9".parse().unwrap();
    let process = process(address, "interval = '1h'");
    let pool = pool(&process);
    let node = Arc::clone(&pool.members().nodes[0]);
    run(true, async {
        let start = Instant::now();
        let change = async {
            sleep(S * 60).await;
            let mut config = pool.members().config.clone();
            config.check.interval = S * 100;
            pool.configure(&config);
            node.check_anew.notify_one();
        };
        tokio::join!(wait_until_due(&pool, &node, Some(start)), change);
        let after = start.elapsed();
        assert!(S * 90 <= after && after <= S * 110, "{after:?}");

        let set = |wish| pool.set_wish(&node, wish);
        set(Wish::Maintenance);
        let start = Instant::now();
        let change = async {
            sleep(S * 5000).await;
            set(Wish::Drain);
        };
        tokio::join!(wait_until_due(&pool, &node, Some(start)), change);
        let after = start.elapsed();
        assert!(
            S * 5000 <= after && after <= S * 5001,
            "none before: {after:?}"
        );
        assert!(pool.is_ramping(), "it was worked on");
    });
}
