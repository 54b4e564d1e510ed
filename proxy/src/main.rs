//! The command line of portico: arguments, and exit codes.
//!
//! 0: done, or stopped by a signal after a drain. 1: could not start or go on. 2: wrong arguments,
//! or mistakes in the configuration. `portico routes diff` is as diff(1): 0 the same, 1 different,
//! 2 trouble.

use std::io::{ErrorKind, Write, stderr, stdout};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use portico::explain::Question;
use portico::explain::command::{ExplainError, How};
use portico::failure_text::with_sources;
use portico::pool_command::Target;
use portico::routes::live::Wanted;
use portico::routes::{RoutesError, diff, list, live};
use portico::start::StartError;
use portico::{check, demo, explain, pool_command, run};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Front proxy for platforms that host thousands of small web services.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve. SIGTERM or SIGINT drains and ends, SIGHUP reloads, SIGUSR1 opens the access log again.
    Run(ConfigFile),
    /// Do all that a start does, except bind, and say what is wrong.
    Check(ConfigFile),
    /// Print the routing table, as a start would have it or as it is in use; or do something about it.
    Routes(RoutesArguments),
    /// Print the pools and their nodes, as the portico that serves has them; or change a node.
    Pool(PoolArguments),
    /// Say what becomes of a request to a URL, and why, without sending it.
    Explain(ExplainArguments),
    /// Serve an example on loopback with a certificate of its own, and print curl lines to try.
    Demo {
        /// The HTTPS port; the HTTP port is the next one, the administration's the one after it.
        #[arg(long, default_value_t = 8443)]
        port: u16,
    },
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration file.
    #[arg(
        long = "config",
        value_name = "FILE",
        default_value = "/etc/portico/portico.toml"
    )]
    path: PathBuf,
}

#[derive(Debug, Args)]
struct ExplainArguments {
    /// The URL; its scheme says whether the request comes over TLS.
    url: String,
    #[command(flatten)]
    config: ConfigFile,
    /// The method.
    #[arg(long, default_value = "GET")]
    method: String,
    /// A header that the client sends; may be given more than once. Without a value ('User-Agent:')
    /// it is not sent.
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// The client's address, where it matters; else an example.
    #[arg(long, value_name = "ADDRESS")]
    client: Option<IpAddr>,
    /// Do not ask redis for the routes, but take those of the snapshot on disk.
    #[arg(long)]
    from_snapshot: bool,
    /// Ask the portico that serves, at its admin address: host:port or unix:/path.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "from_snapshot")]
    admin: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct RoutesArguments {
    #[command(subcommand)]
    command: Option<RoutesCommand>,
    /// The configuration file.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/portico/portico.toml",
        global = true
    )]
    config: PathBuf,
    /// Ask the portico that serves, at its admin address: host:port or unix:/path. Commands that only
    /// it can answer ask it at listen.admin of the configuration file unless told otherwise.
    #[arg(long, value_name = "ADDRESS", global = true)]
    admin: Option<String>,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    /// Only the tool of this name.
    #[arg(long, value_name = "NAME")]
    tool: Option<String>,
    /// Only tools with something that is skipped, and keys that name no tool.
    #[arg(long)]
    bad: bool,
    /// Do not ask redis for the routes, but take those of the snapshot on disk.
    #[arg(long, conflicts_with = "admin")]
    from_snapshot: bool,
}

#[derive(Debug, Clone, Subcommand)]
enum RoutesCommand {
    /// Print the last 100 changes, the oldest first.
    Changes,
    /// Have routes that are held back removed now, if redis still does not hold them.
    Apply,
    /// Have routes that are held back kept until redis holds them again, or until apply.
    Keep,
    /// Have all routes compared with redis now.
    Refresh,
    /// Print what differs between two snapshots. Exit code 0: nothing, 1: something, 2: trouble.
    Diff {
        /// The file of a snapshot, or the word live: the table of the portico that serves.
        old: String,
        /// The same.
        new: String,
    },
}

#[derive(Debug, Args)]
struct PoolArguments {
    #[command(subcommand)]
    command: Option<PoolCommand>,
    /// The configuration file, for its listen.admin.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/portico/portico.toml",
        global = true
    )]
    config: PathBuf,
    /// Ask the portico with this admin address: host:port or unix:/path.
    #[arg(long, value_name = "ADDRESS", global = true)]
    admin: Option<String>,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
}

/// What is changed holds over a reload, until a restart.
#[derive(Debug, Clone, Subcommand)]
enum PoolCommand {
    /// Send no new requests to a node; those in flight end. Its checks go on.
    Drain(NodeArguments),
    /// The same, and do not check it.
    Maintenance(NodeArguments),
    /// Use a node again.
    Ready(NodeArguments),
    /// Give a node another weight.
    Weight {
        #[command(flatten)]
        node: NodeArguments,
        /// 0 to 1000; 0: no new requests; default: as configured.
        weight: String,
    },
}

#[derive(Debug, Clone, Args)]
struct NodeArguments {
    /// The pool.
    pool: String,
    /// The address of the node, as configured.
    node: String,
}

impl NodeArguments {
    fn target(&self) -> Target<'_> {
        Target {
            pool: &self.pool,
            node: &self.node,
        }
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
enum Failure {
    Run(#[from] run::RunError),
    Check(#[from] StartError),
    Routes(#[from] RoutesError),
    Explain(#[from] explain::command::ExplainError),
    Demo(#[from] demo::DemoError),
}

impl Failure {
    /// Whether the configuration has mistakes, or the arguments.
    fn is_mistake(&self) -> bool {
        let start = match self {
            Self::Check(start)
            | Self::Run(run::RunError::Start(start))
            | Self::Routes(RoutesError::Start(start) | RoutesError::NoAddress(start))
            | Self::Explain(ExplainError::Start(start)) => start,
            Self::Explain(ExplainError::Question(_)) => return true,
            Self::Run(_) | Self::Routes(_) | Self::Explain(_) | Self::Demo(_) => return false,
        };
        matches!(start, StartError::Config(_) | StartError::Templates(_))
    }

    /// Whether who reads the output has had enough: `portico routes | head`.
    fn is_of_a_reader_that_left(&self) -> bool {
        match self {
            Self::Routes(RoutesError::Io(error)) | Self::Explain(ExplainError::Io(error)) => {
                error.kind() == ErrorKind::BrokenPipe
            }
            Self::Run(_) | Self::Check(_) | Self::Routes(_) | Self::Explain(_) | Self::Demo(_) => {
                false
            }
        }
    }
}

/// Has memory come in small pages, so that what was asked for and never touched costs nothing: a third
/// of what an idle HTTP/2 connection would hold. mimalloc asks the kernel for huge pages otherwise,
/// 2 MiB at once. What either costs is in decision 23. A kernel that does not let us is no reason not
/// to serve.
fn refuse_huge_pages() {
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

fn main() -> ExitCode {
    refuse_huge_pages();
    let mut success = ExitCode::SUCCESS;
    let mut trouble = ExitCode::FAILURE;
    let done = match Arguments::parse().command {
        Command::Run(config) => run::run(&config.path).map_err(Failure::from),
        Command::Check(config) => report(&config),
        Command::Routes(arguments) => {
            if let Some(RoutesCommand::Diff { .. }) = arguments.command {
                trouble = ExitCode::from(2);
            }
            show_routes(&arguments)
                .map(|code| success = code)
                .map_err(Failure::from)
        }
        Command::Pool(arguments) => pool(&arguments).map_err(Failure::from),
        Command::Explain(arguments) => answer(&arguments).map_err(Failure::from),
        Command::Demo { port } => demo::demo(port).map_err(Failure::from),
    };
    let Err(failure) = done else {
        return success;
    };
    if failure.is_of_a_reader_that_left() {
        return ExitCode::SUCCESS;
    }
    let text = with_sources(&failure);
    if failure.is_mistake() {
        let _ = writeln!(stderr(), "{text}");
        return ExitCode::from(2);
    }
    for line in text.lines() {
        let _ = writeln!(stderr(), "portico: {line}");
    }
    trouble
}

fn show_routes(arguments: &RoutesArguments) -> Result<ExitCode, RoutesError> {
    let (config, admin) = (&*arguments.config, arguments.admin.as_deref());
    let json = arguments.json;
    let out = &mut stdout().lock();
    let Some(command) = &arguments.command else {
        let how = list::How {
            tool: arguments.tool.as_deref(),
            bad: arguments.bad,
            json,
            from_snapshot: arguments.from_snapshot,
            admin,
        };
        return list::list(config, how, out).map(|()| ExitCode::SUCCESS);
    };
    if arguments.tool.is_some() || arguments.bad || arguments.from_snapshot {
        let text = "--tool, --bad and --from-snapshot are for portico routes without a command";
        let kind = clap::error::ErrorKind::ArgumentConflict;
        Arguments::command().error(kind, text).exit();
    }
    let wanted = match command {
        RoutesCommand::Changes => Wanted::Changes,
        RoutesCommand::Apply => Wanted::Apply,
        RoutesCommand::Keep => Wanted::Keep,
        RoutesCommand::Refresh => Wanted::Refresh,
        RoutesCommand::Diff { old, new } => {
            let how = diff::How {
                config,
                admin,
                json,
            };
            let same = diff::diff(&old.as_str().into(), &new.as_str().into(), how, out)?;
            return Ok(if same {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
    };
    live::run(wanted, config, admin, json, out).map(|()| ExitCode::SUCCESS)
}

fn pool(arguments: &PoolArguments) -> Result<(), RoutesError> {
    let wanted = match &arguments.command {
        None => pool_command::Wanted::List,
        Some(PoolCommand::Drain(node)) => pool_command::Wanted::Drain(node.target()),
        Some(PoolCommand::Maintenance(node)) => pool_command::Wanted::Maintenance(node.target()),
        Some(PoolCommand::Ready(node)) => pool_command::Wanted::Ready(node.target()),
        Some(PoolCommand::Weight { node, weight }) => {
            pool_command::Wanted::Weight(node.target(), weight)
        }
    };
    let admin = arguments.admin.as_deref();
    let out = &mut stdout().lock();
    pool_command::run(&wanted, &arguments.config, admin, arguments.json, out)
}

fn answer(arguments: &ExplainArguments) -> Result<(), ExplainError> {
    let mut question = Question::new(&arguments.url);
    question.method.clone_from(&arguments.method);
    question.client = arguments.client;
    for header in &arguments.headers {
        question.add_header(header)?;
    }
    let how = How {
        json: arguments.json,
        from_snapshot: arguments.from_snapshot,
        admin: arguments.admin.as_deref(),
    };
    let config = &arguments.config.path;
    explain::command::run(config, &question, how, &mut stdout().lock())
}

fn report(config: &ConfigFile) -> Result<(), Failure> {
    let report = check::check(&config.path)?;
    for warning in &report.warnings {
        let _ = writeln!(stderr(), "warning: {warning}");
    }
    let _ = writeln!(stdout(), "{}", report.summary);
    Ok(())
}
