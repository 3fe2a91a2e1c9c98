//! The text of the sd_notify protocol, as a service sends it (sd_notify(3)).

use std::time::Duration;

/// The longest datagram that is read; systemd itself takes 4096 bytes (NOTIFY_BUFFER_MAX, systemd 252).
pub(crate) const DATAGRAM_MAX: usize = 4096;

/// The longest extension of a deadline that one datagram can ask for.
const EXTENSION_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// One assignment that matters to a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Notification {
    /// `READY=1`.
    Ready,
    /// `ERRNO=n`: the service could not start.
    Errno(i32),
    /// `EXTEND_TIMEOUT_USEC=n`: the service needs this much more time, counted from now.
    Extend(Duration),
    /// `STATUS=text`, for people.
    Status(String),
    /// `WATCHDOG=1`: the main loop of the service is alive.
    Watchdog,
    /// `WATCHDOG=trigger`: the service wants to be treated as if its main loop were dead.
    WatchdogTrigger,
}

/// Why a datagram is no sd_notify message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("it is longer than {DATAGRAM_MAX} bytes")]
    TooLong,
    #[error("it is not UTF-8")]
    NotText,
    #[error("it has no KEY=VALUE line")]
    NoAssignment,
}

/// Parses one datagram. Keys that do not matter to a rollout are ignored, as the protocol requires.
///
/// # Errors
/// [`Malformed`] if the datagram is no message of the protocol at all.
pub(crate) fn parse(datagram: &[u8]) -> Result<Vec<Notification>, Malformed> {
    if datagram.len() > DATAGRAM_MAX {
        return Err(Malformed::TooLong);
    }
    let text = std::str::from_utf8(datagram).map_err(|_| Malformed::NotText)?;
    let mut assignments = text.lines().filter_map(|line| line.split_once('=')).peekable();
    assignments.peek().ok_or(Malformed::NoAssignment)?;
    Ok(assignments.filter_map(|(key, value)| notification(key, value)).collect())
}

fn notification(key: &str, value: &str) -> Option<Notification> {
    match key {
        "READY" if value == "1" => Some(Notification::Ready),
        "ERRNO" => value.parse().ok().map(Notification::Errno),
        "EXTEND_TIMEOUT_USEC" => {
            let asked = Duration::from_micros(value.parse().ok()?);
            Some(Notification::Extend(asked.min(EXTENSION_MAX)))
        }
        "WATCHDOG" if value == "1" => Some(Notification::Watchdog),
        "WATCHDOG" if value == "trigger" => Some(Notification::WatchdogTrigger),
        "STATUS" => Some(Notification::Status(value.to_owned())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_matters_is_read_and_the_rest_is_left_out() {
        let read =
            parse(b"MAINPID=7\nREADY=1\nSTATUS=warm\nEXTEND_TIMEOUT_USEC=2000000\nX_MINE=1\n").expect("a message");
        assert_eq!(
            read,
            [Notification::Ready, Notification::Status("warm".into()), Notification::Extend(Duration::from_secs(2))]
        );
        assert_eq!(parse(b"ERRNO=98"), Ok(vec![Notification::Errno(98)]));
        assert_eq!(
            parse(b"WATCHDOG=1\nWATCHDOG=trigger\nWATCHDOG=0"),
            Ok(vec![Notification::Watchdog, Notification::WatchdogTrigger])
        );
    }

    #[test]
    fn ready_is_only_the_number_one() {
        for text in ["READY=0", "READY=", "READY=11", "READY=1 ", " READY=1", "ready=1", "READY=yes"] {
            assert_eq!(parse(text.as_bytes()), Ok(vec![]), "{text}");
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        assert_eq!(parse(b""), Err(Malformed::NoAssignment));
        assert_eq!(parse(b"READY"), Err(Malformed::NoAssignment));
        assert_eq!(parse(b"READY=1\n\xff\xfe"), Err(Malformed::NotText));
        assert_eq!(parse(&[b'A'; DATAGRAM_MAX + 1]), Err(Malformed::TooLong));
    }

    #[test]
    fn no_extension_is_longer_than_a_day() {
        assert_eq!(parse(b"EXTEND_TIMEOUT_USEC=18446744073709551615"), Ok(vec![Notification::Extend(EXTENSION_MAX)]));
        assert_eq!(parse(b"EXTEND_TIMEOUT_USEC=-1"), Ok(vec![]));
    }

    proptest! {
        #[test]
        fn no_datagram_makes_it_panic(datagram in proptest::collection::vec(any::<u8>(), 0..5000)) {
            let _ = parse(&datagram);
        }
    }
}
