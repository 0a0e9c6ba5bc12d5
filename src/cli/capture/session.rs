//! Inputs read to their ends, one kind after the other.

use std::io::Write;

use anyhow::Context;

use super::found::FoundLog;
use super::sink::Sink;
use crate::capture::access_log::format::Format;
use crate::capture::access_log::row::LineError;
use crate::capture::access_log::{LogRecorder, LogSource};
use crate::capture::order::Until;
use crate::capture::recorder::Recorder;
use crate::capture::vantage::Vantage;
use crate::cli::progress::Progress;
use crate::edge::intake::log_file::{BadLine, Logs};
use crate::edge::intake::open::{Input, Kind};
use crate::edge::intake::{capture_file, gor_file, har_file};
use crate::trace::Item;

/// Bad lines of a log that are named one by one; the rest is only counted.
const BAD_LINES_SHOWN: u64 = 5;

/// All logs are one input here: the logs of several servers are merged by their lines.
pub(super) const LOGS: u32 = u32::MAX;

/// A capture under way: events go to the trace as soon as their place in time is certain.
pub(super) struct Session {
    pub(super) frames: Recorder,
    pub(super) log: LogRecorder,
    pub(super) sink: Sink,
    /// The capture file that was read last, and where it was captured.
    pub(super) last: u32,
    pub(super) vantage: Vantage,
}

impl Session {
    pub(super) fn read_frames(
        &mut self,
        number: u32,
        input: Input,
        behind_proxy: Option<bool>,
        progress: &mut Progress,
    ) -> anyhow::Result<()> {
        let (name, mut failed) = (input.name.clone(), None);
        self.last = number;
        self.vantage.begin(&name, behind_proxy);
        self.frames.begin_source(number);
        let (sink, vantage) = (&mut self.sink, &mut self.vantage);
        let end = capture_file::read(input.bytes, &mut self.frames, |recorder| {
            sink.take_seen(number, recorder.take_events(), false, vantage);
            if failed.is_none() {
                failed = sink.drain(Until::Full).err();
            }
            progress
                .tick(|| format!("{name}: {} frames", recorder.ledger_mut().get(Item::Frames).unwrap_or(0)));
        });
        sink.take_seen(number, self.frames.take_events(), true, vantage);
        if let Some(error) = failed {
            return Err(error);
        }
        if let Some(why) = end?.stopped {
            writeln!(std::io::stderr(), "replay: warning: {name}: {why}; what comes before was used")?;
        }
        Ok(())
    }

    pub(super) fn read_archive(
        &mut self,
        kind: Kind,
        number: u32,
        input: Input,
        seed: u64,
        progress: &mut Progress,
    ) -> anyhow::Result<()> {
        let format = Format::named("har", &[]).context("the format of HTTP archives is missing")?;
        let source = LogSource::new(format, false, number);
        let (name, mut bad) = (input.name.clone(), 0u64);
        let (log, sink) = (&mut self.log, &mut self.sink);
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
            sink.take_from(number, log.take_events());
            sink.drain(Until::Full)?;
            progress.tick(|| format!("{} records", log.ledger_mut().get(Item::Lines).unwrap_or(0)));
            Ok(())
        };
        let end = if kind == Kind::Gor {
            gor_file::read(input.bytes, log, seed, number, say, each).map(|()| None)?
        } else {
            har_file::read(input.bytes, log, source, say, each)?
        };
        if let Some(why) = end {
            log.ledger_mut().count(Item::CutFiles);
            writeln!(
                std::io::stderr(),
                "replay: warning: {}: {why}; what comes before was used",
                input.name
            )?;
        }
        Ok(())
    }

    pub(super) fn read_logs(
        &mut self,
        found: Vec<(FoundLog, u32, Input)>,
        threads: Option<usize>,
        progress: &mut Progress,
    ) -> anyhow::Result<()> {
        let (mut bad, mut logs) = (0u64, Logs::new(threads));
        for (found, number, input) in found {
            let source = LogSource::new(found.format, found.behind_proxy, number);
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
        let (log, sink) = (&mut self.log, &mut self.sink);
        logs.read(log, say, |log| {
            sink.take_from(LOGS, log.take_events());
            sink.drain(Until::Full)?;
            progress.tick(|| format!("{} lines", log.ledger_mut().get(Item::Lines).unwrap_or(0)));
            Ok(())
        })?;
        if bad > BAD_LINES_SHOWN {
            let more = bad - BAD_LINES_SHOWN;
            writeln!(std::io::stderr(), "replay: warning: {more} more lines not used; see the ledger")?;
        }
        Ok(())
    }
}
