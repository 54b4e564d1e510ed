//! Who is answered what, and when.

use super::super::held::Moment;
use super::super::removal::Removals;
use super::super::status::RegistryStatus;
use super::super::sync::Action;
use super::*;
use portico_routing::table::Table;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

type Answered = oneshot::Receiver<Result<CommandReport, String>>;

fn moment() -> Moment {
    Moment {
        instant: Instant::now(),
        time: UNIX_EPOCH,
    }
}

/// A table that holds back `held` tools.
fn sync(held: usize) -> TableSync {
    let table = Arc::new(Table::new());
    let status = Arc::new(RegistryStatus::default());
    status.set_removals(Removals::new(0, Duration::from_secs(60)));
    let tools = (0..held).map(|n| format!("t{n}").into_boxed_str());
    for tool in tools.clone() {
        table.set(&tool, Default::default());
    }
    status.removals().decide(tools.collect(), held, moment());
    TableSync::new(table, Arc::new(|_| Ok(())), Arc::new(|_, _| {}), status)
}

fn connected() -> Commands {
    let mut commands = Commands::none();
    commands.connected();
    commands
}

fn ask(commands: &mut Commands, sync: &mut TableSync, command: Command) -> Answered {
    let (answer, answered) = oneshot::channel();
    commands.begin(CommandRequest { command, answer }, sync);
    answered
}

#[track_caller]
fn refused(answered: &mut Answered, contained: &str) {
    let reason = answered.try_recv().unwrap().unwrap_err();
    assert!(reason.contains(contained), "{reason:?} lacks {contained:?}");
}

/// A comparison with this number came to its end.
fn compared(commands: &mut Commands, sync: &TableSync, number: u32) {
    let mut comparison = super::super::compare::Rescan::new(Why::Asked, number, None).outcome;
    comparison.set = 7;
    commands.compared(&comparison, sync);
}

#[test]
fn without_redis_only_keep_is_done() {
    let (mut commands, mut sync) = (Commands::none(), sync(10));
    let mut apply = ask(&mut commands, &mut sync, Command::Apply);
    refused(&mut apply, "cannot be asked yet; nothing was changed");
    let lost = SystemTime::now() - Duration::from_secs(200);
    commands.away(lost);
    // Away is away, however often it is tried.
    commands.away(SystemTime::now());
    for command in [Command::Apply, Command::Refresh] {
        let mut answered = ask(&mut commands, &mut sync, command);
        refused(&mut answered, "(3 min ago); nothing was changed");
    }
    let mut keep = ask(&mut commands, &mut sync, Command::Keep);
    let report = keep.try_recv().unwrap().unwrap();
    assert_eq!((report.held_back, report.kept, report.tools), (10, 10, 10));
    // A connection that broke before a comparison was through was none.
    commands.connected();
    commands.away(SystemTime::now());
    refused(&mut ask(&mut commands, &mut sync, Command::Apply), "3 min");
    commands.connected();
    compared(&mut commands, &sync, 1);
    commands.away(SystemTime::now() - Duration::from_secs(3700));
    let mut apply = ask(&mut commands, &mut sync, Command::Apply);
    refused(&mut apply, "(1 h 1 min ago)");
}

#[test]
fn nothing_to_do_is_answered_at_once() {
    let (mut commands, mut sync) = (connected(), sync(0));
    for command in [Command::Apply, Command::Keep] {
        let mut answered = ask(&mut commands, &mut sync, command);
        let report = answered.try_recv().unwrap();
        assert_eq!(report, Ok(CommandReport::default()));
    }
}

#[test]
fn all_who_wait_are_answered_at_the_end() {
    let (mut commands, mut sync) = (connected(), sync(10));
    let mut both = [Command::Apply; 2].map(|c| ask(&mut commands, &mut sync, c));
    assert!(both[0].try_recv().is_err());
    let done = Applied { set: 1, removed: 9 };
    commands.applied(&done, &sync);
    for answered in &mut both {
        let report = answered.try_recv().unwrap().unwrap();
        assert_eq!((report.set, report.removed), (1, 9));
    }
    let mut broken = ask(&mut commands, &mut sync, Command::Apply);
    commands.apply_broke_off(&done, &sync);
    refused(&mut broken, "somebody asked to keep them");
    let mut lost = ask(&mut commands, &mut sync, Command::Apply);
    commands.away(SystemTime::now());
    commands.apply_broke_off(&done, &sync);
    refused(&mut lost, "the connection to redis was lost");
}

#[test]
fn a_refresh_is_answered_by_the_comparison_that_began_after_it() {
    let (mut commands, mut sync) = (connected(), sync(0));
    let mut first = ask(&mut commands, &mut sync, Command::Refresh);
    let mut second = ask(&mut commands, &mut sync, Command::Refresh);
    compared(&mut commands, &sync, 1);
    assert_eq!(first.try_recv().unwrap().unwrap().set, 7);
    assert!(second.try_recv().is_err());
    compared(&mut commands, &sync, 2);
    assert_eq!(second.try_recv().unwrap().unwrap().set, 7);
    let mut lost = ask(&mut commands, &mut sync, Command::Refresh);
    commands.away(SystemTime::now());
    refused(&mut lost, "the connection to redis was lost");
}

#[test]
fn no_more_wait_than_may() {
    let (mut commands, mut sync) = (connected(), sync(10));
    let waiting: Vec<Answered> = (0..MAX_WAITING)
        .map(|n| {
            let command = [Command::Apply, Command::Refresh][n % 2];
            ask(&mut commands, &mut sync, command)
        })
        .collect();
    for command in [Command::Apply, Command::Refresh] {
        let mut answered = ask(&mut commands, &mut sync, command);
        refused(&mut answered, "too many commands");
    }
    let mut keep = ask(&mut commands, &mut sync, Command::Keep);
    assert!(keep.try_recv().unwrap().is_ok());
    drop(waiting);
}

#[tokio::test]
async fn commands_are_taken_in_while_something_else_is_waited_for() {
    let (mut commands, mut sync) = (connected(), sync(10));
    let (requests, receiver) = mpsc::channel(1);
    commands.listen(receiver);
    let saver = Saver::new("nowhere".into(), Arc::default(), Arc::default());
    let work = async {
        let (answer, answered) = oneshot::channel();
        let command = Command::Keep;
        requests
            .send(CommandRequest { command, answer })
            .await
            .unwrap();
        answered.await.unwrap()
    };
    let report = commands.while_waiting(&mut sync, &saver, work).await;
    assert_eq!(report.unwrap().kept, 10);
    assert!(saver.is_behind(), "a restart must know it");
    // Nobody can ask any more, and the work goes on.
    drop(requests);
    let work = tokio::time::sleep(Duration::from_millis(1));
    commands.while_waiting(&mut sync, &saver, work).await;
    assert_eq!(sync.next(Instant::now()), Action::Wait);
}
