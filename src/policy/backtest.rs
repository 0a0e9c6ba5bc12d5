//! Back-test of one guard: what would it have said over past nights, without us?
//!
//! Pure: points are arguments, already without the times around our own runs. It counts what the governor would
//! have done (k of n, one abort), and how far an ordinary night stays from each limit.

use super::baseline::{Point, quantile};
use crate::govern::guard::{GuardSpec, Side};
use crate::govern::reading::Reading;

/// What a back-test of one guard found.
#[derive(Debug, Clone, PartialEq)]
pub struct Backtest {
    /// Points looked at.
    pub points: usize,
    /// Stretches in which it would have held.
    pub holds: usize,
    /// Stretches in which it would have halved.
    pub back_offs: usize,
    /// Stretches in which it would have stopped a run for good.
    pub aborts: usize,
    /// When the first of these began, Unix seconds.
    pub first_at: Option<f64>,
    /// Median, and the worst one in a hundred and in a thousand, and the worst.
    pub median: f64,
    /// One point in a hundred was at least as bad.
    pub bad_1: f64,
    /// One point in a thousand was at least as bad.
    pub bad_01: f64,
    /// The worst point.
    pub worst: f64,
    /// Limits that ordinary nights would have left in peace.
    pub suggested: Suggested,
}

/// Limits derived from the past: hold at one and a half times, back off at twice the worst point in a thousand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Suggested {
    /// Hold.
    pub hold: f64,
    /// Back off.
    pub back_off: f64,
    /// Whether the present limits would do: quiet on ordinary nights, and not so far that harm passes below.
    pub keep: bool,
}

/// A limit more than this many times the worst point of the past lets much harm pass before it acts.
const LOOSE: f64 = 20.0;

/// Judges `points` (in the order of time) by the limits of `spec`; `None` without points.
#[must_use]
pub fn judge(spec: &GuardSpec, points: &[Point]) -> Option<Backtest> {
    let t = &spec.thresholds;
    let above = t.side == Side::Above;
    let q = |bad: f64| quantile(points, if above { 1.0 - bad } else { bad });
    let worst = q(0.0)?;
    let (median, bad_1, bad_01) = (quantile(points, 0.5)?, q(0.01)?, q(0.001)?);
    let mut counts = Counts::default();
    for (at, v) in points {
        counts.point(spec, *at, t.classify(*v));
    }
    let factor = |f: f64| if above { bad_01 * f } else { bad_01 / f };
    let limit = t.back_off.or(t.abort).or(t.hold).unwrap_or(worst);
    let loose = if above { worst > 0.0 && limit > worst * LOOSE } else { limit < worst / LOOSE };
    let keep = counts.back_offs == 0 && counts.aborts == 0 && !loose;
    Some(Backtest {
        points: points.len(),
        holds: counts.holds,
        back_offs: counts.back_offs,
        aborts: counts.aborts,
        first_at: counts.first_at,
        median,
        bad_1,
        bad_01,
        worst,
        suggested: Suggested { hold: factor(1.5), back_off: factor(2.0), keep },
    })
}

#[derive(Debug, Default)]
struct Counts {
    marks: std::collections::VecDeque<u8>,
    level: u8,
    holds: usize,
    back_offs: usize,
    aborts: usize,
    first_at: Option<f64>,
}

impl Counts {
    /// One point: 1 hold, 2 back off, 3 abort; a stretch counts once, when it begins or gets worse.
    fn point(&mut self, spec: &GuardSpec, at: f64, reading: Reading) {
        let mark = match reading {
            Reading::Hold(_) => 1,
            Reading::BackOff(_) => 2,
            Reading::Abort(_) => 3,
            Reading::Good(_) | Reading::Neutral | Reading::NoData(_) | Reading::Fault(_) => 0,
        };
        self.marks.push_back(mark);
        while self.marks.len() > usize::from(spec.confirm_of.max(1)) {
            self.marks.pop_front();
        }
        let confirmed = |at_least: u8| {
            self.marks.iter().filter(|m| **m >= at_least).count() >= usize::from(spec.confirm.max(1))
        };
        let level = if mark == 3 {
            3
        } else if confirmed(2) {
            2
        } else {
            u8::from(confirmed(1))
        };
        if level > self.level {
            match level {
                3 => self.aborts += 1,
                2 => self.back_offs += 1,
                _ => self.holds += 1,
            }
            self.first_at.get_or_insert(at);
        }
        self.level = level;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::govern::guard::tests::spec;

    fn points(values: &[f64]) -> Vec<Point> {
        values.iter().enumerate().map(|(i, v)| (i as f64 * 5.0, *v)).collect()
    }

    #[test]
    fn trips_are_counted_as_the_governor_would_have_made_them() {
        let s = spec(); // hold 0.5 %, back off 1 %, abort 5 %; 2 of 3
        #[rustfmt::skip]
        type Row<'a> = (&'a [f64], (usize, usize, usize));
        let table: [Row<'_>; 6] = [
            (&[0.0, 0.001, 0.002], (0, 0, 0)),
            (&[0.0, 0.02, 0.0, 0.0], (0, 0, 0)), // one bad poll is noise
            (&[0.0, 0.02, 0.0, 0.02, 0.0, 0.0], (0, 1, 0)), // 2 of 3
            (&[0.0, 0.007, 0.007, 0.0, 0.0, 0.0, 0.007, 0.007], (2, 0, 0)),
            (&[0.0, 0.06, 0.0], (0, 0, 1)),         // one is enough
            (&[0.02, 0.02, 0.02, 0.02], (0, 1, 0)), // one long stretch
        ];
        for (values, want) in table {
            let b = judge(&s, &points(values)).unwrap();
            assert_eq!((b.holds, b.back_offs, b.aborts), want, "{values:?}");
        }
        assert_eq!(judge(&s, &[]), None);
    }

    #[test]
    fn a_limit_is_loose_when_the_past_was_far_from_it() {
        let with = |side, back_off: f64, worst: f64| {
            let (abort, clear) = (None, back_off);
            let thresholds =
                crate::govern::guard::Thresholds { side, hold: None, back_off: Some(back_off), abort, clear };
            let b = judge(&GuardSpec { thresholds, ..spec() }, &points(&[worst; 200])).unwrap();
            (b.suggested.keep, b.worst, b.suggested.hold, b.suggested.back_off)
        };
        let (above, below) = (crate::govern::guard::Side::Above, crate::govern::guard::Side::Below);
        assert_eq!(with(above, 20.0, 1.0), (true, 1.0, 1.5, 2.0));
        assert!(!with(above, 20.1, 1.0).0, "twenty times the worst");
        assert!(with(above, 20.1, 0.0).0, "a worst of zero says nothing about how far");
        assert_eq!(with(below, 1.0, 20.0), (true, 20.0, 20.0 / 1.5, 10.0));
        assert!(!with(below, 1.0, 20.5).0);
        // The worst per cent is at the top above, at the bottom below.
        let ramp: Vec<f64> = (0..=1_000).map(f64::from).collect();
        let of = |side| {
            let thresholds = crate::govern::guard::Thresholds { side, ..spec().thresholds };
            let b = judge(&GuardSpec { thresholds, ..spec() }, &points(&ramp)).unwrap();
            (b.bad_1, b.worst)
        };
        assert_eq!(of(above), (990.0, 1_000.0));
        assert_eq!(of(below), (10.0, 0.0));
    }

    #[test]
    fn suggestions_leave_ordinary_nights_in_peace() {
        let s = spec();
        let noisy: Vec<f64> = (0..2_000).map(|i| if i % 100 < 3 { 0.02 } else { 0.001 }).collect();
        let b = judge(&s, &points(&noisy)).unwrap();
        assert!(b.back_offs > 0 && !b.suggested.keep);
        assert!(
            (b.suggested.back_off - 0.04).abs() < 1e-9 && (b.suggested.hold - 0.03).abs() < 1e-9,
            "{b:?}"
        );
        let calm = judge(&s, &points(&[0.002; 500])).unwrap();
        assert!(calm.suggested.keep, "{calm:?}");
        let silent = judge(&s, &points(&[0.0001; 500])).unwrap();
        assert!(!silent.suggested.keep, "a limit a hundred times the worst night lets much pass");
    }
}
