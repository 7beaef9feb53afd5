//! [`Limit`]: how often something may be done.

use std::time::Instant;

/// So many times a second, and no more than a second's worth at once.
#[derive(Debug)]
pub(super) struct Limit {
    per_second: u32,
    left: u32,
    filled: Instant,
}

impl Limit {
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        Self {
            per_second,
            left: per_second,
            filled: now,
        }
    }

    /// Whether it may be done once more now.
    pub(super) fn allows(&mut self, now: Instant) -> bool {
        let past = now.saturating_duration_since(self.filled).as_micros();
        let earned = past.saturating_mul(self.per_second.into()) / 1_000_000;
        if let Some(earned) = u32::try_from(earned.min(self.per_second.into()))
            .ok()
            .filter(|&earned| earned > 0)
        {
            self.left = self.left.saturating_add(earned).min(self.per_second);
            self.filled = now;
        }
        let Some(left) = self.left.checked_sub(1) else {
            return false;
        };
        self.left = left;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_second_s_worth_at_once_and_then_as_time_passes() {
        let start = crate::net::some_instant();
        let mut limit = Limit::new(100, start);
        let count = |limit: &mut Limit, now| (0..1000).filter(|_| limit.allows(now)).count();
        assert_eq!(count(&mut limit, start), 100);
        assert_eq!(count(&mut limit, start + Duration::from_millis(9)), 0);
        assert_eq!(count(&mut limit, start + Duration::from_millis(10)), 1);
        assert_eq!(count(&mut limit, start + Duration::from_millis(60)), 5);
        assert_eq!(count(&mut limit, start + Duration::from_secs(3600)), 100);
        assert_eq!(count(&mut limit, start), 0, "time does not go back");
    }
}
