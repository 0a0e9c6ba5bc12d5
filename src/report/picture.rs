//! A run as a picture: rates, shares and guards over one time axis, phases as bands, cuts as marks.

use super::explain::Journal;
use super::svg::{Band, Chart, Colour, Limit, Line, Mark, Panel, Series};
use crate::govern::guard::{GuardSpec, Origin, View};
use crate::govern::inputs::Inputs;
use crate::govern::reading::Reading;
use crate::govern::settings::Settings;
use crate::govern::state::{Phase, State};
use crate::govern::step::Effect;
use crate::units::RunTime;

/// Most guards in one picture; those with the most to say come first.
const GUARDS_MAX: usize = 5;

/// One tick as the picture needs it.
#[derive(Debug, Clone, Copy)]
pub struct Moment<'a> {
    /// Inputs.
    pub inputs: &'a Inputs,
    /// State after.
    pub state: &'a State,
    /// Effects.
    pub effects: &'a [Effect],
}

/// The picture of a journal.
#[must_use]
pub fn of_run(j: &Journal<'_>) -> Chart {
    let moments: Vec<Moment<'_>> =
        j.ticks.iter().map(|(inputs, state, effects)| Moment { inputs, state, effects }).collect();
    let end = j.terminal().map_or("breaks off", |t| t.name());
    of_moments(
        &format!("Run {} against {}", j.run, j.target),
        &format!("{} · {end}", j.at.rfc3339()),
        &j.settings,
        &moments,
    )
}

/// The picture of any sequence of ticks, recorded or simulated.
#[must_use]
pub fn of_moments(title: &str, subtitle: &str, s: &Settings, moments: &[Moment<'_>]) -> Chart {
    let duration_s = moments.last().map_or(0.0, |m| m.inputs.now.as_secs_f64());
    let mut panels = vec![rates(s, moments), shares(moments)];
    panels.extend(guards(s, moments));
    Chart {
        title: title.to_owned(),
        subtitle: subtitle.to_owned(),
        duration_s,
        panels,
        bands: bands(moments),
        marks: marks(moments),
    }
}

fn points(moments: &[Moment<'_>], value: impl Fn(&Moment<'_>) -> Option<f64>) -> Vec<(f64, Option<f64>)> {
    moments.iter().map(|m| (m.inputs.now.as_secs_f64(), value(m))).collect()
}

fn series(name: &str, colour: Colour, style: Line, points: Vec<(f64, Option<f64>)>) -> Series {
    Series { name: name.to_owned(), colour, style, points }
}

fn rates(s: &Settings, moments: &[Moment<'_>]) -> Panel {
    let ceiling = points(moments, |m| Some(m.state.grant(s, m.inputs.now).ceiling.rps()));
    let sent = points(moments, |m| Some(m.inputs.sent_1s as f64));
    let mut all = vec![
        series("ceiling", Colour::Grey, Line::Step, ceiling),
        series("sent", Colour::Blue, Line::Solid, sent),
    ];
    if moments.iter().any(|m| m.inputs.organic.is_some()) {
        let users = points(moments, |m| m.inputs.organic.map(crate::units::Rate::rps));
        let total = points(moments, |m| m.inputs.organic.map(|o| o.rps() + m.inputs.sent_1s as f64));
        all.push(series("users", Colour::Green, Line::Solid, users));
        all.push(series("users and ours", Colour::Purple, Line::Solid, total));
    }
    let total = s.organic.and_then(|o| o.hold_total);
    let limits =
        total.map(|t| Limit { name: "hold_total".to_owned(), value: t.rps(), colour: Colour::Purple });
    Panel {
        title: "Requests a second".to_owned(),
        unit: "/s".to_owned(),
        series: all,
        limits: limits.into_iter().collect(),
    }
}

fn shares(moments: &[Moment<'_>]) -> Panel {
    let share =
        points(moments, |m| Some(if m.state.phase.is_sending() { m.state.allowed().as_f64() } else { 0.0 }));
    let cap = points(moments, |m| Some(m.state.share_cap.as_f64()));
    let mut all = vec![
        series("share of the plan", Colour::Blue, Line::Step, share),
        series("cap (0.8 × what broke)", Colour::Orange, Line::Dashed, cap),
    ];
    if moments.iter().any(|m| m.inputs.organic.is_some()) {
        let room = points(moments, |m| Some(m.state.organic_cap.as_f64()));
        all.push(series("room beside users", Colour::Green, Line::Dashed, room));
    }
    Panel { title: "Share".to_owned(), unit: "ratio".to_owned(), series: all, limits: Vec::new() }
}

/// How much a guard has to say: breaches first, then what is asked of others, then whether it has values.
fn weight(n: usize, spec: &GuardSpec, moments: &[Moment<'_>]) -> usize {
    let view = |m: &Moment<'_>| m.inputs.guards.get(n).map(|v: &View| v.reading);
    let bad = moments
        .iter()
        .filter(|m| {
            matches!(
                view(m),
                Some(Reading::Hold(_) | Reading::BackOff(_) | Reading::Abort(_) | Reading::NoData(_))
            )
        })
        .count();
    let asked = usize::from(spec.origin != Origin::Local) * 100;
    let values =
        usize::from(moments.iter().any(|m| view(m).and_then(Reading::value).is_some_and(|v| v > 0.0)));
    bad.min(1) * 1_000 + bad + asked + values * 50
}

fn guards(s: &Settings, moments: &[Moment<'_>]) -> Vec<Panel> {
    let mut order: Vec<(usize, &GuardSpec)> = s.guards.iter().enumerate().collect();
    let limited = |spec: &GuardSpec| {
        [spec.thresholds.hold, spec.thresholds.back_off, spec.thresholds.abort].iter().any(Option::is_some)
    };
    order.retain(|(n, spec)| limited(spec) && weight(*n, spec, moments) > 0);
    order.sort_by_key(|(n, spec)| std::cmp::Reverse(weight(*n, spec, moments)));
    order.into_iter().take(GUARDS_MAX).map(|(n, spec)| guard(n, spec, moments)).collect()
}

fn guard(n: usize, spec: &GuardSpec, moments: &[Moment<'_>]) -> Panel {
    let value = points(moments, |m| m.inputs.guards.get(n).and_then(|v| v.reading.value()));
    let t = spec.thresholds;
    let limits = [
        ("hold", t.hold, Colour::Orange),
        ("back off", t.back_off, Colour::Red),
        ("abort", t.abort, Colour::Purple),
    ];
    let limits = limits.into_iter().filter_map(|(name, value, colour)| {
        value.filter(|v| v.abs() < 1e300).map(|value| Limit { name: name.to_owned(), value, colour })
    });
    let unit = match spec.unit.as_str() {
        "seconds" => "s",
        other => other,
    };
    Panel {
        title: spec.name.clone(),
        unit: unit.to_owned(),
        series: vec![series("value", Colour::Blue, Line::Solid, value)],
        limits: limits.collect(),
    }
}

fn bands(moments: &[Moment<'_>]) -> Vec<Band> {
    let mut out: Vec<Band> = Vec::new();
    let (mut from, mut phase) = (RunTime::START, Phase::Preflight);
    for m in moments {
        if m.state.phase.name() != phase.name() {
            out.push(Band {
                from_s: from.as_secs_f64(),
                to_s: m.inputs.now.as_secs_f64(),
                name: phase.name().to_owned(),
            });
            (from, phase) = (m.inputs.now, m.state.phase);
        }
    }
    if let Some(last) = moments.last().filter(|_| phase != Phase::Done) {
        out.push(Band {
            from_s: from.as_secs_f64(),
            to_s: last.inputs.now.as_secs_f64(),
            name: phase.name().to_owned(),
        });
    }
    out
}

fn marks(moments: &[Moment<'_>]) -> Vec<Mark> {
    let mut out = Vec::new();
    for m in moments {
        for effect in m.effects {
            let label = match effect {
                Effect::Cut { to, .. } => format!("cut to {:.0} %", to.as_f64() * 100.0),
                Effect::Entered { to: Phase::Aborting, .. } => "abort".to_owned(),
                Effect::Entered { to: Phase::Paused, .. } => "paused".to_owned(),
                _ => continue,
            };
            out.push(Mark { at_s: m.inputs.now.as_secs_f64(), label });
        }
    }
    out
}
