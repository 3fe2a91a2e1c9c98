//! A part of all new connections.

use std::fmt;

/// A part of all new connections, in hundredths of a percent: from 0 to 100 %.
///
/// In JSON it is a number of percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(into = "f64", try_from = "f64")]
pub struct Share(u16);

impl Share {
    /// None.
    pub const NONE: Share = Share(0);
    /// All of them.
    pub const ALL: Share = Share(Share::WHOLE);

    /// What stands for 100 %.
    pub(crate) const WHOLE: u16 = 10_000;

    /// This many percent, rounded to a hundredth; `None` if that is not from 0 to 100.
    pub fn percent(percent: f64) -> Option<Share> {
        let hundredths = (percent * 100.0).round();
        if !(0.0..=f64::from(Share::WHOLE)).contains(&hundredths) {
            return None;
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is from 0 to 10,000")]
        Some(Share(hundredths as u16))
    }

    /// How many percent.
    pub fn as_percent(self) -> f64 {
        f64::from(self.0) / 100.0
    }

    /// How many of [`Share::WHOLE`].
    pub(crate) fn of_whole(self) -> u16 {
        self.0
    }

    /// What is left for the others.
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
    type Error = String;

    fn try_from(percent: f64) -> Result<Share, String> {
        Share::percent(percent).ok_or_else(|| format!("{percent} % is no share: it must be from 0 to 100"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_from_0_to_100_percent() {
        for (percent, text) in [(0.0, "0 %"), (5.0, "5 %"), (0.25, "0.25 %"), (33.333, "33.33 %"), (100.0, "100 %")] {
            assert_eq!(Share::percent(percent).expect("a share").to_string(), text);
        }
        for percent in [-1.0, 100.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Share::percent(percent), None, "{percent}");
        }
    }
}
