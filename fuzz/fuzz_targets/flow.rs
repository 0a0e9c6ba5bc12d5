//! Segments with any numbers and flags: what comes out is never more than the stream could hold, and memory is bounded.
#![no_main]
use libfuzzer_sys::fuzz_target;
use replay::capture::flow::{Piece, Reassembler};
use replay::limits::REASSEMBLY_BYTES_MAX;
use replay::units::WallTime;

fuzz_target!(|data: &[u8]| {
    let (mut r, mut at) = (Reassembler::default(), 0u64);
    let mut out = 0u64;
    for step in data.chunks(8) {
        let [seq @ .., kind, len, jump] = step else { continue };
        let seq = seq.iter().fold(0u32, |n, b| n << 8 | u32::from(*b));
        at += u64::from(*jump) << 28;
        let mut sink = |p: Piece<'_>| out += if let Piece::Data { bytes, .. } = p { bytes.len() as u64 } else { 0 };
        match kind % 4 {
            0 => r.acknowledge(seq),
            1 => r.tick(WallTime(at), &mut sink),
            _ => r.push(WallTime(at), (seq, Some(seq)), &vec![0; usize::from(*len) * 8], u32::from(kind >> 6), &mut sink),
        }
        assert!(r.held_bytes() <= REASSEMBLY_BYTES_MAX + 4096);
    }
    r.finish(&mut |_| ());
    assert!(out <= data.len() as u64 * 2048);
});
