//! The keys of TLS session tickets, which every generation of a server shares, and when they change.
//!
//! Whoever has a key can decrypt each recorded session that was resumed by a ticket of that key (RFC 9325, 7.4), so a key
//! is used for a few hours only, and is never written to a disk or to a log.

use std::fmt;
use std::time::Duration;

use zeroize::Zeroize;

/// How long a key makes new tickets. The tickets are accepted for as long again.
const ROTATION: Duration = Duration::from_secs(6 * 60 * 60);

/// The lifetime of a ticket that clients are told, in seconds. A ticket of the end of its key's six hours is refused
/// earlier, and its client makes a full handshake.
pub(crate) const LIFETIME_SECONDS: u32 = 12 * 60 * 60;

/// The length of the name of a key, which each ticket begins with, in bytes.
pub(crate) const NAME: usize = 16;

/// One key. Its memory is overwritten when the key is dropped.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct TicketKey {
    /// When the key was made, in seconds since 1970.
    pub(crate) made: u64,
    pub(crate) name: [u8; NAME],
    pub(crate) secret: [u8; 32],
}

/// The secret is not shown.
impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKey").field("made", &self.made).finish_non_exhaustive()
    }
}

impl Drop for TicketKey {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl TicketKey {
    fn age(&self, now: u64) -> Duration {
        Duration::from_secs(now.saturating_sub(self.made))
    }
}

/// The keys of one generation, the newest first.
#[derive(Debug, Default)]
pub(crate) struct TicketKeys(Vec<TicketKey>);

impl TicketKeys {
    /// The key for new tickets at this time (seconds since 1970). Without a key that is young enough, `make` makes one.
    pub(crate) fn newest<E>(&mut self, now: u64, make: impl FnOnce() -> Result<TicketKey, E>) -> Result<&TicketKey, E> {
        if self.0.first().is_none_or(|key| key.age(now) >= ROTATION) {
            self.0.retain(|key| key.age(now) < 2 * ROTATION);
            self.0.insert(0, make()?);
        }
        Ok(&self.0[0])
    }

    /// The key of this name, if its tickets are still accepted at this time.
    pub(crate) fn named(&self, name: &[u8], now: u64) -> Option<&TicketKey> {
        self.0.iter().find(|key| key.name == name && key.age(now) < 2 * ROTATION)
    }

    /// All keys, for the next generation.
    pub(crate) fn all(&self) -> Vec<TicketKey> {
        self.0.clone()
    }

    /// Takes over the keys of the previous generation.
    pub(crate) fn inherit(&mut self, keys: Vec<TicketKey>) {
        self.0 = keys;
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const HOUR: u64 = 60 * 60;

    fn key(made: u64) -> TicketKey {
        let name = u8::try_from(made / HOUR).expect("few hours");
        TicketKey { made, name: [name; NAME], secret: [7; 32] }
    }

    fn made_at(keys: &mut TicketKeys, now: u64) -> u64 {
        keys.newest(now, || Ok::<_, Infallible>(key(now))).expect("made").made
    }

    #[test]
    fn a_key_makes_tickets_for_six_hours_which_are_accepted_for_six_more() {
        let mut keys = TicketKeys::default();
        assert_eq!(made_at(&mut keys, 0), 0);
        assert_eq!(made_at(&mut keys, 6 * HOUR - 1), 0, "still young");
        assert_eq!(made_at(&mut keys, 6 * HOUR), 6 * HOUR);
        assert!(keys.named(&[0; NAME], 12 * HOUR - 1).is_some());
        assert!(keys.named(&[0; NAME], 12 * HOUR).is_none(), "its tickets have expired");
        assert_eq!(made_at(&mut keys, 12 * HOUR), 12 * HOUR);
        assert_eq!(keys.all().len(), 2, "an expired key is forgotten");
    }

    #[test]
    fn the_next_generation_has_the_same_keys_and_no_log_has_them() {
        let mut keys = TicketKeys::default();
        made_at(&mut keys, 3 * HOUR);
        let text = serde_json::to_string(&keys.all()).expect("plain data");
        let mut next = TicketKeys::default();
        next.inherit(serde_json::from_str(&text).expect("the same form"));
        assert_eq!(next.all(), keys.all());
        assert!(!format!("{next:?}").contains('7'), "{next:?}");
    }
}
