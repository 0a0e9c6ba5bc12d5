//! The story of a run in plain sentences, out of its journal: what happened, when, on which evidence.
//!
//! For the morning after: every sentence names a time, and where a guard was behind it its value, its limit and
//! the rate at that moment. It refuses to guess at causes: what was caused by the run and what was coincident
//! is the governor's own verdict, made by what the guard did after the cut.

use super::cause::cause_words;
use crate::govern::guard::{GuardSpec, Level, Origin, View};
use crate::govern::inputs::{Inputs, Order};
use crate::govern::reading::Reading;
use crate::govern::record::{Line, redecide};
use crate::govern::settings::Settings;
use crate::govern::state::{Attribution, Phase, State, Terminal};
use crate::govern::step::Effect;
use crate::units::{RunTime, WallTime, show_duration};

/// A journal taken apart.
#[derive(Debug)]
pub struct Journal<'a> {
    /// Run id.
    pub run: &'a str,
    /// Host and port.
    pub target: &'a str,
    /// Wall-clock time of the start.
    pub at: WallTime,
    /// Settings, with the limits that baselines gave.
    pub settings: Settings,
    /// Inputs, state after and effects, tick by tick.
    pub ticks: Vec<(&'a Inputs, &'a State, &'a [Effect])>,
    /// What was noted, and when.
    pub noted: Vec<(RunTime, &'a str)>,
    /// It ends with its last line.
    pub whole: bool,
}

impl<'a> Journal<'a> {
    /// Takes a journal apart; `None` when it does not begin like one.
    #[must_use]
    pub fn of(lines: &'a [Line]) -> Option<Self> {
        let Some(Line::Start { run, target, at, settings }) = lines.first() else { return None };
        let mut settings = settings.clone();
        let (mut ticks, mut noted) = (Vec::new(), Vec::new());
        for line in lines {
            match line {
                Line::Baseline { guard, thresholds, .. } => {
                    if let Some(spec) = settings.guards.get_mut(*guard) {
                        spec.thresholds = *thresholds;
                    }
                }
                Line::Tick { inputs, state, effects, .. } => ticks.push((inputs, state, effects.as_slice())),
                Line::Noted { at, what } => noted.push((*at, what.as_str())),
                Line::Start { .. } | Line::Shifted { .. } | Line::End => {}
            }
        }
        let whole = matches!(lines.last(), Some(Line::End));
        Some(Self { run, target, at: *at, settings, ticks, noted, whole })
    }

    /// How it ended, if it did.
    #[must_use]
    pub fn terminal(&self) -> Option<Terminal> {
        self.ticks.last().and_then(|(_, s, _)| s.terminal.filter(|_| s.phase == Phase::Done))
    }
}

fn guard_words(spec: &GuardSpec, view: Option<&View>) -> String {
    let t = &spec.thresholds;
    let limits: Vec<String> = [("hold", t.hold), ("back off", t.back_off), ("abort", t.abort)]
        .into_iter()
        .filter_map(|(name, v)| v.map(|v| format!("{name} {}", number(v, &spec.unit))))
        .collect();
    let value = match view.map(|v| v.reading) {
        Some(Reading::NoData(why)) => format!("no data: {why:?}"),
        Some(Reading::Fault(why)) => format!("wrong: {why:?}"),
        Some(Reading::Neutral) => "too few samples".to_owned(),
        Some(r) => r.value().map_or_else(|| "no reading".to_owned(), |v| number(v, &spec.unit)),
        None => "no reading".to_owned(),
    };
    format!("{:?} at {value} (limits: {})", spec.name, limits.join(", "))
}

/// A value with its unit, short.
fn number(v: f64, unit: &str) -> String {
    match unit {
        _ if v.abs() >= 1e300 => "any".to_owned(),
        "ratio" => format!("{:.2} %", v * 100.0),
        "seconds" if v.abs() < 1.0 => format!("{:.0} ms", v * 1e3),
        "seconds" => format!("{v:.2} s"),
        "" | "value" => format!("{v:.3}"),
        _ => format!("{v:.1} {unit}"),
    }
}

struct Story<'a> {
    journal: &'a Journal<'a>,
    out: Vec<String>,
    levels: Vec<Level>,
    order: Order,
    invisible: bool,
}

/// The story, one sentence each.
#[must_use]
pub fn story(journal: &Journal<'_>) -> Vec<String> {
    let guards = journal.settings.guards.len();
    let mut story = Story {
        journal,
        out: Vec::new(),
        levels: vec![Level::Good; guards],
        order: Order::Go,
        invisible: true,
    };
    story.opening();
    let mut noted = journal.noted.iter().peekable();
    for (inputs, state, effects) in &journal.ticks {
        while let Some((at, what)) = noted.next_if(|(at, _)| *at <= inputs.now) {
            story.say(*at, &format!("Noted: {what}."));
        }
        story.tick(inputs, state, effects);
    }
    story.ending();
    story.out
}

impl Story<'_> {
    fn say(&mut self, at: RunTime, words: &str) {
        let wall = WallTime(self.journal.at.0.saturating_add(at.0)).rfc3339();
        let clock = wall.get(11..19).unwrap_or("").to_owned();
        self.out.push(format!("{clock}  {:>9.1} s  {words}", at.as_secs_f64()));
    }

    fn opening(&mut self) {
        let (j, s) = (self.journal, &self.journal.settings);
        let asked = s.guards.iter().filter(|g| g.origin != Origin::Local).count();
        self.out.push(format!(
            "Run {} against {} began {} (all times UTC). A share of 100 % stood for {}; {} guards watched, {asked} of them asked somebody else, the slowest {} late by construction.",
            j.run,
            j.target,
            j.at.rfc3339(),
            s.target,
            s.guards.len(),
            show_duration(s.lag)
        ));
        if let Some(end) = s.window_end {
            let end = WallTime(j.at.0.saturating_add(end.0)).rfc3339();
            self.out.push(format!("Nothing could be sent after {end}."));
        }
        if let Some(total) = s.organic.and_then(|o| o.hold_total) {
            self.out.push(format!("Users and this run together were to stay at {total}."));
        }
    }

    fn tick(&mut self, i: &Inputs, state: &State, effects: &[Effect]) {
        self.levels_changed(i, state.phase);
        if i.visible == Some(true) && self.invisible {
            self.invisible = false;
            self.say(i.now, "The target's own counter rose with what was sent: the guards see this run.");
        }
        if i.order != self.order {
            self.order = i.order;
            let words = match i.order {
                Order::Go => "A person let the run go on.",
                Order::Freeze => "A person froze the rate.",
                Order::Pause => "A person paused the run.",
            };
            self.say(i.now, words);
        }
        for effect in effects {
            if let Some(words) = self.effect(i, state, effect) {
                self.say(i.now, &words);
            }
        }
    }

    /// Guards that ask somebody else and change their mind while something is sent.
    fn levels_changed(&mut self, i: &Inputs, phase: Phase) {
        for (n, view) in i.guards.iter().enumerate() {
            let (Some(old), Some(spec)) = (self.levels.get(n).copied(), self.journal.settings.guards.get(n))
            else {
                continue;
            };
            let bad = |l: Level| !matches!(l, Level::Good | Level::Neutral | Level::Suspect);
            let loud = phase.is_sending() && spec.origin != Origin::Local && bad(view.level) != bad(old);
            if view.level != old {
                self.levels[n] = view.level;
            }
            if loud {
                let words = guard_words(spec, Some(view));
                let now = if bad(view.level) { "went bad" } else { "was good again" };
                self.say(i.now, &format!("Guard {words} {now}."));
            }
        }
    }

    fn effect(&self, i: &Inputs, state: &State, effect: &Effect) -> Option<String> {
        let s = &self.journal.settings;
        let rate = |share: crate::units::Share| {
            format!("{:.1} % ({})", share.as_f64() * 100.0, s.target.times(share))
        };
        let name = |g: usize| s.guards.get(g).map_or("a guard", |g| g.name.as_str());
        Some(match effect {
            Effect::Entered { from, to } => self.entered(i, state, *from, *to)?,
            Effect::Cut { from, to, guard } => {
                let why = guard.and_then(|g| s.guards.get(g).map(|spec| guard_words(spec, i.guards.get(g))));
                let why = why
                    .unwrap_or_else(|| "the hold lasted too long or the target asked for quiet".to_owned());
                let broke = state
                    .broken
                    .map_or_else(String::new, |b| format!("; at most {b} had been sent when it broke"));
                format!(
                    "CUT from {} to {} because of {why}; {} requests had gone out in the last second{broke}.",
                    rate(*from),
                    rate(*to),
                    i.sent_1s
                )
            }
            Effect::Grown { from, to } => {
                format!("Grew from {} to {}: every guard was good for a whole step.", rate(*from), rate(*to))
            }
            Effect::Attributed { guard, verdict: Attribution::CausedByThisRun } => {
                format!("{:?} recovered within its lag after the cut: caused by this run.", name(*guard))
            }
            Effect::Attributed { guard, .. } => format!(
                "{:?} did not recover within its lag after the cut: coincident, or not this run alone.",
                name(*guard)
            ),
            Effect::Room { from, to } if from.ppm().abs_diff(to.ppm()) < 50_000 => return None,
            Effect::Room { from, to } => {
                let users = i.organic.map_or_else(|| "unknown".to_owned(), |o| o.to_string());
                format!("Users at {users}: room for {} of the plan, {} before.", rate(*to), rate(*from))
            }
            Effect::Calm => "The guards were back where they had been before the load.".to_owned(),
            Effect::StartLeadIn
            | Effect::StartMeasure
            | Effect::StopSending
            | Effect::Latch
            | Effect::Finished(_) => {
                return None;
            }
        })
    }

    fn entered(&self, i: &Inputs, state: &State, from: Phase, to: Phase) -> Option<String> {
        let s = &self.journal.settings;
        let refs: Vec<&GuardSpec> = s.guards.iter().collect();
        let holding = || {
            let bad = i.guards.iter().position(|v| matches!(v.level, Level::Hold | Level::NoData));
            match bad.and_then(|g| Some(guard_words(s.guards.get(g)?, i.guards.get(g)))) {
                Some(words) => words,
                None if i.saturated => "our own sending was late".to_owned(),
                None if i.order == Order::Freeze => "a person's order".to_owned(),
                None => "a slow worker or a clock".to_owned(),
            }
        };
        Some(match to {
            Phase::Baseline => "Every guard was good or had too few samples: the way was free.".to_owned(),
            Phase::Probe => format!("The probe began at {}.", s.target.times(state.allowed())),
            Phase::Ramp if from == Phase::Probe => "The probe was proved; the climb began.".to_owned(),
            Phase::Measure if from != Phase::Recover && !matches!(from, Phase::Hold(_)) => {
                format!("The trace itself began, at {}.", s.target.times(state.allowed()))
            }
            Phase::Hold(_) => format!("Held the rate: {}.", holding()),
            Phase::Recover => format!(
                "Healthy again; recovery began at {}, to at most {}.",
                s.target.times(state.allowed()),
                s.target.times(state.share_cap)
            ),
            Phase::Paused => "Paused: nothing was sent.".to_owned(),
            Phase::Draining => "The last request had gone out; answers were awaited.".to_owned(),
            Phase::Aftercare => "All answers were in; the guards were watched.".to_owned(),
            Phase::Aborting => {
                let cause = state.terminal.and_then(Terminal::cause);
                let words = cause.map_or_else(|| "unknown".to_owned(), |c| cause_words(c, &refs));
                format!("STOPPED FOR GOOD: {words}. {} requests were in flight.", i.in_flight)
            }
            Phase::Ramp | Phase::Measure => format!("Went on ({}).", to.name()),
            Phase::Preflight | Phase::BackOff | Phase::Done => return None,
        })
    }

    fn ending(&mut self) {
        let j = self.journal;
        let Some((last, state, _)) = j.ticks.last() else {
            self.out.push("The journal has no tick: the run was over before it looked once.".to_owned());
            return;
        };
        let open = state.experiments.iter().filter(|e| e.verdict == Attribution::Open).count();
        if open > 0 {
            self.out.push(format!("{open} cut(s) were still under observation when the run ended."));
        }
        if let Some((calm, ended)) = state.calm_at.zip(state.load_ended) {
            let after = show_duration(calm.since(ended));
            self.out.push(format!("Back to what it was before the load {after} after the last request."));
        } else if state.load_ended.is_some() && j.settings.aftercare > std::time::Duration::ZERO {
            self.out.push("The guards were NOT back where they had been when the run ended.".to_owned());
        }
        match j.terminal() {
            Some(t) => self.out.push(format!(
                "It ended as {} (exit code {}) after {:.1} s, with {} requests sent and {} cuts.",
                t.name(),
                t.exit_code(),
                last.now.as_secs_f64(),
                last.sent,
                state.cuts
            )),
            None => self.out.push(format!(
                "THE JOURNAL BREAKS OFF at {:.1} s in {}: the program was killed or crashed; it counts as aborted.",
                last.now.as_secs_f64(),
                state.phase.name()
            )),
        }
        let again = redecide(&j.settings, j.ticks.iter().map(|(i, s, _)| (*i, *s)));
        self.out.push(match again {
            None => format!("Decided again from its inputs, all {} ticks come out the same.", j.ticks.len()),
            Some(d) => format!(
                "Decided again from its inputs, tick {} ({:.1} s) comes out as {} instead of {}: another version of the program wrote it.",
                d.tick,
                d.at.as_secs_f64(),
                d.phases.1,
                d.phases.0
            ),
        });
    }
}
