//! Any bytes as a log: a format is found or not, lines are requests or counted, directives compile or are refused.
#![no_main]
use libfuzzer_sys::fuzz_target;
use replay::capture::access_log::format::Format;
use replay::capture::access_log::{LogRecorder, LogSource};
use replay::trace::Item;

fuzz_target!(|data: &[u8]| {
    let cut = data.iter().position(|b| *b == 0).unwrap_or(0);
    let (directive, log) = data.split_at(cut);
    let given = std::str::from_utf8(directive).ok().and_then(|d| Format::directive(d).ok());
    let names = Format::names();
    let named = data.first().and_then(|b| Format::named(names[usize::from(*b) % names.len()], &[]));
    for format in [given, named, Format::detect(log, &[])].into_iter().flatten() {
        let mut recorder = LogRecorder::new(7, replay::capture::redact::Redactor::with_key(b"k"));
        let source = recorder.add_source(LogSource::new(format, data.len() % 2 == 0, 0));
        let (mut lines, mut used) = (0u64, 0u64);
        for line in log.split(|b| *b == b'\n') {
            lines += 1;
            used += u64::from(matches!(recorder.line(source, line), Ok(Some(_))));
        }
        assert_eq!(recorder.ledger_mut().get(Item::Lines), Some(lines));
        let (events, ledger) = recorder.finish();
        let requests = events.iter().filter(|e| matches!(e.kind, replay::trace::EventKind::Request(_))).count() as u64;
        assert_eq!(requests + ledger.get(Item::LateEvents).unwrap_or(0), used, "nothing is lost without a count");
    }
});
