//! The program `cutover`: parses its arguments into a command, with one file for each verb.

#![cfg_attr(not(test), warn(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr))]

mod config_file;
mod doctor;
mod exit;
mod format;
mod page;
mod process;
mod progress;
mod promote;
mod reload;
mod reload_by_signal;
mod rollback;
mod rollout;
mod run;
mod screen;
mod serve;
mod status;
mod status_table;
mod stop;
mod target;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use cutover::LogWriter;

use config_file::ConfigFileError;
use exit::{BUG, CANNOT_BEGIN, USAGE};

/// A server that restarts without losing one request.
///
/// Start a server, change its binary or its files, and send it SIGHUP, or run `cutover reload`: a new process takes
/// over all new connections at once, and the old process finishes its open connections and ends. Signals: HUP reloads;
/// TERM and INT stop gracefully, a second one stops at once; USR2 ends the drain now; USR1 logs the status. The
/// environment variable CUTOVER_LOG filters the log (default: info).
///
/// Exit status: 0 done; 1 the server cannot begin, or the doctor found a problem; 64 wrong usage, or several instances
/// run and none was named; 69 no such instance, the process in the PID file is not proven to be the server, or the
/// process of the instance is lost or hangs; 70 a bug; 74 stdout cannot be written; 75 the request was refused or not
/// done in time, or the reload failed and the old generation serves on; 77 the instance belongs to another user. `run`
/// exits with the exit code of its program, or with 128+n if signal n has killed the program; 126 the program cannot be
/// executed; 127 there is no such program.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Serve(Box<serve::Serve>),
    Run(Box<run::Run>),
    Reload(reload::Reload),
    Status(status::Status),
    Promote(promote::Promote),
    Rollback(rollback::Rollback),
    Stop(stop::Stop),
    Doctor(doctor::Doctor),
}

fn main() -> ExitCode {
    let command = match Command::parse_with_file(std::env::args_os().collect()) {
        Ok(command) => command,
        Err(wrong) => return wrong.report(),
    };
    let log = start_log();
    let done = std::panic::catch_unwind(|| match command.verb {
        Verb::Serve(serve) => serve.run(),
        Verb::Run(run) => run.run(),
        Verb::Reload(reload) => exit::run(reload.run()),
        Verb::Status(status) => exit::run(status.run()),
        Verb::Promote(promote) => exit::run(promote.run()),
        Verb::Rollback(rollback) => exit::run(rollback.run()),
        Verb::Stop(stop) => exit::run(stop.run()),
        Verb::Doctor(doctor) => exit::run(doctor.run()),
    });
    if let Some(log) = log {
        log.flush_within(FLUSH);
    }
    done.unwrap_or(ExitCode::from(BUG))
}

/// Why there is no command to be done.
enum Wrong {
    Usage(clap::Error),
    File(ConfigFileError),
    /// The arguments that the file stands for.
    InFile(PathBuf, clap::Error),
}

impl Command {
    fn parse_with_file(arguments: Vec<OsString>) -> Result<Command, Wrong> {
        let mut command = Command::command();
        let matches = command.try_get_matches_from_mut(&arguments).map_err(Wrong::Usage)?;
        let (verb, given) = matches.subcommand().unwrap_or(("", &matches));
        let file = given.try_get_one::<PathBuf>(config_file::OPTION).ok().flatten();
        let Some((file, verb)) = file.zip(command.find_subcommand(verb)) else {
            return Command::from_arg_matches(&matches).map_err(Wrong::Usage);
        };
        let more = config_file::arguments(file, verb, given).map_err(Wrong::File)?;
        // The verb comes first, because there is no option before it.
        let (verb, given) = arguments.split_at(2.min(arguments.len()));
        let all = [verb, &more, given].concat();
        Command::try_parse_from(all).map_err(|error| Wrong::InFile(file.clone(), error))
    }
}

impl Wrong {
    fn report(self) -> ExitCode {
        let (code, reason) = match self {
            Wrong::Usage(error) => {
                // An error goes to stderr, the help to stdout. If that stream is closed, only the exit code reports the
                // result.
                let _ = error.print();
                if !error.use_stderr() {
                    return ExitCode::SUCCESS;
                }
                (USAGE, in_one_line(&error))
            }
            Wrong::File(error) => (CANNOT_BEGIN, error.to_string()),
            Wrong::InFile(path, error) => (CANNOT_BEGIN, format!("{}: {}", path.display(), in_one_line(&error))),
        };
        if code == CANNOT_BEGIN {
            exit::complain(format_args!("cannot begin: {reason}"));
        }
        // Nobody else needs the reason of a process that no generation has started.
        if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
            runtime.block_on(cutover::fail_start(reason));
        }
        ExitCode::from(code)
    }
}

/// What is wrong with arguments, without the usage and the hints that follow.
fn in_one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    // The names of arguments that are missing stand on lines of their own.
    let lines: Vec<_> = text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim).collect();
    let line = lines.join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}

/// How long to wait until the last lines of the log are written, if stderr is not read.
const FLUSH: Duration = Duration::from_secs(1);

/// Starts the log to stderr, where systemd and containers collect it. A thread of its own writes the lines, because
/// systemd or the container may not read them.
fn start_log() -> Option<LogWriter> {
    use std::io::IsTerminal as _;
    use tracing_subscriber::filter::{LevelFilter, Targets};
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::util::SubscriberInitExt as _;

    // Not EnvFilter, which spends a good part of the start of a process on building its regular expressions.
    let wanted = std::env::var("CUTOVER_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let log = LogWriter::stderr();
    let to = log.as_ref().ok().cloned();
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(move || -> Box<dyn Write> {
            match &to {
                Some(log) => Box::new(log.clone()),
                // No thread could be started.
                None => Box::new(std::io::stderr()),
            }
        })
        .with_ansi(std::io::stderr().is_terminal())
        // stderr may have no reader any more, which is no reason to panic.
        .log_internal_errors(false)
        .with_target(false);
    tracing_subscriber::registry()
        .with(lines)
        .with(wanted.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO)))
        .init();
    // The hook of the standard library writes to stderr itself, and would block while stderr is not read.
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!("{panic}");
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            tracing::error!("{backtrace}");
        }
    }));
    log.ok()
}
