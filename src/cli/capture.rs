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
use crate::edge::intake::{capture_file, log_file, trace_file};
use crate::trace::writer::Written;
use crate::trace::{Item, Ledger, Source, TraceMeta};

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

struct Session {
    frames: Recorder,
    log: LogRecorder,
    order: Orderer,
    sources: Vec<Source>,
    used_log: bool,
    used_frames: bool,
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
    let mut session = Session {
        frames: Recorder::default(),
        log: LogRecorder::new(seed),
        order: Orderer::default(),
        sources: Vec::new(),
        used_log: false,
        used_frames: false,
    };
    let mut progress = Progress::start();
    for path in inputs {
        let input = open(path)?;
        session
            .read(input, format, &mut progress)
            .with_context(|| format!("cannot capture {}", path.display()))?;
    }
    progress.done();
    session.write(output, seed)
}

impl Session {
    fn read(&mut self, input: Input, format: &str, progress: &mut Progress) -> anyhow::Result<()> {
        let name = input.name.clone();
        let kind = match (format, input.kind) {
            ("auto", kind) => kind,
            ("pcap", kind @ (Kind::Pcap | Kind::Pcapng)) => kind,
            ("pcap", _) => {
                bail!("--format pcap, but the file begins with neither a pcap nor a pcapng header")
            }
            (_, Kind::Pcap | Kind::Pcapng) => bail!("--format access-log, but this is a packet capture"),
            _ => Kind::Text,
        };
        let format = match kind {
            Kind::Pcap | Kind::Pcapng => {
                self.used_frames = true;
                self.read_frames(input, progress)?;
                if kind == Kind::Pcap { "pcap" } else { "pcapng" }
            }
            Kind::Text => {
                self.used_log = true;
                self.read_log(input, progress)?;
                "access-log/combined"
            }
            Kind::Empty => bail!("the input is empty"),
            Kind::Trace => bail!("this is a trace already; look at it with `replay trace info`"),
            Kind::Other => bail!(
                "not a format this version reads; it reads pcap, pcapng and common or combined access logs, plain, gzip'd or zstd'd"
            ),
        };
        self.sources.push(Source { name, format: format.to_owned() });
        Ok(())
    }

    fn read_frames(&mut self, input: Input, progress: &mut Progress) -> anyhow::Result<()> {
        let (order, name) = (&mut self.order, &input.name);
        let end = capture_file::read(input.bytes, &mut self.frames, |recorder| {
            recorder.take_events().into_iter().for_each(|e| order.push(e));
            progress
                .tick(|| format!("{name}: {} frames", recorder.ledger_mut().get(Item::Frames).unwrap_or(0)));
        })?;
        if let Some(why) = end.stopped {
            writeln!(std::io::stderr(), "replay: warning: {name}: {why}; what comes before was used")?;
        }
        Ok(())
    }

    fn read_log(&mut self, input: Input, progress: &mut Progress) -> anyhow::Result<()> {
        let (mut bad, name) = (0u64, &input.name);
        log_file::read(
            input.bytes,
            &mut self.log,
            |line| {
                bad += 1;
                if bad <= BAD_LINES_SHOWN {
                    let (number, offset, error) = (line.line, line.offset, line.error);
                    drop(writeln!(
                        std::io::stderr(),
                        "replay: warning: {name}:{number} (byte {offset}): {error}; line not used"
                    ));
                }
            },
            |lines| progress.tick(|| format!("{name}: {lines} lines")),
        )?;
        if bad > BAD_LINES_SHOWN {
            let more = bad - BAD_LINES_SHOWN;
            writeln!(
                std::io::stderr(),
                "replay: warning: {name}: {more} more lines not used; see the ledger"
            )?;
        }
        Ok(())
    }

    fn write(self, output: &Path, seed: u64) -> anyhow::Result<(PathBuf, Ledger, Written)> {
        let (resolution_ns, spread_seed) =
            if self.used_log { (1_000_000_000, Some(seed)) } else { (1_000, None) };
        let mut order = self.order;
        let (events, mut ledger) = self.frames.finish();
        events.into_iter().for_each(|e| order.push(e));
        let (events, log_ledger) = self.log.finish();
        events.into_iter().for_each(|e| order.push(e));
        ledger.merge(&log_ledger);
        let meta = TraceMeta {
            started_at: order.start().unwrap_or_default(),
            sources: self.sources,
            redaction: redact::RULES.to_owned(),
            resolution_ns,
            spread_seed,
            made_by: concat!("replay ", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        let mut trace = trace_file::create(output, &meta)?;
        while let Some(event) = order.pop(true, &mut ledger) {
            trace.push(&event)?;
        }
        let written = trace.finish(&ledger)?;
        Ok((output.to_owned(), ledger, written))
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
