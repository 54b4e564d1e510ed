//! The server in this process: what a black-box test cannot bring about.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_local};

use portico_routing::table::Entry;

use super::*;
use crate::process::Stage;
use crate::registry::CommandReport;
use crate::reloads::ReloadReport;

const CONFIG: &str = r#"
    [listen]
    https = []
    redirect = false
    [domains]
    canonical = "toolforge.org"
"#;

/// A server, told what its state is.
struct Server {
    address: SocketAddr,
    process: Arc<Process>,
    state: Arc<State>,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<()>,
}

impl Server {
    fn start(change: impl FnOnce(&mut State)) -> Self {
        Self::start_with("", change)
    }

    fn start_with(more: &str, change: impl FnOnce(&mut State)) -> Self {
        let config = format!("{CONFIG}{more}");
        let config = portico_config::parse("test", &config).unwrap().config;
        let prepared = crate::start::prepare_config(config, Vec::new()).unwrap();
        let (reload, _) = mpsc::channel(1);
        let mut state = State::new(Arc::clone(&prepared.process), reload, None);
        change(&mut state);
        let any = AdminAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
        let admin = Admin::bind(&any).unwrap();
        let Bound::Tcp(listener) = &admin.bound else {
            panic!("bound to TCP");
        };
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let state = Arc::new(state);
        let serving = admin.serve(Arc::clone(&state), async {
            let _ = stopped.await;
        });
        Self {
            address,
            process: prepared.process,
            state,
            stop: Some(stop),
            served: spawn_local(serving),
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// The whole answer to a request on a connection of its own.
    async fn ask(&self, method: &str, target: &str) -> String {
        let mut stream = self.connect().await;
        let request =
            format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

fn run(test: impl AsyncFnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap();
    runtime.block_on(async {
        timeout(Duration::from_secs(20), test()).await.unwrap();
    });
}

#[track_caller]
fn check_answer(answer: &str, status: u16, parts: &[&str]) {
    assert!(
        answer.starts_with(&format!("HTTP/1.1 {status} ")),
        "{answer}"
    );
    for part in parts {
        assert!(answer.contains(part), "no {part:?} in {answer}");
    }
}

#[test]
fn a_reload_is_asked_for_and_its_outcome_told() {
    run(async || {
        let (sender, mut requests) = mpsc::channel::<ReloadRequest>(1);
        let server = Server::start(|state| state.reload = sender);
        let asked = Rc::new(std::cell::Cell::new(0));
        let counted = Rc::clone(&asked);
        spawn_local(async move {
            while let Some(request) = requests.recv().await {
                counted.set(counted.get() + 1);
                let outcome = match counted.get() {
                    1 => Ok(ReloadReport {
                        warnings: Vec::new(),
                    }),
                    2 => Ok(ReloadReport {
                        warnings: vec!["odd".to_owned()],
                    }),
                    3 | 4 => Err("f.toml:1:1: error: x\nf.toml:2:2: error: y".to_owned()),
                    // Nobody answers.
                    5 => continue,
                    _ => break,
                };
                let _ = request.answer.send(outcome);
            }
        });
        check_answer(
            &server.ask("POST", "/reload").await,
            200,
            &["\r\n\r\nreloaded\n"],
        );
        let answer = server.ask("POST", "/reload?format=json").await;
        check_answer(&answer, 200, &["\"reloaded\": true", "\"odd\""]);
        let answer = server.ask("POST", "/reload").await;
        check_answer(
            &answer,
            422,
            &["nothing was changed", "error: x\nf.toml:2:2: error: y\n"],
        );
        let answer = server.ask("POST", "/reload?format=json").await;
        check_answer(&answer, 422, &["\"reloaded\": false"]);
        check_answer(&server.ask("POST", "/reload").await, 500, &["broke off"]);
        assert_eq!(asked.get(), 5);
        // Refused before it is asked for.
        check_answer(
            &server.ask("GET", "/reload").await,
            405,
            &["allow: POST\r\n"],
        );
        check_answer(
            &server.ask("POST", "/reload?now=1").await,
            400,
            &["known: format"],
        );
        assert_eq!(asked.get(), 5);
        check_answer(&server.ask("POST", "/reload").await, 500, &["broke off"]);
        check_answer(
            &server.ask("POST", "/reload").await,
            503,
            &["portico stops"],
        );
    });
}

#[test]
fn a_reload_that_hangs_takes_no_connections() {
    run(async || {
        let (sender, _requests) = mpsc::channel::<ReloadRequest>(1);
        let (answer, _waits) = oneshot::channel();
        sender.try_send(ReloadRequest { answer }).unwrap();
        let server = Server::start(|state| state.reload = sender);
        let answer = server.ask("POST", "/reload").await;
        check_answer(&answer, 503, &["too many reloads wait"]);
    });
}

/// The other end of commands: tells what was asked, and answers with `outcomes`, one by one.
fn keeper(
    outcomes: Vec<Option<Result<CommandReport, String>>>,
) -> (mpsc::Sender<CommandRequest>, Rc<RefCell<Vec<Command>>>) {
    let (sender, mut requests) = mpsc::channel::<CommandRequest>(1);
    let asked = Rc::new(RefCell::new(Vec::new()));
    let noted = Rc::clone(&asked);
    spawn_local(async move {
        for outcome in outcomes {
            let Some(request) = requests.recv().await else {
                return;
            };
            noted.borrow_mut().push(request.command);
            if let Some(outcome) = outcome {
                let _ = request.answer.send(outcome);
            }
        }
    });
    (sender, asked)
}

#[test]
fn commands_are_passed_on_and_their_outcome_told() {
    run(async || {
        let report = CommandReport {
            set: 1,
            removed: 2,
            held_back: 5,
            kept: 4,
            tools: 6,
        };
        let away = Err("redis cannot be \x1b reached".to_owned());
        let outcomes = vec![
            Some(Ok(report)),
            Some(Ok(report)),
            Some(Ok(report)),
            Some(away.clone()),
            Some(away),
            None,
        ];
        let (sender, asked) = keeper(outcomes);
        let server = Server::start(|state| state.commands = Some(sender));
        let answer = server.ask("POST", "/routes/apply").await;
        check_answer(&answer, 200, &["removed 2 tools", "6 tools in the table"]);
        let answer = server.ask("POST", "/routes/keep").await;
        check_answer(&answer, 200, &["4 tools that redis does not hold"]);
        let answer = server.ask("POST", "/routes/refresh?format=json").await;
        let counts = [
            "\"done\": \"refresh\"",
            "\"set\": 1",
            "\"removed\": 2",
            "\"held_back\": 5",
            "\"kept\": 4",
            "\"tools\": 6",
        ];
        check_answer(&answer, 200, &counts);
        // Refused before it is asked for.
        for path in ["/routes/apply", "/routes/keep", "/routes/refresh"] {
            let answer = server.ask("GET", path).await;
            check_answer(&answer, 405, &["allow: POST\r\n"]);
            let answer = server.ask("POST", &format!("{path}?now")).await;
            check_answer(&answer, 400, &["known: format"]);
        }
        let all = [Command::Apply, Command::Keep, Command::Refresh];
        assert_eq!(*asked.borrow(), all);
        let answer = server.ask("POST", "/routes/apply").await;
        check_answer(&answer, 503, &["\r\n\r\nredis cannot be \\u{1b} reached\n"]);
        let answer = server.ask("POST", "/routes/apply?format=json").await;
        check_answer(&answer, 503, &["\"done\": null", "\\u001b reached"]);
        let answer = server.ask("POST", "/routes/keep").await;
        check_answer(&answer, 500, &["broke off"]);
        let answer = server.ask("POST", "/routes/keep").await;
        check_answer(&answer, 503, &["portico stops: nothing was done"]);
    });
}

#[test]
fn commands_need_a_registry_and_do_not_pile_up() {
    run(async || {
        let server = Server::start(|_| {});
        for path in ["/routes/apply", "/routes/keep", "/routes/refresh"] {
            let answer = server.ask("POST", path).await;
            check_answer(&answer, 409, &["no [registry] is configured"]);
        }
        check_answer(
            &server.ask("GET", "/snapshot").await,
            409,
            &["no [registry] is configured"],
        );
        let (sender, _requests) = mpsc::channel::<CommandRequest>(1);
        let (answer, _waits) = oneshot::channel();
        let command = Command::Keep;
        sender.try_send(CommandRequest { command, answer }).unwrap();
        let server = Server::start(|state| state.commands = Some(sender));
        let answer = server.ask("POST", "/routes/apply").await;
        check_answer(&answer, 503, &["too many commands"]);
    });
}

/// A command that takes for ever holds a connection, but not for ever.
#[test]
fn a_command_that_hangs_is_given_up() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap();
    runtime.block_on(async {
        let (sender, mut requests) = mpsc::channel::<CommandRequest>(1);
        let config = portico_config::parse("test", CONFIG).unwrap().config;
        let prepared = crate::start::prepare_config(config, Vec::new()).unwrap();
        let (reload, _) = mpsc::channel(1);
        let state = Arc::new(State::new(prepared.process, reload, Some(sender)));
        let request = Request::post("/routes/apply").body(()).unwrap();
        let answer = commands::page(&request, &state, Command::Apply).await;
        assert_eq!(answer.status(), 504);
        assert!(requests.recv().await.unwrap().answer.is_closed());
    });
}

#[test]
fn metrics_and_explain() {
    run(async || {
        let server = Server::start(|_| {});
        let answer = server.ask("GET", "/metrics").await;
        let expected = ["text/plain; version=0.0.4", "\nportico_build_info{"];
        check_answer(&answer, 200, &expected);
        let asked = "/explain?url=https://x.toolforge.org/&method=PUT&header=A:b";
        let answer = server.ask("GET", asked).await;
        check_answer(&answer, 200, &["text/plain", "x.toolforge.org"]);
        let answer = server.ask("GET", &format!("{asked}&format=json")).await;
        check_answer(&answer, 200, &["application/json", "\"method\": \"PUT\""]);
        let answer = server.ask("GET", "/explain?url=x.toolforge.org").await;
        check_answer(&answer, 400, &["write https://x.toolforge.org"]);
    });
}

#[test]
fn ready_only_while_it_serves() {
    run(async || {
        let server = Server::start(|_| {});
        check_answer(&server.ask("GET", "/readyz").await, 503, &["starting"]);
        check_answer(&server.ask("GET", "/healthz").await, 200, &["ok"]);
        server.process.enter(Stage::Serving);
        check_answer(&server.ask("GET", "/readyz").await, 200, &["ready"]);
        server.process.enter(Stage::Draining);
        let answer = server.ask("GET", "/readyz?format=json").await;
        check_answer(&answer, 503, &["\"ready\": false", "draining"]);
        check_answer(&server.ask("GET", "/healthz").await, 200, &["ok"]);
    });
}

/// A page that panics is a 500, and the next one is made as if nothing had happened.
#[test]
fn a_page_that_panics_does_not_end_the_server() {
    run(async || {
        let config = portico_config::parse("test", CONFIG).unwrap().config;
        let prepared = crate::start::prepare_config(config, Vec::new()).unwrap();
        let state = Arc::new(State::new(prepared.process, mpsc::channel(1).0, None));
        let made = state.aside(true, |_| panic!("on purpose")).await;
        let answer: Result<(), _> = made;
        assert_eq!(answer.unwrap_err().status(), 500);
        assert_eq!(state.aside(true, |_| 1).await.unwrap(), 1);
    });
}

#[test]
fn stopping_frees_the_address_and_ends_connections() {
    run(async || {
        let mut server = Server::start(|_| {});
        let mut idle = server.connect().await;
        idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await
            .unwrap();
        let mut bytes = [0; 1024];
        assert!(idle.read(&mut bytes).await.unwrap() > 0);
        drop(server.stop.take());
        assert_eq!(
            idle.read(&mut bytes).await.unwrap(),
            0,
            "the idle connection ends"
        );
        server.served.await.unwrap();
        assert!(TcpStream::connect(server.address).await.is_err());
    });
}

#[test]
fn lists_are_bounded() {
    run(async || {
        let server = Server::start(|state| state.lists = Arc::new(Semaphore::new(0)));
        let answer = server.ask("GET", "/list").await;
        check_answer(&answer, 503, &["too many clients get the list"]);
    });
}

const REGISTRY: &str = r#"
    [registry]
    url = "redis://127.0.0.1:4"
    snapshot = "/nonexistent/routes"
"#;

fn fill(table: &portico_routing::table::Table, count: usize) {
    let fields = [(&b".*"[..], &b"http://192.0.2.1:8000"[..])];
    let entry = Entry::build(fields, false, &|_| Ok(()));
    for n in 0..count {
        table.set(&format!("tool-{n}"), entry.clone());
    }
}

#[test]
fn the_snapshot_is_the_table_and_is_bounded() {
    run(async || {
        let server = Server::start_with(REGISTRY, |_| {});
        fill(&server.process.table, 20_000);
        let mut stream = server.connect().await;
        let request = "GET /snapshot HTTP/1.0\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
        let body = answer.split_off(end.unwrap() + 4);
        let saved = crate::registry::decode_snapshot(body).unwrap();
        assert_eq!(saved.tools.len(), 20_000);
        check_answer(
            &server.ask("GET", "/snapshot?x").await,
            400,
            &["known: none"],
        );
        // Nobody reads them, and more than may be made at once.
        for _ in 0..2 * MAX_SNAPSHOTS {
            let answer = server.ask("HEAD", "/snapshot").await;
            check_answer(&answer, 200, &["application/octet-stream"]);
            let all = u32::try_from(MAX_SNAPSHOTS).unwrap();
            drop(server.state.snapshots.acquire_many(all).await.unwrap());
        }

        let server = Server::start_with(REGISTRY, |state| {
            state.snapshots = Arc::new(Semaphore::new(0));
        });
        check_answer(&server.ask("GET", "/snapshot").await, 503, &["too many"]);
    });
}

/// Whoever reads half of it gives the thread and the place back by leaving.
#[test]
fn a_snapshot_that_nobody_reads_ends() {
    run(async || {
        let places = Arc::new(Semaphore::new(1));
        let state_places = Arc::clone(&places);
        let server = Server::start_with(REGISTRY, |state| state.snapshots = state_places);
        fill(&server.process.table, 100_000);
        let mut stream = server.connect().await;
        let request = "GET /snapshot HTTP/1.1\r\nHost: localhost\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = [0; 1024];
        assert!(stream.read(&mut bytes).await.unwrap() > 0);
        assert_eq!(places.available_permits(), 0, "it is being written");
        drop(stream);
        drop(places.acquire().await.unwrap());
    });
}

/// A page ends when it is long, however few tools are on it.
#[test]
fn a_page_of_routes_is_bounded_in_bytes() {
    run(async || {
        let server = Server::start(|_| {});
        let pattern = |n: usize| format!("/{n}{}", "a".repeat(1000)).into_bytes();
        let patterns: [Vec<u8>; 8] = std::array::from_fn(pattern);
        let fields = patterns
            .each_ref()
            .map(|pattern| (&**pattern, &b"http://192.0.2.1:1"[..]));
        let entry = Entry::build(fields, false, &|_| Ok(()));
        for n in 0..1000 {
            let tool = format!("tool-{n:03}");
            server.process.table.set(&tool, entry.clone());
        }
        let first = server.ask("GET", "/routes?page_size=1000").await;
        assert!(first.len() < 5 << 20, "{}", first.len());
        let end = first.trim_end().lines().next_back().unwrap();
        assert!(end.contains("after=tool-"), "{end}");
    });
}
