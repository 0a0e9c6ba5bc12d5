//! Any bytes as a trace: events or an error, in bounded memory.
#![no_main]
use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use replay::trace::outline::Outline;
use replay::trace::reader::TraceReader;

fuzz_target!(|data: &[u8]| {
    drop(Outline::read(&mut Cursor::new(data)));
    let Ok(mut reader) = TraceReader::new(Cursor::new(data)) else { return };
    while let Ok(Some(_)) = reader.next_event() {}
});
