//! `replay trace info|cat|check TRACE`.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::edge::intake::trace_file::{self, TraceFile};
use crate::trace::meta::place;
use crate::trace::reader::End;
use crate::trace::summary::Summary;
use crate::trace::{TraceEvent, json};

/// Look at a trace.
#[derive(Debug, clap::Subcommand)]
pub(super) enum TraceCommand {
    /// What a trace holds, in numbers.
    Info {
        /// The trace.
        trace: PathBuf,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Its requests, one JSON object a line, in time order.
    Cat {
        /// The trace.
        trace: PathBuf,
    },
    /// Read all of it and say whether it is whole (exit code 0) or cut off or damaged (exit code 2).
    Check {
        /// The trace.
        trace: PathBuf,
    },
}

fn each(reader: &mut TraceFile, mut f: impl FnMut(&TraceEvent) -> anyhow::Result<()>) -> anyhow::Result<End> {
    while let Some(event) = reader.next_event()? {
        f(&event)?;
    }
    let lost = || anyhow::anyhow!("the trace ended without saying how");
    reader.end().cloned().ok_or_else(lost)
}

fn warn(end: &End) {
    if let Some(warning) = end.warning() {
        drop(writeln!(std::io::stderr(), "replay: warning: {warning}"));
    }
}

impl TraceCommand {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// If the trace cannot be read.
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<u8> {
        match self {
            Self::Info { trace, json } => info(out, trace, *json),
            Self::Cat { trace } => cat(out, trace),
            Self::Check { trace } => check(out, trace),
        }
    }
}

fn info(out: &mut impl Write, path: &Path, json: bool) -> anyhow::Result<u8> {
    let mut reader = trace_file::open(path)?;
    let mut summary = Summary::default();
    let end = each(&mut reader, |event| {
        summary.add(event);
        Ok(())
    })?;
    let value = summary.json(reader.meta(), &end, std::fs::metadata(path)?.len());
    if json {
        writeln!(out, "{value:#}")?;
        return Ok(super::OK);
    }
    warn(&end);
    let requests = summary.requests;
    writeln!(
        out,
        "{}: {requests} requests in {} sessions over {:.1} s",
        path.display(),
        summary.sessions(),
        summary.duration_s()
    )?;
    writeln!(out, "  first       {}", value["first"].as_str().unwrap_or("-"))?;
    writeln!(out, "  peak        {} requests in one second", value["peak_rps"])?;
    writeln!(out, "  methods     {}", value["methods"])?;
    writeln!(out, "  status      {}", value["status"])?;
    writeln!(
        out,
        "  size        {} bytes, {:.1} per request",
        value["bytes"],
        value["bytes_per_request"].as_f64().unwrap_or(0.0)
    )?;
    let coverage = &value["coverage"];
    writeln!(
        out,
        "  coverage    {:.1} % can be sent as recorded ({} need credentials, {} have redacted targets)",
        summary.coverage() * 100.0,
        coverage["needs_credentials"],
        coverage["redacted"]
    )?;
    writeln!(out, "  redaction   {}", reader.meta().redaction)?;
    if let Some((way, seed)) = reader.meta().spread() {
        writeln!(out, "  stamps      cut to the second by the log, {}", way.words(seed))?;
    }
    for source in &reader.meta().sources {
        writeln!(out, "  source      {} ({})", source.name, source.format)?;
    }
    if let End::Whole { ledger, .. } = &end {
        let (share, hidden) = ledger.completeness(summary.requests);
        let more = if hidden { "; more may hide in what could not be read" } else { "" };
        writeln!(out, "  complete    {:.2} % of the requests that were seen{more}", share * 100.0)?;
        for (item, n) in ledger.rows() {
            if let Some(n) = n.filter(|n| *n > 0) {
                let first =
                    ledger.first(item).map(|p| format!(" (first: {})", place(&reader.meta().sources, p)));
                writeln!(out, "  ledger      {n:>8}  {}{}", item.words(), first.unwrap_or_default())?;
            }
        }
    }
    Ok(super::OK)
}

fn cat(out: &mut impl Write, path: &Path) -> anyhow::Result<u8> {
    let mut reader = trace_file::open(path)?;
    let meta = reader.meta().clone();
    let (mut out, mut first) = (std::io::BufWriter::new(out), None);
    let end = each(&mut reader, |event| {
        if let Some(request) = event.request() {
            let first = *first.get_or_insert(event.at.0);
            writeln!(out, "{}", json::line(&meta, event, request, first))?;
        }
        Ok(())
    });
    let end = match end {
        // The reader of our output went away (`| head`): that is not an error.
        Err(e) if is_broken_pipe(&e) => return Ok(super::OK),
        other => other?,
    };
    out.flush().or_else(|e| if e.kind() == std::io::ErrorKind::BrokenPipe { Ok(()) } else { Err(e) })?;
    warn(&end);
    Ok(super::OK)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

fn check(out: &mut impl Write, path: &Path) -> anyhow::Result<u8> {
    let mut reader = trace_file::open(path)?;
    let mut events = 0u64;
    let end = each(&mut reader, |_| {
        events += 1;
        Ok(())
    })
    .with_context(|| format!("cannot read {}", path.display()))?;
    match end.warning() {
        None => {
            writeln!(out, "{}: whole, {events} events in {} bytes", path.display(), reader.offset())?;
            Ok(super::OK)
        }
        Some(warning) => {
            writeln!(out, "{}: {events} events can be read; {warning}", path.display())?;
            Ok(super::USAGE)
        }
    }
}
