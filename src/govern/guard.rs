//! A guard: thresholds, confirmation (k of n), expiry and clearing over a stream of answers.
//!
//! Down is quick and up is slow: one abort reading is enough, a back-off needs k of the last n, and a
//! guard is clean only after a stretch of readings on the good side of `clear`. It refuses to forget: an
//! answer that is late, repeated or older than the last one changes nothing, and silence becomes NoData.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::reading::{Answer, NoData, Reading};
use crate::units::RunTime;

/// Which side of the thresholds is bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// High values are bad (`back_off_above`).
    Above,
    /// Low values are bad (`back_off_below`).
    Below,
}

/// The thresholds of one guard. Checked by `policy`: at least one is set and they are in order.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Thresholds {
    /// Which side is bad.
    pub side: Side,
    /// Stop growing past this.
    pub hold: Option<f64>,
    /// Halve past this.
    pub back_off: Option<f64>,
    /// Stop for good past this.
    pub abort: Option<f64>,
    /// Clean again only on the good side of this.
    pub clear: f64,
}

impl Thresholds {
    fn past(&self, value: f64, limit: Option<f64>) -> bool {
        limit.is_some_and(|limit| match self.side {
            Side::Above => value > limit,
            Side::Below => value < limit,
        })
    }

    /// Classifies a finite value.
    #[must_use]
    pub fn classify(&self, value: f64) -> Reading {
        if !value.is_finite() {
            Reading::NoData(if value.is_nan() { NoData::NaN } else { NoData::Inf })
        } else if self.past(value, self.abort) {
            Reading::Abort(value)
        } else if self.past(value, self.back_off) {
            Reading::BackOff(value)
        } else if self.past(value, self.hold) {
            Reading::Hold(value)
        } else {
            Reading::Good(value)
        }
    }

    /// Whether a value is on the good side of `clear`.
    #[must_use]
    pub fn is_clear(&self, value: f64) -> bool {
        match self.side {
            Side::Above => value <= self.clear,
            Side::Below => value >= self.clear,
        }
    }

    /// These limits moved so that any value is a breach: for drills.
    #[must_use]
    pub fn tripped(self) -> Self {
        let any = if self.side == Side::Above { f64::MIN } else { f64::MAX };
        let to = |limit: Option<f64>| limit.map(|_| any);
        Self { hold: to(self.hold), back_off: to(self.back_off), abort: to(self.abort), clear: any, ..self }
    }

    /// Whether `value` is at least 20 % worse than `before`.
    #[must_use]
    pub fn is_worse(&self, value: f64, before: f64) -> bool {
        match self.side {
            Side::Above => value > before * 1.2,
            Side::Below => value < before * 0.8,
        }
    }
}

/// Where a guard's answers come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Our own measurements.
    Local,
    /// A query to Prometheus.
    Prometheus,
    /// A metrics page that we read ourselves.
    Scrape,
}

/// Everything fixed about one guard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GuardSpec {
    /// Name in reports and causes.
    pub name: String,
    /// Where answers come from.
    pub origin: Origin,
    /// Unit for people: `ratio`, `seconds`, or whatever the policy says.
    pub unit: String,
    /// Thresholds.
    pub thresholds: Thresholds,
    /// A guard that must have data. Only such guards allow or forbid growth.
    pub required: bool,
    /// Harm to users: blindness is treated like harm.
    pub harm: bool,
    /// Samples below which the guard is neutral.
    pub min_samples: u64,
    /// Too few samples are no data instead of neutral.
    pub need_traffic: bool,
    /// Whether being neutral forbids growth.
    pub neutral_blocks: bool,
    /// Confirmations needed for hold and back off, out of [`GuardSpec::confirm_of`] readings.
    pub confirm: u8,
    /// Readings looked at for confirmation.
    pub confirm_of: u8,
    /// Age of the last answer's request at which it expires.
    pub max_age: Duration,
    /// Good for this long before it is clean.
    pub clear_for: Duration,
    /// How late this guard is by construction (L).
    pub lag: Duration,
}

impl GuardSpec {
    /// Classifies an answer; `min_samples` is looked at first.
    #[must_use]
    pub fn read(&self, answer: Answer) -> Reading {
        match answer {
            Answer::Value { samples, .. } if samples < self.min_samples => {
                if self.need_traffic {
                    Reading::NoData(NoData::TooFewSamples)
                } else {
                    Reading::Neutral
                }
            }
            Answer::Value { value, .. } => self.thresholds.classify(value),
            Answer::NoData(why) => Reading::NoData(why),
            Answer::Fault(fault) => Reading::Fault(fault),
        }
    }
}

/// One answer with its place in the sequence.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Number of the request; answers with older numbers are dropped.
    pub seq: u64,
    /// When the request was started.
    pub requested_at: RunTime,
    /// What came back.
    pub answer: Answer,
}

/// What the governor acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Healthy.
    Good,
    /// Too few samples to say.
    Neutral,
    /// A bad reading that is not confirmed yet: no growth, no cut.
    Suspect,
    /// Confirmed: stop growing.
    Hold,
    /// No value.
    NoData,
    /// Confirmed: halve.
    BackOff,
    /// Stop for good.
    Abort,
    /// The guard is wrong.
    Fault,
}

/// A guard as the governor sees it at one tick.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// What to act on.
    pub level: Level,
    /// The last reading, expiry applied.
    pub reading: Reading,
    /// How long the guard has had no data, in milliseconds.
    pub no_data_ms: u64,
    /// How long it has been clean without a break, in milliseconds.
    pub clean_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Fine,
    Hold,
    BackOff,
}

/// The moving part of one guard.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    last: Option<(Sample, Reading)>,
    marks: VecDeque<Mark>,
    bad_before_silence: bool,
    clean_since: Option<RunTime>,
    no_data_since: Option<RunTime>,
    worst: Option<f64>,
}

impl Guard {
    /// Takes one answer at `now`. Returns whether it was new.
    pub fn observe(&mut self, spec: &GuardSpec, now: RunTime, sample: Sample) -> bool {
        if self.last.is_some_and(|(old, _)| sample.seq <= old.seq) {
            return false;
        }
        if self.last.is_some_and(|(old, _)| now > old.requested_at.plus(spec.max_age)) {
            // Silence in between is no health, whatever stood before it.
            self.clean_since = None;
        }
        let reading = spec.read(sample.answer);
        self.last = Some((sample, reading));
        self.note_worst(spec, reading);
        self.note_clean(spec, now, reading);
        let mark = self.mark(spec, now, reading);
        self.marks.push_back(mark);
        while self.marks.len() > usize::from(spec.confirm_of.max(1)) {
            self.marks.pop_front();
        }
        true
    }

    fn note_worst(&mut self, spec: &GuardSpec, reading: Reading) {
        let Some(value) = reading.value() else { return };
        let worse = |old: f64| match spec.thresholds.side {
            Side::Above => value > old,
            Side::Below => value < old,
        };
        if self.worst.is_none_or(worse) {
            self.worst = Some(value);
        }
    }

    fn note_clean(&mut self, spec: &GuardSpec, now: RunTime, reading: Reading) {
        match reading {
            Reading::Good(v) if spec.thresholds.is_clear(v) => {
                self.clean_since.get_or_insert(now);
            }
            // Too few samples neither prove nor disprove health: the clock goes on if it was running.
            Reading::Neutral => {}
            Reading::Good(_)
            | Reading::Hold(_)
            | Reading::BackOff(_)
            | Reading::Abort(_)
            | Reading::NoData(_)
            | Reading::Fault(_) => self.clean_since = None,
        }
    }

    fn mark(&mut self, spec: &GuardSpec, now: RunTime, reading: Reading) -> Mark {
        if !matches!(reading, Reading::NoData(_)) {
            self.no_data_since = None;
        }
        match reading {
            Reading::Good(_) | Reading::Neutral => {
                self.bad_before_silence = false;
                Mark::Fine
            }
            Reading::Hold(_) => {
                self.bad_before_silence = true;
                Mark::Hold
            }
            Reading::BackOff(_) | Reading::Abort(_) | Reading::Fault(_) => {
                self.bad_before_silence = true;
                Mark::BackOff
            }
            Reading::NoData(_) => {
                self.no_data_since.get_or_insert(now);
                // Overload blinds the source: silence after harm is harm.
                if spec.harm && self.bad_before_silence { Mark::BackOff } else { Mark::Fine }
            }
        }
    }

    /// The guard at `now`.
    #[must_use]
    pub fn view(&self, spec: &GuardSpec, now: RunTime) -> View {
        let millis = |since: Option<RunTime>| since.map_or(0, |s| now.since(s).as_millis() as u64);
        let Some((sample, reading)) = self.last else {
            let reading = Reading::NoData(NoData::NotYet);
            return View { level: Level::NoData, reading, no_data_ms: now.0 / 1_000_000, clean_ms: 0 };
        };
        let expires = sample.requested_at.plus(spec.max_age);
        if now > expires && !matches!(reading, Reading::NoData(_) | Reading::Fault(_)) {
            let blind = spec.harm && self.bad_before_silence;
            let level = if blind { Level::BackOff } else { Level::NoData };
            let reading = Reading::NoData(NoData::Timeout);
            return View { level, reading, no_data_ms: millis(Some(expires)), clean_ms: 0 };
        }
        let level = self.level(spec, reading);
        View { level, reading, no_data_ms: millis(self.no_data_since), clean_ms: millis(self.clean_since) }
    }

    fn level(&self, spec: &GuardSpec, reading: Reading) -> Level {
        let count = |at_least: Mark| {
            let bad = |m: &&Mark| **m == Mark::BackOff || **m == at_least;
            self.marks.iter().filter(bad).count() >= usize::from(spec.confirm.max(1))
        };
        match reading {
            Reading::Fault(_) => Level::Fault,
            Reading::Abort(_) => Level::Abort,
            _ if count(Mark::BackOff) => Level::BackOff,
            Reading::NoData(_) => Level::NoData,
            _ if count(Mark::Hold) => Level::Hold,
            Reading::Hold(_) | Reading::BackOff(_) => Level::Suspect,
            Reading::Good(_) => Level::Good,
            Reading::Neutral => Level::Neutral,
        }
    }

    /// The worst value seen in the run.
    #[must_use]
    pub fn worst(&self) -> Option<f64> {
        self.worst
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::govern::reading::Fault;

    pub(crate) fn spec() -> GuardSpec {
        GuardSpec {
            name: "errors".to_owned(),
            origin: Origin::Prometheus,
            unit: "ratio".to_owned(),
            thresholds: Thresholds {
                side: Side::Above,
                hold: Some(0.005),
                back_off: Some(0.01),
                abort: Some(0.05),
                clear: 0.004,
            },
            required: true,
            harm: true,
            min_samples: 0,
            need_traffic: false,
            neutral_blocks: true,
            confirm: 2,
            confirm_of: 3,
            max_age: Duration::from_secs(4),
            clear_for: Duration::from_secs(30),
            lag: Duration::from_secs(10),
        }
    }

    fn feed(spec: &GuardSpec, answers: &[Answer]) -> View {
        let mut guard = Guard::default();
        let mut now = RunTime::START;
        for (i, answer) in answers.iter().enumerate() {
            now = RunTime::from_millis(i as u64 * 1000);
            guard.observe(spec, now, Sample { seq: i as u64 + 1, requested_at: now, answer: *answer });
        }
        guard.view(spec, now)
    }

    fn v(value: f64) -> Answer {
        Answer::Value { value, samples: 1000 }
    }

    #[test]
    fn levels_follow_answers() {
        let nothing = Answer::NoData(NoData::Empty);
        #[rustfmt::skip]
        let table: Vec<(Vec<Answer>, Level)> = vec![
            (vec![], Level::NoData),
            (vec![v(0.0)], Level::Good),
            (vec![v(0.02)], Level::Suspect),
            (vec![v(0.02), v(0.02)], Level::BackOff),
            (vec![v(0.02), v(0.0), v(0.02)], Level::BackOff),       // 2 of 3: flapping does not hide
            (vec![v(0.02), v(0.0), v(0.0), v(0.02)], Level::Suspect),
            (vec![v(0.007), v(0.007)], Level::Hold),
            (vec![v(0.007), v(0.02)], Level::Hold),
            (vec![v(0.06)], Level::Abort),                          // one is enough
            (vec![v(0.0), nothing], Level::NoData),
            (vec![v(0.02), nothing], Level::BackOff),               // blind after harm is harm
            (vec![v(0.007), nothing, nothing], Level::BackOff),
            (vec![v(0.0), nothing, v(0.0)], Level::Good),
            (vec![Answer::Fault(Fault::Auth)], Level::Fault),
            (vec![v(f64::NAN)], Level::NoData),
            (vec![v(f64::NEG_INFINITY)], Level::NoData),
        ];
        for (answers, want) in table {
            assert_eq!(feed(&spec(), &answers).level, want, "{answers:?}");
        }
    }

    #[test]
    fn too_few_samples_come_before_any_threshold() {
        let mut few = spec();
        few.min_samples = 200;
        let bad = Answer::Value { value: 1.0, samples: 199 };
        assert_eq!(feed(&few, &[bad]).level, Level::Neutral);
        few.need_traffic = true;
        assert_eq!(feed(&few, &[bad]).level, Level::NoData);
    }

    #[test]
    fn silence_expires_and_late_answers_are_dropped() {
        let spec = spec();
        let mut guard = Guard::default();
        let sample = |seq, value| Sample { seq, requested_at: RunTime::START, answer: v(value) };
        assert!(guard.observe(&spec, RunTime::START, sample(5, 0.0)));
        assert!(!guard.observe(&spec, RunTime::START, sample(5, 1.0)), "repeated");
        assert!(!guard.observe(&spec, RunTime::START, sample(4, 1.0)), "swapped");
        assert_eq!(guard.view(&spec, RunTime::from_millis(4_000)).level, Level::Good);
        let view = guard.view(&spec, RunTime::from_millis(6_000));
        assert_eq!((view.level, view.no_data_ms, view.clean_ms), (Level::NoData, 2_000, 0));
    }

    #[test]
    fn silence_breaks_a_clean_stretch() {
        let spec = spec();
        let mut guard = Guard::default();
        let mut tell = |ms: u64| {
            let now = RunTime::from_millis(ms);
            guard.observe(&spec, now, Sample { seq: ms + 1, requested_at: now, answer: v(0.0) });
            guard.view(&spec, now).clean_ms
        };
        assert_eq!([tell(0), tell(4_000), tell(8_000)], [0, 4_000, 8_000], "answers as old as they may be");
        assert_eq!([tell(12_001), tell(13_000)], [0, 999], "one came a millisecond too late");
    }

    #[test]
    fn limits_are_passed_not_reached() {
        let t = spec().thresholds;
        for (value, want) in [
            (0.005, Reading::Good(0.005)),
            (0.0051, Reading::Hold(0.0051)),
            (0.01, Reading::Hold(0.01)),
            (0.05, Reading::BackOff(0.05)),
            (0.0501, Reading::Abort(0.0501)),
        ] {
            assert_eq!(t.classify(value), want);
        }
        let below =
            Thresholds { side: Side::Below, hold: None, back_off: Some(80.0), abort: None, clear: 90.0 };
        assert_eq!(below.classify(80.0), Reading::Good(80.0));
        assert!(!t.is_worse(1.2, 1.0) && t.is_worse(1.21, 1.0));
        assert!(!below.is_worse(80.0, 100.0) && below.is_worse(79.9, 100.0));
    }

    #[test]
    fn a_tripped_guard_breaches_at_any_value() {
        let above = spec().thresholds.tripped();
        let below = Thresholds { side: Side::Below, ..spec().thresholds }.tripped();
        for t in [above, below] {
            for value in [-1e300, 0.0, 1e300] {
                assert_eq!(t.classify(value), Reading::Abort(value), "{t:?}");
                assert!(!t.is_clear(value));
            }
        }
        let only = Thresholds { hold: None, abort: None, ..spec().thresholds }.tripped();
        assert_eq!(only.classify(0.0), Reading::BackOff(0.0), "what has no limit gets none");
        let hold = Thresholds { back_off: None, abort: None, ..spec().thresholds }.tripped();
        assert_eq!(hold.classify(0.0), Reading::Hold(0.0));
    }

    #[test]
    fn enough_samples_are_enough() {
        let few = GuardSpec { min_samples: 200, ..spec() };
        assert_eq!(few.read(Answer::Value { value: 1.0, samples: 200 }), Reading::Abort(1.0));
        assert_eq!(few.read(Answer::Value { value: 1.0, samples: 199 }), Reading::Neutral);
    }

    #[test]
    fn the_worst_value_is_kept() {
        let worst = |spec: &GuardSpec, values: &[f64]| {
            let mut guard = Guard::default();
            for (i, value) in values.iter().enumerate() {
                let now = RunTime::from_millis(i as u64 * 1000);
                guard.observe(spec, now, Sample { seq: i as u64 + 1, requested_at: now, answer: v(*value) });
            }
            guard.worst()
        };
        let above = spec();
        let below = GuardSpec { thresholds: Thresholds { side: Side::Below, ..spec().thresholds }, ..spec() };
        assert_eq!(worst(&above, &[]), None);
        assert_eq!(worst(&above, &[0.3, 0.7, 0.5]), Some(0.7));
        assert_eq!(worst(&below, &[0.5, 0.3, 0.7]), Some(0.3));
    }

    #[test]
    fn time_without_data_is_counted_from_its_beginning_and_ends_with_data() {
        let spec = spec();
        let none = Answer::NoData(NoData::Empty);
        assert_eq!(feed(&spec, &[v(0.0), none, none, none]).no_data_ms, 2_000);
        assert_eq!(feed(&spec, &[v(0.0), none, none, v(0.0)]).no_data_ms, 0);
        assert_eq!(feed(&spec, &[v(0.0), none, v(0.0), none]).no_data_ms, 0);
        // Silence after harm is harm only where harm was meant, and only until health was seen.
        let mild = GuardSpec { harm: false, ..spec.clone() };
        assert_eq!(feed(&mild, &[v(0.02), none]).level, Level::NoData);
        assert_eq!(feed(&spec, &[v(0.02), v(0.0), v(0.0), none]).level, Level::NoData);
        let never = Guard::default().view(&spec, RunTime::from_millis(7_000));
        assert_eq!((never.level, never.no_data_ms), (Level::NoData, 7_000), "silent since the start");
    }

    #[test]
    fn clean_needs_an_unbroken_stretch_below_clear() {
        let spec = spec();
        assert_eq!(feed(&spec, &[v(0.0); 11]).clean_ms, 10_000);
        assert_eq!(feed(&spec, &[v(0.0), v(0.0045), v(0.0)]).clean_ms, 0, "0.0045 is good but not clear");
        assert_eq!(feed(&spec, &[v(0.0), Answer::NoData(NoData::Empty), v(0.0), v(0.0)]).clean_ms, 1_000);
    }

    #[test]
    fn below_is_the_mirror_of_above() {
        let t = Thresholds {
            side: Side::Below,
            hold: None,
            back_off: Some(80.0),
            abort: Some(50.0),
            clear: 100.0,
        };
        assert_eq!(t.classify(90.0), Reading::Good(90.0));
        assert_eq!(t.classify(79.0), Reading::BackOff(79.0));
        assert_eq!(t.classify(10.0), Reading::Abort(10.0));
        assert!(t.is_clear(100.0) && !t.is_clear(99.0));
        assert!(t.is_worse(60.0, 79.0) && !t.is_worse(70.0, 79.0));
    }
}
