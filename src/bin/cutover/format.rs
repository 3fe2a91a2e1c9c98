//! The formats that people read and write: durations, counts, text from other programs.

use std::time::Duration;

/// Longer than any wait, and short enough to be added to any time.
const FOR_EVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// A duration, rounded to one unit: `41 ms`, `3 s`, `2 min`, `5 h`, `3 d`.
pub(crate) fn time(time: Duration) -> String {
    let rounded = |unit: u128| (time.as_nanos() + unit / 2) / unit;
    let milliseconds = rounded(1_000_000);
    let seconds = rounded(1_000_000_000);
    let minutes = rounded(60 * 1_000_000_000);
    let hours = rounded(3_600 * 1_000_000_000);
    let days = rounded(86_400 * 1_000_000_000);
    if milliseconds < 1_000 {
        format!("{milliseconds} ms")
    } else if seconds < 60 {
        format!("{seconds} s")
    } else if minutes < 60 {
        format!("{minutes} min")
    } else if hours < 24 {
        format!("{hours} h")
    } else {
        format!("{days} d")
    }
}

/// A duration of whole seconds, as an option of the command line takes it: `60s`.
///
/// clap keeps a default for the life of the process, and takes static text without a further feature, which adds 47 kB to the program.
pub(crate) fn seconds(time: Duration) -> &'static str {
    format!("{}s", time.as_secs()).leak()
}

/// The rest of a duration, rounded up to whole seconds so that it never ends too early.
pub(crate) fn left(time: Duration) -> String {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    if seconds < 120 { format!("{seconds} s") } else { self::time(Duration::from_secs(seconds)) }
}

/// `1 connection`, `37 connections`.
pub(crate) fn connections(count: u64) -> String {
    format!("{count} connection{}", if count == 1 { "" } else { "s" })
}

/// Text from other programs in one line, without characters that move the cursor of a terminal.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A duration as it is written on the command line: `10s`, `1m 30s`.
pub(crate) fn parse_time(text: &str) -> Result<Duration, humantime::DurationError> {
    humantime::parse_duration(text).map(|time| time.min(FOR_EVER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_rounded_to_one_unit() {
        for (seconds, text) in [
            (0.0, "0 ms"),
            (0.041, "41 ms"),
            (0.9994, "999 ms"),
            (0.9996, "1 s"),
            (3.4, "3 s"),
            (59.4, "59 s"),
            (59.6, "1 min"),
            (150.0, "3 min"),
            (3_590.0, "1 h"),
            (5.0 * 3_600.0, "5 h"),
            (23.6 * 3_600.0, "1 d"),
            (3.0 * 86_400.0, "3 d"),
        ] {
            assert_eq!(time(Duration::from_secs_f64(seconds)), text, "{seconds} s");
        }
        assert!(time(Duration::MAX).ends_with(" d"));
    }

    #[test]
    fn a_countdown_ends_at_none() {
        for (seconds, text) in [(0.0, "0 s"), (0.1, "1 s"), (12.0, "12 s"), (90.5, "91 s"), (600.0, "10 min")] {
            assert_eq!(left(Duration::from_secs_f64(seconds)), text, "{seconds} s");
        }
    }

    #[test]
    fn one_is_not_plural() {
        assert_eq!([0, 1, 2].map(connections), ["0 connections", "1 connection", "2 connections"]);
    }

    #[test]
    fn text_of_others_stays_in_its_line() {
        assert_eq!(one_line("a\n\u{1b}[2Jb\u{9b}"), "a  [2Jb ");
    }

    #[test]
    fn the_longest_time_can_be_added_to_now() {
        let time = parse_time("500000000y").expect("a time");
        assert!(std::time::Instant::now().checked_add(time).is_some());
        assert!(parse_time("10").is_err());
    }
}
