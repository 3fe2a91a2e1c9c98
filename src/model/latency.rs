//! Times as counts in buckets: fixed memory, and each time is known to a sixteenth.

use std::time::Duration;

/// How many buckets each doubling of the time has, and the number of buckets of a microsecond below that.
pub(crate) const STEPS: usize = 16;
/// The longest time that is told from longer ones, in microseconds: 134 s.
const LONGEST: u64 = (1 << 27) - 1;
/// The number of buckets.
pub(crate) const BUCKETS: usize = bucket_of(LONGEST) + 1;

/// The bucket of a time.
pub(crate) fn bucket(time: Duration) -> usize {
    bucket_of(u64::try_from(time.as_micros()).unwrap_or(LONGEST).min(LONGEST))
}

const fn bucket_of(micros: u64) -> usize {
    if micros < STEPS as u64 {
        return micros as usize;
    }
    let doublings = micros.ilog2() - STEPS.ilog2();
    doublings as usize * STEPS + (micros >> doublings) as usize
}

/// The time below which all times of a bucket are.
pub(crate) fn upper_bound(bucket: usize) -> Duration {
    let doublings = (bucket / STEPS).saturating_sub(1);
    Duration::from_micros(((bucket - doublings * STEPS + 1) as u64) << doublings)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_time_is_in_its_bucket_and_known_to_a_sixteenth(micros in 0..=LONGEST) {
            let time = Duration::from_micros(micros);
            let bucket = bucket(time);
            prop_assert!(bucket < BUCKETS);
            prop_assert!(time < upper_bound(bucket));
            let lower = bucket.checked_sub(1).map_or(Duration::ZERO, upper_bound);
            prop_assert!(lower <= time);
            prop_assert!(upper_bound(bucket) - lower <= Duration::from_micros(1).max(lower / 16), "{lower:?}");
        }
    }

    #[test]
    fn what_is_longer_is_in_the_last_bucket() {
        assert_eq!(bucket(Duration::from_secs(3600)), BUCKETS - 1);
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }
}
