//! The way to the target: names that move, private authorities, certificates of our own, handshakes taken up again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]
#![allow(clippy::disallowed_methods, reason = "tests measure real time against real servers")]

mod support;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use replay::edge::clock::Clock;
use replay::edge::send::dns::Resolver;
use replay::policy::target::{AllowList, Target};
use replay::trace::event::{
    ConnectionEvent, EventKind, Fact, Provenance, RequestFacts, SessionRef, TraceEvent,
};
use replay::trace::ledger::Ledger;
use replay::trace::meta::TraceMeta;
use replay::trace::shape::{Credentials, Header, HeaderValue, RequestShape, Scheme};
use replay::trace::writer::TraceWriter;
use replay::units::{TraceTime, WallTime};
use replay::wire::head::Version;

use support::*;

/// A name server that knows one name: its addresses, and how long they may be kept.
struct Names {
    addr: SocketAddr,
    known: Arc<Mutex<(Vec<Ipv4Addr>, u32)>>,
    asked: Arc<AtomicU64>,
}

impl Names {
    fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (addr, known) = (socket.local_addr().unwrap(), Arc::new(Mutex::new((Vec::new(), 0))));
        let asked = Arc::new(AtomicU64::new(0));
        let (shared, counter) = (Arc::clone(&known), Arc::clone(&asked));
        std::thread::spawn(move || {
            let mut buf = [0; 1500];
            while let Ok((n, from)) = socket.recv_from(&mut buf) {
                let (addrs, ttl) = shared.lock().unwrap().clone();
                if let Some(answer) = answer(&buf[..n], &addrs, ttl, &counter) {
                    drop(socket.send_to(&answer, from));
                }
            }
        });
        Self { addr, known, asked }
    }

    fn say(&self, addrs: &[[u8; 4]], ttl: u32) {
        *self.known.lock().unwrap() = (addrs.iter().map(|a| Ipv4Addr::from(*a)).collect(), ttl);
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

/// The answer to one question (RFC 1035, section 4.1): addresses for A, nothing for other types.
fn answer(question: &[u8], addrs: &[Ipv4Addr], ttl: u32, asked: &AtomicU64) -> Option<Vec<u8>> {
    let name_end = 12 + question.get(12..)?.iter().position(|b| *b == 0)? + 1;
    let is_a = question.get(name_end..name_end + 2)? == [0, 1];
    asked.fetch_add(u64::from(is_a), Ordering::Relaxed);
    let count = if is_a { addrs.len() as u8 } else { 0 };
    let mut out = question.get(..2)?.to_vec();
    out.extend([0x81, 0x80, 0, 1, 0, count, 0, 0, 0, 0]);
    out.extend(question.get(12..name_end + 4)?);
    for addr in addrs.iter().take(usize::from(count)) {
        out.extend([0xc0, 12, 0, 1, 0, 1]);
        out.extend(ttl.to_be_bytes());
        out.extend([0, 4]);
        out.extend(addr.octets());
    }
    Some(out)
}

#[test]
fn a_name_that_moves_is_followed_only_inside_the_allow_list() {
    let names = Names::start();
    let allow = AllowList::parse(["lb.example.test:8080", "127.0.0.0/24"]).unwrap();
    let target = Target::new("http://lb.example.test:8080", allow).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let resolver = Resolver::new(&target, None, &[names.addr], Clock::start());
    let next = || runtime.block_on(resolver.next(&target));
    names.say(&[[127, 0, 0, 1], [127, 0, 0, 2]], 1);
    let (first, took) = next().unwrap();
    assert!(took.is_some_and(|t| !t.is_zero()), "a look-up takes time: {took:?}");
    let mut seen = vec![first.get().to_string()];
    for _ in 0..3 {
        let (addr, took) = next().unwrap();
        assert_eq!(took, None, "known");
        seen.push(addr.get().to_string());
    }
    seen.sort();
    let (one, two) = ("127.0.0.1:8080", "127.0.0.2:8080");
    assert_eq!(seen, [one, one, two, two], "all addresses, in turn");
    assert_eq!(names.asked(), 1);
    // It moves: followed when its second is over.
    names.say(&[[127, 0, 0, 9]], 60);
    wait_until("the new address", Duration::from_secs(5), || {
        next().unwrap().0.get().to_string() == "127.0.0.9:8080"
    });
    assert_eq!(names.asked(), 2, "asked when the time was over, and not before");
    // One address outside is enough to refuse all.
    let other = Resolver::new(&target, None, &[names.addr], Clock::start());
    names.say(&[[127, 0, 0, 1], [10, 0, 0, 1]], 1);
    let refused = runtime.block_on(other.next(&target)).unwrap_err().to_string();
    assert!(refused.contains("10.0.0.1") && refused.contains("allow"), "{refused}");
    names.say(&[], 1);
    assert!(runtime.block_on(other.next(&target)).is_err(), "a name without an address");
}

#[test]
fn many_connections_ask_once_and_addresses_are_not_asked_for() {
    let names = Names::start();
    names.say(&[[127, 0, 0, 1]], 60);
    let allow = AllowList::parse(["lb.example.test:80", "127.0.0.0/24"]).unwrap();
    let target = Target::new("http://lb.example.test", allow.clone()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let resolver = Resolver::new(&target, None, &[names.addr], Clock::start());
    let looked_up = runtime.block_on(async {
        let (a, b, c) = tokio::join!(resolver.next(&target), resolver.next(&target), resolver.next(&target));
        [a, b, c].into_iter().filter(|r| r.as_ref().unwrap().1.is_some()).count()
    });
    assert_eq!((looked_up, names.asked()), (1, 1));
    let literal = Target::new("http://127.0.0.1:81", allow).unwrap();
    let resolver = Resolver::new(&literal, None, &[names.addr], Clock::start());
    let (addr, _) = runtime.block_on(resolver.next(&literal)).unwrap();
    assert_eq!((addr.get().to_string().as_str(), names.asked()), ("127.0.0.1:81", 1));
}

/// An authority, a certificate for `api.example.test`, and one of a client; in PEM files.
fn certificates(dir: &Path) {
    let write = |name: &str, text: String| fs::write(dir.join(name), text).unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().unwrap();
    write("ca.pem", ca.self_signed(&ca_key).unwrap().pem());
    let issuer = Issuer::new(ca, ca_key);
    let leaf = |name: &str| {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
    };
    let (cert, key) = leaf("api.example.test");
    write("server.pem", format!("{cert}{key}"));
    let (cert, key) = leaf("replay-client");
    write("client.pem", cert);
    write("client.key", key);
    let (cert, _) = leaf("other-client");
    write("other.pem", cert);
}

/// HAProxy that ends TLS, asks for a client's certificate, and writes a line for each request.
struct Tls {
    _process: Process,
    port: u16,
    log: std::path::PathBuf,
}

impl Tls {
    fn start(dir: &Path) -> Option<Self> {
        let (program, port, d) = (tool("haproxy")?, free_port(), dir.display());
        let conf = format!(
            "global\n  maxconn 2000\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n\
             frontend f\n  bind 127.0.0.1:{port} ssl crt {d}/server.pem ca-file {d}/ca.pem verify required\n  log stdout format raw local0\n\
             \x20 log-format \"seen %[ssl_fc_sni] %[ssl_fc_is_resumed] %[ssl_c_s_dn(cn)] %sslv\"\n  http-request return status 200 content-type text/plain string ok\n"
        );
        let (path, log) = (dir.join("tls.cfg"), dir.join("tls.log"));
        fs::write(&path, conf).unwrap();
        let process = Process::start(&program, &["-f", &path.display().to_string(), "-db"], &log);
        wait_for_port(port);
        Some(Self { _process: process, port, log })
    }

    /// Words of each line: name asked for, resumed or not, the client's name, version.
    fn seen(&self) -> Vec<[String; 4]> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let words = |l: &str| -> Option<[String; 4]> {
            let rest = l.strip_prefix("seen ")?;
            rest.split(' ').map(str::to_owned).collect::<Vec<_>>().try_into().ok()
        };
        text.lines().filter_map(words).collect()
    }
}

/// Ten sessions, each with three connections one after the other, one request on each.
fn come_back(dir: &Path) -> String {
    let meta = TraceMeta {
        started_at: WallTime(1_700_000_000_000_000_000),
        sources: Vec::new(),
        redaction: String::new(),
        resolution_ns: 1,
        spread_seed: None,
        made_by: "way".to_owned(),
    };
    let path = dir.join("back.trace");
    let mut writer = TraceWriter::new(fs::File::create(&path).unwrap(), &meta).unwrap();
    let shape = Arc::new(RequestShape {
        method: b"GET"[..].into(),
        scheme: Scheme::Https,
        authority: None,
        target: b"/"[..].into(),
        version: Version::Http11,
        headers: [].into(),
        credentials: Credentials::default(),
        target_redacted: false,
    });
    let mut events = Vec::new();
    for n in 0..10 {
        let session = SessionRef { key: n * 77 + 5, ordinal: n };
        for connection in 0..3u16 {
            let at = |ms: u64| TraceTime((n * 50 + u64::from(connection) * 700 + ms) * 1_000_000);
            let event = ConnectionEvent { arrival: Provenance::Recorded };
            events.push(TraceEvent { at: at(1_000), session, connection, kind: EventKind::Open(event) });
            let facts = RequestFacts {
                shape: Arc::clone(&shape),
                arrival: Provenance::Recorded,
                connection: Provenance::Recorded,
                body_len: Fact::recorded(0),
                status: Fact::recorded(200),
                response_len: Fact::absent(),
                duration_ns: Fact::absent(),
                cache: Fact::absent(),
            };
            events.push(TraceEvent { at: at(1_200), session, connection, kind: EventKind::Request(facts) });
            events.push(TraceEvent { at: at(1_500), session, connection, kind: EventKind::Close(event) });
        }
    }
    events.sort_by_key(|e| e.at);
    events.iter().for_each(|e| writer.push(e).unwrap());
    writer.finish(&Ledger::default()).unwrap();
    path.display().to_string()
}

/// Runs the trace under `[tls]` with these words; the exit code, the report if there is one, and what was said.
fn run(dir: &Path, tls: &Tls, name: &str, words: &str) -> (i32, serde_json::Value, String) {
    let d = dir.display();
    let text = format!(
        "version = 1\nname = \"way\"\n[target]\nallow = [\"127.0.0.0/8\", \"localhost:{}\"]\n[tls]\n{}",
        tls.port,
        words.replace("DIR", &d.to_string())
    );
    let (policy, out) = (dir.join(format!("{name}.toml")), dir.join(name));
    fs::write(&policy, text).unwrap();
    let url = format!("https://localhost:{}", tls.port);
    let (policy, out_text, trace) = (policy.display().to_string(), out.display().to_string(), come_back(dir));
    let connect = format!("127.0.0.1:{}", tls.port);
    let done = replay(&[
        "--trace",
        &trace,
        "--policy",
        &policy,
        "--target",
        &url,
        "--connect-to",
        &connect,
        "--lead-in",
        "none",
        "--out",
        &out_text,
        "--quiet",
    ]);
    let report = if out.join("report.json").exists() { report(&out) } else { serde_json::Value::Null };
    (code(&done), report, text_of(&done))
}

fn text_of(out: &std::process::Output) -> String {
    support::text(out)
}

const GOOD: &str = "ca_file = \"DIR/ca.pem\"\nserver_name = \"api.example.test\"\ncert_file = \"DIR/client.pem\"\nkey_file = \"DIR/client.key\"\n";

#[test]
fn sessions_come_back_as_clients_do_to_the_name_that_the_policy_gives() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let Some(tls) = Tls::start(dir.path()) else { return };
    let (code, r, said) = run(dir.path(), &tls, "good", GOOD);
    assert_eq!(code, 0, "{said}");
    assert_identities(&r);
    assert_eq!(r["counts"]["ok"].as_u64(), Some(30), "{}", r["counts"]);
    wait_until("30 lines", Duration::from_secs(5), || tls.seen().len() >= 30);
    let seen = tls.seen();
    for [sni, _, client, version] in &seen {
        assert_eq!(
            (sni.as_str(), client.as_str(), version.as_str()),
            ("api.example.test", "replay-client", "TLSv1.3")
        );
    }
    let resumed = seen.iter().filter(|[_, resumed, ..]| resumed == "1").count();
    assert_eq!(resumed, 20, "the second and third connection of each session, and no other's: {seen:?}");
    assert_eq!(r["connections"]["tls_resumed"].as_u64(), Some(20));
    assert_eq!(r["latency"]["tls"]["count"].as_u64(), Some(30));
    let (code, r, said) =
        run(dir.path(), &tls, "none", &format!("{GOOD}resumption = \"none\"\nmin_version = \"1.3\"\n"));
    assert_eq!(code, 0, "{said}");
    assert_eq!(r["connections"]["tls_resumed"].as_u64(), Some(0));
    wait_until("60 lines", Duration::from_secs(5), || tls.seen().len() >= 60);
    assert!(tls.seen()[30..].iter().all(|[_, resumed, ..]| resumed == "0"));
}

#[test]
fn a_wrong_authority_or_name_sends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let Some(tls) = Tls::start(dir.path()) else { return };
    for (name, words) in [
        ("unknown-authority", GOOD.replace("ca_file = \"DIR/ca.pem\"\n", "")),
        ("other-name", GOOD.replace("api.example.test", "www.example.test")),
        ("name-of-the-target", GOOD.replace("server_name = \"api.example.test\"\n", "")),
    ] {
        let (code, r, said) = run(dir.path(), &tls, name, &words);
        assert_ne!(code, 0, "{name}: {said}");
        assert_eq!(r["counts"]["sent"].as_u64(), Some(0), "{name}: {said}");
        let errors = r["connections"]["errors"].to_string();
        assert!(errors.contains("TLS handshake failed"), "{name}: {errors}");
    }
    assert_eq!(tls.seen(), Vec::<[String; 4]>::new());
}

#[test]
fn files_that_cannot_be_used_are_named_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let Some(tls) = Tls::start(dir.path()) else { return };
    for (name, words, why) in [
        ("gone", GOOD.replace("ca.pem", "gone.pem"), "gone.pem"),
        ("no-certificate", GOOD.replace("ca.pem", "client.key"), "client.key holds no certificate"),
        ("no-key", GOOD.replace("client.key", "ca.pem"), "ca.pem holds no private key"),
        ("other-key", GOOD.replace("client.pem", "other.pem"), "does not fit the certificate"),
    ] {
        let (code, r, said) = run(dir.path(), &tls, name, &words);
        assert!([2, 3].contains(&code), "{name}: {code} {said}");
        assert!(said.contains(why), "{name}: {said}");
        assert!(r.is_null(), "{name}: nothing was begun");
    }
    assert_eq!(tls.seen(), Vec::<[String; 4]>::new());
}

/// A body in frames.
struct Frames(VecDeque<Frame<Bytes>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }
}

/// A backend on HTTP/1.1 and HTTP/2 that answers after 300 ms, as gRPC where it is asked so.
struct Backend {
    port: u16,
    /// Version, target, authority, mark and body length of each request.
    seen: Arc<Mutex<Vec<String>>>,
    _runtime: tokio::runtime::Runtime,
}

async fn slow(request: Request<Incoming>, seen: Arc<Mutex<Vec<String>>>) -> hyper::Result<Response<Frames>> {
    let marked = request.headers().contains_key("x-replay-run");
    let uri = request.uri().clone();
    let line = format!("{:?} {} {}", request.version(), request.method(), uri.path());
    let length = request.into_body().collect().await?.to_bytes().len();
    seen.lock().unwrap().push(format!("{line} {marked} {length}"));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut frames = VecDeque::from([Frame::data(Bytes::from_static(b"body"))]);
    let mut response = Response::builder();
    if let Some(status) = uri.path().strip_prefix("/grpc/") {
        response = response.header("content-type", "application/grpc+proto");
        if status != "none" {
            let name = hyper::header::HeaderName::from_static("grpc-status");
            frames.push_back(Frame::trailers([(name, status.parse().unwrap())].into_iter().collect()));
        }
    }
    Ok(response.body(Frames(frames)).unwrap())
}

impl Backend {
    fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let (port, seen) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(Vec::new())));
        let shared = Arc::clone(&seen);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let seen = Arc::clone(&shared);
                let service = service_fn(move |r| slow(r, Arc::clone(&seen)));
                tokio::spawn(async move {
                    // HTTP/2 by its preface, as servers without TLS know it.
                    let mut begin = [0; 3];
                    let two = matches!(stream.peek(&mut begin).await, Ok(3)) && begin == *b"PRI";
                    let io = TokioIo::new(stream);
                    if two {
                        let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        drop(http.serve_connection(io, service).await);
                    } else {
                        drop(hyper::server::conn::http1::Builder::new().serve_connection(io, service).await);
                    }
                });
            }
        });
        Self { port, seen, _runtime: runtime }
    }
}

/// Five sessions of HTTP/2 and five of HTTP/1.1, one connection each; on the first six requests at once, on the others
/// one request. `targets` are those of the six.
fn both_protocols(dir: &Path, targets: [&str; 6]) -> String {
    let meta = TraceMeta {
        started_at: WallTime(1_700_000_000_000_000_000),
        sources: Vec::new(),
        redaction: String::new(),
        resolution_ns: 1,
        spread_seed: None,
        made_by: "way".to_owned(),
    };
    let path = dir.join("both.trace");
    let mut writer = TraceWriter::new(fs::File::create(&path).unwrap(), &meta).unwrap();
    let shape = |version: Version, target: &str| {
        Arc::new(RequestShape {
            method: b"GET"[..].into(),
            scheme: Scheme::Https,
            authority: None,
            target: target.as_bytes().into(),
            version,
            headers: [Header {
                name: b"Connection".to_vec(),
                value: HeaderValue::Kept(b"keep-alive".to_vec()),
            }]
            .into(),
            credentials: Credentials::default(),
            target_redacted: false,
        })
    };
    let mut events = Vec::new();
    for n in 0..10 {
        let session = SessionRef { key: n * 91 + 3, ordinal: n };
        let at = |ms: u64| TraceTime((n * 70 + ms) * 1_000_000);
        let event = ConnectionEvent { arrival: Provenance::Recorded };
        let mut push = |ms, kind| events.push(TraceEvent { at: at(ms), session, connection: 0, kind });
        push(3_000, EventKind::Open(event));
        let requests: Vec<_> = if n % 2 == 0 {
            targets.iter().map(|t| shape(Version::Http2, t)).collect()
        } else {
            vec![shape(Version::Http11, "/one")]
        };
        for shape in requests {
            let facts = RequestFacts {
                shape,
                arrival: Provenance::Recorded,
                connection: Provenance::Recorded,
                body_len: Fact::recorded(0),
                status: Fact::recorded(200),
                response_len: Fact::absent(),
                duration_ns: Fact::absent(),
                cache: Fact::absent(),
            };
            push(3_300, EventKind::Request(facts));
        }
        push(7_000, EventKind::Close(event));
    }
    events.sort_by_key(|e| e.at);
    events.iter().for_each(|e| writer.push(e).unwrap());
    writer.finish(&Ledger::default()).unwrap();
    path.display().to_string()
}

/// HAProxy with TLS in front of a backend; `alpn` is what it offers.
fn edge(dir: &Path, backend: u16, alpn: &str) -> Option<(Process, u16)> {
    let (program, port, d) = (tool("haproxy")?, free_port(), dir.display());
    let conf = format!(
        "global\n  maxconn 2000\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n\
         frontend f\n  bind 127.0.0.1:{port} ssl crt {d}/server.pem alpn {alpn}\n  default_backend b\nbackend b\n  server s 127.0.0.1:{backend}\n"
    );
    let path = dir.join("edge.cfg");
    fs::write(&path, conf).unwrap();
    let process =
        Process::start(&program, &["-f", &path.display().to_string(), "-db"], &dir.join("edge.log"));
    wait_for_port(port);
    Some((process, port))
}

fn replay_both(dir: &Path, url: &str, words: &str, targets: [&str; 6]) -> serde_json::Value {
    let (trace, out, policy) = (both_protocols(dir, targets), dir.join("both"), dir.join("both.toml"));
    let port = url.rsplit(':').next().unwrap();
    let text = format!(
        "version = 1\nname = \"way\"\n[target]\nallow = [\"127.0.0.0/8\", \"localhost:{port}\"]\n{words}\n[tls]\nca_file = \"{}/ca.pem\"\nserver_name = \"api.example.test\"\n",
        dir.display()
    );
    fs::write(&policy, text).unwrap();
    let (policy, out_text) = (policy.display().to_string(), out.display().to_string());
    let args = [
        "--trace",
        &trace,
        "--policy",
        &policy,
        "--target",
        url,
        "--lead-in",
        "none",
        "--out",
        &out_text,
        "--quiet",
    ];
    let done = replay(&args);
    assert!([0, 4, 5].contains(&code(&done)), "{}", text_of(&done));
    let r = report(&out);
    assert_identities(&r);
    r
}

#[test]
fn sessions_of_http2_share_one_connection_where_the_server_offers_it() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let backend = Backend::start();
    let Some((_edge, port)) = edge(dir.path(), backend.port, "h2,http/1.1") else { return };
    let url = format!("https://localhost:{port}");
    let r = replay_both(dir.path(), &url, "", ["/a"; 6]);
    assert_eq!(r["counts"]["ok"].as_u64(), Some(35), "{}", r["counts"]);
    assert_eq!(
        (r["connections"]["opened"].as_u64(), r["connections"]["http2"].as_u64()),
        (Some(10), Some(5))
    );
    // One after the other they would take 1.8 s.
    let slowest = r["latency"]["response"]["max_ms"].as_f64().unwrap();
    assert!((300.0..900.0).contains(&slowest), "{}", r["latency"]["response"]);
    let seen = backend.seen.lock().unwrap();
    assert!(seen.iter().all(|l| l.contains(" true 0")), "marked: {seen:?}");
    assert_eq!(seen.iter().filter(|l| l.contains("GET /a ")).count(), 30);
}

#[test]
fn a_server_without_http2_gets_http1_and_so_does_one_where_the_policy_says_never() {
    for (alpn, words) in [("http/1.1", ""), ("h2,http/1.1", "http2 = \"never\"")] {
        let dir = tempfile::tempdir().unwrap();
        certificates(dir.path());
        let backend = Backend::start();
        let Some((_edge, port)) = edge(dir.path(), backend.port, alpn) else { return };
        let words = format!("{words}\n[rate]\nsession_blocked_max = \"5s\"");
        let r = replay_both(dir.path(), &format!("https://localhost:{port}"), &words, ["/a"; 6]);
        assert_eq!(r["counts"]["ok"].as_u64(), Some(35), "{alpn}: {}", r["counts"]);
        assert_eq!(r["connections"]["http2"].as_u64(), Some(0), "{alpn}");
        let slowest = r["latency"]["response"]["max_ms"].as_f64().unwrap();
        assert!(slowest > 1_500.0, "one after the other: {slowest}");
    }
}

#[test]
fn grpc_counts_by_its_own_status_also_without_tls() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let backend = Backend::start();
    let url = format!("http://127.0.0.1:{}", backend.port);
    let targets = ["/grpc/0", "/grpc/0", "/grpc/13", "/grpc/none", "/plain", "/grpc/0"];
    let r = replay_both(dir.path(), &url, "http2 = \"always\"", targets);
    assert_eq!(r["connections"]["http2"].as_u64(), Some(10), "by prior knowledge");
    assert_eq!(
        r["counts"]["error"]["grpc"].as_u64(),
        Some(10),
        "status 13, and none at all: {}",
        r["counts"]
    );
    assert_eq!(r["counts"]["ok"].as_u64(), Some(25), "{}", r["counts"]);
    let seen = backend.seen.lock().unwrap();
    assert!(seen.iter().all(|l| l.starts_with("HTTP/2.0 ")), "{seen:?}");
}

#[test]
fn a_server_that_does_not_speak_http2_is_no_connection() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let sink = Sink::ok();
    let r = replay_both(dir.path(), &sink.url(), "http2 = \"always\"", ["/a"; 6]);
    assert_eq!(r["counts"]["ok"].as_u64(), Some(0), "{}", r["counts"]);
    assert_eq!(
        sink.heads().iter().filter(|h| h.starts_with("GET")).count(),
        0,
        "nothing that it would take for HTTP/1"
    );
}
