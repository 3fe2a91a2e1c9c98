//! What the kernel of this machine, or the sandbox around this process, allows a rollout to do.

use std::io;

use super::finding::Finding;
use super::self_test::{SelfTest, Steering};
use crate::config::Config;
use crate::model::steering::SteeringMode;
use crate::sys::sysctl;

const MIGRATE: &str = "sysctl -w net.ipv4.tcp_migrate_req=1, and a file in /etc/sysctl.d to keep it; \
     for a container: docker run --sysctl net.ipv4.tcp_migrate_req=1";

/// The settings of the kernel that matter to a rollout.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) release: String,
    pub(super) migrate_req: Option<bool>,
    pub(super) somaxconn: Option<u32>,
}

impl Settings {
    pub(super) fn read() -> Settings {
        let (release, migrate_req) = (sysctl::release(), sysctl::migrate_req());
        Settings { release, migrate_req, somaxconn: sysctl::somaxconn() }
    }
}

pub(super) fn findings(self_test: &SelfTest, settings: &Settings) -> Vec<Finding> {
    let steering = steering(self_test, settings);
    vec![
        Finding::ok("kernel", format!("Linux {}", settings.release)),
        steering.1,
        sock_diag(&self_test.sock_diag),
        membarrier(&self_test.membarrier),
        pidfd(&self_test.pidfd),
        lend(&self_test.lend),
        tcp_migrate_req(steering.0, settings.migrate_req),
        somaxconn(settings.somaxconn),
    ]
}

fn steering(self_test: &SelfTest, settings: &Settings) -> (SteeringMode, Finding) {
    let (why, fix) = match (&self_test.steering, &self_test.sock_diag) {
        (Steering::Works, Ok(())) => {
            let what =
                "each new connection goes to the listener that a BPF program chooses, as tried with two listeners";
            return (SteeringMode::Steered, Finding::ok("steering", format!("{}: {what}", SteeringMode::Steered)));
        }
        (Steering::Works, Err(error)) => (
            format!("the listeners of a group cannot be seen ({error})"),
            "permit sock_diag, see the line sock_diag".to_owned(),
        ),
        (Steering::Refused(error), _) => (format!("the BPF program is refused ({error})"), permit(error)),
        (Steering::Ignored, _) => (
            "this kernel takes a BPF program, and does not follow it".to_owned(),
            "run on Linux 4.6 or later, without a sandbox that imitates it (gVisor)".to_owned(),
        ),
        (Steering::Untried(error), _) => (
            format!("steering cannot be tried ({error})"),
            "bring the loopback interface up, and permit TCP sockets".to_owned(),
        ),
    };
    if settings.migrate_req == Some(true) {
        let what = "the kernel moves connections that wait at a closed listener to the next generation, so that \
                    nothing is lost, but there is no probe, no canary and no soak";
        return (
            SteeringMode::Migrating,
            Finding::note("steering", format!("{}, because {why}: {what}", SteeringMode::Migrating), fix),
        );
    }
    let what = match self_test.ignoring {
        Ok(()) => "a retiring generation ignores new handshakes, whose clients try again after a second",
        Err(_) => {
            "a listener is closed when no handshake is in flight, and connections that come in that moment are lost"
        }
    };
    let what = format!("{}, because {why}: {what}", SteeringMode::BestEffort);
    (SteeringMode::BestEffort, Finding::problem("steering", what, format!("{fix}; or {MIGRATE}")))
}

/// How the operator can permit a steering program that was refused.
fn permit(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "let setsockopt(2) with SO_ATTACH_REUSEPORT_CBPF through the seccomp filter of the unit or the container"
        }
        _ => "run on Linux 4.6 or later, without a sandbox that imitates it (gVisor)",
    }
    .to_owned()
}

fn sock_diag(tried: &io::Result<()>) -> Finding {
    const SUBJECT: &str = "sock_diag";
    match tried {
        Ok(()) => Finding::ok(SUBJECT, "shows listeners, and handshakes in flight"),
        Err(error) => Finding::problem(
            SUBJECT,
            format!("listeners and handshakes in flight cannot be seen ({error}): nothing is steered"),
            "permit netlink sockets: AF_NETLINK in RestrictAddressFamilies=, socket(2) in the seccomp filter",
        ),
    }
}

fn membarrier(tried: &io::Result<()>) -> Finding {
    const SUBJECT: &str = "membarrier";
    match tried {
        Ok(()) => Finding::ok(SUBJECT, "tells when the kernel no longer uses the old BPF program"),
        Err(error) => Finding::note(
            SUBJECT,
            format!("refused ({error}): a retiring generation waits 100 ms instead"),
            "let membarrier(2) through the seccomp filter; a kernel with nohz_full has no MEMBARRIER_CMD_GLOBAL",
        ),
    }
}

fn pidfd(tried: &io::Result<()>) -> Finding {
    const SUBJECT: &str = "pidfd";
    match tried {
        Ok(()) => Finding::ok(SUBJECT, "the process of the next generation can be held by a descriptor"),
        Err(error) => Finding::problem(
            SUBJECT,
            format!("refused ({error}): no next generation can be started"),
            "run on Linux 5.3 or later, and permit pidfd_open(2) and pidfd_send_signal(2)",
        ),
    }
}

fn lend(self_test: &io::Result<()>) -> Finding {
    const SUBJECT: &str = "pidfd_getfd";
    match self_test {
        Ok(()) => Finding::ok(SUBJECT, "`cutover run` can steer a program by a copy of its listener"),
        Err(error) => Finding::note(
            SUBJECT,
            format!(
                "refused ({error}): `cutover run` steers by one more listener, if it is root or the program's user"
            ),
            "nothing, if `cutover run` is one of them; otherwise docker run --cap-add SYS_PTRACE, or \
             SystemCallFilter=pidfd_getfd in the unit",
        ),
    }
}

fn tcp_migrate_req(tier: SteeringMode, set: Option<bool>) -> Finding {
    const SUBJECT: &str = "tcp_migrate_req";
    match (set, tier) {
        (Some(true), _) => {
            Finding::ok(SUBJECT, "1: connections that wait at a closed listener go to the next generation")
        }
        (Some(false), SteeringMode::Steered) => Finding::ok(SUBJECT, "0, and not needed where steering works"),
        (None, SteeringMode::Steered) => Finding::ok(SUBJECT, "not there, and not needed where steering works"),
        (Some(false), SteeringMode::Migrating | SteeringMode::BestEffort) => {
            Finding::note(SUBJECT, "0: without steering, connections that wait at a closed listener are lost", MIGRATE)
        }
        (None, SteeringMode::Migrating | SteeringMode::BestEffort) => Finding::note(
            SUBJECT,
            "not there: without steering, connections that wait at a closed listener are lost",
            "run on Linux 5.14 or later, with /proc/sys mounted",
        ),
    }
}

fn somaxconn(set: Option<u32>) -> Finding {
    const SUBJECT: &str = "somaxconn";
    let backlog = Config::default().backlog;
    match set {
        Some(room) if room >= backlog => Finding::ok(SUBJECT, format!("{room}: room for the backlog of {backlog}")),
        Some(room) => Finding::note(
            SUBJECT,
            format!("{room}: at most so many connections wait in an accept queue, fewer than the backlog of {backlog}"),
            format!("sysctl -w net.core.somaxconn={backlog}, and a file in /etc/sysctl.d to keep it"),
        ),
        None => Finding::note(SUBJECT, "cannot be seen", "run cutover doctor with /proc/sys mounted"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    fn self_test() -> SelfTest {
        let fine = || Ok(());
        let (sock_diag, ignoring, membarrier) = (fine(), fine(), fine());
        SelfTest { steering: Steering::Works, sock_diag, ignoring, membarrier, pidfd: fine(), lend: fine() }
    }

    fn settings() -> Settings {
        Settings { release: "6.1".to_owned(), migrate_req: Some(false), somaxconn: Some(4096) }
    }

    fn refused() -> io::Error {
        io::Error::from_raw_os_error(libc::EPERM)
    }

    /// All findings other than ok.
    fn amiss(self_test: &SelfTest, settings: &Settings) -> Vec<(Level, String)> {
        let all = findings(self_test, settings).into_iter();
        all.filter(|f| f.level != Level::Ok).map(|f| (f.level, f.subject)).collect()
    }

    #[test]
    fn a_machine_of_today_has_nothing_amiss() {
        assert_eq!(amiss(&self_test(), &settings()), []);
    }

    #[test]
    fn one_thing_missing_is_named_by_its_own_subject() {
        let named = |level, subjects: &[&str]| subjects.iter().map(|s| (level, (*s).to_owned())).collect::<Vec<_>>();
        let membarrier = SelfTest { membarrier: Err(refused()), ..self_test() };
        assert_eq!(amiss(&membarrier, &settings()), named(Level::Note, &["membarrier"]));
        let lend = SelfTest { lend: Err(refused()), ..self_test() };
        assert_eq!(amiss(&lend, &settings()), named(Level::Note, &["pidfd_getfd"]));
        let pidfd = SelfTest { pidfd: Err(refused()), ..self_test() };
        assert_eq!(amiss(&pidfd, &settings()), named(Level::Problem, &["pidfd"]));
        let short = Settings { somaxconn: Some(128), ..settings() };
        assert_eq!(amiss(&self_test(), &short), named(Level::Note, &["somaxconn"]));
        let migrating = Settings { migrate_req: Some(true), ..settings() };
        let unsteered = SelfTest { steering: Steering::Refused(refused()), ..self_test() };
        assert_eq!(amiss(&unsteered, &migrating), named(Level::Note, &["steering"]));
    }

    #[test]
    fn without_steering_and_migration_both_ways_out_are_shown() {
        let unsteered = SelfTest { steering: Steering::Refused(refused()), ..self_test() };
        let all = findings(&unsteered, &settings());
        let steering = all.iter().find(|f| f.subject == "steering").expect("one");
        assert_eq!(steering.level, Level::Problem);
        assert!(steering.what.starts_with("best effort"), "{steering:?}");
        let fix = steering.fix.as_deref().expect("a way");
        assert!(fix.contains("seccomp") && fix.contains("tcp_migrate_req=1"), "{fix}");
    }

    #[test]
    fn a_kernel_that_ignores_programs_or_hides_groups_does_not_steer() {
        for blind in [
            SelfTest { steering: Steering::Ignored, ..self_test() },
            SelfTest { sock_diag: Err(refused()), ..self_test() },
            SelfTest { steering: Steering::Untried(refused()), ignoring: Err(refused()), ..self_test() },
        ] {
            assert!(amiss(&blind, &settings()).contains(&(Level::Problem, "steering".to_owned())), "{blind:?}");
        }
    }
}
