//! Tables of answers, cut at every byte.

use proptest::prelude::*;

use super::*;

/// Reads all answers to `asked` out of `bytes` that come in pieces of `piece`, then the end of the connection.
fn read(bytes: &[u8], piece: usize, asked: Asked) -> Result<Vec<(AnswerHead, u64)>, AnswerError> {
    let mut reader = AnswerReader::default();
    let (mut out, mut head) = (Vec::new(), None);
    reader.begin(asked, Keep::Cookies);
    for piece in bytes.chunks(piece.max(1)) {
        let mut rest = piece;
        loop {
            let (n, found) = reader.feed(rest)?;
            rest = &rest[n..];
            match found {
                Some(Found::Interim(_)) => {}
                Some(Found::Head(h)) => head = Some(h),
                Some(Found::End { body_bytes }) => {
                    out.push((head.take().expect("a head comes first"), body_bytes));
                    reader.begin(asked, Keep::Cookies);
                }
                None if n == 0 || rest.is_empty() => break,
                None => {}
            }
        }
        assert!(rest.is_empty(), "everything belongs to an answer");
    }
    match reader.closed() {
        Ok(Some(Found::End { body_bytes })) => out.push((head.take().expect("a head"), body_bytes)),
        Ok(_) => {}
        // Awaiting the next one is no breaking off.
        Err(AnswerError::Closed) if reader.state == State::Head && reader.part.is_empty() => {}
        Err(e) => return Err(e),
    }
    Ok(out)
}

/// Bytes, what they answer, and the answers in them.
type Row = (&'static str, Asked, Result<Vec<(AnswerHead, u64)>, AnswerError>);

#[test]
fn answers_end_where_they_end() {
    let h = |status, keep_alive| AnswerHead { status, keep_alive, ..AnswerHead::default() };
    let ok = h(200, true);
    #[rustfmt::skip]
    let table: Vec<Row> = vec![
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Asked::Other, Ok(vec![(ok, 2)])),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Asked::Other, Ok(vec![(ok, 0)])),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nokHTTP/1.1 204 No\r\n\r\n", Asked::Other, Ok(vec![(ok, 2), (h(204, true), 0)])),
        ("HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n", Asked::Head, Ok(vec![(ok, 0)])),
        ("HTTP/1.1 304 N\r\nContent-Length: 999\r\n\r\n", Asked::Other, Ok(vec![(h(304, true), 0)])),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\na;x=y\r\n0123456789\r\n0\r\nT: 1\r\n\r\n", Asked::Other, Ok(vec![(ok, 13)])),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, Chunked\r\n\r\n0\r\n\r\n", Asked::Other, Ok(vec![(ok, 0)])),
        ("HTTP/1.1 200 OK\r\n\r\nuntil the end", Asked::Other, Ok(vec![(h(200, false), 13)])),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nxyz", Asked::Other, Ok(vec![(h(200, false), 3)])),
        ("HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 1\r\n\r\nx", Asked::Other, Ok(vec![(h(200, false), 1)])),
        ("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", Asked::Other, Ok(vec![(h(200, false), 1)])),
        ("HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 1\r\n\r\nx", Asked::Other, Ok(vec![(ok, 1)])),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 404 N\r\nContent-Length: 0\r\n\r\n", Asked::Other, Ok(vec![(h(404, true), 0)])),
        ("HTTP/1.1 503 S\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n", Asked::Other, Ok(vec![(AnswerHead { retry_after_s: Some(7), ..h(503, true) }, 0)])),
        ("HTTP/1.1 429 T\r\nRetry-After: Fri, 31 Dec 1999 23:59:59 GMT\r\nContent-Length: 0\r\n\r\n", Asked::Other, Ok(vec![(AnswerHead { retry_after_s: Some(60), ..h(429, true) }, 0)])),
        ("HTTP/1.1 200 OK\r\nx-REPLAY-stop: 1\r\nContent-Length: 0\r\n\r\n", Asked::Other, Ok(vec![(AnswerHead { stop: true, ..ok }, 0)])),
        ("HTTP/1.1 200\nContent-Length: 1\n\nx", Asked::Other, Ok(vec![(ok, 1)])),
        // What no client may guess about.
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc", Asked::Other, Err(AnswerError::Length)),
        ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", Asked::Other, Err(AnswerError::Length)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", Asked::Other, Err(AnswerError::Length)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Asked::Other, Err(AnswerError::Length)),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Asked::Other, Err(AnswerError::Length)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", Asked::Other, Err(AnswerError::Chunk)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc", Asked::Other, Err(AnswerError::Chunk)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r: 1\r\n\r\n", Asked::Other, Err(AnswerError::Chunk)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nT: 1\n\n\r\n", Asked::Other, Err(AnswerError::Chunk)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\t\r\n\r\n", Asked::Other, Err(AnswerError::Chunk)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nno colon\r\n\r\n", Asked::Other, Err(AnswerError::Chunk)),
        ("HTTP/1.1 101 S\r\n\r\n", Asked::Other, Err(AnswerError::Switched)),
        ("HTTP/1.1 200 OK\r\n\r\n", Asked::Connect, Err(AnswerError::Switched)),
        ("HTTP/1.1 000 C\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Asked::Other, Err(AnswerError::Head)),
        ("SSH-2.0-OpenSSH\r\n\r\n", Asked::Other, Err(AnswerError::Head)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", Asked::Other, Err(AnswerError::Closed)),
        ("HTTP/1.1 200 OK\r\nContent-Le", Asked::Other, Err(AnswerError::Closed)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", Asked::Other, Err(AnswerError::Closed)),
    ];
    for (text, asked, want) in table {
        for piece in 1..=text.len() {
            assert_eq!(read(text.as_bytes(), piece, asked), want, "{text:?} in pieces of {piece}");
        }
    }
}

#[test]
fn nothing_is_read_without_end() {
    let endless = |start: &str, more: &str, bytes: usize| {
        let mut text = start.as_bytes().to_vec();
        while text.len() < bytes {
            text.extend_from_slice(more.as_bytes());
        }
        [1_000, usize::MAX].map(|piece| read(&text, piece.min(text.len()), Asked::Other).unwrap_err())
    };
    assert_eq!(endless("HTTP/1.1 200 OK\r\nA: ", "a", HEAD_BYTES_MAX + 10), [AnswerError::Head; 2]);
    let many = endless("HTTP/1.1 200 OK\r\n", "a: b\r\n", 4_000);
    assert_eq!(many, [AnswerError::Closed, AnswerError::Head], "too many lines, found out in one piece");
    assert_eq!(endless("\r\n", "\r\n", HEAD_BYTES_MAX + 2_000), [AnswerError::Head; 2], "empty lines alone");
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(endless(&format!("{chunked}1;"), "a", CHUNK_LINE_MAX + 2_000), [AnswerError::Chunk; 2]);
    assert_eq!(
        endless(&format!("{chunked}0\r\n"), "a: b\r\n", HEAD_BYTES_MAX + 2_000),
        [AnswerError::Head; 2]
    );
}

/// What stops a run is heard even from an answer that cannot be read any further.
#[test]
fn a_stop_is_heard_whatever_follows() {
    for (text, status) in [
        (
            "HTTP/1.1 503 S\r\nX-Replay-Stop: 1\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
            503,
        ),
        ("HTTP/1.0 200 S\r\nX-Replay-Stop: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 200),
        ("HTTP/1.1 101 S\r\nX-Replay-Stop: 1\r\n\r\n", 101),
        ("HTTP/1.1 103 S\r\nX-Replay-Stop: 1\r\n\r\n", 103),
    ] {
        let mut reader = AnswerReader::default();
        reader.begin(Asked::Other, Keep::Cookies);
        let found = reader.feed(text.as_bytes()).unwrap().1;
        let Some(Found::Head(head) | Found::Interim(head)) = found else { panic!("{found:?}") };
        assert!(head.stop && head.status == status, "{text}");
        assert_eq!(reader.feed(b"").is_err(), status != 103, "{text}");
    }
}

#[test]
fn more_header_lines_than_usual_are_read_too() {
    let lines: String = (0..HEADERS_MAX - 1).map(|i| format!("x-{i}: 1\r\n")).collect();
    let text = format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: 2\r\n\r\nok");
    assert_eq!(read(text.as_bytes(), 700, Asked::Other).unwrap()[0].1, 2);
}

proptest! {
    /// Whatever comes, in whatever pieces: no panic, no endless loop, and the same however it is cut.
    #[test]
    fn garbage_is_the_same_in_any_pieces(
        head in prop_oneof![Just(""), Just("HTTP/1.1 200 OK\r\n"), Just("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")],
        tail in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'\r'), Just(b'\n'), Just(b':'), Just(b'0'), Just(b'5')], 0..80),
        piece in 1usize..20,
    ) {
        let bytes = [head.as_bytes(), &tail].concat();
        // A head that cannot become one may be found out early or at its end.
        let read = |piece| read(&bytes, piece, Asked::Other).map_err(|_| ());
        prop_assert_eq!(read(piece), read(bytes.len().max(1)));
    }
}

#[test]
fn what_is_asked_for_is_kept_until_the_next_answer() {
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    let cookie = b"HTTP/1.1 302 Found\r\nset-COOKIE: a=1\r\nX: 2\r\nContent-Length: 4\r\n\r\nbody";
    // Answer, what is asked for, cut after this many bytes, lines kept, body kept.
    type Row = (&'static [u8], Keep, usize, usize, Option<&'static [u8]>);
    let mut table: Vec<Row> = Vec::new();
    for cut in 1..chunked.len() {
        table.push((chunked, Keep::Cookies, cut, 0, None));
        table.push((chunked, Keep::Head, cut, 1, None));
        table.push((chunked, Keep::Body, cut, 1, Some(b"abcde")));
    }
    for cut in 1..cookie.len() {
        table.push((cookie, Keep::Cookies, cut, 3, None));
        table.push((cookie, Keep::Body, cut, 3, Some(b"body")));
    }
    let mut reader = AnswerReader::default();
    for (bytes, keep, cut, lines, body) in table {
        reader.begin(Asked::Other, keep);
        let (mut ended, parts) = (false, [&bytes[..cut], &bytes[cut..]]);
        for part in parts {
            let mut rest = part;
            while !rest.is_empty() {
                let (n, found) = reader.feed(rest).unwrap();
                ended |= matches!(found, Some(Found::End { .. }));
                rest = &rest[n..];
            }
        }
        assert!(ended, "{cut}");
        assert_eq!((lines_of(reader.kept_head()).len(), reader.kept_body()), (lines, body), "{keep:?} {cut}");
    }
    let long = TAKE_BODY_BYTES_MAX + 1;
    reader.begin(Asked::Other, Keep::Body);
    reader.feed(format!("HTTP/1.1 200 OK\r\nContent-Length: {long}\r\n\r\n").as_bytes()).unwrap();
    assert!(matches!(reader.feed(&vec![b'x'; long]).unwrap(), (_, Some(Found::End { .. }))));
    assert_eq!((reader.kept_body(), reader.body_bytes()), (None, long as u64), "too long is none, not half");
}
