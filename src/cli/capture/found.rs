//! What an input is, and how its first lines are understood.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};

use anyhow::{Context, bail};

use super::{CaptureOptions, CapturedAt};
use crate::capture::access_log;
use crate::capture::access_log::format::Format;
use crate::capture::access_log::partial::joined;
use crate::capture::access_log::row::{Field, Row};
use crate::capture::redact::Redactor;
use crate::capture::vantage::{Decide, Guess};
use crate::edge::intake::open::{Input, Kind};

/// Lines of a log shown as they are understood.
const LINES_SHOWN: usize = 3;

pub(super) fn kind_of(input: &Input, options: &CaptureOptions) -> anyhow::Result<Kind> {
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
pub(super) fn coarsest(logs: &[(FoundLog, u32, Input)], archives: bool) -> u64 {
    let others = if archives { 1_000_000 } else { 1_000 };
    logs.iter().map(|(l, ..)| l.resolution_ns).fold(others, u64::max)
}

/// A log with what its first lines tell.
pub(super) struct FoundLog {
    pub(super) format: Format,
    pub(super) behind_proxy: bool,
    /// Coarsest stamp of its first lines.
    pub(super) resolution_ns: u64,
}

pub(super) fn log_source(
    input: &Input,
    options: &CaptureOptions,
    own: &[(Field, String)],
    redactor: &Redactor,
    decide: Decide,
) -> anyhow::Result<FoundLog> {
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
    let (mut shown, mut guess, mut clients) = (Vec::new(), Guess::default(), BTreeSet::new());
    let mut trial = found.format.clone();
    for line in joined(&input.sample).iter().take(200) {
        if trial.comment(line) {
            continue;
        }
        let Ok((row, _)) = trial.parse(line) else { continue };
        guess.requests += 1;
        guess.forwarded += usize::from(!row.forwarded.is_empty());
        clients.insert(row.client.to_vec());
        let stamp = row.start_stamp.or(row.stamp);
        found.resolution_ns = found.resolution_ns.max(stamp.map_or(1, |s| s.resolution_ns));
        if shown.len() < LINES_SHOWN {
            shown.push(show(&row, redactor));
        }
    }
    found.format.begin_as(&trial);
    announce(input, &found, &shown)?;
    if options.captured_at == CapturedAt::Auto {
        guess.peers = clients.len();
        found.behind_proxy = decide(&input.name, &guess);
        if found.behind_proxy && std::io::stderr().is_terminal() {
            writeln!(std::io::stderr(), "replay: {} was captured behind a proxy ({guess})", input.name)?;
        }
    }
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
fn show(row: &Row<'_>, redactor: &Redactor) -> String {
    let at = row.start_stamp.or(row.stamp).map_or(0, |s| s.at.0);
    let at =
        jiff::Timestamp::from_nanosecond(i128::from(at)).map_or_else(|_| "?".to_owned(), |t| t.to_string());
    let shape = access_log::make_shape(row, redactor);
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
    writeln!(err, "replay: {} is read as {}", input.name, found.format.name)?;
    for line in shown {
        writeln!(err, "replay:   {line}")?;
    }
    Ok(())
}
