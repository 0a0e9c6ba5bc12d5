//! What a plan will do, known before anything is sent: the whole plan is run through without a network.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::stream::{EventSource, PlanCounts, PlanSettings, PlanStream};
use super::{Departure, DepartureKind};
use crate::limits::PLAN_SECONDS_MAX;
use crate::units::{NANOS_PER_SEC, Rate};

/// Slots per second in which the peak is looked for.
const SLOTS: usize = 10;

/// What a plan will do.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Forecast {
    /// It was not read to its end: the peak is of its densest stretches, the counts are estimates.
    pub sounded: bool,
    /// Counts, the planning identity among them.
    pub counts: PlanCounts,
    /// Due time of the last request, nanoseconds.
    pub last_due_ns: u64,
    /// Requests per second of run time.
    pub curve: Vec<u32>,
    /// Most requests in any window of one second.
    pub peak: Rate,
    /// Most connections opened in any second.
    pub opens_peak_per_s: u32,
    /// Most connections open at once.
    pub connections_peak: u64,
    /// Sessions with at least one request.
    pub sessions: u64,
    /// Routes with their requests.
    pub routes: Vec<(String, u64)>,
    /// Names of routes by number.
    pub route_names: Vec<String>,
}

impl Forecast {
    /// Mean rate over the plan's length.
    #[must_use]
    pub fn mean_rps(&self) -> f64 {
        let seconds = (self.last_due_ns as f64 / NANOS_PER_SEC as f64).max(1e-9);
        self.counts.due as f64 / seconds.max(1.0)
    }

    /// Share of the scaled requests that will be sent.
    #[must_use]
    pub fn coverage(&self) -> f64 {
        if self.counts.scaled == 0 { 0.0 } else { self.counts.due as f64 / self.counts.scaled as f64 }
    }
}

/// Length of the chosen part of a trace, from the part's start to its last event.
///
/// # Errors
/// When the trace cannot be read.
pub fn duration_ns(source: &mut impl EventSource, from_ns: u64, to_ns: u64) -> anyhow::Result<u64> {
    source.seek(from_ns)?;
    let mut last = from_ns;
    while let Some(event) = source.next_event()?.filter(|e| e.at.0 < to_ns) {
        last = last.max(event.at.0);
    }
    source.seek(from_ns)?;
    Ok((last - from_ns).max(1))
}

/// Counts departures in the order of their due times.
#[derive(Debug, Default)]
pub(super) struct Counter {
    forecast: Forecast,
    slots: VecDeque<(u64, u64)>,
    in_window: u64,
    /// Most requests in any window of one second so far.
    pub(super) peak: u64,
    opens: (u64, u32),
    open_now: BTreeSet<(super::Instance, u16)>,
    sessions: BTreeSet<super::Instance>,
    per_route: BTreeMap<u16, u64>,
}

impl Counter {
    /// Takes a departure; says so when it is a request.
    pub(super) fn add(&mut self, d: &Departure) -> anyhow::Result<bool> {
        let (second, f) = (d.due_ns / NANOS_PER_SEC, &mut self.forecast);
        anyhow::ensure!(
            second <= PLAN_SECONDS_MAX,
            "the plan is longer than {PLAN_SECONDS_MAX} seconds; use --to, --for or a higher --speed"
        );
        let request = match &d.kind {
            DepartureKind::Close => {
                self.open_now.remove(&(d.instance, d.connection));
                return Ok(false);
            }
            DepartureKind::Open { .. } => return Ok(false),
            DepartureKind::Request(request, _) => request,
        };
        // A connection counts from its first request: those without any are not opened.
        if self.open_now.insert((d.instance, d.connection)) {
            self.opens = if self.opens.0 == second { (second, self.opens.1 + 1) } else { (second, 1) };
            f.opens_peak_per_s = f.opens_peak_per_s.max(self.opens.1);
            f.connections_peak = f.connections_peak.max(self.open_now.len() as u64);
        }
        self.sessions.insert(d.instance);
        *self.per_route.entry(request.route).or_default() += 1;
        f.curve.resize(f.curve.len().max(second as usize + 1), 0);
        f.curve[second as usize] += 1;
        f.last_due_ns = d.due_ns;
        let slot = d.due_ns / (NANOS_PER_SEC / SLOTS as u64);
        match self.slots.back_mut() {
            Some((s, n)) if *s == slot => *n += 1,
            _ => self.slots.push_back((slot, 1)),
        }
        self.in_window += 1;
        while self.slots.front().is_some_and(|(s, _)| s + SLOTS as u64 <= slot) {
            self.in_window -= self.slots.pop_front().map_or(0, |(_, n)| n);
        }
        self.peak = self.peak.max(self.in_window);
        Ok(true)
    }

    /// What was counted; `names` are those of routes by number.
    pub(super) fn finish(self, counts: &PlanCounts, names: &[String]) -> Forecast {
        let name =
            |(n, count): (&u16, &u64)| (names.get(usize::from(*n)).cloned().unwrap_or_default(), *count);
        Forecast {
            counts: counts.clone(),
            peak: Rate::per_sec(self.peak),
            sessions: self.sessions.len() as u64,
            routes: self.per_route.iter().map(name).collect(),
            route_names: names.to_vec(),
            ..self.forecast
        }
    }
}

/// Runs the whole plan through; `duration_ns` is the length of the chosen part. Gives the source back, at the part's
/// start. `each` is called with every departure's due time of a request, in order.
///
/// # Errors
/// When the trace cannot be read or the plan is longer than a week.
pub fn forecast<S: EventSource>(
    mut source: S,
    settings: &PlanSettings,
    duration_ns: u64,
    mut each: impl FnMut(u64),
) -> anyhow::Result<(Forecast, S)> {
    source.seek(settings.from_ns)?;
    let mut stream = PlanStream::new(source, settings.clone(), duration_ns);
    let mut counter = Counter::default();
    while let Some(d) = stream.next_departure()? {
        if counter.add(&d)? {
            each(d.due_ns);
        }
    }
    let f = counter.finish(stream.counts(), stream.routes().names());
    let mut source = stream.into_source();
    source.seek(settings.from_ns)?;
    Ok((f, source))
}
