//! What a trace will ask of its target, known before the first request: read through, or sounded where it is long.
//!
//! A trace of a day is not read through before each run: its outline (see [`crate::trace::outline`]) says how dense it
//! is, and its densest stretches are planned exactly. What was not read is marked as an estimate, never as known; damage
//! there ends the run when it is reached.

use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::edge::clock::Clock;
use crate::edge::intake::trace_file::{self, TraceFile};
use crate::limits::{READ_THROUGH_REQUESTS_MAX, SOUNDING_TIME};
use crate::plan::forecast::{self, Forecast};
use crate::plan::sounding::sound;
use crate::plan::stream::{EventSource, PlanSettings};
use crate::report::dry_run::BucketTrial;
use crate::trace::outline::Outline;
use crate::trace::reader::End;
use crate::trace::{Spreading, TraceEvent};
use crate::units::{NANOS_PER_SEC, Rate, WallTime};

/// A trace file as a source of events.
pub struct FileSource {
    path: PathBuf,
    reader: TraceFile,
    outline: Option<Outline>,
    /// It was read through, and whoever runs it has been told where it ends early.
    read_through: bool,
}

impl FileSource {
    /// Opens a trace.
    ///
    /// # Errors
    /// When it is not a trace.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let reader = trace_file::open(path)?;
        let outline = trace_file::outline(path)?;
        Ok(Self { path: path.to_owned(), reader, outline, read_through: false })
    }

    /// Why the trace is not complete enough, if it is not. What cannot be known is not enough.
    #[must_use]
    pub fn completeness_objection(&self, min: f64) -> Option<String> {
        let Some(outline) = &self.outline else {
            return Some(format!(
                "[trace] min_completeness = {min}, but the trace has no whole end section (cut off, or read from a pipe): nobody \
                 knows how complete it is"
            ));
        };
        let (share, _) = outline.ledger.completeness(outline.requests);
        (share < min).then(|| {
            format!(
                "the trace holds {:.2} % of the requests that its capture saw; the policy's [trace] min_completeness wants {:.2} % \
                 (`replay trace info` says what is missing)",
                share * 100.0,
                min * 100.0
            )
        })
    }

    /// Whole days from the recording to `now`, by the calendar of UTC.
    #[must_use]
    pub fn days_until(&self, now: WallTime) -> i64 {
        let day = |t: WallTime| (t.0 / (86_400 * NANOS_PER_SEC)) as i64;
        day(now) - day(self.reader.meta().started_at)
    }

    /// How coarse stamps were spread, and with which seed.
    #[must_use]
    pub fn spread(&self) -> Option<(Spreading, u64)> {
        self.reader.meta().spread()
    }
}

impl EventSource for FileSource {
    fn next_event(&mut self) -> anyhow::Result<Option<TraceEvent>> {
        let event =
            self.reader.next_event().with_context(|| format!("cannot read {}", self.path.display()))?;
        // An end that nobody was told of is not the end of the plan.
        if event.is_none()
            && !self.read_through
            && let Some(warning) = self.reader.end().and_then(End::warning)
        {
            anyhow::bail!("{}: {warning}", self.path.display());
        }
        Ok(event)
    }

    fn rewind(&mut self) -> anyhow::Result<()> {
        self.reader = trace_file::open(&self.path)?;
        Ok(())
    }

    fn seek(&mut self, at_ns: u64) -> anyhow::Result<()> {
        self.rewind()?;
        if let Some(outline) = self.outline.as_ref().filter(|_| at_ns > 0) {
            outline
                .seek(&mut self.reader, at_ns)
                .with_context(|| format!("cannot read {}", self.path.display()))?;
        }
        Ok(())
    }
}

/// What is known of a plan before it begins.
pub struct Foresight {
    /// The trace, at the start of the chosen part.
    pub source: FileSource,
    /// Length of the chosen part, nanoseconds.
    pub duration_ns: u64,
    /// Forecast.
    pub forecast: Forecast,
    /// Where the trace is cut off or damaged.
    pub warning: Option<String>,
    /// Due times of the stretches that were sounded; empty where all was read.
    stretches: Vec<u64>,
}

impl Foresight {
    /// Looks at the trace as far as it must.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(mut source: FileSource, plan: &PlanSettings) -> anyhow::Result<Self> {
        let long = |o: &&Outline| o.requests_between(plan.from_ns, plan.to_ns) > READ_THROUGH_REQUESTS_MAX;
        if let Some(outline) = source.outline.as_ref().filter(long).cloned() {
            let (clock, mut stretches) = (Clock::start(), Vec::new());
            let more = || clock.now().as_secs_f64() < SOUNDING_TIME.as_secs_f64();
            let each = |due: u64| stretches.push(due);
            let (sounded, back) = sound(source, plan, &outline, more, each)?;
            source = back;
            if let Some(forecast) = sounded {
                let duration_ns = outline.last_ns().min(plan.to_ns).saturating_sub(plan.from_ns).max(1);
                return Ok(Self { source, duration_ns, forecast, warning: None, stretches });
            }
        }
        Self::whole(source, plan)
    }

    /// Reads the trace through, however long it is.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn whole(mut source: FileSource, plan: &PlanSettings) -> anyhow::Result<Self> {
        let (warning, last) = read_through(&mut source, plan.from_ns, plan.to_ns)?;
        let Some(last) = last else {
            // Not planned: a part without an event has no length, and could be repeated for ever.
            let (duration_ns, forecast) = (1, Forecast::default());
            return Ok(Self { source, duration_ns, forecast, warning, stretches: Vec::new() });
        };
        let duration_ns = (last - plan.from_ns).max(1);
        let (forecast, source) = forecast::forecast(source, plan, duration_ns, |_| ())?;
        Ok(Self { source, duration_ns, forecast, warning, stretches: Vec::new() })
    }

    /// What the bucket would shed at `ceiling`, of all or of the stretches that were sounded.
    ///
    /// # Errors
    /// When the trace cannot be read.
    pub fn trial(mut self, plan: &PlanSettings, ceiling: Rate) -> anyhow::Result<(Self, BucketTrial)> {
        let mut trial = BucketTrial::new(ceiling);
        if self.forecast.sounded {
            let mut all = std::mem::take(&mut self.stretches);
            all.sort_unstable();
            all.into_iter().for_each(|due| trial.due(due));
            return Ok((self, trial));
        }
        let (_, source) = forecast::forecast(self.source, plan, self.duration_ns, |due| trial.due(due))?;
        self.source = source;
        Ok((self, trial))
    }
}

/// Reads a trace to its end once: a damaged one says so before anything is sent. Also the time of the last event of the
/// chosen part, where it has any.
fn read_through(
    source: &mut FileSource,
    from_ns: u64,
    to_ns: u64,
) -> anyhow::Result<(Option<String>, Option<u64>)> {
    source.rewind()?;
    source.read_through = true;
    let mut last = None;
    while let Some(event) = source.next_event()? {
        if (from_ns..to_ns).contains(&event.at.0) {
            last = last.max(Some(event.at.0));
        }
    }
    let warning = source.reader.end().and_then(End::warning);
    if warning.is_some() {
        // What stands behind the damage was declared lost: no index leads there.
        source.outline = None;
    }
    source.seek(from_ns)?;
    Ok((warning, last))
}
