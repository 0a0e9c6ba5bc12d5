//! `replay capture --live IFACE`: until it is stopped, or for a time.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;

use super::lasting::{Lasting, Teller};
use super::sink::Sink;
use super::{MADE_BY, asking};
use crate::capture::order::Until;
use crate::capture::recorder::Recorder;
use crate::capture::redact::Redactor;
use crate::capture::vantage::Vantage;
use crate::edge::clock::{Clock, wall};
use crate::edge::host::privileges;
use crate::edge::intake::live::{Live, Wanted};
use crate::limits::{LIVE_DRAIN_MAX, LIVE_FRAMES_PER_LOOK, LIVE_LATE, LIVE_LOOK, LIVE_PLACE_WAIT_MAX};
use crate::trace::{Source, TraceMeta};
use crate::units::WallTime;

/// Time between two readings of the drops, and between two writings of what is certain.
const SECOND: Duration = Duration::from_secs(1);

/// A live capture under way.
struct Capturing {
    live: Live,
    frames: Recorder,
    vantage: Vantage,
    sink: Sink,
    clock: Clock,
    seen: u64,
}

/// Captures until a signal comes, the time is over, or the interface goes away.
///
/// # Errors
/// When the interface cannot be opened or goes away, or a trace cannot be written. What was captured until then is written.
pub(super) fn run(
    wanted: &Wanted,
    lasting: &Lasting,
    output: &Path,
    frames: Recorder,
    behind_proxy: Option<bool>,
    redactor: &Redactor,
    teller: &mut Teller<'_>,
) -> anyhow::Result<()> {
    let live = Live::open(wanted)?;
    privileges::drop_all().context("cannot give up privileges")?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let meta = TraceMeta {
        started_at: WallTime::default(),
        sources: vec![Source { name: wanted.interface.clone(), format: "live".to_owned() }],
        redaction: redactor.words(),
        resolution_ns: 1_000,
        spread_seed: None,
        made_by: MADE_BY.to_owned(),
    };
    let files = lasting.files(output)?;
    files.try_place().with_context(|| {
        format!(
            "{} cannot be written once privileges are given up (a folder of the user who captures is needed)",
            output.display()
        )
    })?;
    let sink = Sink::new(meta, files);
    let mut vantage = Vantage::new(behind_proxy, asking::guessed, redactor.clone());
    vantage.begin(&wanted.interface, behind_proxy);
    let mut capturing = Capturing { live, frames, vantage, sink, clock: Clock::start(), seen: 0 };
    teller.begin(&format!("capturing on {}", wanted.interface));
    let end = capturing.until(&stop, lasting.lasts, teller);
    capturing.finish(teller)?;
    end
}

impl Capturing {
    fn until(
        &mut self,
        stop: &AtomicBool,
        lasts: Option<Duration>,
        teller: &mut Teller<'_>,
    ) -> anyhow::Result<()> {
        let start = self.clock.now();
        let (mut looked, mut placed) = (start, start);
        while !stop.load(Ordering::Relaxed) {
            let came = self.live.next(&mut self.frames)?.is_some();
            self.seen += u64::from(came);
            if came && !self.seen.is_multiple_of(LIVE_FRAMES_PER_LOOK) {
                continue;
            }
            let now = self.clock.now();
            if lasts.is_some_and(|d| now >= start.plus(d)) {
                break;
            }
            if now >= looked.plus(LIVE_LOOK) {
                looked = now;
                self.take();
            }
            if now >= placed.plus(SECOND) {
                placed = now;
                self.place(teller)?;
            }
        }
        Ok(())
    }

    /// Writes what is certain: everything before the oldest request that has no answer yet.
    fn place(&mut self, teller: &mut Teller<'_>) -> anyhow::Result<()> {
        let now = wall();
        let before = |d: Duration| WallTime(now.0.saturating_sub(d.as_nanos() as u64));
        self.live.count_drops(self.frames.ledger_mut())?;
        self.frames.tick(before(LIVE_LATE));
        self.take();
        self.sink.ledger.merge(&self.frames.take_ledger());
        let settled = before(LIVE_LATE);
        let certain = self.frames.oldest().map_or(settled, |at| at.min(settled));
        let certain = certain.max(before(LIVE_PLACE_WAIT_MAX));
        self.sink.take(self.vantage.take_before(certain));
        self.sink.drain(Until::Before(certain))?;
        teller.finished(&mut self.sink)?;
        teller.tick(&self.sink, || format!("{} frames", self.seen));
        Ok(())
    }

    fn take(&mut self) {
        self.sink.take_seen(0, self.frames.take_events(), false, &mut self.vantage);
    }

    /// Takes what still lies in the ring, and ends.
    fn finish(mut self, teller: &mut Teller<'_>) -> anyhow::Result<()> {
        // What came until now, not what keeps coming: until a later frame, or until none has come for as long as the kernel may
        // keep one. What a slow reader leaves in the ring behind that time is lost, and bounded by it.
        let (stopped, end) = (wall(), self.clock.now().plus(LIVE_DRAIN_MAX));
        let mut silent = self.clock.now();
        while self.clock.now() < end && self.clock.now() < silent.plus(LIVE_LOOK) {
            match self.live.next(&mut self.frames) {
                Ok(Some(at)) if at > stopped => break,
                Ok(Some(_)) => silent = self.clock.now(),
                Ok(None) => {}
                Err(_) => break,
            }
        }
        let drops = self.live.count_drops(self.frames.ledger_mut());
        let (events, mut ledger) = self.frames.finish();
        self.sink.take_seen(0, events, true, &mut self.vantage);
        let (events, late) = self.vantage.finish();
        self.sink.take(events);
        ledger.merge(&late);
        self.sink.finish(&ledger)?;
        teller.finished(&mut self.sink)?;
        teller.end(&self.sink)?;
        drops
    }
}
