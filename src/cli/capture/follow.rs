//! `replay capture --follow LOG`: lines as they are written, into one trace after the other, through restarts.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;

use super::asking;
use super::found::{FoundLog, log_source};
use super::lasting::{Lasting, Teller};
use super::sink::{Files, Sink};
use super::{CaptureOptions, MADE_BY};
use crate::capture::access_log::row::{Field, LineError};
use crate::capture::access_log::{LogRecorder, LogSource};
use crate::capture::order::Until;
use crate::capture::redact::Redactor;
use crate::edge::clock::{Clock, wait, wall};
use crate::edge::intake::follow::{Came, Followed};
use crate::edge::intake::open::{Input, Kind, open};
use crate::edge::intake::position_file::PositionFile;
use crate::edge::intake::rotation::Rotation;
use crate::limits::{FOLLOW_BAD_LINES_SHOWN, FOLLOW_LINES_AT_ONCE, FOLLOW_LOOK};
use crate::trace::{Item, Source, TraceMeta};
use crate::units::{NANOS_PER_SEC, WallTime};

/// Logs that are followed.
struct Following {
    logs: Vec<(Followed, usize)>,
    recorder: LogRecorder,
    sink: Sink,
    rotation: Rotation,
    positions: PositionFile,
    bad: u64,
}

/// Follows `logs` until a signal comes or the time is over.
///
/// # Errors
/// When a log cannot be read, its format cannot be told, or a trace cannot be written.
pub(super) fn run(
    paths: &[PathBuf],
    lasting: &Lasting,
    output: &Path,
    options: &CaptureOptions,
    own: &[(Field, String)],
    redactor: &Redactor,
    teller: &mut Teller<'_>,
) -> anyhow::Result<()> {
    let Files::Many(rotation) = lasting.hourly().files(output)? else {
        anyhow::bail!("followed logs need --rotate or --rotate-mib");
    };
    let positions = PositionFile::new(output.with_extension("position"));
    let left = positions.load()?;
    let (mut recorder, mut logs) =
        (LogRecorder::new(options.seed, redactor.clone()).spreading(options.spread), Vec::new());
    let (mut sources, mut resolution_ns) = (Vec::new(), 1);
    for path in paths {
        let path = std::path::absolute(path)?;
        let found = source_of(&path, options, own, redactor)?;
        resolution_ns = resolution_ns.max(found.resolution_ns);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        sources.push(Source { name, format: options.words(&found) });
        let number =
            recorder.add_source(LogSource::new(found.format, found.behind_proxy, sources.len() as u32 - 1));
        let (log, cut) = Followed::open(&path, left.iter().find(|p| p.path == path))?;
        if cut {
            tell_cut(&path, &mut recorder)?;
        }
        logs.push((log, number));
    }
    let meta = TraceMeta {
        started_at: WallTime::default(),
        sources,
        redaction: redactor.words(),
        resolution_ns,
        spread_seed: (resolution_ns >= NANOS_PER_SEC).then_some(options.seed),
        made_by: MADE_BY.to_owned(),
    };
    let files = Files::Stepwise(rotation.clone());
    files.try_place()?;
    let sink = Sink::new(meta, files);
    let mut following = Following { logs, recorder, sink, rotation, positions, bad: 0 };
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    teller.begin(&format!("following {} logs", following.logs.len()));
    following.until(&stop, lasting, teller)?;
    // Who goes on later does not have them.
    for (log, source) in &following.logs {
        if following.recorder.give_up_parts(*source) {
            let (show, error) = (log.path().display(), LineError::Unended);
            writeln!(std::io::stderr(), "replay: warning: {show}: {error}; line not used")?;
        }
    }
    following.end_trace()?;
    teller.finished(&mut following.sink)?;
    teller.end(&following.sink)
}

/// What a log is by its first lines, or by those of the one before it where it is new.
fn source_of(
    path: &Path,
    options: &CaptureOptions,
    own: &[(Field, String)],
    redactor: &Redactor,
) -> anyhow::Result<FoundLog> {
    let input = sample_of(path)?;
    let named = options.log_format.is_some() || !matches!(options.format.as_str(), "auto" | "access-log");
    anyhow::ensure!(
        named || input.kind != Kind::Empty,
        "{} is empty or not there yet, and so are older ones beside it: say its format with --log-format or --format",
        path.display()
    );
    let mut found = log_source(&input, options, own, redactor, asking::asked)
        .with_context(|| format!("cannot follow {}", path.display()))?;
    // The line that names the fields (W3C) stands at the top, which may have been passed long ago.
    for line in input.sample.split(|b| *b == b'\n').filter(|l| l.starts_with(b"#")) {
        found.format.comment(line.trim_ascii());
    }
    Ok(found)
}

/// The log, or the newest older one beside it that is not empty.
fn sample_of(path: &Path) -> anyhow::Result<Input> {
    let mut names = Followed::names(path).with_context(|| format!("cannot follow {}", path.display()))?;
    let mut last = None;
    while let Some(name) = names.pop() {
        let input = open(&name)?;
        if input.kind != Kind::Empty {
            return Ok(input);
        }
        last.get_or_insert(input);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let nothing = Input { kind: Kind::Empty, sample: Vec::new(), bytes: Box::new(std::io::empty()), name };
    Ok(last.unwrap_or(nothing))
}

fn tell_cut(path: &Path, recorder: &mut LogRecorder) -> anyhow::Result<()> {
    recorder.ledger_mut().count(Item::LogCuts);
    let show = path.display();
    writeln!(
        std::io::stderr(),
        "replay: warning: {show} was cut or replaced before it was read to its end; lines may be missing"
    )?;
    Ok(())
}

impl Following {
    fn until(&mut self, stop: &AtomicBool, lasting: &Lasting, teller: &mut Teller<'_>) -> anyhow::Result<()> {
        let clock = Clock::start();
        let end = lasting.lasts.map(|d| clock.now().plus(d));
        let mut trace_ends = self.rotation.end_of(wall());
        loop {
            // Once more behind a signal: what was written before it belongs to the trace.
            let last = stop.load(Ordering::Relaxed) || end.is_some_and(|end| clock.now() >= end);
            let mut more = false;
            for index in 0..self.logs.len() {
                more |= self.poll(index, clock.now())?;
            }
            self.sink.take(self.recorder.take_events());
            self.sink.drain(Until::Full)?;
            if trace_ends.is_some_and(|at| wall() >= at) || self.sink.is_full() {
                trace_ends = self.rotation.end_of(wall());
                self.end_trace()?;
            }
            teller.finished(&mut self.sink)?;
            let lines = self.recorder.ledger_mut().get(Item::Lines).unwrap_or(0);
            teller.tick(&self.sink, || format!("{lines} lines"));
            if last && !more {
                return Ok(());
            }
            if !more {
                wait(FOLLOW_LOOK);
            }
        }
    }

    fn poll(&mut self, index: usize, now: crate::units::RunTime) -> anyhow::Result<bool> {
        let Some((log, source)) = self.logs.get_mut(index) else { return Ok(false) };
        let (source, path) = (*source, log.path().to_owned());
        let (recorder, sink, bad) = (&mut self.recorder, &mut self.sink, &mut self.bad);
        let mut lines = 0u64;
        log.poll(now, |came| match came {
            Came::Cut => {
                *bad += u64::from(recorder.give_up_parts(source));
                tell_cut(&path, recorder)
            }
            Came::Line(line) => {
                lines += 1;
                if lines.is_multiple_of(FOLLOW_LINES_AT_ONCE) {
                    sink.take(recorder.take_events());
                    sink.drain(Until::Full)?;
                }
                if let Err(error) = recorder.line(source, line)
                    && error != LineError::Other
                {
                    *bad += 1;
                    if *bad <= FOLLOW_BAD_LINES_SHOWN {
                        writeln!(
                            std::io::stderr(),
                            "replay: warning: {}: {error}; line not used",
                            path.display()
                        )?;
                    }
                }
                Ok(())
            }
        })
    }

    /// Ends the trace: everything that was read is in it, and the positions say so.
    fn end_trace(&mut self) -> anyhow::Result<()> {
        let (events, ledger) = self.recorder.renew();
        self.sink.take(events);
        let left = self.logs.iter().filter_map(|(log, _)| log.position()).collect();
        self.sink.finish_with(&ledger, &self.positions, left)
    }
}
