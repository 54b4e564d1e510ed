//! The command line of portico: arguments, and exit codes.
//!
//! 0: done, or stopped by a signal after a drain. 1: could not start or go on. 2: wrong arguments,
//! or mistakes in the configuration.

use std::error::Error;
use std::io::{Write, stderr, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use portico::start::StartError;
use portico::{check, demo, routes, run};

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
    /// Serve until SIGTERM or SIGINT, which drain.
    Run(ConfigFile),
    /// Do all that a start does, except bind, and say what is wrong.
    Check(ConfigFile),
    /// Print the routing table as a start would have it.
    Routes {
        #[command(flatten)]
        config: ConfigFile,
        /// Print JSON, by tool.
        #[arg(long)]
        json: bool,
    },
    /// Serve an example on loopback with a certificate of its own, and print curl lines to try.
    Demo {
        /// The HTTPS port; the HTTP port is the next one.
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

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Run(config) => run::run(&config.path).map_err(Into::into),
        Command::Check(config) => report(&config),
        Command::Routes { config, json } => {
            routes::routes(&config.path, json, &mut stdout().lock()).map_err(Into::into)
        }
        Command::Demo { port } => demo::demo(port).map_err(Into::into),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&*error),
    }
}

fn report(config: &ConfigFile) -> Result<(), Box<dyn Error>> {
    let report = check::check(&config.path)?;
    for warning in &report.warnings {
        let _ = writeln!(stderr(), "warning: {warning}");
    }
    let _ = writeln!(stdout(), "{}", report.summary);
    Ok(())
}

/// Prints the chain of causes once, and chooses the exit code.
fn fail(error: &(dyn Error + 'static)) -> ExitCode {
    let mut stderr = stderr().lock();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    if is_configuration_mistake(error) {
        let _ = writeln!(stderr, "{text}");
        return ExitCode::from(2);
    }
    let _ = writeln!(stderr, "portico: {text}");
    ExitCode::FAILURE
}

fn is_configuration_mistake(error: &(dyn Error + 'static)) -> bool {
    let start = match error.downcast_ref::<run::RunError>() {
        Some(run::RunError::Start(start)) => Some(start),
        _ => match error.downcast_ref::<routes::RoutesError>() {
            Some(routes::RoutesError::Start(start)) => Some(start),
            _ => error.downcast_ref::<StartError>(),
        },
    };
    matches!(start, Some(StartError::Config(_)))
}
