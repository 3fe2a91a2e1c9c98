//! The program `cutover`: parses its arguments into a command, with one file for each verb.

#![cfg_attr(not(test), warn(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr))]

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
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use cutover::LogWriter;

use exit::{BUG, USAGE};

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
    let command = match Command::try_parse() {
        Ok(command) => command,
        Err(error) => {
            // An error goes to stderr, the help to stdout. If that stream is closed, only the exit code reports the
            // result.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
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
