//! Any bytes as frames of both directions: bounded memory, bounded events.
#![no_main]
use libfuzzer_sys::fuzz_target;
use replay::capture::http2::{Http2, PREFACE};
use replay::units::WallTime;

fuzz_target!(|data: &[u8]| {
    let Some((cut, data)) = data.split_first() else { return };
    let (mut h2, mut out) = (Http2::new(), Vec::new());
    h2.push(true, WallTime(1), PREFACE, &mut out);
    let (client, server) = data.split_at(data.len() * usize::from(*cut) / 256);
    h2.push(true, WallTime(2), client, &mut out);
    h2.push(false, WallTime(3), server, &mut out);
    assert!(out.len() <= data.len() + 2);
    assert!(h2.held_bytes() < 4 * 1024 * 1024);
});
