//! Examines whether a machine, an address and a unit are fit for restarts without lost requests, and says how to fix
//! the rest.
//!
//! ```no_run
//! use cutover::doctor::{Doctor, Level};
//!
//! # fn main() -> Result<(), std::net::AddrParseError> {
//! let findings = Doctor::new().listen("0.0.0.0:443".parse()?).unit("web.service").examine();
//! for problem in findings.iter().filter(|finding| finding.level == Level::Problem) {
//!     println!("{}: {}", problem.subject, problem.what);
//! }
//! # Ok(())
//! # }
//! ```

mod address;
mod capacity;
mod finding;
mod instances;
mod machine;
mod self_test;
mod systemctl;
mod unit;

use std::net::SocketAddr;
use std::path::Path;

use crate::sys::{credentials, sysctl};

pub use finding::{Finding, Level};

use instances::Instances;
use unit::Unit;

/// An examination of this machine and, if asked for, of addresses and a systemd unit.
#[derive(Debug, Clone, Default)]
pub struct Doctor {
    addresses: Vec<SocketAddr>,
    unit: Option<String>,
}

impl Doctor {
    /// Examines the machine alone: the kernel, the limits, and whether new connections can be steered.
    pub fn new() -> Doctor {
        Doctor::default()
    }

    /// Also examines this address: the processes that listen there, and whether a port below 1024 may be bound. May be
    /// called more than once.
    pub fn listen(mut self, address: SocketAddr) -> Doctor {
        self.addresses.push(address);
        self
    }

    /// Also examines this systemd unit: its settings, and its main process. Without [`listen`](Self::listen), the
    /// addresses in its ExecStart= are examined as well.
    pub fn unit(mut self, name: impl Into<String>) -> Doctor {
        self.unit = Some(name.into());
        self
    }

    /// Runs the examination, and returns the findings about the machine, the addresses, the room for two generations,
    /// and the unit.
    ///
    /// Needs no privilege; what cannot be seen without a privilege is a [`Note`](Level::Note) that says so. Opens two
    /// listeners on loopback, and connects to them and to the control sockets of the instances that are found; changes
    /// nothing. Blocks the thread: for a tenth of a second as a rule, and for 20 s at the most if nothing answers,
    /// systemd included.
    pub fn examine(&self) -> Vec<Finding> {
        let mut findings = machine::findings(&self_test::run(), &machine::Settings::read());
        let unit = self.unit.as_deref().map(|name| systemctl::unit(name).map(|unit| self.complete(unit)));
        let known = unit.as_ref().and_then(|unit| unit.as_ref().ok());
        let main = known.and_then(Unit::main);
        let instances = known.map_or_else(Instances::find, with_main);
        let addresses = known.map_or(&self.addresses, |unit| &unit.addresses);
        let mut server = main;
        for address in addresses.iter().filter(|_| known.is_none_or(|unit| !unit.is_elsewhere())) {
            let (found, home) = address::examine(*address, &instances);
            findings.extend(found);
            match (known, home) {
                (Some(unit), Some(home)) => findings.extend(address::other_than(*address, unit.name(), main, home)),
                (None, Some(home)) => server = server.or(Some(home)),
                // For a unit, the rights of the unit count; they are among its findings.
                (None, None) if self.unit.is_none() => findings.extend(address::own_right(address.port())),
                (_, None) => {}
            }
        }
        // The limits of a unit that does not run are not those of this process.
        if server.is_some() || self.unit.is_none() {
            findings.extend(capacity::findings(server));
        }
        match unit {
            Some(Ok(unit)) => findings.extend(unit::lint(&unit)),
            Some(Err(finding)) => findings.push(finding),
            None => {}
        }
        findings
    }

    /// Adds what systemd does not know.
    #[expect(clippy::disallowed_methods, reason = "the doctor blocks, and says so")]
    fn complete(&self, mut unit: Unit) -> Unit {
        if !self.addresses.is_empty() {
            unit.addresses.clone_from(&self.addresses);
        }
        unit.first_unprivileged_port = sysctl::first_unprivileged_port();
        unit.missing = unit.programs().into_iter().filter(|path| !Path::new(path).exists()).collect();
        unit.main_uid = unit.main().and_then(|pid| credentials::of(pid).ok()).map(|credentials| credentials.uid);
        unit
    }
}

/// The main process of a unit is an instance, whether or not its control socket can be found.
fn with_main(unit: &Unit) -> Instances {
    let mut instances = Instances::find();
    if let Some(pid) = unit.main() {
        instances.add(pid, format!("the main process of {}", unit.name()), unit.main_uid);
    }
    instances
}
