//! Log-ins, tokens and created ids against a small real shop behind HAProxy: each session lives on what answers gave it,
//! or it is not sent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]
#![allow(clippy::disallowed_methods, reason = "tests measure real time against real servers")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use replay::capture::redact::Redactor;
use replay::trace::event::{
    ConnectionEvent, EventKind, Fact, Provenance, RequestFacts, SessionRef, TraceEvent,
};
use replay::trace::ledger::Ledger;
use replay::trace::meta::TraceMeta;
use replay::trace::shape::Scheme;
use replay::trace::writer::TraceWriter;
use replay::units::{TraceTime, WallTime};
use replay::wire::head::{HeaderLine, RequestHead, Version};
use serde_json::Value;

use support::*;

/// What the shop knows of one visitor.
#[derive(Debug, Default, Clone)]
struct Visitor {
    csrf: String,
    user: Option<String>,
    orders: BTreeSet<u64>,
}

/// What the shop saw.
#[derive(Debug, Default)]
struct Books {
    visitors: BTreeMap<String, Visitor>,
    orders: u64,
    read: u64,
    refused: Vec<String>,
    uploaded: Vec<u64>,
}

/// How the shop behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Well,
    /// The log-in page comes without its token.
    NoToken,
    /// Uploads are refused before they are read.
    Early,
}

struct Shop {
    port: u16,
    books: Arc<Mutex<Books>>,
    _runtime: tokio::runtime::Runtime,
}

fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut r = Response::builder().status(StatusCode::from_u16(status).unwrap());
    for (name, value) in headers {
        r = r.header(*name, *value);
    }
    r.body(Full::new(body.into())).unwrap()
}

fn gzip(text: &str) -> Vec<u8> {
    let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    e.write_all(text.as_bytes()).unwrap();
    e.finish().unwrap()
}

fn form(body: &[u8]) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(body).into_owned();
    text.split('&').filter_map(|p| p.split_once('=')).map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
}

impl Shop {
    fn start(mood: Mood) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let books = Arc::new(Mutex::new(Books::default()));
        let shared = Arc::clone(&books);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let books = Arc::clone(&shared);
                let service = service_fn(move |r| serve(r, mood, Arc::clone(&books)));
                tokio::spawn(async move {
                    let http = hyper::server::conn::http1::Builder::new();
                    drop(http.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Self { port, books, _runtime: runtime }
    }
}

async fn serve(
    request: Request<Incoming>,
    mood: Mood,
    books: Arc<Mutex<Books>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let header = |name: &str| request.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let cookie = header("cookie").unwrap_or_default();
    let sid = cookie.split("; ").find_map(|c| c.strip_prefix("sid=")).unwrap_or_default().to_owned();
    let token = header("x-csrf-token");
    if path == "/upload" && mood == Mood::Early {
        return Ok(answer(413, &[("connection", "close")], "too large"));
    }
    let body =
        request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let mut books = books.lock().unwrap();
    let refuse = |books: &mut Books, status, why: &str| {
        books.refused.push(format!("{method} {path}: {why}"));
        Ok(answer(status, &[], why.to_owned()))
    };
    match (&method, path.as_str()) {
        (&Method::GET, "/login") => {
            let n = books.visitors.len();
            let (sid, csrf) = (format!("s{n}"), format!("t\"{n}&x"));
            books.visitors.insert(sid.clone(), Visitor { csrf: csrf.clone(), ..Visitor::default() });
            let field = format!("<input name=\"csrf\" value='{csrf}'>");
            let page = format!("<form>{}</form>", if mood == Mood::NoToken { "" } else { &field });
            let set = format!("sid={sid}; Path=/; HttpOnly");
            Ok(answer(200, &[("set-cookie", &set), ("content-encoding", "gzip")], gzip(&page)))
        }
        (&Method::POST, "/login") => {
            let form = form(&body);
            let get = |n: &str| form.get(n).cloned().unwrap_or_default();
            let (user, password, csrf) = (get("user"), get("password"), get("csrf"));
            let Some(visitor) = books.visitors.get_mut(&sid) else {
                return refuse(&mut books, 403, "no session");
            };
            if csrf != visitor.csrf.replace('"', "%22").replace('&', "%26") {
                return refuse(&mut books, 403, "wrong csrf");
            }
            if password != format!("pw-{user}") {
                return refuse(&mut books, 401, "wrong password");
            }
            visitor.user = Some(user);
            Ok(answer(303, &[("location", "/")], ""))
        }
        (&Method::POST, "/orders") => {
            books.orders += 1;
            let id = 5_000 + books.orders;
            let Some(visitor) = books.visitors.get_mut(&sid) else {
                return refuse(&mut books, 403, "no session");
            };
            let order: Value = serde_json::from_slice(&body).unwrap_or_default();
            if visitor.user.is_none() || token.as_deref() != Some(visitor.csrf.as_str()) {
                return refuse(&mut books, 403, "not logged in, or no token");
            }
            if order["user"].as_str() != visitor.user.as_deref() {
                return refuse(&mut books, 400, "somebody else's order");
            }
            visitor.orders.insert(id);
            Ok(answer(201, &[], format!("{{\"order\":{{\"id\":{id}}}}}")))
        }
        (&Method::GET, path) if path.starts_with("/orders/") => {
            let id: u64 = path.trim_start_matches("/orders/").parse().unwrap_or(0);
            if !books.visitors.get(&sid).is_some_and(|v| v.orders.contains(&id)) {
                return refuse(&mut books, 404, "not this visitor's order");
            }
            books.read += 1;
            Ok(answer(200, &[], "{}"))
        }
        (&Method::POST, "/upload") => {
            books.uploaded.push(body.len() as u64);
            Ok(answer(200, &[], "ok"))
        }
        _ => refuse(&mut books, 404, "no such page"),
    }
}

/// A recorded request: after this many milliseconds, head as it was on the wire, body bytes, status of the answer.
type Recorded<'a> = (u64, &'a str, u64, u16);

const VISIT: [Recorded<'static>; 4] = [
    (50, "GET /login\nHost: shop\nAccept-Encoding: gzip", 0, 200),
    (
        350,
        "POST /login\nHost: shop\nCookie: sid=RECORDED-SECRET\nContent-Type: application/x-www-form-urlencoded\nContent-Length: 77",
        77,
        303,
    ),
    (
        700,
        "POST /orders\nHost: shop\nCookie: sid=RECORDED-SECRET\nX-CSRF-Token: RECORDED-SECRET\nContent-Type: application/json\nContent-Length: 40",
        40,
        201,
    ),
    (1_050, "GET /orders/771\nHost: shop\nCookie: sid=RECORDED-SECRET", 0, 200),
];

fn head(text: &str) -> RequestHead {
    let mut lines = text.lines();
    let (method, target) = lines.next().unwrap().split_once(' ').unwrap();
    let header = |l: &str| {
        let (name, value) = l.split_once(": ").unwrap();
        HeaderLine { name: name.into(), value: value.into() }
    };
    RequestHead {
        method: method.into(),
        target: target.into(),
        version: Version::Http11,
        headers: lines.map(header).collect(),
    }
}

/// A trace of `sessions` like `visit`, redacted as every capture is, one connection each.
fn record(dir: &Path, sessions: u64, visit: &[Recorded<'_>]) -> String {
    let redactor = Redactor::with_key(b"flows");
    let meta = TraceMeta {
        started_at: WallTime(1_700_000_000_000_000_000),
        sources: Vec::new(),
        redaction: redactor.words(),
        resolution_ns: 1,
        spread_seed: None,
        made_by: "flows".to_owned(),
    };
    let path = dir.join("flows.trace");
    let mut writer = TraceWriter::new(fs::File::create(&path).unwrap(), &meta).unwrap();
    let mut events = Vec::new();
    for n in 0..sessions {
        let session = SessionRef { key: n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 7, ordinal: n };
        let at = |ms: u64| TraceTime((n * 60 + ms) * 1_000_000);
        let connection = ConnectionEvent { arrival: Provenance::Recorded };
        // The bucket begins empty.
        events.push(TraceEvent { at: at(1_500), session, connection: 0, kind: EventKind::Open(connection) });
        for (ms, text, body, status) in visit {
            let facts = RequestFacts {
                shape: Arc::new(redactor.shape(&head(text), Scheme::Http)),
                arrival: Provenance::Recorded,
                connection: Provenance::Recorded,
                body_len: Fact::recorded(*body),
                status: Fact::recorded(*status),
                response_len: Fact::absent(),
                duration_ns: Fact::absent(),
                cache: Fact::absent(),
            };
            events.push(TraceEvent {
                at: at(2_000 + *ms),
                session,
                connection: 0,
                kind: EventKind::Request(facts),
            });
        }
        events.push(TraceEvent { at: at(3_500), session, connection: 0, kind: EventKind::Close(connection) });
    }
    events.sort_by_key(|e| e.at);
    events.iter().for_each(|e| writer.push(e).unwrap());
    writer.finish(&Ledger::default()).unwrap();
    path.display().to_string()
}

fn policy(dir: &Path, rewrite: &str) -> String {
    let path = dir.join("policy.toml");
    let text = format!(
        "version = 1\nname = \"flows\"\n[target]\nallow = [\"127.0.0.0/8\"]\n[routes]\nmethods = [\"GET\", \"POST\"]\nallow = [\"/login\", \"/orders\", \"/orders/*\", \"/upload\"]\n[rate]\nmax_scale = 5.0\n{rewrite}"
    );
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

const RULES: &str = r#"
[[rewrite.take]]
name = "csrf"
from = "GET /login"
regex = "name=\"csrf\" value='([^']+)'"
[[rewrite.take]]
name = "order"
from = "POST /orders"
json = "/order/id"
[[rewrite.put]]
into = "POST /login"
body = "user={user}&password={password:url}&csrf={csrf:url}"
[[rewrite.put]]
into = "POST /orders"
headers = { X-CSRF-Token = "{csrf}" }
body = "{{\"user\":\"{user:json}\"}}"
[[rewrite.put]]
into = "GET /orders/*"
target = "/orders/{order}"
"#;

fn accounts(dir: &Path, n: u64) -> String {
    let path = dir.join("accounts.csv");
    let rows: String = (0..n).map(|i| format!("u{i},pw-u{i}\n")).collect();
    fs::write(&path, format!("user,password\n{rows}")).unwrap();
    format!(
        "[rewrite]\nrecorded_cookies = \"from_answers\"\naccounts = {{ file = \"{}\", columns = [\"user\", \"password\"] }}\n{RULES}",
        path.display()
    )
}

/// Runs a trace against a shop behind HAProxy; the exit code and the report.
fn run(dir: &Path, shop: &Shop, trace: &str, policy: &str, more: &[&str]) -> Option<(i32, Value, String)> {
    let haproxy = Haproxy::start(dir, shop.port)?;
    let (url, out) = (format!("http://127.0.0.1:{}", haproxy.port), dir.join("run"));
    let out_text = out.display().to_string();
    let args = [
        "--trace",
        trace,
        "--policy",
        policy,
        "--target",
        &url,
        "--lead-in",
        "none",
        "--out",
        &out_text,
        "--quiet",
    ];
    let done = replay(&[&args[..], more].concat());
    let report = if out.join("report.json").exists() { report(&out) } else { Value::Null };
    Some((code(&done), report, text(&done)))
}

#[test]
fn each_clone_logs_in_with_its_own_account_and_reads_its_own_order() {
    let dir = tempfile::tempdir().unwrap();
    let shop = Shop::start(Mood::Well);
    let trace = record(dir.path(), 12, &VISIT);
    let policy = policy(dir.path(), &accounts(dir.path(), 40));
    let Some((code, r, said)) = run(dir.path(), &shop, &trace, &policy, &["--scale", "3x"]) else { return };
    assert_eq!(code, 0, "{said}");
    assert_identities(&r);
    let books = shop.books.lock().unwrap();
    assert_eq!(books.refused, Vec::<String>::new());
    assert_eq!(r["counts"]["ok"].as_u64(), Some(144), "{}", r["counts"]);
    assert_eq!((books.orders, books.read), (36, 36));
    let users: BTreeSet<&str> = books.visitors.values().filter_map(|v| v.user.as_deref()).collect();
    assert_eq!(users.len(), 36, "nobody shares an account: {users:?}");
    assert_eq!(r["counts"]["dropped"], serde_json::json!({}));
    // Nothing of accounts or tokens is in what the run leaves behind.
    for file in fs::read_dir(dir.path().join("run")).unwrap() {
        let bytes = fs::read(file.unwrap().path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(!text.contains("pw-u") && !text.contains("RECORDED-SECRET"));
    }
}

#[test]
fn a_value_that_does_not_come_ends_its_session_and_only_that() {
    let dir = tempfile::tempdir().unwrap();
    let shop = Shop::start(Mood::NoToken);
    let trace = record(dir.path(), 10, &VISIT);
    let policy = policy(dir.path(), &accounts(dir.path(), 40));
    let Some((_, r, _)) = run(dir.path(), &shop, &trace, &policy, &[]) else { return };
    assert_identities(&r);
    assert_eq!(r["counts"]["shed"]["no_value"].as_u64(), Some(30), "{}", r["counts"]);
    assert_eq!(r["counts"]["ok"].as_u64(), Some(10));
    let books = shop.books.lock().unwrap();
    assert_eq!((books.orders, books.refused.len()), (0, 0), "nothing else was sent: {:?}", books.refused);
}

#[test]
fn too_few_accounts_shed_sessions_and_never_share() {
    let dir = tempfile::tempdir().unwrap();
    let shop = Shop::start(Mood::Well);
    let trace = record(dir.path(), 10, &VISIT);
    let policy = policy(dir.path(), &accounts(dir.path(), 6));
    let Some((_, r, _)) = run(dir.path(), &shop, &trace, &policy, &[]) else { return };
    assert_identities(&r);
    assert_eq!(r["counts"]["shed"]["no_value"].as_u64(), Some(12), "{}", r["counts"]);
    let books = shop.books.lock().unwrap();
    assert_eq!((books.orders, books.read, books.refused.len()), (6, 6, 0));
}

#[test]
fn what_has_no_rule_is_dropped_and_a_shared_log_in_is_refused_above_one() {
    let dir = tempfile::tempdir().unwrap();
    let shop = Shop::start(Mood::Well);
    let trace = record(dir.path(), 10, &VISIT);
    let none = policy(dir.path(), "");
    let Some((_, r, _)) = run(dir.path(), &shop, &trace, &none, &[]) else { return };
    assert_eq!(r["counts"]["dropped"]["needs_credentials"].as_u64(), Some(30), "{}", r["counts"]);
    assert_eq!(r["counts"]["ok"].as_u64(), Some(10));
    let shared = "[rewrite]\nrecorded_cookies = \"optional\"\n[[rewrite.put]]\ninto = \"POST /login\"\nbody = \"user=u&password=pw-u\"\n";
    let shared = policy(dir.path(), shared);
    let two = dir.path().join("two");
    let url = format!("http://127.0.0.1:{}", shop.port);
    let args = [
        "--trace",
        &trace,
        "--policy",
        &shared,
        "--target",
        &url,
        "--scale",
        "2x",
        "--out",
        &two.display().to_string(),
    ];
    let done = replay(&args);
    assert_eq!(code(&done), 3, "{}", text(&done));
    assert!(text(&done).contains("rewrite.accounts"), "{}", text(&done));
}

const UPLOAD: [Recorded<'static>; 3] = [
    (50, "POST /upload\nHost: shop\nContent-Type: application/json\nContent-Length: 100", 100, 200),
    (250, "POST /upload\nHost: shop\nContent-Type: image/png\nContent-Length: 3000000", 3_000_000, 200),
    (900, "POST /upload\nHost: shop\nContent-Type: text/plain\nTransfer-Encoding: chunked", 20_000, 200),
];

#[test]
fn made_up_bodies_have_the_recorded_length() {
    let dir = tempfile::tempdir().unwrap();
    let shop = Shop::start(Mood::Well);
    let trace = record(dir.path(), 4, &UPLOAD);
    let policy = policy(dir.path(), "[rewrite]\nbodies = \"synthesise\"\n");
    let Some((code, r, said)) = run(dir.path(), &shop, &trace, &policy, &[]) else { return };
    assert_eq!(code, 0, "{said}");
    assert_eq!(r["counts"]["ok"].as_u64(), Some(12), "{}", r["counts"]);
    let mut books = shop.books.lock().unwrap();
    books.uploaded.sort_unstable();
    assert_eq!(books.uploaded, [[100; 4], [20_000; 4], [3_000_000; 4]].concat());
}

#[test]
fn an_answer_before_the_end_of_the_body_counts_and_ends_the_connection() {
    let dir = tempfile::tempdir().unwrap();
    let shop = Shop::start(Mood::Early);
    let visit = UPLOAD.map(|(ms, text, len, _)| (ms, text, len, 413));
    let trace = record(dir.path(), 4, &visit);
    let policy = policy(dir.path(), "[rewrite]\nbodies = \"synthesise\"\n");
    let Some((_, r, _)) = run(dir.path(), &shop, &trace, &policy, &[]) else { return };
    assert_identities(&r);
    let c = &r["counts"];
    assert_eq!(c["written"].as_u64(), Some(12), "{c}");
    // The balancer may reset a connection whose body it no longer wants: then the answer is lost, and counted.
    assert_eq!(c["ok"].as_u64().unwrap() + sum(&c["error"]), 12, "{c}");
    assert!(c["ok"].as_u64().unwrap() >= 4, "{c}");
}

/// What leaves: each clone asks for its own order, and the date is as far from today as it was then.
#[test]
fn ids_of_clones_and_dates_are_shifted() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::ok();
    // Recorded on 2023-11-14, about the day after.
    let visit: [Recorded<'_>; 1] = [(0, "GET /orders/41?day=2023-11-15&x=41\nHost: shop", 0, 200)];
    let trace = record(dir.path(), 1, &visit);
    let rules = "[rewrite]\nclone_keys = \"shift\"\n[[rewrite.shift]]\non = \"GET /orders/*\"\nsegment = 2\nids = { by = 50, min = 1, max = 100 }\n\
                 [[rewrite.shift]]\non = \"/orders/*\"\nquery = \"day\"\ndays = true\n";
    let policy = policy(dir.path(), rules);
    let out = dir.path().join("run").display().to_string();
    let url = sink.url();
    let args = ["--trace", &trace, "--policy", &policy, "--target", &url, "--lead-in", "none", "--out", &out];
    let today = || replay::edge::clock::wall().rfc3339()[..10].parse::<jiff::civil::Date>().unwrap();
    let before = today();
    let done = replay(&[&args[..], &["--scale", "3x", "--quiet"]].concat());
    assert_eq!(code(&done), 0, "{}", text(&done));
    let mut lines: Vec<String> = sink.heads().iter().map(|h| h.lines().next().unwrap().to_owned()).collect();
    lines.sort();
    let want = |day: jiff::civil::Date| {
        let day = day.tomorrow().unwrap();
        // 41, 91, and 141 around the hundred that there are.
        [41, 41, 91].map(|id| format!("GET /orders/{id}?day={day}&x=41 HTTP/1.1"))
    };
    assert!(lines == want(before) || lines == want(today()), "{lines:?}");
}
