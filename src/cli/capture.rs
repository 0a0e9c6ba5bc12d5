//! `replay capture INPUT... -o TRACE`.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::progress::Progress;
use crate::capture::access_log::format::Format;
use crate::capture::access_log::json::JsonMap;
use crate::capture::access_log::row::{Field, LineError, Row};
use crate::capture::access_log::{self, LogRecorder, LogSource};
use crate::capture::order::Orderer;
use crate::capture::recorder::Recorder;
use crate::capture::redact;
use crate::edge::intake::log_file::{BadLine, Logs};
use crate::edge::intake::open::{Input, Kind, open};
use crate::edge::intake::trace_file::{self, NewTrace};
use crate::edge::intake::{capture_file, gor_file, har_file};
use crate::trace::writer::{EVENT_BYTES_MAX, Written};
use crate::trace::{Item, Ledger, Source, TraceMeta};
use crate::units::{NANOS_PER_SEC, WallTime};

/// Bad lines of a log that are named one by one; the rest is only counted.
const BAD_LINES_SHOWN: u64 = 5;

/// Lines of a log shown as they are understood.
const LINES_SHOWN: usize = 3;

/// Turn captures and access logs into a trace.
#[derive(Debug, clap::Args)]
pub(super) struct CaptureArgs {
    /// pcap or pcapng files, access logs, HTTP archives, GoReplay's files, each also gzip'd or zstd'd; `-` is standard input.
    #[arg(required = true)]
    inputs: Vec<PathBuf>,
    /// The trace to write.
    #[arg(short, long, value_name = "TRACE")]
    output: PathBuf,
    #[command(flatten)]
    options: CaptureOptions,
    /// Print the ledger as JSON.
    #[arg(long)]
    json: bool,
}

/// How inputs are read.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct CaptureOptions {
    /// What the inputs are: auto, pcap, access-log, har, gor, or the name of a log format.
    #[arg(long, default_value = "auto")]
    format: String,
    /// Format of the logs: nginx's `log_format` or Apache's `LogFormat` directive as it stands in the configuration.
    #[arg(long, value_name = "DIRECTIVE", conflicts_with = "format")]
    log_format: Option<String>,
    /// A field of a JSON log and the key that holds it, such as `method=req.verb`.
    #[arg(long, value_name = "NAME=PATH")]
    field: Vec<String>,
    /// Where the logs were written: at the edge, or behind a proxy that says whom it asks for (X-Forwarded-For).
    #[arg(long, value_enum, default_value = "auto")]
    captured_at: CapturedAt,
    /// Seed for spreading the stamps of access logs, which are cut to the second.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Where traffic was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum CapturedAt {
    /// Told by what the lines say.
    Auto,
    /// By the first server that clients reach.
    Edge,
    /// Behind a proxy, whose connections are not those of clients.
    BehindProxy,
}

impl Default for CaptureOptions {
    fn default() -> Self {
        let (format, log_format, field) = ("auto".to_owned(), None, Vec::new());
        Self { format, log_format, field, captured_at: CapturedAt::Auto, seed: 1 }
    }
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
        let (trace, ledger, written) = capture(&self.inputs, &self.output, &self.options)?;
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
    options: &CaptureOptions,
) -> anyhow::Result<(PathBuf, Ledger, Written)> {
    let own: Result<Vec<_>, String> = options.field.iter().map(|f| JsonMap::own_field(f)).collect();
    let own = own.map_err(|e| anyhow::anyhow!("--field: {e}"))?;
    // All are opened first: one that cannot be read must not cost the work on the others.
    let (mut frames, mut logs, mut archives, mut sources) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for path in inputs {
        let input = open(path)?;
        let cannot = || format!("cannot capture {}", path.display());
        let mut source = Source { name: input.name.clone(), format: String::new() };
        match kind_of(&input, options).with_context(cannot)? {
            Kind::Pcap | Kind::Pcapng => {
                source.format = if input.kind == Kind::Pcap { "pcap" } else { "pcapng" }.to_owned();
                frames.push((path, input));
            }
            kind @ (Kind::Har | Kind::Gor) => {
                source.format = if kind == Kind::Har { "har" } else { "gor" }.to_owned();
                archives.push((kind, input));
            }
            Kind::Text | Kind::Trace | Kind::Empty | Kind::Other => {
                let found = log_source(&input, options, &own).with_context(cannot)?;
                source.format = format!("access-log/{}", found.format.name);
                logs.push((found, input));
            }
        }
        sources.push(source);
    }
    let mut session = Session {
        frames: Recorder::default(),
        log: LogRecorder::new(options.seed),
        order: Orderer::default(),
        ledger: Ledger::default(),
        meta: TraceMeta {
            started_at: WallTime::default(),
            sources,
            redaction: redact::RULES.to_owned(),
            resolution_ns: coarsest(&logs, !archives.is_empty()),
            spread_seed: logs.iter().any(|(l, _)| l.resolution_ns >= NANOS_PER_SEC).then_some(options.seed),
            made_by: concat!("replay ", env!("CARGO_PKG_VERSION")).to_owned(),
        },
        path: output.to_owned(),
        trace: None,
    };
    let mut progress = Progress::start();
    for (path, input) in frames {
        let read = session.read_frames(input, &mut progress);
        read.with_context(|| format!("cannot capture {}", path.display()))?;
    }
    for (kind, input) in archives {
        session.read_archive(kind, input, options.seed, &mut progress)?;
    }
    session.read_logs(logs, &mut progress)?;
    progress.done();
    let (ledger, written) = session.finish()?;
    Ok((output.to_owned(), ledger, written))
}

fn kind_of(input: &Input, options: &CaptureOptions) -> anyhow::Result<Kind> {
    let format = if options.log_format.is_some() { "access-log" } else { options.format.as_str() };
    match (format, input.kind) {
        (_, Kind::Empty) => bail!("the input is empty"),
        (_, Kind::Trace) => bail!("this is a trace already; look at it with `replay trace info`"),
        ("auto", Kind::Other) => bail!(
            "not a format this version reads; it reads pcap, pcapng and access logs, plain, gzip'd or zstd'd"
        ),
        ("auto", kind) | ("pcap", kind @ (Kind::Pcap | Kind::Pcapng)) => Ok(kind),
        ("pcap", _) => bail!("--format pcap, but the file begins with neither a pcap nor a pcapng header"),
        (format, Kind::Pcap | Kind::Pcapng) => bail!("--format {format}, but this is a packet capture"),
        ("har", _) => Ok(Kind::Har),
        ("gor", _) => Ok(Kind::Gor),
        (_, Kind::Text | Kind::Har | Kind::Gor | Kind::Other) => Ok(Kind::Text),
    }
}

/// Resolution of the coarsest stamp, nanoseconds; archives have milliseconds, packets microseconds.
fn coarsest(logs: &[(FoundLog, Input)], archives: bool) -> u64 {
    let others = if archives { 1_000_000 } else { 1_000 };
    logs.iter().map(|(l, _)| l.resolution_ns).fold(others, u64::max)
}

/// A log with what its first lines tell.
struct FoundLog {
    format: Format,
    behind_proxy: bool,
    /// Coarsest stamp of its first lines.
    resolution_ns: u64,
}

fn log_source(input: &Input, options: &CaptureOptions, own: &[(Field, String)]) -> anyhow::Result<FoundLog> {
    let format = match (&options.log_format, options.format.as_str()) {
        (Some(directive), _) => Format::directive(directive).context("--log-format")?,
        (None, "auto" | "access-log") => {
            Format::detect(&input.sample, own).ok_or_else(|| no_format(input))?
        }
        (None, name) => Format::named(name, own).ok_or_else(|| {
            anyhow::anyhow!(
                "--format {name}: no such format; known are auto, pcap, access-log, {}",
                Format::names().join(", ")
            )
        })?,
    };
    let mut found =
        FoundLog { format, behind_proxy: options.captured_at == CapturedAt::BehindProxy, resolution_ns: 1 };
    let (mut shown, mut requests, mut forwarded) = (Vec::new(), 0u32, 0u32);
    let mut trial = found.format.clone();
    for line in
        input.sample.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).filter(|l| !l.is_empty()).take(200)
    {
        if trial.comment(line) {
            continue;
        }
        let Ok((row, _)) = trial.parse(line) else { continue };
        requests += 1;
        forwarded += u32::from(!row.forwarded.is_empty());
        let stamp = row.start_stamp.or(row.stamp);
        found.resolution_ns = found.resolution_ns.max(stamp.map_or(1, |s| s.resolution_ns));
        if shown.len() < LINES_SHOWN {
            shown.push(show(&row));
        }
    }
    // Four lines in five say for whom a proxy asked: then the connections are the proxy's.
    if options.captured_at == CapturedAt::Auto {
        found.behind_proxy = requests > 0 && forwarded * 5 >= requests * 4;
    }
    announce(input, &found, &shown)?;
    Ok(found)
}

fn no_format(input: &Input) -> anyhow::Error {
    let first =
        input.sample.split(|b| *b == b'\n').find(|l| !l.trim_ascii().is_empty()).map_or(0, <[u8]>::len);
    anyhow::anyhow!(
        "none of its first lines (the first has {first} bytes) is a request in a format that is known ({}). Give the server's own \
         directive with --log-format, or the keys of a JSON log with --field",
        Format::names().join(", ")
    )
}

/// What was understood of a line, without what might be secret.
fn show(row: &Row<'_>) -> String {
    let at = row.start_stamp.or(row.stamp).map_or(0, |s| s.at.0);
    let at =
        jiff::Timestamp::from_nanosecond(i128::from(at)).map_or_else(|_| "?".to_owned(), |t| t.to_string());
    let shape = access_log::make_shape(row);
    let path: String =
        shape.path().iter().filter(|b| b.is_ascii_graphic()).take(24).map(|b| char::from(*b)).collect();
    let status = row.status.map_or_else(|| "-".to_owned(), |s| s.to_string());
    let ms = row.duration_ns.map_or_else(String::new, |d| format!(", {} ms", d / 1_000_000));
    format!("{at} {} {path} {status}{ms}", String::from_utf8_lossy(&shape.method))
}

/// On a terminal: what was found, and how the first lines are understood.
fn announce(input: &Input, found: &FoundLog, shown: &[String]) -> anyhow::Result<()> {
    let mut err = std::io::stderr();
    if !err.is_terminal() {
        return Ok(());
    }
    let place = if found.behind_proxy { ", behind a proxy" } else { "" };
    writeln!(err, "replay: {} is read as {}{place}", input.name, found.format.name)?;
    for line in shown {
        writeln!(err, "replay:   {line}")?;
    }
    Ok(())
}

impl Session {
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

    fn read_archive(
        &mut self,
        kind: Kind,
        input: Input,
        seed: u64,
        progress: &mut Progress,
    ) -> anyhow::Result<()> {
        let format = Format::named("har", &[]).context("the format of HTTP archives is missing")?;
        let source = LogSource { format, behind_proxy: false };
        let (name, mut bad) = (input.name.clone(), 0u64);
        let mut log = std::mem::replace(&mut self.log, LogRecorder::new(0));
        let say = |entry: u64, error: LineError| {
            bad += 1;
            if bad <= BAD_LINES_SHOWN {
                drop(writeln!(
                    std::io::stderr(),
                    "replay: warning: {name}: record {entry}: {error}; not used"
                ));
            }
        };
        let each = |log: &mut LogRecorder| {
            log.take_events().into_iter().for_each(|e| self.order.push(e));
            self.drain(false)?;
            progress.tick(|| format!("{} records", log.ledger_mut().get(Item::Lines).unwrap_or(0)));
            Ok(())
        };
        let end = if kind == Kind::Gor {
            gor_file::read(input.bytes, &mut log, seed, say, each).map(|()| None)?
        } else {
            har_file::read(input.bytes, &mut log, source, say, each)?
        };
        if let Some(why) = end {
            log.ledger_mut().count(Item::CutFiles);
            writeln!(
                std::io::stderr(),
                "replay: warning: {}: {why}; what comes before was used",
                input.name
            )?;
        }
        self.log = log;
        Ok(())
    }

    fn read_logs(&mut self, found: Vec<(FoundLog, Input)>, progress: &mut Progress) -> anyhow::Result<()> {
        let (mut bad, mut logs) = (0u64, Logs::default());
        for (found, input) in found {
            let source = LogSource { format: found.format, behind_proxy: found.behind_proxy };
            logs.add(&mut self.log, input.name, source, input.bytes);
        }
        let say = |line: BadLine| {
            bad += u64::from(line.error != LineError::Other);
            if bad <= BAD_LINES_SHOWN && line.error != LineError::Other {
                let BadLine { log, line, offset, error } = line;
                drop(writeln!(
                    std::io::stderr(),
                    "replay: warning: {log}:{line} (byte {offset}): {error}; line not used"
                ));
            }
        };
        let mut log = std::mem::replace(&mut self.log, LogRecorder::new(0));
        logs.read(&mut log, say, |log| {
            log.take_events().into_iter().for_each(|e| self.order.push(e));
            self.drain(false)?;
            progress.tick(|| format!("{} lines", log.ledger_mut().get(Item::Lines).unwrap_or(0)));
            Ok(())
        })?;
        self.log = log;
        if bad > BAD_LINES_SHOWN {
            let more = bad - BAD_LINES_SHOWN;
            writeln!(std::io::stderr(), "replay: warning: {more} more lines not used; see the ledger")?;
        }
        Ok(())
    }

    /// Writes the events whose place is certain; all of them at the end.
    fn drain(&mut self, all: bool) -> anyhow::Result<()> {
        while let Some(event) = self.order.pop(all, &mut self.ledger) {
            // Redaction makes some targets longer; one request must not end the capture of all others.
            if event.request().is_some_and(|r| r.shape.weight() > EVENT_BYTES_MAX) {
                self.ledger.count(Item::TooLarge);
                continue;
            }
            let trace = match &mut self.trace {
                Some(trace) => trace,
                None => {
                    self.meta.started_at = self.order.start().unwrap_or_default();
                    self.trace.insert(trace_file::create(&self.path, &self.meta)?)
                }
            };
            trace.push(event)?;
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
            bail!("none of the {lines} lines is a request; nothing was written");
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
        writeln!(out, "no requests were found; the ledger says what was there instead")?;
    }
    let (share, hidden) = ledger.completeness(written.requests);
    let more = if hidden { "; more may hide in what could not be read" } else { "" };
    writeln!(out, "complete: {:.2} % of the requests that were seen{more}", share * 100.0)?;
    for (item, n) in ledger.rows() {
        if let Some(n) = n.filter(|n| *n > 0) {
            writeln!(out, "  {n:>10}  {}", item.words())?;
        }
    }
    Ok(())
}
