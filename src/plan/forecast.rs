//! What a plan will do, known before anything is sent: the whole plan is run through without a network.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::DepartureKind;
use super::alike::Alike;
use super::screen::RouteNames;
use super::screen::Screen;
use super::stream::{EventSource, PlanCounts, PlanSettings, PlanStream};
use crate::limits::PLAN_SECONDS_MAX;
use crate::units::{NANOS_PER_SEC, Rate};
use crate::wire::head::Version;

/// Slots per second in which the peak is looked for.
const SLOTS: usize = 10;

/// What a plan will do.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Forecast {
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
    Ok(survey(source, None, from_ns, to_ns)?.0)
}

/// Connections with at least one request that may be sent.
type Live = BTreeSet<(u64, u16)>;

/// Length, live connections and those of HTTP/2 of the chosen part of a trace.
fn survey(
    source: &mut impl EventSource,
    screen: Option<&Screen>,
    from_ns: u64,
    to_ns: u64,
) -> anyhow::Result<(u64, Live, Live)> {
    source.rewind()?;
    let (mut last, mut live, mut http2) = (from_ns, Live::new(), Live::new());
    let (mut alike, mut routes) = (Alike::default(), RouteNames::default());
    while let Some(event) = source.next_event()? {
        if event.at.0 >= to_ns {
            break;
        }
        last = last.max(event.at.0);
        let sent =
            event.request().is_some_and(|r| screen.is_some_and(|s| alike.planned(s, &mut routes, r).is_ok()));
        if sent && event.at.0 >= from_ns {
            live.insert((event.session.key, event.connection));
            if event.request().is_some_and(|r| r.shape.version == Version::Http2) {
                http2.insert((event.session.key, event.connection));
            }
        }
    }
    source.rewind()?;
    Ok(((last - from_ns).max(1), live, http2))
}

/// Runs the whole plan through. Gives the source back, at its start. `each` is called with every
/// departure's due time of a request, in order. Fills in `settings.live`.
///
/// # Errors
/// When the trace cannot be read or the plan is longer than a week.
pub fn forecast<S: EventSource>(
    mut source: S,
    settings: &mut PlanSettings,
    mut each: impl FnMut(u64),
) -> anyhow::Result<(Forecast, u64, S)> {
    let (duration, live, http2) =
        survey(&mut source, Some(&settings.screen), settings.from_ns, settings.to_ns)?;
    settings.live = Some(Arc::new(live));
    settings.http2 = Arc::new(http2);
    let mut stream = PlanStream::new(source, settings.clone(), duration);
    let mut f = Forecast::default();
    let mut slots: std::collections::VecDeque<(u64, u64)> = std::collections::VecDeque::new();
    let (mut in_window, mut peak) = (0u64, 0u64);
    let (mut opens, mut open_now) = ((0u64, 0u32), BTreeMap::new());
    let mut sessions = std::collections::BTreeSet::new();
    let mut per_route: BTreeMap<u16, u64> = BTreeMap::new();
    while let Some(d) = stream.next_departure()? {
        let second = d.due_ns / NANOS_PER_SEC;
        if second > PLAN_SECONDS_MAX {
            anyhow::bail!(
                "the plan is longer than {PLAN_SECONDS_MAX} seconds; use --to, --for or a higher --speed"
            );
        }
        match &d.kind {
            DepartureKind::Close => {
                open_now.remove(&(d.instance, d.connection));
            }
            DepartureKind::Open { .. } => {}
            DepartureKind::Request(request, _) => {
                // A connection counts from its first request: those without any are not opened.
                if open_now.insert((d.instance, d.connection), ()).is_none() {
                    opens = if opens.0 == second { (second, opens.1 + 1) } else { (second, 1) };
                    f.opens_peak_per_s = f.opens_peak_per_s.max(opens.1);
                    f.connections_peak = f.connections_peak.max(open_now.len() as u64);
                }
                sessions.insert(d.instance);
                *per_route.entry(request.route).or_default() += 1;
                f.curve.resize(f.curve.len().max(second as usize + 1), 0);
                f.curve[second as usize] += 1;
                f.last_due_ns = d.due_ns;
                let slot = d.due_ns / (NANOS_PER_SEC / SLOTS as u64);
                match slots.back_mut() {
                    Some((s, n)) if *s == slot => *n += 1,
                    _ => slots.push_back((slot, 1)),
                }
                in_window += 1;
                while slots.front().is_some_and(|(s, _)| s + SLOTS as u64 <= slot) {
                    in_window -= slots.pop_front().map_or(0, |(_, n)| n);
                }
                peak = peak.max(in_window);
                each(d.due_ns);
            }
        }
    }
    f.counts = stream.counts().clone();
    f.peak = Rate::per_sec(peak);
    f.sessions = sessions.len() as u64;
    let names = stream.routes().names();
    let name = |(n, count): (&u16, &u64)| (names.get(usize::from(*n)).cloned().unwrap_or_default(), *count);
    f.routes = per_route.iter().map(name).collect();
    f.route_names = names.to_vec();
    let mut source = stream.into_source();
    source.rewind()?;
    Ok((f, duration, source))
}
