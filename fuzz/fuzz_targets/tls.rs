//! Any bytes as both directions of a connection of TLS whose secrets are known, in pieces and with holes: it always comes to an
//! end, holds no more than a record and a handshake, and opens nothing that no key fits.
#![no_main]
use libfuzzer_sys::fuzz_target;
use replay::capture::flow::Piece;
use replay::capture::tls::keylog::KeyLog;
use replay::capture::tls::{Out, Tls};
use replay::limits::{TLS_EARLY_BYTES_MAX, TLS_HANDSHAKE_BYTES_MAX, TLS_RECORD_BYTES_MAX};
use replay::units::WallTime;

fuzz_target!(|data: &[u8]| {
    let Some((flags, data)) = data.split_first() else { return };
    let (mut keys, mut tls) = (KeyLog::default(), Tls::default());
    // The client random that a fuzzer finds first.
    let (random, secret) = ("00".repeat(32), "01".repeat(32));
    for label in ["CLIENT_HANDSHAKE_TRAFFIC_SECRET", "SERVER_HANDSHAKE_TRAFFIC_SECRET", "CLIENT_TRAFFIC_SECRET_0"] {
        keys.add(format!("{label} {random} {secret}\n").as_bytes());
    }
    keys.add(format!("CLIENT_RANDOM {random} {}\n", "01".repeat(48)).as_bytes());
    keys.add(data);
    for (n, piece) in data.chunks(usize::from(flags >> 2) + 1).enumerate() {
        let is_client = flags & 1 == 0 || n % 2 == 0;
        let hole = flags & 2 != 0 && piece.first() == Some(&0xff);
        let piece = if hole { Piece::Gap { len: piece.len() as u64, mark: None } } else { Piece::Data { at: WallTime(1), bytes: piece, mark: None } };
        tls.push(is_client, piece, &keys, &mut |out| assert!(!matches!(out, Out::Opened), "opened without a key"));
        assert!(tls.held_bytes() <= 2 * (TLS_HANDSHAKE_BYTES_MAX + TLS_RECORD_BYTES_MAX) + TLS_EARLY_BYTES_MAX);
    }
});
