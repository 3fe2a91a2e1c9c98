//! A part of all new connections.

use std::fmt;

/// A part of all new connections, in hundredths of a percent: from 0 to 100 %.
///
/// In JSON, a share is a percentage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(into = "f64", try_from = "f64")]
pub struct Share(u16);

impl Share {
    /// No new connections.
    pub const NONE: Share = Share(0);
    /// All new connections.
    pub const ALL: Share = Share(Share::WHOLE);

    /// The number that stands for 100 %.
    pub(crate) const WHOLE: u16 = 10_000;

    /// A share of whole percents, for a literal: `Share::percent(5)`. A number that is computed or read goes through
    /// `Share::try_from(f64)`, which accepts hundredths of a percent and returns an error for other values than 0 to
    /// 100.
    ///
    /// # Panics
    /// If `percent` is above 100. In a constant, the compiler refuses such a number.
    pub const fn percent(percent: u8) -> Share {
        assert!(percent <= 100, "a share is at most 100 percent");
        Share(percent as u16 * 100)
    }

    /// The share as a percentage.
    pub fn as_percent(self) -> f64 {
        f64::from(self.0) / 100.0
    }

    /// The share in units of which [`Share::WHOLE`] are 100 %.
    pub(crate) fn of_whole(self) -> u16 {
        self.0
    }

    /// The rest of the new connections.
    pub(crate) fn rest(self) -> Share {
        Share(Share::WHOLE - self.0)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.as_percent())
    }
}

impl From<Share> for f64 {
    fn from(share: Share) -> f64 {
        share.as_percent()
    }
}

impl TryFrom<f64> for Share {
    type Error = InvalidShare;

    /// Takes a percentage, and rounds it to a hundredth of a percent.
    fn try_from(percent: f64) -> Result<Share, InvalidShare> {
        let hundredths = (percent * 100.0).round();
        if !(0.0..=f64::from(Share::WHOLE)).contains(&hundredths) {
            return Err(InvalidShare(percent));
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is from 0 to 10,000")]
        Ok(Share(hundredths as u16))
    }
}

/// A percentage that is not from 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("{0} % is no share: a share is from 0 to 100 %")]
pub struct InvalidShare(f64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_from_0_to_100_percent() {
        for (percent, text) in [(0.0, "0 %"), (5.0, "5 %"), (0.25, "0.25 %"), (33.333, "33.33 %"), (100.0, "100 %")] {
            assert_eq!(Share::try_from(percent).expect("a share").to_string(), text);
        }
        for percent in [-1.0, 100.1, f64::NAN, f64::INFINITY] {
            Share::try_from(percent).expect_err(&percent.to_string());
        }
    }

    #[test]
    fn a_share_of_whole_percents_is_a_constant() {
        const HALF: Share = Share::percent(50);
        assert_eq!(Share::try_from(50.0), Ok(HALF));
        assert_eq!((Share::percent(0), Share::percent(100)), (Share::NONE, Share::ALL));
        std::panic::catch_unwind(|| Share::percent(101)).expect_err("more than all");
    }
}
