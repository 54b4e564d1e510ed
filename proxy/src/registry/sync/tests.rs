//! The state machine against a pretended redis.

use super::super::disk::{Snapshot, layout};
use super::super::entry::entry_of;
use super::super::journal::{Cause, Change, LAST_CHANGES};
use super::super::removal::Removals;
use super::super::stored::Hash;
use super::*;
use portico_routing::table::Entry;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

const GRACE: Duration = Duration::from_secs(60);
const TOOLS: u8 = 30;
/// Never touched, whatever else is: it must be in the table from the first load on.
const ALWAYS: &str = "always";

fn fields(pairs: &[(&[u8], &[u8])]) -> Stored {
    let pairs = pairs.iter().map(|(f, v)| (f.to_vec(), v.to_vec()));
    Stored {
        hash: Hash::Fields(pairs.collect()),
        redirect: false,
    }
}

fn absent() -> Stored {
    Stored {
        hash: Hash::Absent,
        redirect: false,
    }
}

fn admit_all() -> Admit {
    Arc::new(|_| Ok(()))
}

/// A redis that never was, driven through the same calls as the real one.
struct World {
    redis: BTreeMap<Box<str>, Stored>,
    /// Its keys that name no possible tool.
    bad: BTreeSet<Box<[u8]>>,
    /// Pushed by redis, not yet here.
    on_its_way: News,
    arrived: News,
    connected: bool,
    asked: Option<Action>,
    table: Arc<Table>,
    sync: TableSync,
    start: Instant,
    now: Instant,
    told: Arc<std::sync::Mutex<Vec<String>>>,
    status: Arc<RegistryStatus>,
    percent: u8,
    /// The first load is through: from here on there is a journal.
    started: bool,
    /// The naive twin of what is kept by hand.
    kept: BTreeSet<Box<str>>,
    /// Removed on request and not yet told by an event.
    applied: usize,
}

impl World {
    fn new(percent: u8) -> Self {
        let always = fields(&[(b".*", b"http://192.0.2.1:80")]);
        let redis = BTreeMap::from([(ALWAYS.into(), always)]);
        let mut world = Self::before_start(percent, redis, Instant::now());
        world.load();
        world
    }

    /// The first load.
    fn load(&mut self) {
        self.sync.compare(Why::Start);
        self.run_until_idle();
        self.started = true;
    }

    /// Ends this portico and starts another with its snapshot; `away`: while redis is away.
    fn restart(&mut self, away: bool) {
        let mut bytes = Vec::new();
        let kept = |tool: &str| self.status.removals().is_kept(tool);
        let in_step = SystemTime::UNIX_EPOCH;
        layout::encode(&self.table, &kept, in_step, &mut bytes).unwrap();
        let snapshot = layout::decode(bytes).unwrap();
        let saved: BTreeSet<_> = snapshot.tools().map(|tool| tool.name).collect();
        let redis = std::mem::take(&mut self.redis);
        let bad = std::mem::take(&mut self.bad);
        let mut kept = std::mem::take(&mut self.kept);
        kept.retain(|tool| saved.contains(&**tool) && (away || !redis.contains_key(tool)));
        *self = Self::before_start(self.percent, redis, self.now);
        self.bad = bad;
        let now = self.moment();
        if away {
            self.disconnect();
            self.sync.restore(&snapshot, now);
            self.started = true;
        } else {
            self.load();
            self.sync.hold_vanished(&snapshot, now);
        }
        self.kept = kept;
    }

    fn before_start(percent: u8, redis: BTreeMap<Box<str>, Stored>, now: Instant) -> Self {
        let table = Arc::new(Table::new());
        let told = Arc::new(std::sync::Mutex::new(Vec::new()));
        let sink = Arc::clone(&told);
        let status = Arc::new(RegistryStatus::default());
        status.set_removals(Removals::new(percent, GRACE));
        let sync = TableSync::new(
            Arc::clone(&table),
            admit_all(),
            Arc::new(move |tool, _| sink.lock().unwrap().push(tool.to_owned())),
            Arc::clone(&status),
        );
        Self {
            redis,
            bad: BTreeSet::from([b"prefix:\xff".as_slice().into()]),
            on_its_way: News::default(),
            arrived: News::default(),
            connected: true,
            asked: None,
            table,
            sync,
            start: now,
            now,
            told,
            status,
            percent,
            started: false,
            kept: BTreeSet::new(),
            applied: 0,
        }
    }

    fn moment(&self) -> Moment {
        let time = SystemTime::UNIX_EPOCH + self.now.duration_since(self.start);
        Moment {
            instant: self.now,
            time,
        }
    }

    fn write(&mut self, tool: &str, stored: Stored) {
        if stored.is_absent() {
            self.redis.remove(tool);
        } else {
            self.redis.insert(tool.into(), stored);
        }
        self.on_its_way.tools.insert(tool.into());
    }

    fn deliver(&mut self) {
        let news = std::mem::take(&mut self.on_its_way);
        if self.connected {
            self.arrived.tools.extend(news.tools);
            self.arrived.bad_keys.extend(news.bad_keys);
            self.arrived.everything |= news.everything;
        }
    }

    fn stored(&self, tool: &str) -> Stored {
        self.redis.get(tool).cloned().unwrap_or_else(absent)
    }

    fn scan(&self, keys: Keys, cursor: u64) -> (u64, Vec<Vec<u8>>) {
        const PAGE: usize = 4;
        let matching = |stored: &Stored| match keys {
            Keys::Prefix => stored.hash != Hash::Absent,
            Keys::Redirect => stored.redirect,
        };
        let prefix = if keys == Keys::Prefix {
            "prefix:"
        } else {
            "redirect:"
        };
        // The cursor is a place in a fixed order of all possible tools, as redis' is
        // one in its hash table.
        let order: Vec<String> = std::iter::once(ALWAYS.to_owned())
            .chain((0..TOOLS).map(|n| format!("t{n}")))
            .collect();
        let start = cursor as usize;
        let mut found = Vec::new();
        // One place back: redis may give a key twice.
        for tool in order.iter().skip(start.saturating_sub(1)).take(PAGE + 1) {
            if self.redis.get(tool.as_str()).is_some_and(matching) {
                found.push(format!("{prefix}{tool}").into_bytes());
            }
        }
        // Given again and again, as redis may.
        let bad = self.bad.iter().map(|key| key.to_vec());
        found.extend(bad.filter(|key| key.starts_with(prefix.as_bytes())));
        let next = start + PAGE;
        (if next >= order.len() { 0 } else { next as u64 }, found)
    }

    /// Sends the next request, if none is under way.
    fn ask(&mut self) {
        if !self.connected || self.asked.is_some() {
            return;
        }
        self.sync.news(std::mem::take(&mut self.arrived));
        self.asked = match self.sync.next(self.now) {
            Action::Wait => None,
            action => Some(action),
        };
    }

    /// Redis answers the request under way by what it holds now.
    fn answer(&mut self) {
        match self.asked.take() {
            None | Some(Action::Wait) => {}
            Some(Action::Ping) => {
                self.deliver();
                self.sync.ponged();
            }
            Some(Action::Exist(keys)) => {
                let exist: Vec<_> = keys.iter().map(|key| self.bad.contains(key)).collect();
                self.sync.existing(&keys, &exist);
            }
            Some(Action::Scan(keys, cursor)) => {
                let (next, found) = self.scan(keys, cursor);
                self.sync.scanned(next, &found);
            }
            Some(Action::Read(purpose, tools)) => {
                let stored: Vec<_> = tools.iter().map(|tool| self.stored(tool)).collect();
                let before = self.in_table();
                let journal = self.status.journal().last();
                let held = self.held();
                for (tool, stored) in tools.iter().zip(&stored) {
                    let applied = purpose == Purpose::Applied && self.sync.applying.is_some();
                    if applied || !stored.is_absent() {
                        self.kept.remove(tool);
                    }
                }
                self.sync.read(purpose, tools, &stored, self.moment());
                self.check_journal(&before, &journal, &held, purpose);
            }
        }
        self.check_held();
    }

    fn held(&self) -> BTreeSet<Box<str>> {
        let held = self.status.held_tools().into_iter();
        held.map(|tool| tool.tool).collect()
    }

    /// What a naive look at the table before and after says must be what the journal says.
    fn check_journal(
        &mut self,
        before: &BTreeMap<String, Entry>,
        journal: &[Change],
        held: &BTreeSet<Box<str>>,
        purpose: Purpose,
    ) {
        let after = self.in_table();
        let tools: BTreeSet<_> = before.keys().chain(after.keys()).collect();
        let differ = tools
            .into_iter()
            .filter(|t| before.get(*t) != after.get(*t));
        let expected: BTreeMap<_, _> = differ
            .map(|tool| (tool.as_str(), (before.get(tool), after.get(tool))))
            .collect();
        let removed = expected.values().filter(|(_, new)| new.is_none()).count();
        if purpose == Purpose::Applied {
            self.applied += removed;
        }
        let now = self.status.journal().last();
        if !self.started {
            assert!(now.is_empty(), "the first load is in the journal");
            return;
        }
        let all = (journal.len() + expected.len()).min(LAST_CHANGES);
        let older = all.saturating_sub(expected.len());
        assert_eq!(now.len(), all);
        assert_eq!(now[..older], journal[journal.len() - older..]);
        for change in &now[older..] {
            let (old, new) = expected[&*change.tool];
            assert_eq!((change.old.as_deref(), change.new.as_deref()), (old, new));
            assert_eq!(change.time, self.moment().time);
            let cause = match purpose {
                Purpose::Applied => Cause::Applied,
                _ if new.is_none() && held.contains(&change.tool) => Cause::GraceOver,
                Purpose::Pushed => Cause::Pushed,
                Purpose::Found | Purpose::Leftover => Cause::Compared,
            };
            assert_eq!(change.cause, cause);
        }
    }

    /// What is held back is what people see, and what is kept by hand is what the twin says.
    fn check_held(&self) {
        let tools = self.status.held_tools();
        assert_eq!(self.status.held_back(), tools.len() as u64);
        assert_eq!(self.status.kept(), self.kept.len() as u64);
        for tool in tools {
            assert!(self.table.get(&tool.tool).is_some(), "held back and gone");
            let until = Some(tool.since + GRACE).filter(|_| !self.kept.contains(&tool.tool));
            assert_eq!(tool.until, until);
            assert_eq!(self.status.held_tool(&tool.tool).unwrap(), tool);
        }
        let mut bad = 0;
        self.table
            .for_each(|_, entry| bad += u64::from(!entry.bad.is_empty()));
        assert_eq!(self.status.bad_tools(), bad);
    }

    fn keep(&mut self) {
        self.kept.extend(self.held());
        self.sync.keep_held();
        self.check_held();
    }

    /// What was told of applied removals is what happened.
    fn check_applied(&mut self) {
        for event in self.sync.take_events() {
            if let Event::Applied(done) | Event::ApplyBroken(done) = event {
                assert_eq!(done.removed, std::mem::take(&mut self.applied));
            }
        }
    }

    fn disconnect(&mut self) {
        self.connected = false;
        self.asked = None;
        self.arrived = News::default();
        self.on_its_way = News::default();
        self.sync.disconnected();
    }

    fn connect(&mut self) {
        if !self.connected {
            self.connected = true;
            self.on_its_way = News::default();
            self.sync.compare(Why::Reconnected);
        }
    }

    fn run_until_idle(&mut self) {
        for _ in 0..10_000 {
            self.deliver();
            self.ask();
            if self.asked.is_none() {
                return;
            }
            self.answer();
        }
        panic!("it never comes to rest");
    }

    fn expected(&self) -> BTreeMap<String, Entry> {
        let entries = self.redis.iter();
        entries
            .map(|(tool, stored)| (tool.to_string(), entry_of(stored, &admit_all())))
            .collect()
    }

    fn in_table(&self) -> BTreeMap<String, Entry> {
        let mut entries = BTreeMap::new();
        self.table.for_each(|tool, entry| {
            entries.insert(tool.to_owned(), (**entry).clone());
        });
        entries
    }

    fn comparison(&mut self) -> Comparison {
        let events = self.sync.take_events();
        let mut comparisons = events.into_iter().filter_map(|event| match event {
            Event::Compared(comparison) => Some(comparison),
            _ => None,
        });
        comparisons.next_back().unwrap()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(u8, Stored),
    Delete(u8),
    /// All but `ALWAYS`, with the null push.
    Flush,
    /// The null push of another database's FLUSHDB.
    FlushElsewhere,
    /// SWAPDB: all of these at once, and no push.
    Swap(Vec<(u8, Stored)>),
    /// A key that names no possible tool is written or deleted.
    BadKey(u8, bool),
    Deliver,
    Ask,
    Answer,
    Disconnect,
    Connect,
    Compare,
    Apply,
    Keep,
    Restart {
        away: bool,
    },
    Wait(u64),
}

fn any_stored() -> impl Strategy<Value = Stored> {
    let hash = prop_oneof![
        1 => Just(Hash::Absent),
        1 => Just(Hash::Unusable("another type".into())),
        6 => proptest::collection::vec(
            prop_oneof![
                Just((b".*".to_vec(), b"http://192.0.2.1:80".to_vec())),
                Just((b"/api/.*".to_vec(), b"http://192.0.2.2:80".to_vec())),
                Just((b"(".to_vec(), b"http://192.0.2.3:80".to_vec())),
                Just((b"/x".to_vec(), b"\xff".to_vec())),
            ],
            1..4,
        ).prop_map(Hash::Fields),
    ];
    (hash, any::<bool>()).prop_map(|(hash, redirect)| Stored { hash, redirect })
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..TOOLS, any_stored()).prop_map(|(tool, stored)| Step::Write(tool, stored)),
        3 => (0..TOOLS).prop_map(Step::Delete),
        1 => Just(Step::Flush),
        1 => Just(Step::FlushElsewhere),
        1 => proptest::collection::vec((0..TOOLS, any_stored()), 0..20).prop_map(Step::Swap),
        2 => (0u8..5, any::<bool>()).prop_map(|(key, there)| Step::BadKey(key, there)),
        3 => Just(Step::Deliver),
        8 => Just(Step::Ask),
        8 => Just(Step::Answer),
        1 => Just(Step::Disconnect),
        2 => Just(Step::Connect),
        1 => Just(Step::Compare),
        1 => Just(Step::Apply),
        1 => Just(Step::Keep),
        1 => any::<bool>().prop_map(|away| Step::Restart { away }),
        2 => (0u64..40).prop_map(Step::Wait),
    ]
}

fn perform(world: &mut World, step: Step) {
    match step {
        Step::Write(tool, stored) => world.write(&format!("t{tool}"), stored),
        Step::Delete(tool) => {
            world.write(&format!("t{tool}"), absent());
        }
        Step::Flush => {
            world.redis.retain(|tool, _| &**tool == ALWAYS);
            world.on_its_way.everything = true;
        }
        Step::FlushElsewhere => world.on_its_way.everything = true,
        Step::Swap(tools) => {
            world.redis.retain(|tool, _| &**tool == ALWAYS);
            for (tool, stored) in tools.into_iter().filter(|(_, stored)| !stored.is_absent()) {
                world.redis.insert(format!("t{tool}").into(), stored);
            }
        }
        Step::BadKey(key, there) => {
            let key: Box<[u8]> = format!("redirect:T{key}").into_bytes().into();
            if there {
                world.bad.insert(key.clone());
            } else {
                world.bad.remove(&key);
            }
            world.on_its_way.bad_keys.insert(key);
        }
        Step::Deliver => world.deliver(),
        Step::Ask => world.ask(),
        Step::Answer => world.answer(),
        Step::Disconnect => world.disconnect(),
        Step::Connect => world.connect(),
        Step::Compare => {
            if world.connected {
                world.sync.compare(Why::Periodic);
            }
        }
        Step::Apply => {
            if world.connected {
                world.sync.apply_held();
            }
        }
        Step::Keep => world.keep(),
        Step::Restart { away } => world.restart(away),
        Step::Wait(seconds) => world.now += Duration::from_secs(seconds),
    }
}

proptest! {
    /// Any interleaving of writes, pushes, answers, lost connections, flushes, commands and
    /// restarts ends in the table that redis holds, and what is kept by hand. The journal and the
    /// list of what is held back are at each moment what a naive twin says.
    #[test]
    fn the_table_becomes_what_redis_holds(
        percent in prop_oneof![Just(50u8), Just(0), Just(100)],
        steps in proptest::collection::vec(any_step(), 0..200),
    ) {
        let mut world = World::new(percent);
        let swapped = steps.iter().any(|step| matches!(step, Step::Swap(_)));
        for step in steps {
            perform(&mut world, step);
            world.check_applied();
            prop_assert!(world.table.get(ALWAYS).is_some(), "a tool that redis always had was lost");
        }
        world.connect();
        world.answer();
        world.run_until_idle();
        if swapped {
            // SWAPDB says nothing: that takes another look.
            world.sync.compare(Why::Periodic);
            world.run_until_idle();
        }
        for (tool, entry) in world.expected() {
            let got = world.table.get(&tool);
            prop_assert_eq!(got.as_deref(), Some(&entry), "additions and changes wait for nothing");
        }
        world.now += GRACE;
        world.run_until_idle();
        // Flush upon flush: the last one is looked at after a rest.
        while let Some(due) = world.sync.next_due().filter(|due| *due > world.now) {
            world.now = due;
            world.run_until_idle();
        }
        prop_assert_eq!(world.sync.next_due(), None);
        let mut table = world.in_table();
        table.retain(|tool, _| !world.kept.contains(tool.as_str()));
        prop_assert_eq!(table, world.expected());
        let bad = world.status.bad_key_list().into_iter().map(|bad| bad.key);
        let expected = world.bad.iter().map(|key| bad_keys::shown(key));
        prop_assert_eq!(bad.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        prop_assert_eq!(world.status.bad_keys(), world.bad.len() as u64);
        world.check_applied();
        world.sync.apply_held();
        world.run_until_idle();
        world.check_applied();
        prop_assert_eq!(world.in_table(), world.expected());
        prop_assert_eq!(world.status.held_back(), 0);
        // In step means that another look finds nothing and tells nobody.
        world.told.lock().unwrap().clear();
        world.sync.compare(Why::Periodic);
        world.run_until_idle();
        let comparison = world.comparison();
        prop_assert_eq!((comparison.set, comparison.removed, comparison.drift), (0, 0, 0));
        prop_assert!(world.told.lock().unwrap().is_empty());
    }
}

fn grid() -> Stored {
    fields(&[(b".*", b"http://192.0.2.1:80")])
}

/// A snapshot of these tools, with one route each; `kept` says which of them were kept by hand.
fn snapshot_of(names: impl IntoIterator<Item = String>, kept: impl Fn(&str) -> bool) -> Snapshot {
    let table = Table::new();
    for name in names {
        let route: [(&[u8], &[u8]); 1] = [(b".*", b"http://192.0.2.9:80")];
        table.set(&name, Entry::build(route, false, &|_| Ok(())));
    }
    let mut bytes = Vec::new();
    layout::encode(&table, &kept, SystemTime::UNIX_EPOCH, &mut bytes).unwrap();
    layout::decode(bytes).unwrap()
}

fn filled(count: u8) -> World {
    let mut world = World::new(50);
    for n in 0..count {
        world.write(&format!("t{n}"), grid());
    }
    world.run_until_idle();
    assert_eq!(world.table.len(), usize::from(count) + 1);
    world.sync.take_events();
    world
}

#[test]
fn a_change_costs_one_read_and_an_unchanged_value_tells_nobody() {
    let mut world = filled(20);
    world.told.lock().unwrap().clear();
    world.write("t3", grid());
    world.deliver();
    world.ask();
    assert_eq!(
        world.asked,
        Some(Action::Read(Purpose::Pushed, vec!["t3".into()]))
    );
    world.answer();
    world.ask();
    assert_eq!(world.asked, None);
    assert!(world.told.lock().unwrap().is_empty());
    assert!(world.sync.take_unsaved(), "the filling");
    world.write("t3", fields(&[(b".*", b"http://192.0.2.9:80")]));
    world.run_until_idle();
    assert_eq!(*world.told.lock().unwrap(), ["t3"]);
    assert!(world.sync.take_unsaved());
    assert!(!world.sync.take_unsaved());
}

#[test]
fn a_flush_is_held_back_and_what_returns_stays() {
    let mut world = filled(20);
    perform(&mut world, Step::Flush);
    world.run_until_idle();
    assert_eq!(world.table.len(), 21);
    let held = Event::HeldBack { count: 20, of: 21 };
    assert!(world.sync.take_events().contains(&held));
    world.write("t5", fields(&[(b".*", b"http://192.0.2.9:80")]));
    world.now += GRACE / 2;
    world.run_until_idle();
    let port = |world: &World| world.table.get("t5").unwrap().routes[0].backend.to_string();
    assert_eq!(port(&world), "http://192.0.2.9:80", "changes act at once");
    world.now += GRACE / 2;
    world.run_until_idle();
    assert_eq!(world.in_table(), world.expected());
    assert_eq!(world.table.len(), 2);
    assert!(world.sync.take_events().contains(&Event::Released(19)));
}

#[test]
fn a_push_of_something_bad_is_told_once() {
    let mut world = filled(3);
    let bad = fields(&[(b"(", b"http://192.0.2.1:80")]);
    for expected in [1, 0] {
        world.write("t1", bad.clone());
        world.run_until_idle();
        let events = world.sync.take_events();
        let told = events
            .iter()
            .filter(|e| matches!(e, Event::Bad { tool, .. } if &**tool == "t1"));
        assert_eq!(told.count(), expected);
    }
}

#[test]
fn flushes_on_end_leave_redis_in_peace_half_of_the_time() {
    let mut world = filled(8);
    let mut comparing = 0;
    for _ in 0..1000 {
        world.now += Duration::from_millis(10);
        perform(&mut world, Step::FlushElsewhere);
        world.deliver();
        world.ask();
        world.answer();
        comparing += usize::from(world.sync.comparison().is_some());
    }
    assert!((200..=600).contains(&comparing), "{comparing}");
    // The last one is looked at in the end, and nobody has to come back for it.
    world.now = world.sync.next_due().expect("one waits");
    world.sync.take_events();
    world.run_until_idle();
    assert_eq!(world.comparison().why, Why::Pushed);
}

#[test]
fn a_flush_that_was_told_is_no_drift() {
    let mut world = filled(5);
    perform(&mut world, Step::Flush);
    world.run_until_idle();
    let comparison = world.comparison();
    assert_eq!((comparison.removed, comparison.drift), (5, 0));
}

#[test]
fn nothing_is_released_while_redis_is_away() {
    let mut world = filled(20);
    perform(&mut world, Step::Flush);
    world.run_until_idle();
    world.disconnect();
    world.now += GRACE * 10;
    assert_eq!(world.table.len(), 21);
    for n in 0..20 {
        world.redis.insert(format!("t{n}").into(), grid());
    }
    world.connect();
    world.run_until_idle();
    assert_eq!(world.table.len(), 21);
    assert_eq!(world.sync.next_due(), None);
}

#[test]
fn drift_is_what_no_push_explains() {
    let mut world = filled(20);
    perform(
        &mut world,
        Step::Swap(vec![(0, fields(&[(b"/x", b"http://192.0.2.9:80")]))]),
    );
    for n in 1..19 {
        world.redis.insert(format!("t{n}").into(), grid());
    }
    world.sync.compare(Why::Periodic);
    world.run_until_idle();
    // t0 differs and t19 is gone.
    assert_eq!(world.comparison().drift, 2);
    assert_eq!(world.in_table(), world.expected());

    // A write whose push arrives only after the comparison has read the key is no drift.
    world.write("t0", grid());
    world.sync.compare(Why::Periodic);
    for _ in 0..1000 {
        world.ask();
        if world.asked.is_none() {
            break;
        }
        world.answer();
    }
    let comparison = world.comparison();
    assert_eq!((comparison.set, comparison.drift), (1, 0));
}

#[test]
fn a_flush_during_a_comparison_is_followed_by_another() {
    let mut world = filled(8);
    world.sync.compare(Why::Periodic);
    while !matches!(world.asked, Some(Action::Ping)) {
        world.answer();
        world.ask();
    }
    perform(&mut world, Step::Flush);
    world.run_until_idle();
    assert_eq!(world.in_table(), world.expected());
}

#[test]
fn what_is_gone_between_scan_and_read_is_gone() {
    let mut world = filled(8);
    world.sync.compare(Why::Periodic);
    let reads_t0 = |world: &World| matches!(&world.asked, Some(Action::Read(_, tools)) if tools.iter().any(|t| &**t == "t0"));
    while !reads_t0(&world) {
        world.answer();
        world.ask();
    }
    world.redis.remove("t0");
    world.run_until_idle();
    assert_eq!(world.in_table(), world.expected());
}

#[test]
fn more_pushes_than_redis_answers_become_one_look_at_everything() {
    let mut world = filled(3);
    for round in 0..3 {
        let names = (0..MAX_PENDING / 2).map(|n| format!("r{round}-{n}").into());
        let tools = names.collect();
        world.sync.news(News {
            tools,
            ..News::default()
        });
        assert!(world.sync.pushed.len() <= MAX_PENDING);
    }
    assert!(world.sync.pushed.is_empty());
    world.run_until_idle();
    assert_eq!(world.comparison().why, Why::Pushed);
}

#[test]
fn pushes_do_not_starve_a_comparison() {
    let mut world = filled(20);
    world.sync.compare(Why::Periodic);
    for turn in 0..200u8 {
        world.write(&format!("t{}", turn % 20), grid());
        world.deliver();
        world.ask();
        world.answer();
    }
    assert!(world.sync.comparison().is_none());
}

#[test]
fn a_snapshot_fills_gaps_and_its_vanished_tools_are_held() {
    let snapshot = |count| snapshot_of((0..count).map(|n| format!("s{n}")), |_| false);
    let mut world = World::new(50);
    world.sync.hold_vanished(&snapshot(9), world.moment());
    assert_eq!(world.table.len(), 1, "few are simply gone");
    let mut world = World::new(50);
    world.sync.hold_vanished(&snapshot(20), world.moment());
    assert_eq!(world.table.len(), 21);
    world.now += GRACE;
    world.run_until_idle();
    assert_eq!(world.in_table(), world.expected());
}

#[test]
fn a_bad_key_that_comes_or_goes_behind_a_scan_is_known() {
    let mut world = filled(3);
    perform(&mut world, Step::BadKey(1, true));
    world.run_until_idle();
    world.sync.take_events();
    world.sync.compare(Why::Periodic);
    while !matches!(world.asked, Some(Action::Ping)) {
        world.answer();
        world.ask();
    }
    perform(&mut world, Step::BadKey(1, false));
    perform(&mut world, Step::BadKey(2, true));
    world.run_until_idle();
    let list = world.status.bad_key_list().into_iter();
    let keys: Vec<_> = list.map(|bad| bad.key.to_string()).collect();
    assert_eq!(keys, ["prefix:\u{fffd}", "redirect:T2"]);
    let told = |event: &&Event| matches!(event, Event::BadKey { .. });
    assert_eq!(world.sync.take_events().iter().filter(told).count(), 1);
}

#[test]
fn a_comparison_that_is_asked_for_begins_after_that() {
    let mut world = filled(20);
    let first = world.sync.compare(Why::Periodic);
    while !matches!(world.asked, Some(Action::Ping)) {
        world.answer();
        world.ask();
    }
    // Behind the comparison under way, and without a push.
    world.redis.remove("t3");
    let asked = world.sync.compare(Why::Asked);
    assert_eq!(asked, first + 1);
    assert_eq!(world.sync.compare(Why::Asked), asked, "one for all");
    world.run_until_idle();
    let comparison = world.comparison();
    assert_eq!((comparison.number, comparison.removed), (asked, 1));
    assert_eq!(world.in_table(), world.expected());
    assert_eq!(world.sync.compare(Why::Asked), asked + 1);
}

#[test]
fn removals_are_applied_in_batches_while_changes_go_on() {
    let mut world = World::new(50);
    for n in 0..3 * BATCH {
        world.write(&format!("many{n}"), grid());
    }
    world.run_until_idle();
    for n in 0..3 * BATCH {
        world.write(&format!("many{n}"), absent());
    }
    world.run_until_idle();
    assert_eq!(world.status.held_back(), 3 * BATCH as u64);
    world.sync.take_events();
    assert!(world.sync.apply_held());
    let mut batches = 0;
    while world.sync.applying.is_some() {
        world.write("t1", fields(&[(b".*", b"http://192.0.2.9:80")]));
        world.write("t1", grid());
        world.deliver();
        world.ask();
        batches += usize::from(matches!(
            world.asked,
            Some(Action::Read(Purpose::Applied, _))
        ));
        world.answer();
        if batches == 2 {
            assert!(
                world.table.get("t1").is_some(),
                "a change waits for one batch at most"
            );
        }
    }
    assert_eq!(batches, 3);
    let done = Applied {
        set: 0,
        removed: 3 * BATCH,
    };
    assert!(world.sync.take_events().contains(&Event::Applied(done)));
    assert!(!world.sync.apply_held(), "nothing is left");
    assert_eq!(world.in_table(), world.expected());
}

#[test]
fn applying_ends_when_somebody_keeps_the_rest_or_redis_is_lost() {
    for lost in [false, true] {
        let mut world = filled(20);
        perform(&mut world, Step::Flush);
        world.run_until_idle();
        world.sync.take_events();
        world.sync.apply_held();
        while !matches!(world.asked, Some(Action::Read(Purpose::Applied, _))) {
            world.answer();
            world.ask();
        }
        if lost {
            world.disconnect();
        } else {
            world.keep();
            world.answer();
        }
        let nothing = Applied::default();
        assert_eq!(world.sync.take_events(), [Event::ApplyBroken(nothing)]);
        assert_eq!(world.table.len(), 21, "the answer came too late");
        assert_eq!(world.status.held_back(), 20);
        assert_eq!(world.status.kept(), if lost { 0 } else { 20 });
    }
}

/// With so many tools that the leftovers of a comparison are read in several batches, and redis
/// empty but for [`ALWAYS`] behind the back of everybody; a comparison has read the first batch,
/// whose tools are returned.
fn in_the_midst_of_leftovers(percent: u8) -> (World, Vec<Box<str>>) {
    let mut world = World::new(percent);
    for n in 0..3 * BATCH {
        world.write(&format!("many{n}"), grid());
    }
    world.run_until_idle();
    world.redis.retain(|tool, _| &**tool == ALWAYS);
    world.sync.compare(Why::Periodic);
    loop {
        world.ask();
        if let Some(Action::Read(Purpose::Leftover, tools)) = &world.asked {
            let tools = tools.clone();
            world.answer();
            return (world, tools);
        }
        world.answer();
    }
}

#[test]
fn what_comes_back_while_leftovers_are_read_stays() {
    let (mut world, first) = in_the_midst_of_leftovers(100);
    world.write(&first[0], fields(&[(b"/x", b"http://192.0.2.9:80")]));
    world.write(&first[1], grid());
    world.run_until_idle();
    assert_eq!(world.table.len(), 3);
    assert_eq!(world.in_table(), world.expected());
}

#[test]
fn what_leaves_while_leftovers_are_read_is_not_held_back() {
    let (mut world, first) = in_the_midst_of_leftovers(50);
    world.write(&first[0], absent());
    world.run_until_idle();
    assert_eq!(world.table.get(&first[0]), None);
    assert_eq!(world.status.held_back(), 3 * BATCH as u64 - 1);
    world.now += GRACE;
    world.run_until_idle();
    assert_eq!(world.in_table(), world.expected());
}

/// With `count` tools that no SCAN of this redis shows, so that every one is a leftover.
fn with_many(count: usize) -> World {
    let mut world = World::new(50);
    for n in 0..count {
        world.write(&format!("many{n}"), grid());
    }
    world.run_until_idle();
    assert_eq!(world.table.len(), count + 1);
    world.sync.take_events();
    world
}

#[test]
fn a_vanished_table_is_judged_as_a_whole_whatever_the_size_of_a_batch() {
    const MANY: usize = 20 * BATCH - 3;
    let mut world = with_many(MANY);
    world.redis.retain(|tool, _| &**tool == ALWAYS);
    world.sync.compare(Why::Periodic);
    world.run_until_idle();
    let told = Event::HeldBack {
        count: MANY,
        of: MANY + 1,
    };
    assert!(world.sync.take_events().contains(&told));
    assert_eq!(world.status.held_back(), MANY as u64);
    assert_eq!(world.table.len(), MANY + 1);
    assert_eq!(world.sync.next_due(), Some(world.now + GRACE));
    // And released as a whole, although all of them take several reads.
    world.now += GRACE;
    world.run_until_idle();
    assert_eq!(world.sync.take_events().pop(), Some(Event::Released(MANY)));
    assert_eq!(world.in_table(), world.expected());
}

#[test]
fn what_a_push_named_just_before_is_no_drift() {
    let mut world = filled(20);
    world.sync.compare(Why::Periodic);
    world.ask();
    world.answer();
    // Now it is the turn of a read of what the SCAN found.
    world.write("t9", grid());
    world.deliver();
    world.ask();
    world.answer();
    world.write("t0", fields(&[(b"/x", b"http://192.0.2.9:80")]));
    world.deliver();
    world.ask();
    assert!(matches!(world.asked, Some(Action::Read(Purpose::Found, _))));
    world.run_until_idle();
    let comparison = world.comparison();
    assert_eq!((comparison.set, comparison.drift), (1, 0));
}

#[test]
fn more_pushes_than_can_be_read_become_a_comparison() {
    let mut world = filled(20);
    for start in [0, MAX_PENDING] {
        let tools = start..start + MAX_PENDING;
        let tools = tools.map(|n| format!("flood{n}").into()).collect();
        world.sync.news(News {
            tools,
            ..News::default()
        });
        assert!(world.sync.pushed.len() <= MAX_PENDING);
    }
    assert!(world.sync.comparison().is_some());
    world.run_until_idle();
    assert_eq!(world.in_table(), world.expected());
}

#[test]
fn what_was_missing_before_a_lost_connection_is_asked_for_again() {
    const MANY: usize = 4 * BATCH;
    let mut world = with_many(MANY);
    let redis = world.redis.clone();
    for n in 0..MANY {
        world.write(&format!("many{n}"), absent());
    }
    world.deliver();
    // One batch of two is read, and missing.
    world.ask();
    world.answer();
    world.disconnect();
    world.redis = redis;
    world.connect();
    world.run_until_idle();
    assert_eq!(world.in_table(), world.expected());
}

#[test]
fn a_comparison_reads_each_tool_once() {
    let mut world = filled(20);
    let both = Stored {
        redirect: true,
        ..grid()
    };
    world.write("t3", both);
    world.run_until_idle();
    world.sync.compare(Why::Periodic);
    let mut read = Vec::new();
    world.ask();
    while world.asked.is_some() {
        if let Some(Action::Read(purpose, tools)) = &world.asked {
            assert_eq!(*purpose, Purpose::Found, "nothing is left over");
            read.extend(tools.iter().cloned());
        }
        world.answer();
        world.ask();
    }
    let tools: BTreeSet<_> = read.iter().collect();
    assert_eq!((read.len(), tools.len()), (21, 21));
}

#[test]
fn a_long_answer_to_a_scan_is_read_in_batches_and_its_doubles_once() {
    let mut world = World::new(50);
    world.sync.compare(Why::Periodic);
    world.ask();
    assert!(matches!(world.asked.take(), Some(Action::Scan(..))));
    let keys = (0..2 * BATCH + 1).map(|n| format!("prefix:many{n}").into_bytes());
    let keys: Vec<_> = keys.clone().chain(keys).collect();
    world.sync.scanned(0, &keys);
    let mut batches = Vec::new();
    world.ask();
    while let Some(Action::Read(Purpose::Found, tools)) = &world.asked {
        batches.push(tools.len());
        world.answer();
        world.ask();
    }
    assert_eq!(batches, [BATCH, BATCH, 1]);
}

#[test]
fn what_everything_may_have_changed_explains_is_no_drift() {
    let mut world = filled(5);
    world
        .redis
        .insert("t0".into(), fields(&[(b"/x", b"http://192.0.2.9:80")]));
    world.sync.compare(Why::Periodic);
    while !matches!(world.asked, Some(Action::Ping)) {
        world.answer();
        world.ask();
    }
    world.on_its_way.everything = true;
    world.run_until_idle();
    assert_eq!(world.in_table(), world.expected());
    assert_eq!(world.status.drift(), 0);
}

#[test]
fn the_weightiest_reason_for_another_comparison_is_told() {
    let mut world = filled(1);
    for why in [Why::Periodic, Why::Asked, Why::Pushed, Why::Polled] {
        world.sync.compare(why);
    }
    world.run_until_idle();
    assert_eq!(world.comparison().why, Why::Pushed);
}

/// What happens next must be in the snapshot.
#[track_caller]
fn check_unsaved(world: &mut World, happens: impl FnOnce(&mut World)) {
    world.run_until_idle();
    world.sync.take_unsaved();
    happens(world);
    world.run_until_idle();
    assert!(world.sync.take_unsaved());
    assert!(!world.sync.take_unsaved());
}

#[test]
fn whatever_the_snapshot_holds_is_saved_when_it_changes() {
    let mut world = filled(20);
    check_unsaved(&mut world, |world| world.write("t0", absent()));
    check_unsaved(&mut world, |world| world.write("t0", grid()));
    perform(&mut world, Step::Flush);
    check_unsaved(&mut world, World::keep);
    // It is kept no more, with the same value.
    check_unsaved(&mut world, |world| world.write("t3", grid()));
    check_unsaved(&mut world, |world| assert!(world.sync.apply_held()));
    let before = world.status.changes();
    world.write("t4", grid());
    world.write("t3", absent());
    world.run_until_idle();
    assert_eq!(world.status.changes(), before + 2);
}

#[test]
fn a_snapshot_is_no_news_to_what_redis_has_told() {
    let mut world = filled(1);
    let snapshot = snapshot_of(["t0", "old"].map(String::from), |_| true);
    world.sync.restore(&snapshot, world.moment());
    assert_eq!(world.in_table()["t0"], world.expected()["t0"]);
    assert_eq!(world.status.kept(), 1);
    assert!(world.table.get("old").is_some());
}

#[test]
fn what_is_kept_does_not_count_as_vanished() {
    let mut world = filled(0);
    let kept = |tool: &str| tool == "t12";
    let snapshot = snapshot_of((0..13).map(|n| format!("t{n}")), kept);
    world.sync.hold_vanished(&snapshot, world.moment());
    let held_back = Event::HeldBack { count: 12, of: 13 };
    assert_eq!(
        world.sync.take_events(),
        [Event::StillKept(1), held_back],
        "all but the one that is kept"
    );
    assert_eq!((world.status.kept(), world.status.held_back()), (1, 13));
    assert_eq!(world.table.len(), 14);
}

#[test]
fn what_vanished_since_the_snapshot_is_judged_by_the_size_of_the_snapshot() {
    // 13 of 30 are gone: less than half of it, and more than half of what is left.
    let mut world = filled(17);
    let snapshot = snapshot_of((0..30).map(|n| format!("t{n}")), |_| false);
    world.sync.hold_vanished(&snapshot, world.moment());
    assert_eq!((world.table.len(), world.status.held_back()), (18, 0));
}

#[test]
fn what_was_back_when_removals_are_applied_is_counted() {
    let mut world = filled(20);
    perform(&mut world, Step::Flush);
    world.run_until_idle();
    world.sync.take_events();
    // Back behind everybody's back: one with another value, one as it was.
    world
        .redis
        .insert("t3".into(), fields(&[(b".*", b"http://192.0.2.9:80")]));
    world.redis.insert("t4".into(), grid());
    assert!(world.sync.apply_held());
    world.run_until_idle();
    let done = Applied {
        set: 1,
        removed: 18,
    };
    assert_eq!(world.sync.take_events(), [Event::Applied(done)]);
    assert_eq!(world.in_table(), world.expected());
}
