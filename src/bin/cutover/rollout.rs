//! The options of a rollout: the same for every server.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use cutover::{Server, Share, Supervisor, defaults};

use crate::format::seconds;

/// How a rollout goes, and how an instance is reached.
#[derive(Debug, Args)]
pub(crate) struct Rollout {
    /// The name of this instance, for `cutover reload --name`. Default: its first address.
    #[arg(long)]
    name: Option<String>,
    /// The permissions of the file of a Unix socket, in octal: 660.
    #[arg(long, value_name = "MODE", value_parser = mode)]
    unix_mode: Option<u32>,
    /// The owner and the group of the file of a Unix socket, by number.
    #[arg(long, value_name = "UID:GID", value_parser = owner)]
    unix_owner: Option<Owner>,
    /// Offer /metrics on this address too, and not only on the control socket.
    #[arg(long, value_name = "ADDR", value_parser = address)]
    metrics: Option<Addresses>,
    /// Work without a control socket: then only signals reach the server.
    #[arg(long)]
    no_control: bool,
    /// A file that always names the live process.
    #[arg(long, value_name = "PATH")]
    pid_file: Option<PathBuf>,
    /// How long the next generation may take to become ready, before it is killed and the old generation serves on.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = seconds(defaults::READY_TIMEOUT))]
    ready_timeout: Duration,
    /// Send a request to the next generation before any client reaches it: /PATH, https:/PATH, https://NAME/PATH. An
    /// answer with 2xx or 3xx passes.
    #[arg(long, value_name = "TARGET")]
    probe: Option<String>,
    /// How long to repeat the request before the probe counts as failed.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = seconds(defaults::PROBE_TIMEOUT))]
    probe_timeout: Duration,
    /// Give the next generation a part of the new connections first, for some time: 5%:30s,50%:30s.
    #[arg(long, value_name = "STEPS", value_delimiter = ',', value_parser = canary_step)]
    canary: Vec<CanaryStep>,
    /// How long the old process can take all new connections back, after they were moved to the next generation.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = seconds(defaults::SOAK))]
    soak: Duration,
    /// How long to wait for handshakes in flight before the listeners are closed. 0s closes at once, and loses these
    /// handshakes.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = seconds(defaults::LINGER))]
    linger: Duration,
}

#[derive(Debug, Clone)]
pub(crate) struct Addresses(pub(crate) Vec<SocketAddr>);

#[expect(clippy::disallowed_methods, reason = "names are resolved before anything begins")]
pub(crate) fn address(text: &str) -> Result<Addresses, String> {
    let found: Vec<_> = text.to_socket_addrs().map_err(|error| error.to_string())?.collect();
    if found.is_empty() { Err("the host has no IP address".into()) } else { Ok(Addresses(found)) }
}

/// What `--listen` means.
#[derive(Debug, Clone)]
pub(crate) enum Listen {
    Inet(Addresses),
    Unix(String),
}

pub(crate) fn listen(text: &str) -> Result<Listen, String> {
    match text.strip_prefix("unix:") {
        None => address(text).map(Listen::Inet),
        Some(name) if name.starts_with(['/', '@']) => Ok(Listen::Unix(text.to_owned())),
        Some(_) => Err("write unix:/PATH, or unix:@NAME".to_owned()),
    }
}

#[derive(Debug, Clone, Copy)]
struct Owner {
    user: u32,
    group: u32,
}

fn owner(text: &str) -> Result<Owner, String> {
    let numbers = text.split_once(':').and_then(|(user, group)| user.parse().ok().zip(group.parse().ok()));
    numbers.map(|(user, group)| Owner { user, group }).ok_or_else(|| "write two numbers, such as 33:33".to_owned())
}

fn mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| format!("{text} are no permissions: write three octal digits, such as 660"))
}

#[derive(Debug, Clone, Copy)]
struct CanaryStep {
    share: Share,
    time: Duration,
}

fn canary_step(text: &str) -> Result<CanaryStep, String> {
    let (percent, time) = text.split_once(':').ok_or("a step is a percentage and a time: 5%:30s")?;
    let percent = percent.strip_suffix('%').ok_or_else(|| format!("{percent} is no percentage: write 5%"))?;
    let percent: f64 = percent.trim().parse().map_err(|_| format!("{percent} is no number"))?;
    let share = Share::try_from(percent).map_err(|error| error.to_string())?;
    let time = humantime::parse_duration(time).map_err(|error| format!("{time} is no duration: {error}"))?;
    Ok(CanaryStep { share, time })
}

/// Sets the options on a `Server` or a `Supervisor`, which share no trait.
macro_rules! set {
    ($options:expr, $on:expr) => {{
        let (options, mut it) = ($options, $on);
        for CanaryStep { share, time } in options.canary {
            it = it.canary_step(share, time);
        }
        if let Some(name) = options.name {
            it = it.name(name);
        }
        if let Some(mode) = options.unix_mode {
            it = it.unix_mode(mode);
        }
        if let Some(Owner { user, group }) = options.unix_owner {
            it = it.unix_owner(Some(user), Some(group));
        }
        if let Some(target) = options.probe {
            it = it.probe(target);
        }
        if let Some(metrics) = options.metrics {
            it = it.metrics(&metrics.0[..]);
        }
        if options.no_control {
            it = it.without_control();
        }
        if let Some(path) = options.pid_file {
            it = it.pid_file(path);
        }
        let it = it.ready_timeout(options.ready_timeout).probe_timeout(options.probe_timeout);
        it.linger(options.linger).soak(options.soak)
    }};
}

impl Rollout {
    pub(crate) fn of_server(self, server: Server) -> Server {
        set!(self, server)
    }

    pub(crate) fn of_supervisor(self, supervisor: Supervisor) -> Supervisor {
        set!(self, supervisor)
    }
}
