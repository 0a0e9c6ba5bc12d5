//! One connection, piece by piece.

use super::*;

fn data(ms: u64, bytes: &str) -> Piece<'_> {
    Piece::Data { at: WallTime(ms * 1_000_000), bytes: bytes.as_bytes(), mark: None }
}

fn requests(out: &[RawEvent]) -> Vec<(u64, String, Option<u16>, Option<u64>)> {
    let one = |e: &RawEvent| match &e.kind {
        EventKind::Request(r) => Some((
            e.at.0 / 1_000_000,
            String::from_utf8_lossy(&r.shape.target).into_owned(),
            r.status.value,
            r.duration_ns.value.map(|d| d / 1_000_000),
        )),
        EventKind::Open(_) | EventKind::Close(_) => None,
    };
    out.iter().filter_map(one).collect()
}

#[test]
fn pipelined_requests_get_their_own_answers() {
    let (mut p, mut ledger, mut out) =
        (Pairing::new(1, WallTime(0), true, Redactor::with_key(b"k")), Ledger::default(), Vec::new());
    p.client(data(10, "HEAD /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n"), &mut ledger, &mut out);
    let answers =
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nHTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nno";
    p.server(data(30, answers), &mut ledger, &mut out);
    p.finish(WallTime(90_000_000), true, &mut ledger, &mut out);
    let want = [(10, "/a".to_owned(), Some(200), Some(20)), (10, "/b".to_owned(), Some(404), Some(20))];
    assert_eq!(requests(&out), want);
    assert!(matches!(out[0].kind, EventKind::Open(_)) && matches!(out[3].kind, EventKind::Close(_)));
}

#[test]
fn an_interim_response_is_not_an_answer() {
    let (mut p, mut ledger, mut out) =
        (Pairing::new(1, WallTime(0), true, Redactor::with_key(b"k")), Ledger::default(), Vec::new());
    p.client(
        data(1, "POST /u HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"),
        &mut ledger,
        &mut out,
    );
    p.server(data(2, "HTTP/1.1 100 Continue\r\n\r\n"), &mut ledger, &mut out);
    p.client(data(3, "hi"), &mut ledger, &mut out);
    p.server(data(4, "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"), &mut ledger, &mut out);
    assert_eq!(requests(&out), [(1, "/u".to_owned(), Some(201), Some(3))]);
}

#[test]
fn a_one_sided_capture_keeps_requests_without_answers() {
    let (mut p, mut ledger, mut out) =
        (Pairing::new(1, WallTime(0), true, Redactor::with_key(b"k")), Ledger::default(), Vec::new());
    p.client(data(1, "GET /a HTTP/1.1\r\n\r\nGET /b HT"), &mut ledger, &mut out);
    p.finish(WallTime(5), false, &mut ledger, &mut out);
    assert_eq!(requests(&out), [(1, "/a".to_owned(), None, None)]);
    assert_eq!(ledger.get(Item::UnpairedRequests), Some(1));
    assert_eq!(ledger.get(Item::IncompleteRequests), Some(1));
}

/// More requests than may wait are kept all the same: without answers, in time.
#[test]
fn a_long_one_sided_connection_loses_nothing() {
    let (mut p, mut ledger, mut out) =
        (Pairing::new(1, WallTime(0), true, Redactor::with_key(b"k")), Ledger::default(), Vec::new());
    for i in 0..1_000u64 {
        p.client(data(i * 100, "GET /a HTTP/1.1\r\n\r\n"), &mut ledger, &mut out);
        let late = requests(&out).len() as u64 + 256 < i;
        assert!(!late && p.held_bytes() < 64 * 1024, "{i}: they leave before the connection ends");
    }
    p.finish(WallTime(100_000_000_000), true, &mut ledger, &mut out);
    assert_eq!((requests(&out).len(), ledger.get(Item::LostRequests), p.held_bytes()), (1_000, Some(0), 0));
}

/// An answer that overtook its request, or a hole, must not give every later request the answer of another.
#[test]
fn pairs_are_told_only_while_they_are_certain() {
    let get = |n: u32| format!("GET /{n} HTTP/1.1\r\n\r\n");
    let ok = |status: u16| format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
    let (mut p, mut ledger, mut out) =
        (Pairing::new(1, WallTime(0), true, Redactor::with_key(b"k")), Ledger::default(), Vec::new());
    p.server(data(1, &ok(201)), &mut ledger, &mut out);
    for n in 1..4 {
        p.client(data(u64::from(n) * 10, &get(n)), &mut ledger, &mut out);
        p.server(data(u64::from(n) * 10 + 1, &ok(201 + n as u16)), &mut ledger, &mut out);
    }
    p.finish(WallTime(90_000_000), true, &mut ledger, &mut out);
    assert!(
        requests(&out).iter().all(|r| r.2.is_none()) && requests(&out).len() == 3,
        "{:?}",
        requests(&out)
    );
    // Two wait when a hole comes: their answers are theirs, those of what follows are not known.
    let (mut p, mut ledger, mut out) =
        (Pairing::new(1, WallTime(0), true, Redactor::with_key(b"k")), Ledger::default(), Vec::new());
    p.client(data(1, &(get(1) + &get(2))), &mut ledger, &mut out);
    p.client(Piece::Gap { len: 40, mark: None }, &mut ledger, &mut out);
    p.client(data(2, &get(4)), &mut ledger, &mut out);
    p.server(data(3, &(ok(201) + &ok(202) + &ok(203) + &ok(204))), &mut ledger, &mut out);
    p.finish(WallTime(90_000_000), true, &mut ledger, &mut out);
    let mut got: Vec<_> = requests(&out).into_iter().map(|r| (r.1, r.2)).collect();
    got.sort();
    assert_eq!(got, [("/1".to_owned(), Some(201)), ("/2".to_owned(), Some(202)), ("/4".to_owned(), None)]);
}

#[test]
fn after_connect_nothing_is_http() {
    let (mut p, mut ledger, mut out) =
        (Pairing::new(1, WallTime(0), true, Redactor::with_key(b"k")), Ledger::default(), Vec::new());
    p.client(data(1, "CONNECT h:443 HTTP/1.1\r\n\r\n"), &mut ledger, &mut out);
    p.server(data(2, "HTTP/1.1 200 OK\r\n\r\n"), &mut ledger, &mut out);
    p.client(data(3, "GET /inside HTTP/1.1\r\n\r\n"), &mut ledger, &mut out);
    p.finish(WallTime(9), true, &mut ledger, &mut out);
    assert_eq!(requests(&out).len(), 1);
    assert_eq!(ledger.get(Item::ConnectionsTunnel), Some(1));
}

#[test]
fn an_answer_in_a_hole_is_not_taken_for_the_next_one() {
    let (mut p, mut ledger, mut out) =
        (Pairing::new(1, WallTime(0), true, Redactor::with_key(b"k")), Ledger::default(), Vec::new());
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\n\r\n");
    p.client(data(1, &get("/a")), &mut ledger, &mut out);
    p.client(data(2, &get("/b")), &mut ledger, &mut out);
    // The answer to /a lay in it.
    p.server(Piece::Gap { len: 40, mark: None }, &mut ledger, &mut out);
    p.server(data(3, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), &mut ledger, &mut out);
    p.finish(WallTime(9), true, &mut ledger, &mut out);
    let want = [(1, "/a".to_owned(), None, None), (2, "/b".to_owned(), None, None)];
    assert_eq!(requests(&out), want);
    assert_eq!(ledger.get(Item::UnpairedResponses), Some(1));
}

/// A byte at a time: the preface of HTTP/2 is one, and what only begins like it is a request from its first byte on.
#[test]
fn what_begins_like_the_preface_is_waited_for() {
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let headers = [0, 0, 9, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 0x84, 0x41, 4, b's', b'h', b'o', b'p'];
    let h2 = [http2::PREFACE, &settings, &headers].concat();
    let post = b"POST /a HTTP/1.1\r\nContent-Length: 0\r\n\r\n".to_vec();
    let pri = b"PRI * HTTP/1.1\r\nHost: x\r\n\r\nPATCH /b HTTP/1.1\r\nContent-Length: 0\r\n\r\n".to_vec();
    for (bytes, want, http2) in [(h2, &["/"][..], 1), (post, &["/a"], 0), (pri, &["*", "/b"], 0)] {
        for size in [1, 7, 15, 17, 400] {
            let (mut p, mut ledger, mut out) =
                (Pairing::new(1, WallTime(0), true, Redactor::with_key(b"k")), Ledger::default(), Vec::new());
            for (i, bytes) in bytes.chunks(size).enumerate() {
                p.client(
                    Piece::Data { at: WallTime((i as u64 + 1) * 1_000_000), bytes, mark: None },
                    &mut ledger,
                    &mut out,
                );
            }
            p.finish(WallTime(900_000_000), true, &mut ledger, &mut out);
            let got = requests(&out);
            assert_eq!(got.iter().map(|r| &r.1[..]).collect::<Vec<_>>(), want, "{size}");
            assert_eq!(ledger.get(Item::ConnectionsHttp2), Some(http2));
            assert!(http2 == 1 || got[0].0 == 1, "{got:?}");
        }
    }
    let (mut p, mut ledger, mut out) =
        (Pairing::new(1, WallTime(0), true, Redactor::with_key(b"k")), Ledger::default(), Vec::new());
    p.client(data(1, "P"), &mut ledger, &mut out);
    assert_eq!((p.oldest(), p.held_bytes()), (Some(WallTime(1_000_000)), 1));
    p.finish(WallTime(9_000_000), true, &mut ledger, &mut out);
    assert_eq!((out.len(), ledger.get(Item::IncompleteRequests)), (0, Some(1)));
}
