//! Any bytes as one answer, to our reader in pieces and to hyper: where we read an answer, hyper reads the same one. We may
//! refuse more. The first byte says how the bytes are cut and what was asked.
#![no_main]
use std::sync::LazyLock;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use libfuzzer_sys::fuzz_target;
use replay::wire::answer::{AnswerReader, Found, Keep};
use replay::wire::body::Asked;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

static RUNTIME: LazyLock<tokio::runtime::Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime"));

/// Status and length of the body.
fn ours(bytes: &[u8], piece: usize, asked: Asked) -> Option<(u16, u64)> {
    let mut reader = AnswerReader::default();
    reader.begin(asked, Keep::Cookies);
    let (mut at, mut status, mut steps) = (0, None, 0);
    loop {
        steps += 1;
        assert!(steps < 8 * bytes.len() + 64, "no end");
        // A head that is followed by nothing may be the end of the answer: it is asked without bytes.
        let end = if status.is_none() || steps % 2 == 0 { at + piece } else { at };
        let (n, found) = reader.feed(&bytes[at..end.min(bytes.len())]).ok()?;
        at += n;
        match found {
            Some(Found::Head(head)) => status = Some(head.status),
            Some(Found::End { body_bytes }) => return Some((status?, body_bytes)),
            Some(Found::Interim(_)) => {}
            None if at == bytes.len() && (status.is_none() || steps % 2 == 0) => {
                let Ok(Some(Found::End { body_bytes })) = reader.closed() else { return None };
                return Some((status?, body_bytes));
            }
            None => {}
        }
    }
}

async fn hypers(bytes: &[u8], method: &str) -> Option<(u16, u64)> {
    let (client, mut server) = tokio::io::duplex(1 << 17);
    // As many header lines as we take.
    let mut builder = hyper::client::conn::http1::Builder::new();
    builder.max_headers(replay::limits::HEADERS_MAX);
    let (mut sender, driver) = builder.handshake(TokioIo::new(client)).await.ok()?;
    let request = hyper::Request::builder().method(method).uri("/").header("host", "x").body(Empty::<Bytes>::new());
    let answer = sender.send_request(request.expect("a request"));
    let target = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(server.read_u8().await.ok()?);
        }
        server.write_all(bytes).await.ok()?;
        server.shutdown().await.ok()
    };
    let read = async {
        let response = answer.await.ok()?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.ok()?;
        Some((status, body.to_bytes().len() as u64))
    };
    let (read, (), ()) = tokio::join!(read, async { drop(driver.await) }, async { drop(target.await) });
    read
}

fuzz_target!(|data: &[u8]| {
    let Some((flags, bytes)) = data.split_first() else { return };
    if bytes.len() > 1 << 16 {
        return;
    }
    let method = if flags & 1 == 0 { "GET" } else { "HEAD" };
    let ours = ours(bytes, usize::from(flags >> 1) + 1, Asked::by(method.as_bytes()));
    let Some(ours) = ours else { return };
    let theirs = RUNTIME.block_on(hypers(bytes, method));
    assert_eq!(Some(ours), theirs, "{method} {:?}", String::from_utf8_lossy(bytes));
});
