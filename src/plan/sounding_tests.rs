//! A sounded plan against the same plan read through.

use std::io::Cursor;

use proptest::prelude::*;

use super::*;
use crate::plan::forecast::{duration_ns, forecast};
use crate::plan::stream::tests::{request, settings, shape};
use crate::trace::reader::TraceReader;
use crate::trace::writer::TraceWriter;
use crate::trace::{Ledger, TraceEvent, TraceMeta};
use crate::units::{Scale, Speed, WallTime};

/// A trace in memory that can be gone through from any moment, and says how much was read.
struct Bytes {
    bytes: Vec<u8>,
    reader: TraceReader<Cursor<Vec<u8>>>,
    outline: Outline,
    read: u64,
}

impl EventSource for Bytes {
    fn next_event(&mut self) -> anyhow::Result<Option<TraceEvent>> {
        self.read += 1;
        Ok(self.reader.next_event()?)
    }
    fn rewind(&mut self) -> anyhow::Result<()> {
        self.reader = TraceReader::new(Cursor::new(self.bytes.clone()))?;
        Ok(())
    }
    fn seek(&mut self, at_ns: u64) -> anyhow::Result<()> {
        self.rewind()?;
        Ok(self.outline.clone().seek(&mut self.reader, at_ns)?)
    }
}

/// `per_second[i]` requests in second `i`, of sessions in turn; every third may not be sent where `mixed`.
fn trace(per_second: &[u64], sessions: u64, mixed: bool) -> Bytes {
    let meta = TraceMeta {
        started_at: WallTime(0),
        sources: Vec::new(),
        redaction: String::new(),
        resolution_ns: 1,
        spread_seed: None,
        made_by: String::new(),
    };
    let mut writer = TraceWriter::new(Vec::new(), &meta).unwrap();
    let mut n = 0;
    for (second, count) in per_second.iter().enumerate() {
        for i in 0..*count {
            let method = if mixed && n % 3 == 0 { "DELETE" } else { "GET" };
            let ms = second as u64 * 1_000 + i * 1_000 / count;
            writer.push(&request(ms, n % sessions, shape(method, "/a", false))).unwrap();
            n += 1;
        }
    }
    let (bytes, _) = writer.finish(&Ledger::default()).unwrap();
    let reader = TraceReader::new(Cursor::new(bytes.clone())).unwrap();
    let outline = Outline::read(&mut Cursor::new(&bytes)).unwrap().unwrap();
    Bytes { bytes, reader, outline, read: 0 }
}

fn both(source: Bytes, settings: &PlanSettings) -> (Forecast, Forecast, u64) {
    let outline = source.outline.clone();
    let mut told = Vec::new();
    let (sounded, mut source) = sound(source, settings, &outline, || true, |due| told.push(due)).unwrap();
    let read = source.read;
    let duration = duration_ns(&mut source, settings.from_ns, settings.to_ns).unwrap();
    let mut due = Vec::new();
    let (whole, _) = forecast(source, settings, duration, |d| due.push(d)).unwrap();
    // Nothing is told twice: what was told is part of the plan.
    told.sort_unstable();
    let mut due = due.into_iter().peekable();
    for one in told {
        while due.next_if(|d| *d < one).is_some() {}
        assert_eq!(due.next(), Some(one));
    }
    (sounded.unwrap(), whole, read)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The peak is one that the plan has: never above the truth. Counts are near it, and add up.
    #[test]
    fn never_above_the_truth(per_second in prop::collection::vec(1u64..60, 30..120), milli in 500u64..3_500,
                             speed in prop_oneof![500u64..4_000, Just(60_000)], mixed in any::<bool>(),
                             from in 0u64..10, run_for in prop_oneof![Just(u64::MAX), 12u64..60], repeat in any::<bool>()) {
        // A run that goes round needs an end.
        let run_for = if repeat { run_for.min(40) } else { run_for };
        let s = PlanSettings { scale: Scale { milli }, speed: Speed { milli: speed }, from_ns: from * NANOS_PER_SEC,
                               for_ns: run_for.saturating_mul(NANOS_PER_SEC), repeat, ..settings() };
        let (sounded, whole, _) = both(trace(&per_second, 200, mixed), &s);
        prop_assert!(sounded.peak <= whole.peak, "{} {}", sounded.peak, whole.peak);
        // Where the end of a round meets the start of the next it is not looked: the bucket sheds what is above.
        prop_assert!(repeat || sounded.peak.rps() >= whole.peak.rps() * 0.7, "{} {}", sounded.peak, whole.peak);
        prop_assert!(sounded.counts.adds_up());
        // A part begins and ends within seconds whose density is known as a whole only: one second of requests, scaled.
        let edges = 60.0 * (milli as f64 / 1_000.0).max(1.0);
        let near = |a: u64, b: u64| (a as f64 - b as f64).abs() <= b as f64 * 0.15 + edges;
        prop_assert!(near(sounded.counts.due, whole.counts.due), "{:?} {:?}", sounded.counts, whole.counts);
        prop_assert!(sounded.sounded && !whole.sounded);
    }
}

#[test]
fn a_spike_in_a_day_is_found_without_reading_the_day() {
    let mut per_second = vec![20u64; 5_000];
    per_second[3_777] = 300;
    let s = settings();
    let (sounded, whole, read) = both(trace(&per_second, 500, false), &s);
    assert_eq!(sounded.peak, whole.peak);
    assert_eq!(sounded.peak.rps() as u64, 300);
    assert!(read < 60_000, "{read} of 100,280 events");
    assert_eq!((sounded.counts.due, sounded.curve.len()), (whole.counts.due, whole.curve.len()));
}

#[test]
fn what_may_not_be_sent_where_it_was_looked_needs_all_to_be_read() {
    let mut events: Vec<TraceEvent> =
        (0..400u64).map(|i| request(i * 1_000 + 500, i, shape("GET", "/a", false))).collect();
    events.extend((0..900u64).map(|i| request(20_000 + i, i, shape("DELETE", "/a", false))));
    events.sort_by_key(|e| e.at);
    let mut source = trace(&[1], 1, false);
    let mut writer = TraceWriter::new(Vec::new(), source.reader.meta()).unwrap();
    events.iter().for_each(|e| writer.push(e).unwrap());
    source.bytes = writer.finish(&Ledger::default()).unwrap().0;
    source.outline = Outline::read(&mut Cursor::new(&source.bytes)).unwrap().unwrap();
    let outline = source.outline.clone();
    // Time for one stretch only: the one in which nothing may be sent.
    let s = PlanSettings { to_ns: 21_000_000_000, from_ns: 20_000_000_000, ..settings() };
    let (sounded, source) = sound(source, &s, &outline, || false, |_| ()).unwrap();
    assert_eq!(sounded.map(|f| f.peak.rps() as u64), Some(1), "one GET is in it");
    let s = PlanSettings { to_ns: 20_400_000_000, from_ns: 20_000_000_000, ..settings() };
    let (sounded, _) = sound(source, &s, &outline, || false, |_| ()).unwrap();
    assert_eq!(sounded, None);
}

#[test]
fn the_densest_come_first_and_parts_are_kept_to() {
    let source = trace(&[1, 9, 3, 9, 9, 1, 5], 10, false);
    let at = |from: u64, to: u64, speed: u64| {
        let s = PlanSettings {
            from_ns: from * 1_000_000_000,
            to_ns: to.saturating_mul(1_000_000_000),
            speed: Speed { milli: speed },
            ..settings()
        };
        densest(&source.outline, &s)
    };
    let sums = |v: &[(u64, u64)]| v.iter().map(|(_, n)| *n).collect::<Vec<_>>();
    assert_eq!(sums(&at(0, u64::MAX, 1_000)), [9, 9, 9, 5, 3, 1, 1]);
    assert_eq!(at(0, u64::MAX, 2_000).first(), Some(&(3, 18)), "two seconds of the trace in one of the run");
    let part = at(5, 7, 1_000);
    assert_eq!(part, [(6, 5), (5, 1)]);
}
