//! `replay capture INPUT... -o TRACE`.

mod asking;
mod follow;
mod found;
mod lasting;
#[cfg(feature = "live")]
mod live;
mod redaction;
mod session;
mod sink;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::builder::{PossibleValuesParser, TypedValueParser};

use self::found::{FoundLog, coarsest, kind_of, log_source};
use self::lasting::{Lasting, Teller};
use self::redaction::RedactionArgs;
use self::session::{LOGS, Session};
use self::sink::{BEHIND_PROXY, Files, Finished, Sink};
use super::progress::Progress;
use crate::capture::access_log::LogRecorder;
use crate::capture::access_log::json::JsonMap;
use crate::capture::access_log::row::Field;
use crate::capture::order::Until;
use crate::capture::recorder::Recorder;
use crate::capture::redact::Redactor;
use crate::capture::vantage::Vantage;
use crate::edge::intake::open::{Kind, open};
use crate::edge::intake::secrets;
use crate::limits::LOG_THREADS_MAX;
use crate::trace::meta::place;
use crate::trace::{Item, Ledger, Source, Spreading, TraceMeta};
use crate::units::{NANOS_PER_SEC, WallTime};

/// What writes a trace, for the trace.
const MADE_BY: &str = concat!("replay ", env!("CARGO_PKG_VERSION"));

/// Turn captures and access logs into a trace.
#[derive(Debug, clap::Args)]
pub(super) struct CaptureArgs {
    /// pcap or pcapng files, access logs, HTTP archives, GoReplay's files, each also gzip'd or zstd'd; `-` is standard input.
    #[arg(required_unless_present_any = ["live", "follow"], conflicts_with_all = ["live", "follow"])]
    inputs: Vec<PathBuf>,
    /// Capture from a network interface instead (`any`: all of them) until stopped; needs CAP_NET_RAW, which is given up once it is open.
    #[arg(long, value_name = "IFACE")]
    live: Option<String>,
    /// Follow an access log as it is written, through rotation; a restart goes on where it was left (OUTPUT.position). A trace an hour, unless --rotate says otherwise.
    #[arg(long, value_name = "LOG", conflicts_with = "live")]
    follow: Vec<PathBuf>,
    /// Only frames that fit, in tcpdump's language (live captures). Beware: `tcp port 80` misses VLANs, tunnels and fragments.
    #[arg(long, value_name = "BPF", requires = "live")]
    filter: Option<String>,
    /// Ring between the kernel and a live capture, MiB.
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=2047))]
    buffer_mib: u16,
    #[command(flatten)]
    lasting: Lasting,
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
    /// Where it was captured: at the edge, or behind a proxy that says whom it asks for (X-Forwarded-For), whose connections are not those of clients.
    #[arg(long, value_enum, default_value = "auto")]
    captured_at: CapturedAt,
    /// Secrets of TLS connections (SSLKEYLOGFILE), to read those whose handshake was captured.
    #[arg(long, value_name = "FILE")]
    keylog: Option<PathBuf>,
    /// Go on although two inputs hold the same traffic, such as a capture and the log of the same server.
    #[arg(long)]
    same_traffic_ok: bool,
    /// Threads that read files of access logs, beside those that order and write; unless said as many as there are cores, at most 4.
    #[arg(long, value_name = "N", conflicts_with_all = ["live", "follow"], value_parser = clap::value_parser!(u8).range(0..=LOG_THREADS_MAX as i64))]
    threads: Option<u8>,
    /// How stamps of access logs that are cut to the second are spread over it: uniform; even, without any bursts; or cascade, in bursts as long as each client's requests.
    #[arg(long, value_name = "WAY", conflicts_with = "live", default_value = "uniform", value_parser = spreading())]
    spread: Spreading,
    /// Seed for spreading the stamps of access logs, which are cut to the second.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    redaction: RedactionArgs,
}

fn spreading() -> impl TypedValueParser<Value = Spreading> {
    let way = |name: String| Spreading::ALL.into_iter().find(|way| way.name() == name);
    PossibleValuesParser::new(Spreading::ALL.map(Spreading::name))
        .try_map(move |name| way(name).ok_or("no such way"))
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
        Self {
            format,
            log_format,
            field,
            captured_at: CapturedAt::Auto,
            keylog: None,
            same_traffic_ok: false,
            threads: None,
            spread: Spreading::default(),
            seed: 1,
            redaction: RedactionArgs::default(),
        }
    }
}

impl CaptureArgs {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// If an input cannot be read at all or the trace cannot be written.
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<u8> {
        if let Some(interface) = &self.live {
            return self.capture_live(interface, out);
        }
        if !self.follow.is_empty() {
            return self.follow(out);
        }
        let finished = capture(&self.inputs, &self.output, &self.options)?;
        if self.json {
            writeln!(out, "{}", finished_json(&finished))?;
        } else {
            summary(out, &finished)?;
        }
        Ok(super::OK)
    }

    fn follow(&self, out: &mut impl Write) -> anyhow::Result<u8> {
        let (redactor, own) = (self.options.redaction.redactor()?, self.options.own_fields()?);
        let mut teller = Teller::new(out, self.json);
        let (logs, options) = (&self.follow, &self.options);
        follow::run(logs, &self.lasting, &self.output, options, &own, &redactor, &mut teller)
            .map(|()| super::OK)
    }

    #[cfg(feature = "live")]
    fn capture_live(&self, interface: &str, out: &mut impl Write) -> anyhow::Result<u8> {
        ensure!(
            self.options.keylog.is_none(),
            "--keylog is read before the capture begins, and has no secrets of what comes then: record with tcpdump, and capture that file"
        );
        let redactor = self.options.redaction.redactor()?;
        let (filter, buffer_mib) = (self.filter.clone(), self.buffer_mib);
        let wanted =
            crate::edge::intake::live::Wanted { interface: interface.to_owned(), filter, buffer_mib };
        let mut teller = Teller::new(out, self.json);
        live::run(
            &wanted,
            &self.lasting,
            &self.output,
            self.options.recorder(redactor.clone())?,
            self.options.behind_proxy(),
            &redactor,
            &mut teller,
        )
        .map(|()| super::OK)
    }

    #[cfg(not(feature = "live"))]
    fn capture_live(&self, interface: &str, _: &mut impl Write) -> anyhow::Result<u8> {
        bail!(
            "--live {interface}: this program was built without live capture. Build it with `make live` (or `cargo build --release \
             --features live`, which needs libpcap-dev), or record with tcpdump -w and capture that file"
        )
    }
}

/// A trace that was written, for machines.
fn finished_json(finished: &Finished) -> serde_json::Value {
    let Finished { path, ledger, written, sources } = finished;
    let first = crate::trace::summary::first_json(ledger, sources);
    let ledger = crate::trace::summary::ledger_json(ledger);
    serde_json::json!({
        "trace": path, "requests": written.requests, "sessions": written.sessions, "bytes": written.bytes, "ledger": ledger,
        "first": first
    })
}

impl CaptureOptions {
    /// Whether it was captured behind a proxy, where that is said.
    fn behind_proxy(&self) -> Option<bool> {
        match self.captured_at {
            CapturedAt::Auto => None,
            CapturedAt::Edge => Some(false),
            CapturedAt::BehindProxy => Some(true),
        }
    }

    /// A recorder of frames, with the secrets of TLS connections where there are any.
    fn recorder(&self, redactor: Redactor) -> anyhow::Result<Recorder> {
        let mut recorder = Recorder::new(redactor);
        if let Some(file) = &self.keylog {
            recorder.add_keys(&secrets::key_log(file)?);
            let (known, unused) = (recorder.keys().len(), recorder.keys().unused());
            ensure!(
                known > 0,
                "{} has no secret of a TLS connection (lines such as CLIENT_RANDOM ...)",
                file.display()
            );
            if unused > 0 {
                writeln!(
                    std::io::stderr(),
                    "replay: warning: {unused} lines of {} are of no use",
                    file.display()
                )?;
            }
        }
        Ok(recorder)
    }

    /// What a log was read as, for the trace.
    fn words(&self, found: &FoundLog) -> String {
        let behind = if found.behind_proxy { BEHIND_PROXY } else { "" };
        let spread = if found.resolution_ns >= NANOS_PER_SEC { self.spread.mark() } else { "" };
        format!("access-log/{}{behind}{spread}", found.format.name)
    }

    /// Fields of a JSON log by the keys that the command line names.
    fn own_fields(&self) -> anyhow::Result<Vec<(Field, String)>> {
        let own: Result<Vec<_>, String> = self.field.iter().map(|f| JsonMap::own_field(f)).collect();
        own.map_err(|e| anyhow::anyhow!("--field: {e}"))
    }
}

/// Captures `inputs` into a trace at `output`. Also used by the demo.
pub(crate) fn capture(
    inputs: &[PathBuf],
    output: &Path,
    options: &CaptureOptions,
) -> anyhow::Result<Finished> {
    let redactor = options.redaction.redactor()?;
    let own = options.own_fields()?;
    // What is typed is an input, and no answer.
    let decide = if inputs.iter().any(|i| i == Path::new("-")) { asking::guessed } else { asking::asked };
    // All are opened first: one that cannot be read must not cost the work on the others.
    let (mut frames, mut logs, mut archives, mut sources) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for path in inputs {
        let input = open(path)?;
        let cannot = || format!("cannot capture {}", path.display());
        let number = sources.len() as u32;
        let mut source = Source { name: input.name.clone(), format: String::new() };
        match kind_of(&input, options).with_context(cannot)? {
            Kind::Pcap | Kind::Pcapng => {
                source.format = if input.kind == Kind::Pcap { "pcap" } else { "pcapng" }.to_owned();
                frames.push((path, number, input));
            }
            kind @ (Kind::Har | Kind::Gor) => {
                source.format = if kind == Kind::Har { "har" } else { "gor" }.to_owned();
                archives.push((kind, number, input));
            }
            Kind::Text | Kind::Trace | Kind::Empty | Kind::Other => {
                let found = log_source(&input, options, &own, &redactor, decide).with_context(cannot)?;
                source.format = options.words(&found);
                logs.push((found, number, input));
            }
        }
        sources.push(source);
    }
    let meta = TraceMeta {
        started_at: WallTime::default(),
        sources,
        redaction: redactor.words(),
        resolution_ns: coarsest(&logs, !archives.is_empty()),
        spread_seed: logs.iter().any(|(l, ..)| l.resolution_ns >= NANOS_PER_SEC).then_some(options.seed),
        made_by: MADE_BY.to_owned(),
    };
    let mut session = Session {
        frames: options.recorder(redactor.clone())?,
        log: LogRecorder::new(options.seed, redactor.clone()).spreading(options.spread),
        sink: Sink::new(meta, Files::One(output.to_owned())),
        last: 0,
        vantage: Vantage::new(options.behind_proxy(), decide, redactor),
    };
    let mut progress = Progress::start();
    for (path, number, input) in frames {
        let read = session.read_frames(number, input, options.behind_proxy(), &mut progress);
        read.with_context(|| format!("cannot capture {}", path.display()))?;
    }
    for (kind, number, input) in archives {
        session.read_archive(kind, number, input, options.seed, &mut progress)?;
    }
    session.read_logs(logs, options.threads.map(usize::from), &mut progress)?;
    progress.done();
    finish(session, options)
}

/// The last of all inputs.
fn finish(session: Session, options: &CaptureOptions) -> anyhow::Result<Finished> {
    let Session { frames, log, mut sink, last, mut vantage } = session;
    let (events, mut ledger) = frames.finish();
    let has_frames = ledger.get(Item::Frames).is_some_and(|n| n > 0);
    sink.take_seen(last, events, true, &mut vantage);
    let (events, proxied) = vantage.finish();
    ledger.merge(&proxied);
    sink.take_from(last, events);
    let (events, lines) = log.finish();
    sink.take_from(LOGS, events);
    sink.drain(Until::End)?;
    let n = lines.get(Item::Lines).unwrap_or(0);
    if !sink.has_begun() && n > 0 && !has_frames {
        bail!("none of the {n} lines is a request; nothing was written");
    }
    if let Some(why) = (!options.same_traffic_ok).then(|| same_traffic(&sink)).flatten() {
        sink.abandon();
        bail!(why);
    }
    ledger.merge(&lines);
    sink.finish(&ledger)?;
    sink.take_finished()?.pop().context("no trace was written")
}

/// Why the inputs are not to be put into one trace, if they are not.
fn same_traffic(sink: &Sink) -> Option<String> {
    let (one, other, (both, all)) = sink.twins()?;
    let name =
        |n: u32| sink.sources().get(n as usize).map_or_else(|| "the logs".to_owned(), |s| s.name.clone());
    Some(format!(
        "{} and {} hold the same traffic ({both} of {all} rare requests are in both at the same times): a replay would send it twice. \
         Capture one of them, or say --same-traffic-ok. Nothing was written",
        name(one),
        name(other)
    ))
}

/// What was captured and what was not, for people.
fn summary(out: &mut impl Write, finished: &Finished) -> anyhow::Result<()> {
    let Finished { path: trace, ledger, written, sources } = finished;
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
    ledger_rows(out, ledger, sources)
}

fn ledger_rows(out: &mut dyn Write, ledger: &Ledger, sources: &[Source]) -> anyhow::Result<()> {
    for (item, n) in ledger.rows() {
        if let Some(n) = n.filter(|n| *n > 0) {
            let first =
                ledger.first(item).map_or_else(String::new, |p| format!(" (first: {})", place(sources, p)));
            writeln!(out, "  {n:>10}  {}{first}", item.words())?;
        }
    }
    if ledger.get(Item::ConnectionsTls).is_some_and(|n| n > 0) {
        writeln!(
            out,
            "  what is encrypted can be read with the secrets of its clients or servers (--keylog); else capture behind what ends \
             TLS, or use its access log"
        )?;
    }
    Ok(())
}
