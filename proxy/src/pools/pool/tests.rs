use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use portico_config::{Balance, NodeAddress};
use proptest::prelude::*;
use tokio::runtime::{Builder, Runtime};

use super::*;
use crate::pools::balance::Random;
use crate::pools::health::Checked;
use crate::pools::live::{Change, Wish};
use crate::pools::{NodePlace, Turns};

impl Pool {
    /// Takes a node down, the last one too.
    pub(crate) fn fail_checks(self: &Arc<Self>, node: &Arc<Node>) {
        let now = Instant::now();
        let check = Checked {
            good: false,
            begun: now,
            rise: 1,
            fall: 1,
        };
        let news = self.judge(node, |health, last| health.checked(check, last, now));
        self.tell(node, news, now, || "its checks fail".to_owned());
    }

    pub(crate) fn set_wish(self: &Arc<Self>, node: &Node, wish: Wish) {
        self.change(node, Change::Wish(wish));
    }

    pub(crate) fn set_weight(self: &Arc<Self>, node: &Node, weight: Option<u32>) {
        self.change(node, Change::Weight(weight));
    }
}

/// A pool as it is configured; nodes have the numbers of their ports.
fn configured(nodes: &[u16], places: u32, max_queue: u32) -> config::Pool {
    let text = "
        listen.https = []
        [domains]
        canonical = 'example.org'
        [pools.p]
        nodes = ['127.0.0.1:1']
        [ingress]
        pool = 'p'
    ";
    let loaded = portico_config::parse("test", text).unwrap();
    let mut pool = loaded.config.pools["p"].clone();
    pool.nodes = nodes
        .iter()
        .map(|port| config::Node {
            address: NodeAddress::Ip(([127, 0, 0, 1], *port).into()),
            weight: 100,
        })
        .collect();
    pool.max_connections = places;
    pool.max_queue = max_queue;
    pool.queue_timeout = Duration::from_secs(60);
    pool
}

fn pool_of(nodes: &[u16], places: u32, max_queue: u32) -> Arc<Pool> {
    Arc::new(Pool::new(&configured(nodes, places, max_queue), 4))
}

/// A runtime whose clock stands still.
fn runtime() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().unwrap()
}

/// Somebody who asks for a place.
type Asking = Pin<Box<dyn Future<Output = Result<NodePlace, NoPlace>>>>;

fn ask(pool: &Arc<Pool>, turns: &std::rc::Rc<RefCell<Turns>>, tried: Tried) -> Asking {
    let (pool, turns) = (Arc::clone(pool), std::rc::Rc::clone(turns));
    Box::pin(async move { pool.enter(&turns, &tried).await })
}

fn poll(runtime: &Runtime, asking: &mut Asking) -> Option<Result<NodePlace, NoPlace>> {
    let _inside = runtime.enter();
    match asking
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

/// What happens to a pool.
#[derive(Debug, Clone)]
enum Step {
    /// Somebody asks, who has tried the nodes of these indexes.
    Enter(Vec<usize>),
    /// A place is given back.
    Leave(usize),
    /// Somebody who waits goes.
    Cancel(usize),
    /// A place is given back, and who waits first goes before the answer is seen.
    LeaveAndCancel(usize),
    /// An administrator drains a node, or takes it back.
    Wish(usize, bool),
    /// A reload: the nodes of these ports, places for each, and waits for each.
    Configure(Vec<u16>, u32, u32),
    /// Time goes by.
    Wait,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let tried = proptest::collection::vec(0usize..4, 0..3);
    let nodes = proptest::sample::subsequence(vec![1u16, 2, 3, 4], 1..=4);
    let step = prop_oneof![
        12 => tried.prop_map(Step::Enter),
        5 => (0usize..8).prop_map(Step::Leave),
        2 => (0usize..8).prop_map(Step::Cancel),
        2 => (0usize..8).prop_map(Step::LeaveAndCancel),
        2 => (0usize..4, any::<bool>()).prop_map(|(node, ready)| Step::Wish(node, ready)),
        2 => (nodes, 1u32..4, 0u32..4).prop_map(|(nodes, places, queue)| {
            Step::Configure(nodes, places, queue)
        }),
        1 => Just(Step::Wait),
    ];
    proptest::collection::vec(step, 1..80)
}

/// A node as the twin sees it.
#[derive(Debug, Clone)]
struct TwinNode {
    node: Arc<Node>,
    ready: bool,
    in_flight: u32,
}

/// The same as a pool, without threads, atomics or speed: beside it what the pool really did.
struct Twin {
    runtime: Runtime,
    turns: std::rc::Rc<RefCell<Turns>>,
    pool: Arc<Pool>,
    nodes: Vec<TwinNode>,
    places: u32,
    max_queue: u32,
    /// First come, first: with what they have tried, and since when they wait.
    queue: VecDeque<(Asking, Tried, u64)>,
    held: Vec<NodePlace>,
    now: u64,
}

impl Twin {
    fn new() -> Self {
        let pool = pool_of(&[1, 2, 3], 2, 2);
        let members = pool.members();
        let nodes = members.nodes.iter().map(|node| TwinNode {
            node: Arc::clone(node),
            ready: true,
            in_flight: 0,
        });
        Self {
            runtime: runtime(),
            turns: std::rc::Rc::new(RefCell::new(Turns::seeded(0, 1))),
            nodes: nodes.collect(),
            pool,
            places: 2,
            max_queue: 2,
            queue: VecDeque::new(),
            held: Vec::new(),
            now: 0,
        }
    }

    /// What there is for somebody: a refusal, the nodes of which one must be given, or a wait.
    fn look(&self, tried: &Tried) -> Result<Vec<u64>, NoPlace> {
        if !self.nodes.iter().any(|node| node.ready) {
            return Err(NoPlace::NoNode);
        }
        let untried = self.nodes.iter();
        let untried: Vec<_> = untried
            .filter(|node| node.ready && !tried.has(&node.node))
            .collect();
        if untried.is_empty() {
            return Err(NoPlace::AllTried);
        }
        let open = untried.iter().filter(|node| node.in_flight < self.places);
        Ok(open.map(|node| node.node.id).collect())
    }

    /// Somebody got this answer: was it right?
    fn check(&mut self, expected: Result<Vec<u64>, NoPlace>, answer: Result<NodePlace, NoPlace>) {
        match (expected, answer) {
            (Err(expected), Err(why)) => assert_eq!(why, expected),
            (Ok(open), Ok(place)) => {
                let id = place.node().id;
                assert!(open.contains(&id), "not one of those with room");
                let node = self.nodes.iter_mut().find(|node| node.node.id == id);
                node.unwrap().in_flight += 1;
                self.held.push(place);
            }
            (expected, answer) => panic!("{answer:?}, not {expected:?}"),
        }
    }

    /// Who waits is answered in turn, if there is an answer for them, and else not.
    fn serve(&mut self) {
        for (mut asking, tried, since) in std::mem::take(&mut self.queue) {
            let expected = self.look(&tried);
            let answer = poll(&self.runtime, &mut asking);
            match expected {
                Ok(open) if open.is_empty() && self.now - since >= 60 => {
                    assert_eq!(answer.unwrap().unwrap_err(), NoPlace::QueueTimeout);
                }
                Ok(open) if open.is_empty() => {
                    assert!(answer.is_none(), "{answer:?} out of turn");
                    self.queue.push_back((asking, tried, since));
                }
                expected => self.check(expected, answer.unwrap()),
            }
        }
    }

    fn enter(&mut self, tried: Tried) {
        let mut asking = ask(&self.pool, &self.turns, tried);
        let answer = poll(&self.runtime, &mut asking);
        let usable = self.nodes.iter().filter(|node| node.ready).count();
        match self.look(&tried) {
            Ok(open) if open.is_empty() => {
                if self.queue.len() >= usable * self.max_queue as usize {
                    assert_eq!(answer.unwrap().unwrap_err(), NoPlace::QueueFull);
                } else {
                    assert!(answer.is_none(), "{answer:?} without room");
                    self.queue.push_back((asking, tried, self.now));
                }
            }
            expected => self.check(expected, answer.unwrap()),
        }
    }

    fn leave(&mut self, index: usize) {
        if index < self.held.len() {
            let place = self.held.swap_remove(index);
            let id = place.node().id;
            // A node that a reload removed is nobody's any more.
            if let Some(node) = self.nodes.iter_mut().find(|node| node.node.id == id) {
                node.in_flight -= 1;
            }
        }
    }

    fn configure(&mut self, ports: &[u16], places: u32, max_queue: u32) {
        self.pool.configure(&configured(ports, places, max_queue));
        (self.places, self.max_queue) = (places, max_queue);
        let before = std::mem::take(&mut self.nodes);
        for (node, port) in self.pool.members().nodes.iter().zip(ports) {
            let address = format!("127.0.0.1:{port}");
            assert_eq!(node.address.to_string(), address);
            let kept = before.iter().find(|kept| kept.node.address == node.address);
            assert!(kept.is_none_or(|kept| kept.node.id == node.id), "not kept");
            let fresh = TwinNode {
                node: Arc::clone(node),
                ready: true,
                in_flight: 0,
            };
            self.nodes.push(kept.cloned().unwrap_or(fresh));
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Enter(indexes) => {
                let mut tried = Tried::default();
                for index in indexes {
                    if let Some(node) = self.nodes.get(index) {
                        tried.add(&node.node);
                    }
                }
                self.enter(tried);
            }
            Step::Leave(index) => self.leave(index),
            Step::Cancel(index) => drop(self.queue.remove(index)),
            Step::LeaveAndCancel(index) => {
                self.leave(index);
                self.queue.pop_front();
            }
            Step::Wish(index, ready) => {
                if let Some(node) = self.nodes.get_mut(index) {
                    node.ready = ready;
                    let wish = if ready { Wish::Ready } else { Wish::Drain };
                    self.pool.set_wish(&node.node, wish);
                }
            }
            Step::Configure(ports, places, queue) => self.configure(&ports, places, queue),
            Step::Wait => {
                self.now += 25;
                let pause = tokio::time::advance(Duration::from_secs(25));
                self.runtime.block_on(pause);
            }
        }
        self.serve();
        assert_eq!(self.pool.waiting(), self.queue.len());
        for node in &self.nodes {
            assert_eq!(node.node.in_flight(), node.in_flight);
        }
    }
}

proptest! {
    /// Places, turns and refusals are those of the twin, whatever happens.
    #[test]
    fn as_a_naive_twin(steps in steps()) {
        let mut twin = Twin::new();
        for step in steps {
            twin.step(step);
        }
        twin.held.clear();
        twin.queue.clear();
        prop_assert_eq!(twin.pool.waiting(), 0);
        prop_assert!(twin.nodes.iter().all(|node| node.node.in_flight() == 0));
    }
}

/// A place at once, or not at all.
#[track_caller]
fn at_once(runtime: &Runtime, pool: &Arc<Pool>, tried: Tried) -> Result<NodePlace, NoPlace> {
    let turns = std::rc::Rc::default();
    poll(runtime, &mut ask(pool, &turns, tried)).unwrap()
}

#[test]
fn who_waits_is_told_when_no_node_is_left() {
    let (runtime, pool) = (runtime(), pool_of(&[1, 2], 1, 9));
    let held: Vec<_> = (0..2)
        .map(|_| at_once(&runtime, &pool, Tried::default()).unwrap())
        .collect();
    let turns = std::rc::Rc::default();
    let mut tried = Tried::default();
    tried.add(held[0].node());
    let mut without = ask(&pool, &turns, tried);
    let mut with = ask(&pool, &turns, Tried::default());
    assert!(poll(&runtime, &mut with).is_none());
    assert!(poll(&runtime, &mut without).is_none());
    // One who waits has tried all that is left, though others before may still wait for it.
    pool.set_wish(held[1].node(), Wish::Drain);
    let answer = poll(&runtime, &mut without).unwrap();
    assert_eq!(answer.unwrap_err(), NoPlace::AllTried);
    assert!(poll(&runtime, &mut with).is_none());
    pool.set_wish(held[0].node(), Wish::Maintenance);
    let answer = poll(&runtime, &mut with).unwrap();
    assert_eq!(answer.unwrap_err(), NoPlace::NoNode);
    assert_eq!(
        at_once(&runtime, &pool, Tried::default()).unwrap_err(),
        NoPlace::NoNode
    );
    pool.set_wish(held[0].node(), Wish::Ready);
    drop(held);
    assert!(at_once(&runtime, &pool, Tried::default()).is_ok());
}

#[test]
fn a_weight_of_0_takes_a_node_out() {
    let (runtime, pool) = (runtime(), pool_of(&[1, 2], 9, 9));
    let nodes = pool.members().nodes.clone();
    pool.set_weight(&nodes[0], Some(0));
    for _ in 0..5 {
        let place = at_once(&runtime, &pool, Tried::default()).unwrap();
        assert_eq!(place.node().id, nodes[1].id);
    }
    let mut tried = Tried::default();
    tried.add(&nodes[1]);
    let answer = at_once(&runtime, &pool, tried);
    assert_eq!(
        answer.unwrap_err(),
        NoPlace::AllTried,
        "not even as the last hope"
    );
    pool.set_weight(&nodes[1], Some(0));
    let answer = at_once(&runtime, &pool, Tried::default());
    assert_eq!(answer.unwrap_err(), NoPlace::NoNode);
}

/// One that is down, drained or without weight is nobody who could take over.
#[test]
fn the_last_node_that_is_up_is_not_ejected() {
    let pool = pool_of(&[1, 2, 3], 9, 9);
    let nodes = pool.members().nodes.clone();
    let fails = |index: usize| {
        pool.connect_failed(&nodes[index], &"refused");
        nodes[index].is_up()
    };
    assert!(!fails(0));
    pool.set_wish(&nodes[1], Wish::Drain);
    assert!(fails(2), "the other one is drained");
    pool.set_wish(&nodes[1], Wish::Maintenance);
    assert!(fails(2), "the other one is in maintenance");
    pool.set_wish(&nodes[1], Wish::Ready);
    pool.set_weight(&nodes[1], Some(0));
    assert!(fails(2), "the other one has no weight");
    pool.set_weight(&nodes[1], None);
    assert!(!fails(2));
    assert!(fails(1), "the others are down");
}

/// An answer between them makes broken connections no row.
#[test]
fn connections_that_break_now_and_then_eject_nobody() {
    let pool = pool_of(&[1, 2], 9, 9);
    let nodes = pool.members().nodes.clone();
    for _ in 0..3 {
        for _ in 1..MAX_BROKEN {
            pool.broke(&nodes[0]);
        }
        pool.answered(&nodes[0]);
    }
    assert!(nodes[0].is_up());
    for _ in 0..MAX_BROKEN {
        pool.broke(&nodes[0]);
    }
    assert!(!nodes[0].is_up());
}

/// Who waited gets a place where most is free.
#[test]
fn who_waited_gets_the_node_with_the_least_load() {
    let pool = pool_of(&[1, 2, 3], 5, 9);
    let nodes = pool.members().nodes.clone();
    for (node, load) in nodes.iter().zip([3, 1, 4]) {
        for _ in 0..load {
            assert!(node.claim());
        }
    }
    let find = |tried: &Tried| match pool.find(&pool.members(), tried) {
        Outlook::Now(Ok(place)) => place.node().id,
        _ => panic!("no place"),
    };
    assert_eq!(find(&Tried::default()), nodes[1].id);
    let mut tried = Tried::default();
    tried.add(&nodes[1]);
    assert_eq!(find(&tried), nodes[0].id);
    // By weight: 3 of 100 is more than 4 of 200.
    pool.set_weight(&nodes[2], Some(200));
    assert_eq!(find(&tried), nodes[2].id);
}

#[test]
fn a_place_counts_as_a_session_of_its_worker() {
    let (runtime, pool) = (runtime(), pool_of(&[1], 1, 9));
    let turns = std::rc::Rc::new(RefCell::new(Turns::new(2)));
    let first = at_once(&runtime, &pool, Tried::default()).unwrap();
    let mut waits = ask(&pool, &turns, Tried::default());
    assert!(poll(&runtime, &mut waits).is_none());
    let node = Arc::clone(first.node());
    // Served by another worker, counted by its own.
    drop(first);
    let second = poll(&runtime, &mut waits).unwrap().unwrap();
    second.lane().retries.inc();
    assert_eq!(node.lane(0).sessions.get(), 1);
    assert_eq!(node.lane(2).sessions.get(), 1);
    assert_eq!(node.lane(2).retries.get(), 1);
    assert_eq!(node.counts().sessions, 2);
}

#[test]
fn what_was_there_at_most_is_kept() {
    let (runtime, pool) = (runtime(), pool_of(&[1, 2], 2, 9));
    let turns = std::rc::Rc::default();
    let held: Vec<_> = (0..4)
        .map(|_| at_once(&runtime, &pool, Tried::default()).unwrap())
        .collect();
    let mut waits = ask(&pool, &turns, Tried::default());
    assert!(poll(&runtime, &mut waits).is_none());
    assert_eq!((pool.in_flight(), pool.waiting()), (4, 1));
    drop((held, waits));
    assert_eq!((pool.in_flight(), pool.waiting()), (0, 0));
    assert_eq!(pool.most_waiting(), 1);
    let most = |node: &Arc<Node>| node.most_in_flight();
    assert!(pool.members().nodes.iter().map(most).eq([2, 2]));
}

#[test]
fn what_removed_nodes_counted_stays_counted() {
    let pool = pool_of(&[1, 2], 5, 0);
    for _ in 0..4 {
        // A new worker each time: the first node.
        at_once(&runtime(), &pool, Tried::default()).unwrap();
    }
    assert_eq!(pool.gone().sessions, 0);
    let counted = pool.members().nodes[0].counts().sessions;
    pool.configure(&configured(&[2], 5, 0));
    pool.configure(&configured(&[2, 3], 5, 0));
    assert_eq!((counted, pool.gone().sessions), (4, 4));
}

#[test]
fn a_pool_without_a_node_is_down_until_one_comes_back() {
    let pool = pool_of(&[1, 2], 5, 0);
    let nodes = &pool.members().nodes;
    pool.set_wish(&nodes[0], Wish::Drain);
    assert!(pool.availability().up);
    pool.fail_checks(&nodes[1]);
    assert!(!pool.availability().up, "one drained, one down");
    pool.set_wish(&nodes[0], Wish::Ready);
    let availability = pool.availability();
    assert_eq!((availability.up, availability.downs), (true, 1));
}

#[test]
fn pools_leave_nothing_behind() {
    let pools = [("p".into(), configured(&[1, 2], 1, 9))].into();
    let first = Pools::new(&pools, None, 1);
    let second = Pools::new(&pools, Some(&first), 1);
    assert!(Arc::ptr_eq(
        first.get("p").unwrap(),
        second.get("p").unwrap()
    ));
    let (runtime, turns) = (runtime(), std::rc::Rc::default());
    let pool = Arc::downgrade(second.get("p").unwrap());
    let node = Arc::downgrade(&second.get("p").unwrap().members().nodes[0]);
    let mut held: Vec<_> = (0..2)
        .map(|_| at_once(&runtime, second.get("p").unwrap(), Tried::default()).unwrap())
        .collect();
    let mut waits = ask(second.get("p").unwrap(), &turns, Tried::default());
    assert!(poll(&runtime, &mut waits).is_none());
    drop((first, second));
    held.pop();
    // Still served, by the pool that only requests know.
    let place = poll(&runtime, &mut waits).unwrap().unwrap();
    drop((held, waits));
    assert!(pool.upgrade().is_some());
    drop(place);
    assert!(pool.upgrade().is_none() && node.upgrade().is_none());
}

/// Lets other tasks of the thread run so many times, or sleeps for ever.
async fn pause(times: Option<usize>) {
    let Some(times) = times else {
        return std::future::pending().await;
    };
    for _ in 0..times {
        tokio::task::yield_now().await;
    }
}

/// Worker threads, each with its own runtime and `tasks` tasks, of which each asks `rounds` times, and
/// holds its place for a moment or goes away while it waits. How many places they got.
fn stress(pool: &Arc<Pool>, tasks: u64, rounds: usize, places: u32) -> usize {
    let got = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let got = &got;
            scope.spawn(move || {
                let local = tokio::task::LocalSet::new();
                let turns = std::rc::Rc::new(RefCell::new(Turns::seeded(worker, 5)));
                let runtime = Builder::new_current_thread().enable_time().build().unwrap();
                let mut running = tokio::task::JoinSet::new();
                for task in 0..tasks {
                    let (pool, turns) = (Arc::clone(pool), std::rc::Rc::clone(&turns));
                    let work = async move {
                        let mut random = Random::seeded(worker as u64 * 99 + task);
                        let (mut got, tried) = (0, Tried::default());
                        for _ in 0..rounds {
                            let patience = match random.below(4) {
                                0 => Some(random.below(4) as usize),
                                _ => None,
                            };
                            let answer = tokio::select! {
                                biased;
                                answer = pool.enter(&turns, &tried) => answer,
                                () = pause(patience) => continue,
                            };
                            match answer {
                                Ok(place) => {
                                    got += 1;
                                    assert!(place.node().in_flight() <= places);
                                    pause(Some(random.below(3) as usize)).await;
                                }
                                Err(NoPlace::NoNode) => pause(Some(1)).await,
                                Err(why) => panic!("{why:?}: a place was lost"),
                            }
                        }
                        got
                    };
                    running.spawn_local_on(work, &local);
                }
                let done = local.block_on(&runtime, running.join_all());
                got.fetch_add(done.into_iter().sum::<usize>(), SeqCst);
            });
        }
    });
    got.into_inner()
}

#[test]
fn threads_lose_no_place_and_no_wake_up() {
    // One place: if its end wakes nobody, all wait for ever, that is for `queue_timeout`.
    for (nodes, places) in [(&[1][..], 1), (&[1, 2, 3], 1), (&[1, 2], 3)] {
        let pool = pool_of(nodes, places, 100);
        let got = stress(&pool, 4, 1_000, places);
        assert!(got >= 4 * 4 * 500, "{got}");
        assert_eq!((pool.in_flight(), pool.waiting()), (0, 0));
        let most = pool
            .members()
            .nodes
            .iter()
            .map(|node| node.most_in_flight())
            .max();
        assert_eq!(most, Some(places));
    }
}

/// Sets the flag when it is dropped, by a panic too: else the scope would wait for ever for the thread
/// that looks at it.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn threads_lose_nothing_while_administrators_change_everything() {
    let pool = pool_of(&[1, 2, 3], 2, 100);
    let (ended, reloads) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut seen = BTreeMap::new();
    std::thread::scope(|scope| {
        let changing = scope.spawn(|| {
            let (mut random, mut seen) = (Random::seeded(8), BTreeMap::new());
            while !ended.load(SeqCst) {
                let nodes = pool.members().nodes.clone();
                let node = &nodes[random.below(nodes.len() as u64) as usize];
                match random.below(4) {
                    0 => pool.set_wish(node, Wish::Drain),
                    1 => pool.set_wish(node, Wish::Ready),
                    2 => {
                        let ports = [&[1, 2, 3][..], &[1], &[2, 3], &[4, 1]];
                        let ports = ports[random.below(4) as usize];
                        pool.configure(&configured(ports, 1 + random.below(3) as u32, 100));
                        reloads.fetch_add(1, SeqCst);
                    }
                    _ => pool.publish(Instant::now()),
                }
                seen.extend(nodes.iter().map(|node| (node.id, Arc::clone(node))));
                std::thread::yield_now();
            }
            seen
        });
        let end = End(&ended);
        while reloads.load(SeqCst) < 10 && !changing.is_finished() {
            std::thread::yield_now();
        }
        let got = stress(&pool, 4, 1_000, 3);
        drop(end);
        seen.extend(changing.join().unwrap());
        assert!(got > 0);
    });
    assert_eq!((pool.in_flight(), pool.waiting()), (0, 0));
    assert!(seen.len() > 3, "reloads brought nodes");
    assert!(seen.values().all(|node| node.in_flight() == 0));
}

#[test]
fn nobody_overtakes_who_waits() {
    let (runtime, pool) = (runtime(), pool_of(&[1], 1, 9));
    let turns = std::rc::Rc::default();
    let node = Arc::clone(&pool.members().nodes[0]);
    assert!(node.claim());
    let mut first = ask(&pool, &turns, Tried::default());
    assert!(poll(&runtime, &mut first).is_none());
    // As between the two halves of a place's end, on another thread.
    node.release();
    let mut second = ask(&pool, &turns, Tried::default());
    assert!(poll(&runtime, &mut second).is_none());
    let place = poll(&runtime, &mut first).unwrap().unwrap();
    drop(place);
    assert!(poll(&runtime, &mut second).unwrap().is_ok());
}

/// A place ends at the very moment in which somebody begins to wait for it, many times; nobody else
/// comes who would serve the queue.
#[test]
fn the_end_of_a_place_is_seen_by_who_is_about_to_wait() {
    const GAMES: usize = 10_000;
    let pool = pool_of(&[1], 1, 9);
    let game = AtomicUsize::new(0);
    let taken = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (runtime, turns) = (
                Builder::new_current_thread().build().unwrap(),
                RefCell::default(),
            );
            let mut random = Random::seeded(4);
            for number in 1..=GAMES {
                let place = runtime.block_on(pool.enter(&turns, &Tried::default()));
                game.store(number, SeqCst);
                for _ in 0..random.below(400) {
                    std::hint::spin_loop();
                }
                drop(place.unwrap());
                while taken.load(SeqCst) < number {
                    std::thread::yield_now();
                }
            }
        });
        let (runtime, turns) = (
            Builder::new_current_thread().enable_time().build().unwrap(),
            RefCell::default(),
        );
        for number in 1..=GAMES {
            while game.load(SeqCst) < number {
                std::thread::yield_now();
            }
            let place = runtime.block_on(pool.enter(&turns, &Tried::default()));
            drop(place.expect("the place is lost"));
            taken.store(number, SeqCst);
        }
    });
    assert_eq!((pool.in_flight(), pool.waiting()), (0, 0));
}

#[test]
fn threads_are_served_in_the_order_in_which_they_came() {
    const WAITERS: usize = 24;
    let pool = pool_of(&[1], 1, 100);
    let runtime = runtime();
    let held = at_once(&runtime, &pool, Tried::default()).unwrap();
    let served = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for number in 0..WAITERS {
            let (pool, served) = (&pool, &served);
            scope.spawn(move || {
                let runtime = Builder::new_current_thread().enable_time().build().unwrap();
                let turns = RefCell::default();
                let place = runtime.block_on(pool.enter(&turns, &Tried::default()));
                // Before the place is given back.
                served.lock().unwrap().push(number);
                drop(place.unwrap());
            });
            while pool.waiting() <= number {
                std::thread::yield_now();
            }
        }
        drop(held);
    });
    assert_eq!(
        served.into_inner().unwrap(),
        (0..WAITERS).collect::<Vec<_>>()
    );
    assert_eq!(pool.most_waiting(), WAITERS);
}

/// Not a test: `cargo test --release -p portico --lib cost_of_a_place -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn cost_of_a_place() {
    const ROUNDS: u32 = 3_000_000;
    for balance in [Balance::RoundRobin, Balance::LeastRequests] {
        for threads in [1, 2] {
            let mut config = configured(&[1, 2, 3], 1000, 256);
            config.balance = balance;
            let pool = Arc::new(Pool::new(&config, 2));
            let begin = Instant::now();
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    let pool = &pool;
                    scope.spawn(move || {
                        let turns = RefCell::new(Turns::default());
                        let runtime = Builder::new_current_thread().build().unwrap();
                        runtime.block_on(async {
                            for _ in 0..ROUNDS {
                                drop(pool.enter(&turns, &Tried::default()).await.unwrap());
                            }
                        });
                    });
                }
            });
            let each = begin.elapsed() / ROUNDS;
            println!("{balance:?}, {threads} threads: {each:?} for each place of a thread");
        }
    }
}
