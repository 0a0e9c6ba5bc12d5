//! Any bytes as both directions of an HTTP/1 connection: it always comes to an end, however they are cut.
#![no_main]
use libfuzzer_sys::fuzz_target;
use replay::wire::body::Asked;
use replay::wire::stream::{Direction, MessageStream};

fuzz_target!(|data: &[u8]| {
    let Some((flags, data)) = data.split_first() else { return };
    for direction in [Direction::Requests, Direction::Responses] {
        let mut stream = MessageStream::new(direction, flags & 1 == 0);
        for piece in data.chunks(usize::from(flags >> 1) + 1) {
            let (mut rest, mut steps) = (piece, 0);
            loop {
                let (n, event) = stream.advance(rest, Asked::Other);
                if n == 0 && event.is_none() {
                    break;
                }
                rest = &rest[n..];
                steps += 1;
                assert!(steps < 8 * piece.len() + 64, "no end");
            }
        }
        drop(stream.finish());
    }
});
