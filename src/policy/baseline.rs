//! Limits relative to a baseline: which points of the past count, and the limit that follows.
//!
//! Pure: points are arguments. Points near one of our own runs are left out, because a run must never become
//! the measure of the next one.

use super::{BaselineFrom, BaselineRule, RelativeLevel};
use crate::govern::guard::{Side, Thresholds};

/// Seconds around a run of ours in which points do not count.
pub const OWN_RUN_MARGIN_S: f64 = 1_800.0;

/// Clean points without which there is no baseline.
pub const CLEAN_POINTS_MIN: usize = 2;

/// A point of the past: Unix time in seconds and value.
pub type Point = (f64, f64);

/// The finite values at least [`OWN_RUN_MARGIN_S`] away from any time at which a run of ours was active.
#[must_use]
pub fn clean(points: &[Point], own_runs: &[Point]) -> Vec<Point> {
    let active: Vec<f64> = own_runs.iter().filter(|(_, v)| *v > 0.0).map(|(t, _)| *t).collect();
    let near = |t: f64| active.iter().any(|a| (a - t).abs() <= OWN_RUN_MARGIN_S);
    points.iter().copied().filter(|(t, v)| v.is_finite() && !near(*t)).collect()
}

/// The median of at least [`CLEAN_POINTS_MIN`] values.
#[must_use]
pub fn median(points: &[Point]) -> Option<f64> {
    if points.len() < CLEAN_POINTS_MIN {
        return None;
    }
    quantile(points, 0.5)
}

/// The `q` quantile of the values, the lower one where it falls between two.
#[must_use]
pub fn quantile(points: &[Point], q: f64) -> Option<f64> {
    let mut values: Vec<f64> = points.iter().map(|(_, v)| *v).collect();
    values.sort_by(f64::total_cmp);
    let rank = ((values.len() as f64 * q).ceil() as usize).clamp(1, values.len().max(1));
    values.get(rank - 1).copied()
}

impl BaselineRule {
    /// The limit for a baseline.
    #[must_use]
    pub fn limit(&self, baseline: f64) -> f64 {
        (baseline * self.ratio).max(self.floor).min(self.cap)
    }

    /// Whether `now` is too far from the baseline to begin. Only a comparison with other weeks can say so.
    #[must_use]
    pub fn is_abnormal(&self, side: Side, now: f64, baseline: f64) -> bool {
        if self.from == BaselineFrom::Before {
            return false;
        }
        match side {
            // Below the floor nothing is worth a refusal: 0.02 % against 0.001 % is both health.
            Side::Above => now > self.floor && now > baseline * self.abnormal_ratio,
            Side::Below => now < self.cap && now < baseline / self.abnormal_ratio,
        }
    }

    /// `limits` with this rule's limit put in, and the others and `clear` kept in order with it: only ever
    /// stricter than they were.
    #[must_use]
    pub fn apply(&self, limits: Thresholds, baseline: f64) -> Thresholds {
        let mut t = limits;
        let limit = self.limit(baseline);
        match self.level {
            RelativeLevel::Hold => t.hold = Some(limit),
            RelativeLevel::BackOff => t.back_off = Some(limit),
        }
        let stricter = |a: f64, b: f64| if t.side == Side::Above { a.min(b) } else { a.max(b) };
        if let (Some(hold), Some(back_off)) = (t.hold, t.back_off) {
            t.hold = Some(stricter(hold, back_off));
        }
        let first = t.hold.or(t.back_off).unwrap_or(limit);
        let clear = if t.side == Side::Above { first * 0.8 } else { first / 0.8 };
        t.clear = stricter(t.clear, clear);
        // What was normal before must count as clean afterwards, or no hold would ever end.
        let bad = if t.side == Side::Above { baseline > t.clear } else { baseline < t.clear };
        let inside = if t.side == Side::Above { baseline < first } else { baseline > first };
        if bad && inside {
            t.clear = baseline + (first - baseline) / 2.0;
        }
        t
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(level: RelativeLevel) -> BaselineRule {
        BaselineRule {
            level,
            from: BaselineFrom::Weeks(1),
            ratio: 2.0,
            floor: 0.02,
            cap: 0.1,
            abnormal_ratio: 3.0,
        }
    }

    #[test]
    fn the_limit_stays_between_floor_and_cap() {
        for (baseline, want) in [(0.0, 0.02), (0.005, 0.02), (0.03, 0.06), (0.2, 0.1)] {
            assert!((rule(RelativeLevel::BackOff).limit(baseline) - want).abs() < 1e-12, "{baseline}");
        }
    }

    #[test]
    fn limits_only_get_stricter_and_stay_in_order() {
        let limits = Thresholds {
            side: Side::Above,
            hold: Some(0.09),
            back_off: Some(0.1),
            abort: Some(0.5),
            clear: 0.08,
        };
        let t = rule(RelativeLevel::BackOff).apply(limits, 0.02);
        assert_eq!((t.back_off, t.hold, t.abort), (Some(0.04), Some(0.04), Some(0.5)));
        assert!(t.clear <= 0.04 * 0.8 + 1e-12);
        let below =
            Thresholds { side: Side::Below, hold: None, back_off: Some(50.0), abort: None, clear: 70.0 };
        let half = BaselineRule { ratio: 0.8, floor: 50.0, cap: 1e9, ..rule(RelativeLevel::BackOff) };
        let t = half.apply(below, 200.0);
        assert_eq!((t.back_off, t.clear), (Some(160.0), 200.0));
        let tight = BaselineRule { ratio: 1.1, floor: 0.0, cap: 1.0, ..rule(RelativeLevel::BackOff) };
        let loose = Thresholds { hold: None, back_off: Some(1.0), abort: None, ..limits };
        let t = tight.apply(Thresholds { clear: 0.8, ..loose }, 0.5);
        assert!(t.is_clear(0.5) && !t.is_clear(0.54), "{t:?}");
    }

    #[test]
    fn our_own_runs_are_no_measure() {
        let points: Vec<Point> = (0..10).map(|i| (f64::from(i) * 600.0, f64::from(i))).collect();
        let own = [(3_000.0, 1.0), (90_000.0, 1.0), (0.0, 0.0)];
        let kept: Vec<f64> = clean(&points, &own).iter().map(|p| p.1).collect();
        assert_eq!(kept, [0.0, 1.0, 9.0]);
        assert_eq!(median(&[(0.0, 1.0)]), None);
        assert_eq!(median(&[(0.0, 5.0), (1.0, 1.0), (2.0, 3.0)]), Some(3.0));
        assert!(clean(&[(0.0, f64::NAN), (1.0, f64::INFINITY)], &[]).is_empty());
    }

    #[test]
    fn abnormal_has_an_edge_on_both_sides() {
        let r = rule(RelativeLevel::BackOff);
        // Floor 0.02, three times the baseline.
        for (now, baseline, abnormal) in [
            (0.02, 0.001, false),
            (0.0201, 0.001, true),
            (0.03, 0.01, false),
            (0.0301, 0.01, true),
            (0.5, 0.4, false),
        ] {
            assert_eq!(r.is_abnormal(Side::Above, now, baseline), abnormal, "{now} {baseline}");
        }
        // Cap 0.1, half of the baseline.
        let r = BaselineRule { abnormal_ratio: 2.0, ..r };
        for (now, baseline, abnormal) in [
            (0.1, 0.9, false),
            (0.09, 0.9, true),
            (0.08, 0.16, false),
            (0.0799, 0.16, true),
            (0.2, 0.9, false),
        ] {
            assert_eq!(r.is_abnormal(Side::Below, now, baseline), abnormal, "below: {now} {baseline}");
        }
    }

    #[test]
    fn what_was_normal_is_clean_only_inside_the_limit() {
        let limits =
            Thresholds { side: Side::Above, hold: None, back_off: Some(1.0), abort: None, clear: 0.5 };
        let at = |ratio, cap| BaselineRule { ratio, floor: 0.0, cap, ..rule(RelativeLevel::BackOff) };
        // Limit 0.22, clear 0.176: the baseline of 0.2 lies between, so clear moves half way to the limit.
        let t = at(1.1, 1.0).apply(limits, 0.2);
        assert!((t.clear - 0.21).abs() < 1e-9, "{t:?}");
        // Limit 0.4, clear 0.32: the baseline is clean already.
        assert!((at(2.0, 1.0).apply(limits, 0.2).clear - 0.32).abs() < 1e-9);
        // The cap lies at or below the baseline: that baseline is no health, and clear stays below the cap.
        for cap in [0.2, 0.1] {
            assert!((at(2.0, cap).apply(limits, 0.2).clear - cap * 0.8).abs() < 1e-9, "{cap}");
        }
        let below =
            Thresholds { side: Side::Below, hold: None, back_off: Some(10.0), abort: None, clear: 20.0 };
        let floor = |ratio, floor| BaselineRule { ratio, floor, cap: 1e9, ..rule(RelativeLevel::BackOff) };
        // Limit 95, clear 118.75: a baseline of 100 lies between.
        assert!((floor(0.95, 0.0).apply(below, 100.0).clear - 97.5).abs() < 1e-9);
        // Limit 50, clear 62.5: clean already.
        assert!((floor(0.5, 0.0).apply(below, 100.0).clear - 62.5).abs() < 1e-9);
        for least in [100.0, 200.0] {
            let t = floor(0.5, least).apply(below, 100.0);
            assert!((t.clear - least / 0.8).abs() < 1e-9, "{t:?}");
        }
    }

    #[test]
    fn two_points_are_the_least() {
        assert_eq!(median(&[(0.0, 1.0), (1.0, 3.0)]), Some(1.0), "the lower of two");
        assert_eq!(median(&[(0.0, 1.0)]), None);
        assert_eq!(quantile(&[(0.0, 1.0), (1.0, 3.0)], 1.0), Some(3.0));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn abnormal_is_beyond_floor_and_ratio() {
        let r = rule(RelativeLevel::BackOff);
        assert!(r.is_abnormal(Side::Above, 0.05, 0.01));
        assert!(!r.is_abnormal(Side::Above, 0.015, 0.001), "below the floor");
        assert!(!r.is_abnormal(Side::Above, 0.025, 0.01));
        assert!(!BaselineRule { from: BaselineFrom::Before, ..r }.is_abnormal(Side::Above, 9.0, 0.01));
    }
}
