//! `replay capture INPUT... -o TRACE`.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::progress::Progress;
use crate::capture::access_log::LogRecorder;
use crate::capture::order::Orderer;
use crate::capture::recorder::Recorder;
use crate::capture::redact;
use crate::edge::intake::open::{Input, Kind, open};
use crate::edge::intake::trace_file::{self, NewTrace};
use crate::edge::intake::{capture_file, log_file};
use crate::trace::writer::Written;
use crate::trace::{Item, Ledger, Source, TraceMeta};
use crate::units::WallTime;

/// Bad lines of a log that are named one by one; the rest is only counted.
const BAD_LINES_SHOWN: u64 = 5;

/// Turn captures and access logs into a trace.
#[derive(Debug, clap::Args)]
pub(super) struct CaptureArgs {
    /// pcap or pcapng files, access logs, each also gzip'd or zstd'd; `-` is standard input.
    #[arg(required = true)]
    inputs: Vec<PathBuf>,
    /// The trace to write.
    #[arg(short, long, value_name = "TRACE")]
    output: PathBuf,
    /// What the inputs are.
    #[arg(long, default_value = "auto", value_parser = ["auto", "pcap", "access-log"])]
    format: String,
    /// Seed for spreading the stamps of access logs, which are cut to the second.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print the ledger as JSON.
    #[arg(long)]
    json: bool,
}

/// A capture under way: events go to the trace as soon as their place in time is certain.
struct Session {
    frames: Recorder,
    log: LogRecorder,
    order: Orderer,
    /// Counts made while ordering.
    ledger: Ledger,
    meta: TraceMeta,
    path: PathBuf,
    trace: Option<NewTrace>,
}

impl CaptureArgs {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// If an input cannot be read at all or the trace cannot be written.
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<u8> {
        let (trace, ledger, written) = capture(&self.inputs, &self.output, &self.format, self.seed)?;
        if self.json {
            let ledger = crate::trace::summary::ledger_json(&ledger);
            let all = serde_json::json!({
                "requests": written.requests, "sessions": written.sessions, "bytes": written.bytes, "ledger": ledger
            });
            writeln!(out, "{all}")?;
        } else {
            summary(out, &trace, &ledger, &written)?;
        }
        Ok(super::OK)
    }
}

/// Captures `inputs` into a trace at `output`. Also used by the demo.
pub(crate) fn capture(
    inputs: &[PathBuf],
    output: &Path,
    format: &str,
    seed: u64,
) -> anyhow::Result<(PathBuf, Ledger, Written)> {
    // All are opened first: one that cannot be read must not cost the work on the others.
    let mut opened = Vec::with_capacity(inputs.len());
    for path in inputs {
        let input = open(path)?;
        let kind = kind_of(&input, format).with_context(|| format!("cannot capture {}", path.display()))?;
        opened.push((path, kind, input));
    }
    let sources = opened.iter().map(|(_, kind, input)| source(*kind, input)).collect();
    let from_log = opened.iter().any(|(_, kind, _)| *kind == Kind::Text);
    let meta = TraceMeta {
        started_at: WallTime::default(),
        sources,
        redaction: redact::RULES.to_owned(),
        resolution_ns: if from_log { 1_000_000_000 } else { 1_000 },
        spread_seed: from_log.then_some(seed),
        made_by: concat!("replay ", env!("CARGO_PKG_VERSION")).to_owned(),
    };
    let mut session = Session {
        frames: Recorder::default(),
        log: LogRecorder::new(seed),
        order: Orderer::default(),
        ledger: Ledger::default(),
        meta,
        path: output.to_owned(),
        trace: None,
    };
    let mut progress = Progress::start();
    for (path, kind, input) in opened {
        let read = session.read(kind, input, &mut progress);
        read.with_context(|| format!("cannot capture {}", path.display()))?;
    }
    progress.done();
    let (ledger, written) = session.finish()?;
    Ok((output.to_owned(), ledger, written))
}

fn kind_of(input: &Input, format: &str) -> anyhow::Result<Kind> {
    match (format, input.kind) {
        (_, Kind::Empty) => bail!("the input is empty"),
        (_, Kind::Trace) => bail!("this is a trace already; look at it with `replay trace info`"),
        ("auto", Kind::Other) => bail!(
            "not a format this version reads; it reads pcap, pcapng and common or combined access logs, plain, gzip'd or zstd'd"
        ),
        ("auto", kind) | ("pcap", kind @ (Kind::Pcap | Kind::Pcapng)) => Ok(kind),
        ("pcap", _) => bail!("--format pcap, but the file begins with neither a pcap nor a pcapng header"),
        (_, Kind::Pcap | Kind::Pcapng) => bail!("--format access-log, but this is a packet capture"),
        (_, Kind::Text | Kind::Other) => Ok(Kind::Text),
    }
}

fn source(kind: Kind, input: &Input) -> Source {
    let format = match kind {
        Kind::Pcap => "pcap",
        Kind::Pcapng => "pcapng",
        Kind::Text | Kind::Trace | Kind::Empty | Kind::Other => "access-log/combined",
    };
    Source { name: input.name.clone(), format: format.to_owned() }
}

impl Session {
    fn read(&mut self, kind: Kind, input: Input, progress: &mut Progress) -> anyhow::Result<()> {
        match kind {
            Kind::Pcap | Kind::Pcapng => self.read_frames(input, progress),
            Kind::Text | Kind::Trace | Kind::Empty | Kind::Other => self.read_log(input, progress),
        }
    }

    fn read_frames(&mut self, input: Input, progress: &mut Progress) -> anyhow::Result<()> {
        let (name, mut failed) = (input.name.clone(), None);
        let mut frames = std::mem::take(&mut self.frames);
        let end = capture_file::read(input.bytes, &mut frames, |recorder| {
            recorder.take_events().into_iter().for_each(|e| self.order.push(e));
            if failed.is_none() {
                failed = self.drain(false).err();
            }
            progress
                .tick(|| format!("{name}: {} frames", recorder.ledger_mut().get(Item::Frames).unwrap_or(0)));
        });
        self.frames = frames;
        if let Some(error) = failed {
            return Err(error);
        }
        if let Some(why) = end?.stopped {
            writeln!(std::io::stderr(), "replay: warning: {name}: {why}; what comes before was used")?;
        }
        Ok(())
    }

    fn read_log(&mut self, input: Input, progress: &mut Progress) -> anyhow::Result<()> {
        let (mut bad, name) = (0u64, &input.name);
        let mut say = |line: log_file::BadLine| {
            bad += 1;
            if bad <= BAD_LINES_SHOWN {
                let (number, offset, error) = (line.line, line.offset, line.error);
                let place = format!("{name}:{number} (byte {offset})");
                drop(writeln!(std::io::stderr(), "replay: warning: {place}: {error}; line not used"));
            }
        };
        log_file::read(input.bytes, &mut self.log, &mut say, |lines| {
            progress.tick(|| format!("{name}: {lines} lines"));
        })?;
        if bad > BAD_LINES_SHOWN {
            let more = bad - BAD_LINES_SHOWN;
            writeln!(
                std::io::stderr(),
                "replay: warning: {name}: {more} more lines not used; see the ledger"
            )?;
        }
        Ok(())
    }

    /// Writes the events whose place is certain; all of them at the end.
    fn drain(&mut self, all: bool) -> anyhow::Result<()> {
        while let Some(event) = self.order.pop(all, &mut self.ledger) {
            let trace = match &mut self.trace {
                Some(trace) => trace,
                None => {
                    self.meta.started_at = self.order.start().unwrap_or_default();
                    self.trace.insert(trace_file::create(&self.path, &self.meta)?)
                }
            };
            trace.push(&event)?;
        }
        Ok(())
    }

    fn finish(mut self) -> anyhow::Result<(Ledger, Written)> {
        let (events, frames) = std::mem::take(&mut self.frames).finish();
        events.into_iter().for_each(|e| self.order.push(e));
        let (events, log) = std::mem::replace(&mut self.log, LogRecorder::new(0)).finish();
        events.into_iter().for_each(|e| self.order.push(e));
        self.drain(true)?;
        self.ledger.merge(&frames);
        self.ledger.merge(&log);
        let lines = log.get(Item::Lines).unwrap_or(0);
        if self.trace.is_none() && lines > 0 && frames.get(Item::Frames) == Some(0) {
            bail!(
                "none of the {lines} lines is a request in the common or combined format; nothing was written"
            );
        }
        let trace = match self.trace {
            Some(trace) => trace,
            None => trace_file::create(&self.path, &self.meta)?,
        };
        let written = trace.finish(&self.ledger)?;
        Ok((self.ledger, written))
    }
}

/// What was captured and what was not, for people.
fn summary(out: &mut impl Write, trace: &Path, ledger: &Ledger, written: &Written) -> anyhow::Result<()> {
    let per_request = written.bytes.checked_div(written.requests).unwrap_or(0);
    writeln!(
        out,
        "{}: {} requests in {} sessions over {:.1} s, {} bytes ({per_request} per request)",
        trace.display(),
        written.requests,
        written.sessions,
        written.last_ns as f64 / 1e9,
        written.bytes
    )?;
    if written.requests == 0 {
        writeln!(out, "no HTTP/1 requests were found; the ledger says what was there instead")?;
    }
    for (item, n) in ledger.rows() {
        if let Some(n) = n.filter(|n| *n > 0) {
            writeln!(out, "  {n:>10}  {}", item.words())?;
        }
    }
    Ok(())
}
