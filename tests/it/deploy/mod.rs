//! `deploy/deploy.sh`: a good release goes live under load; a bad release changes nothing.

mod bad;
mod careful;
mod good;
mod interrupted;
mod others;
mod pid_file;
mod site;
mod systemctl;

/// The ways to reload a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    PidFile,
    Name,
    /// By a unit, with the ExecReload that does not wait: `kill -HUP $MAINPID`.
    UnitHup,
    /// By a unit, with the ExecReload that waits: `cutover reload`.
    UnitWaits,
}

/// Generates one test for each way and each of these functions.
macro_rules! by_each_way {
    ($($scenario:ident),+ $(,)?) => {$(
        mod $scenario {
            use crate::deploy::Way;

            #[test]
            fn by_pid_file() {
                super::$scenario(Way::PidFile);
            }

            #[test]
            fn by_name() {
                super::$scenario(Way::Name);
            }

            #[test]
            fn by_a_unit_with_kill() {
                super::$scenario(Way::UnitHup);
            }

            #[test]
            fn by_a_unit_that_waits() {
                super::$scenario(Way::UnitWaits);
            }
        }
    )+};
}
use by_each_way;
