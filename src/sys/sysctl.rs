//! Settings of the kernel, as /proc/sys shows them in this network namespace (proc_sys_net(5), ip-sysctl).
#![expect(clippy::disallowed_methods, reason = "procfs answers from the memory of the kernel")]

use std::fs;

/// Whether the kernel migrates what waits at a closed listener to another listener of its group: `tcp_migrate_req`.
pub(crate) fn migrates() -> bool {
    migrate_req() == Some(true)
}

/// As `migrates`, but `None` where the kernel has no such setting (before Linux 5.14), or where /proc/sys cannot be
/// seen.
pub(crate) fn migrate_req() -> Option<bool> {
    Some(setting("net/ipv4/tcp_migrate_req")? == "1")
}

/// The longest accept queue that a listener gets, even if it asks for a larger backlog (listen(2)).
pub(crate) fn somaxconn() -> Option<u32> {
    setting("net/core/somaxconn")?.parse().ok()
}

/// The first port that needs no CAP_NET_BIND_SERVICE: `ip_unprivileged_port_start`.
pub(crate) fn first_unprivileged_port() -> u16 {
    setting("net/ipv4/ip_unprivileged_port_start").and_then(|port| port.parse().ok()).unwrap_or(1024)
}

/// The release of the kernel, as `uname -r` prints it; `?` if it cannot be read.
pub(crate) fn release() -> String {
    setting("kernel/osrelease").unwrap_or_else(|| "?".to_owned())
}

fn setting(name: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/sys/{name}")).ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_of_today_has_them_all() {
        assert!(release().starts_with(|c: char| c.is_ascii_digit()), "{}", release());
        assert!(somaxconn().is_some());
        assert_eq!(setting("net/there/is/no/such"), None);
    }
}
