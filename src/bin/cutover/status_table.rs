//! The status of an instance as a table for people. The layout is the same from run to run; only what has changed
//! differs.

use std::fmt::Write as _;
use std::time::Duration;

use cutover::control::{ConnectionKinds, GenerationStatus, LastReload, RolloutStatus, Status};
use cutover::{Outcome, Phase};

use crate::format;

const HEADINGS: [&str; 6] = ["GENERATION", "PID", "AGE", "PHASE", "SHARE", "CONNECTIONS"];

/// The table. `now` is the time in seconds since 1970 (UTC).
pub(crate) fn render(status: &Status, now: u64) -> String {
    let name = format::one_line(&status.name);
    let mut text = format!("cutover {}, instance {name}\n", format::one_line(&status.version));
    let addresses = status.addresses.iter().map(ToString::to_string);
    let addresses: Vec<_> = addresses.chain(status.unix.iter().cloned()).collect();
    for (label, value) in [
        ("listens on", if addresses.is_empty() { "nothing".to_owned() } else { addresses.join(", ") }),
        ("steering", status.steering.to_string()),
        ("rollout", status.rollout.as_ref().map_or_else(|| "none".to_owned(), rollout)),
        ("last reload", status.last_reload.as_ref().map_or_else(|| "none".to_owned(), |last| last_reload(last, now))),
    ] {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{label:<11}  {value}");
    }
    if let Some(pid) = status.supervisor {
        let _ = writeln!(text, "{:<11}  pid {pid}", "supervisor");
    }
    text.push('\n');
    let rows = std::iter::once(HEADINGS.map(str::to_owned)).chain(status.generations.iter().map(row));
    text + &columns(&rows.collect::<Vec<_>>())
}

fn rollout(rollout: &RolloutStatus) -> String {
    let RolloutStatus { generation, phase, share, left, .. } = rollout;
    let mut text = format!("generation {generation}: {phase}");
    if *phase == Phase::Canary {
        let _ = write!(text, " {share}");
    }
    if let Some(left) = left {
        // The other steps end when their work is done; what is left is the time until their timeout.
        let at_most = if matches!(phase, Phase::Canary | Phase::Soaking) { "" } else { "at most " };
        let _ = write!(text, ", {at_most}{} more", format::left(*left));
    }
    text
}

fn last_reload(last: &LastReload, now: u64) -> String {
    let ago = format::time(Duration::from_secs(now.saturating_sub(last.at)));
    // The time of the reload is known to the second only.
    let ago = if now <= last.at { "just now".to_owned() } else { format!("{ago} ago") };
    match &last.outcome {
        Outcome::Done { generation, took, .. } => {
            format!("generation {generation} live after {}, {ago}", format::time(*took))
        }
        Outcome::RolledBack { generation, reason, took, .. } => {
            let reason = format::one_line(reason);
            format!("generation {generation} rolled back after {}, {ago}: {reason}", format::time(*took))
        }
        _ => format!("ended {ago}"),
    }
}

fn row(generation: &GenerationStatus) -> [String; 6] {
    let unknown = || "-".to_owned();
    [
        generation.generation.to_string(),
        generation.pid.to_string(),
        generation.age.map_or_else(unknown, format::time),
        generation.phase.to_string(),
        generation.share.to_string(),
        generation.connections.map_or_else(unknown, |count| format!("{count}{}", kinds(generation.kinds.as_ref()))),
    ]
}

/// The kinds of connections of which there are any.
fn kinds(kinds: Option<&ConnectionKinds>) -> String {
    let Some(kinds) = kinds else { return String::new() };
    let named = [
        ("fresh", kinds.fresh),
        ("http1", kinds.http1),
        ("http2", kinds.http2),
        ("upgraded", kinds.upgraded),
        ("tcp", kinds.tcp),
    ];
    let some: Vec<_> = named.iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!("{name} {n}")).collect();
    if some.is_empty() { String::new() } else { format!(" ({})", some.join(", ")) }
}

fn columns(rows: &[[String; 6]]) -> String {
    let mut widths = [0; 6];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn table(json: &str) -> String {
        render(&serde_json::from_str(json).expect("a status"), NOW)
    }

    #[test]
    fn a_rollout_under_way() {
        let status = r#"{"name":"127.0.0.1:8080","version":"0.1.0","addresses":["127.0.0.1:8080","[::1]:8080"],
            "steering":"steered","rollout":{"generation":3,"phase":"canary","share":5,"elapsed":20,"left":11.2},
            "generations":[
                {"generation":3,"pid":1240,"phase":"standby","age":4.2,"share":5,"connections":2},
                {"generation":2,"pid":1234,"phase":"canary","age":180,"share":95,"connections":37,
                    "kinds":{"http1":30,"http2":5,"upgraded":2}},
                {"generation":1,"pid":1200,"phase":"draining","share":0}],
            "last_reload":{"outcome":"done","generation":2,"pid":1234,"took":0.041,"at":1799999820},
            "reloads_done":1,"reloads_rolled_back":0}"#;
        let wanted = "\
cutover 0.1.0, instance 127.0.0.1:8080
listens on   127.0.0.1:8080, [::1]:8080
steering     steered
rollout      generation 3: canary 5 %, 12 s more
last reload  generation 2 live after 41 ms, 3 min ago

GENERATION  PID   AGE    PHASE     SHARE  CONNECTIONS
3           1240  4 s    standby   5 %    2
2           1234  3 min  canary    95 %   37 (http1 30, http2 5, upgraded 2)
1           1200  -      draining  0 %    -
";
        assert_eq!(table(status), wanted);
    }

    #[test]
    fn nothing_has_happened_yet() {
        let status = r#"{"name":"web","version":"0.1.0","addresses":[],"steering":"best_effort","rollout":null,
            "generations":[{"generation":1,"pid":9,"phase":"serving","age":0.5,"share":100,"connections":0,"kinds":{}}],
            "last_reload":null,"reloads_done":0,"reloads_rolled_back":0}"#;
        let wanted = "\
cutover 0.1.0, instance web
listens on   nothing
steering     best effort
rollout      none
last reload  none

GENERATION  PID  AGE     PHASE    SHARE  CONNECTIONS
1           9    500 ms  serving  100 %  0
";
        assert_eq!(table(status), wanted);
    }

    #[test]
    fn a_reload_that_failed_says_why_in_one_line() {
        let status = r#"{"name":"web","version":"0.1.0","addresses":[],"steering":"migrating",
            "rollout":{"generation":4,"phase":"starting","share":0,"elapsed":3,"left":27},"generations":[],
            "last_reload":{"outcome":"rolled_back","generation":3,"reason":"said\nno","took":30,"at":1800000000},
            "reloads_done":0,"reloads_rolled_back":1}"#;
        let wanted = "\
cutover 0.1.0, instance web
listens on   nothing
steering     migrating
rollout      generation 4: starting, at most 27 s more
last reload  generation 3 rolled back after 30 s, just now: said no

GENERATION  PID  AGE  PHASE  SHARE  CONNECTIONS
";
        assert_eq!(table(status), wanted);
    }
}
