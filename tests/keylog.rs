//! Real nginx and h2load talk TLS in every suite with a tag, over HTTP/1.1 and HTTP/2, while tcpdump captures: with the key log
//! that OpenSSL wrote every request is read, without it none, and tshark sees the same.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;
use support::*;

/// Version, suites of 1.2, suites of 1.3, whether it can be read.
const SUITES: [(&str, &str, &str, bool); 8] = [
    ("TLSv1.2", "ECDHE-ECDSA-AES128-GCM-SHA256", "", true),
    ("TLSv1.2", "ECDHE-ECDSA-AES256-GCM-SHA384", "", true),
    ("TLSv1.2", "ECDHE-ECDSA-CHACHA20-POLY1305", "", true),
    ("TLSv1.2", "ECDHE-ECDSA-AES128-SHA256", "", false),
    ("TLSv1.3", "DEFAULT", "TLS_AES_128_GCM_SHA256", true),
    ("TLSv1.3", "DEFAULT", "TLS_AES_256_GCM_SHA384", true),
    ("TLSv1.3", "DEFAULT", "TLS_CHACHA20_POLY1305_SHA256", true),
    // The last server knows one curve only, which is not the client's first: it asks for another hello.
    ("TLSv1.3", "DEFAULT", "TLS_AES_128_GCM_SHA256", true),
];

/// Suites that can be read, two ways to speak HTTP, eight requests each over two connections.
const READ: usize = 7;

/// tcpdump at work.
struct Capturing {
    tcpdump: Process,
    pcap: PathBuf,
    /// Of a server without TLS, which what tells the end of the capture is sent to.
    plain: u16,
}

impl Capturing {
    /// Captures what goes to these ports and to the one without TLS into `tls.pcap`.
    fn start(dir: &Path, ports: &[u16], plain: u16) -> Option<Self> {
        let tcpdump = tool("tcpdump")?;
        let pcap = dir.join("tls.pcap");
        let filter =
            ports.iter().chain([&plain]).map(|p| format!("tcp port {p}")).collect::<Vec<_>>().join(" or ");
        let said = dir.join("tcpdump.log");
        let args = ["-i", "lo", "-U", "-Z", "root", "-B", "32768", "-w", pcap.to_str().unwrap(), &filter];
        let tcpdump = Process::start(&tcpdump, &args, &said);
        wait_until("tcpdump listens", Duration::from_secs(10), || {
            let said = fs::read_to_string(&said).unwrap();
            if said.contains("permission") {
                assert!(std::env::var_os("CI").is_none(), "{said}");
                return true;
            }
            said.contains("listening on")
        });
        if fs::read_to_string(&said).unwrap().contains("permission") {
            eprintln!("SKIPPED: tcpdump needs CAP_NET_RAW");
            return None;
        }
        Some(Self { tcpdump, pcap, plain })
    }

    /// Packets come in order: the capture has all when it has what is sent now.
    fn end(mut self) {
        let end = "the end of the capture";
        TcpStream::connect(("127.0.0.1", self.plain)).unwrap().write_all(end.as_bytes()).unwrap();
        wait_until("the capture has the end", Duration::from_secs(20), || {
            fs::read(&self.pcap).unwrap().windows(end.len()).any(|w| w == end.as_bytes())
        });
        self.tcpdump.signal("INT");
        wait_for_end(&mut self.tcpdump, Duration::from_secs(10));
    }
}

struct Rig {
    dir: tempfile::TempDir,
    ports: Vec<u16>,
    /// Requests by host and path, of those suites that can be read.
    asked: BTreeMap<(String, String), usize>,
}

impl Rig {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// One server for each suite; a capture of what h2load asks of them, with its secrets.
    fn record() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let h2load = tool("h2load")?;
        let d = dir.path().display().to_string();
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        fs::write(dir.path().join("cert.pem"), cert.pem()).unwrap();
        fs::write(dir.path().join("key.pem"), key.serialize_pem()).unwrap();
        fs::create_dir(dir.path().join("www")).unwrap();
        fs::write(dir.path().join("www/big"), vec![b'x'; 100_000]).unwrap();
        fs::write(dir.path().join("www/small"), "ok").unwrap();
        let ports: Vec<u16> = SUITES.iter().map(|_| free_port()).collect();
        let server = |n: usize| {
            let (port, (version, old, new, _)) = (ports[n], SUITES[n]);
            let curve = if n + 1 == SUITES.len() { "ssl_ecdh_curve secp384r1;" } else { "" };
            let new =
                if new.is_empty() { String::new() } else { format!("ssl_conf_command Ciphersuites {new};") };
            format!(
                "server {{ listen 127.0.0.1:{port} ssl http2; root {d}/www; ssl_certificate {d}/cert.pem; ssl_certificate_key {d}/key.pem;\n\
                 ssl_protocols {version}; ssl_ciphers {old}; {new} {curve} access_log {d}/tls.log tls; }}\n"
            )
        };
        let servers: String = (0..SUITES.len()).map(server).collect();
        let nginx = Nginx::start_with(dir.path(), |port| {
            format!(
                "log_format tls '$http_host $request_uri $status $ssl_protocol $ssl_cipher';\n{servers}\
                 server {{ listen 127.0.0.1:{port}; return 200; }}"
            )
        })?;
        let capture = Capturing::start(dir.path(), &ports, nginx.port)?;
        for port in &ports {
            for proto in ["--h1", "--npn-list=h2"] {
                let url = |path: &str| format!("https://127.0.0.1:{port}/{path}?{}", &proto[2..4]);
                let out = Command::new(&h2load)
                    .args([
                        proto,
                        "--ciphers=ALL",
                        "-n",
                        "8",
                        "-c",
                        "2",
                        "-m",
                        "1",
                        "-t",
                        "1",
                        &url("big"),
                        &url("small"),
                    ])
                    .env("SSLKEYLOGFILE", dir.path().join("keys"))
                    .output()
                    .unwrap();
                assert!(text(&out).contains("8 succeeded"), "{}", text(&out));
            }
        }
        let lines = || fs::read_to_string(dir.path().join("tls.log")).unwrap_or_default();
        let all = 16 * SUITES.len();
        wait_until("nginx has logged all", Duration::from_secs(10), || lines().lines().count() >= all);
        capture.end();
        let mut asked = BTreeMap::new();
        for line in lines().lines().map(|l| l.split(' ').collect::<Vec<_>>()) {
            let suite = SUITES.iter().find(|s| line[4] == s.1 || line[4] == s.2).expect(line[4]);
            assert_eq!(line[3], suite.0);
            if suite.3 {
                *asked.entry((line[0].to_owned(), line[1].to_owned())).or_default() += 1;
            }
        }
        Some(Self { dir, ports, asked })
    }

    fn capture(&self, input: &Path, more: &[&str]) -> (Value, Vec<Value>) {
        capture(self.dir.path(), input, more)
    }
}

fn capture(dir: &Path, input: &Path, more: &[&str]) -> (Value, Vec<Value>) {
    let (input, trace) = (input.display().to_string(), dir.join("t.trace").display().to_string());
    let mut args = vec!["capture", &input, "-o", &trace, "--json"];
    args.extend(more);
    let out = replay(&args);
    assert_eq!(code(&out), 0, "{}", text(&out));
    let json = serde_json::from_slice(&out.stdout).unwrap();
    let cat = replay(&["trace", "cat", &trace]).stdout;
    let rows = String::from_utf8(cat).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    (json, rows)
}

fn by_target(rows: &[Value]) -> BTreeMap<(String, String), usize> {
    let mut found = BTreeMap::new();
    for row in rows {
        let word = |k: &str| row[k].as_str().unwrap().to_owned();
        *found.entry((word("authority"), word("path"))).or_default() += 1;
    }
    found
}

/// The packets of a classic capture (microseconds, little endian): header and bytes.
fn packets(pcap: &[u8]) -> Vec<(&[u8], &[u8])> {
    let (mut at, mut out) = (24, Vec::new());
    while at + 16 <= pcap.len() {
        let n = u32::from_le_bytes(pcap[at + 8..at + 12].try_into().unwrap()) as usize;
        out.push((&pcap[at..at + 16], &pcap[at + 16..at + 16 + n]));
        at += 16 + n;
    }
    out
}

/// The same packets as pcapng, behind a block that holds the secrets.
fn with_secrets(pcap: &[u8], keys: &[u8]) -> Vec<u8> {
    let block = |kind: u32, body: Vec<u8>| {
        let padded = body.len().next_multiple_of(4);
        let total = (padded + 12) as u32;
        let mut out = [kind.to_le_bytes(), total.to_le_bytes()].concat();
        out.extend(&body);
        out.resize(8 + padded, 0);
        out.extend(total.to_le_bytes());
        out
    };
    let words = |w: &[u32]| w.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
    let link = u32::from_le_bytes(pcap[20..24].try_into().unwrap());
    let mut out = block(0x0a0d_0d0a, words(&[0x1a2b_3c4d, 1, u32::MAX, u32::MAX]));
    out.extend(block(10, [words(&[0x544c_534b, keys.len() as u32]), keys.to_vec()].concat()));
    out.extend(block(1, words(&[link, 0])));
    for (header, bytes) in packets(pcap) {
        let word = |i: usize| u64::from(u32::from_le_bytes(header[i..i + 4].try_into().unwrap()));
        let at = word(0) * 1_000_000 + word(4);
        let head = words(&[0, (at >> 32) as u32, at as u32, word(8) as u32, word(12) as u32]);
        out.extend(block(6, [head, bytes.to_vec()].concat()));
    }
    out
}

#[test]
fn with_the_secrets_every_request_is_read() {
    let Some(rig) = Rig::record() else { return };
    let (pcap, keys) = (rig.path("tls.pcap"), rig.path("keys"));
    let all: usize = rig.asked.values().sum();
    assert_eq!(all, 16 * READ);
    let keylog = ["--keylog", keys.to_str().unwrap()];
    let (json, rows) = rig.capture(&pcap, &keylog);
    assert_eq!(by_target(&rows), rig.asked);
    for row in &rows {
        let len = if row["path"].as_str().unwrap().starts_with("/big") { 100_000 } else { 2 };
        assert!(row["scheme"] == "https" && row["status"] == 200 && row["response_len"] == len, "{row}");
    }
    let ledger = &json["ledger"];
    assert_eq!(
        (ledger["connections_decrypted"].clone(), ledger["connections_tls"].clone()),
        ((4 * READ).into(), 4.into())
    );
    assert_eq!(
        (ledger["tls_records_lost"].clone(), ledger["unpaired_requests"].clone()),
        (0.into(), 0.into())
    );
    // Without them, nothing; and the ledger says so.
    let (json, rows) = rig.capture(&pcap, &[]);
    assert!(rows.is_empty() && json["ledger"]["connections_tls"] == 4 * (READ + 1), "{json}");
    // In the capture itself.
    let bytes = fs::read(&pcap).unwrap();
    let ng = rig.path("tls.pcapng");
    fs::write(&ng, with_secrets(&bytes, &fs::read(&keys).unwrap())).unwrap();
    let (_, rows) = rig.capture(&ng, &[]);
    assert_eq!(by_target(&rows), rig.asked);
    // No secret in the trace.
    let trace = fs::read(rig.path("t.trace")).unwrap();
    let secret =
        fs::read_to_string(&keys).unwrap().lines().last().unwrap().split(' ').nth(2).unwrap().to_owned();
    assert!(!trace.windows(secret.len()).any(|w| w == secret.as_bytes()));
    tshark_agrees(&rig, &pcap, &keys, all);
}

fn tshark_agrees(rig: &Rig, pcap: &Path, keys: &Path, all: usize) {
    let Some(tshark) = tool("tshark") else { return };
    let mut args = vec!["-r".to_owned(), pcap.display().to_string(), "-o".to_owned()];
    args.push(format!("tls.keylog_file:{}", keys.display()));
    rig.ports.iter().for_each(|p| args.extend(["-d".to_owned(), format!("tcp.port=={p},tls")]));
    args.extend(
        ["-Y", "http.request or http2.headers.method", "-T", "fields", "-e", "frame.number"]
            .map(str::to_owned),
    );
    let out = Command::new(tshark).args(&args).output().unwrap();
    let seen = String::from_utf8_lossy(&out.stdout).lines().count();
    // It reads CBC too: one suite more.
    assert_eq!(seen, all + 16, "{}", text(&out));
}

/// Any one frame missing: what is left is right, and little is lost.
#[test]
fn a_hole_costs_little_and_invents_nothing() {
    let Some(rig) = Rig::record() else { return };
    let keys = rig.path("keys");
    let keylog = ["--keylog", keys.to_str().unwrap()];
    let bytes = fs::read(rig.path("tls.pcap")).unwrap();
    let frames = packets(&bytes);
    let (mut least, holed) = (usize::MAX, rig.path("holed.pcap"));
    for missing in (0..frames.len()).step_by(frames.len() / 24 + 1) {
        let mut out = bytes[..24].to_vec();
        for (n, (header, data)) in frames.iter().enumerate() {
            if n != missing {
                out.extend_from_slice(header);
                out.extend_from_slice(data);
            }
        }
        fs::write(&holed, out).unwrap();
        let (_, rows) = rig.capture(&holed, &keylog);
        for (target, n) in by_target(&rows) {
            assert!(
                rig.asked.get(&target).is_some_and(|all| n <= *all),
                "frame {missing}: {target:?} {n} times"
            );
        }
        for row in rows.iter().filter(|r| r["response_len"].is_u64() && r["status"] == 200) {
            let len = if row["path"].as_str().unwrap().starts_with("/big") { 100_000 } else { 2 };
            assert_eq!(row["response_len"], len, "frame {missing}: {row}");
        }
        least = least.min(rows.len());
    }
    // At most a connection, four requests, is lost with a frame.
    assert!(least >= 16 * READ - 4, "{least}");
}

/// Secrets as OpenSSL writes them.
#[derive(Debug, Default)]
struct Secrets(Mutex<String>);

impl rustls::KeyLog for Secrets {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        self.0.lock().unwrap().push_str(&format!("{label} {} {}\n", hex(client_random), hex(secret)));
    }
}

/// Asks for `target`, as early data where the client may. Whether it was sent so, and whether the server took it.
fn ask(config: &Arc<rustls::ClientConfig>, port: u16, target: &str) -> (bool, bool) {
    let mut tls = rustls::ClientConnection::new(Arc::clone(config), "localhost".try_into().unwrap()).unwrap();
    let mut tcp = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let early =
        tls.early_data().is_some_and(|mut early| early.write(request.as_bytes()).unwrap() == request.len());
    while tls.is_handshaking() {
        tls.complete_io(&mut tcp).unwrap();
    }
    let taken = early && tls.is_early_data_accepted();
    if !taken {
        tls.writer().write_all(request.as_bytes()).unwrap();
    }
    let mut answer = String::new();
    rustls::Stream::new(&mut tls, &mut tcp).read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    (early, taken)
}

/// One server takes early data, one refuses them and gets the request again: each request is read once.
#[test]
fn early_data_are_read_once_whether_taken_or_not() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path().display().to_string();
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    fs::write(dir.path().join("cert.pem"), cert.pem()).unwrap();
    fs::write(dir.path().join("key.pem"), key.serialize_pem()).unwrap();
    fs::write(dir.path().join("ticket"), [7; 80]).unwrap();
    let ports = [free_port(), free_port()];
    let server = |port: u16, early: &str| {
        format!(
            "server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {d}/cert.pem; ssl_certificate_key {d}/key.pem; ssl_protocols TLSv1.3;\n\
             ssl_session_ticket_key {d}/ticket; ssl_early_data {early}; return 200 ok; }}\n"
        )
    };
    let servers = server(ports[0], "on") + &server(ports[1], "off");
    let plain = |port| format!("{servers}server {{ listen 127.0.0.1:{port}; return 200; }}");
    let Some(nginx) = Nginx::start_with(dir.path(), plain) else { return };
    let Some(capturing) = Capturing::start(dir.path(), &ports, nginx.port) else { return };
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13]);
    let mut config = builder.unwrap().with_root_certificates(roots).with_no_client_auth();
    let secrets = Arc::new(Secrets::default());
    config.key_log = Arc::clone(&secrets) as _;
    config.enable_early_data = true;
    let config = Arc::new(config);
    // The first server's tickets are good for the second one, which has the same key for them and takes no early data.
    assert_eq!(ask(&config, ports[0], "/first"), (false, false));
    assert_eq!(ask(&config, ports[0], "/taken"), (true, true));
    assert_eq!(ask(&config, ports[1], "/refused"), (true, false));
    capturing.end();
    let keys = dir.path().join("keys");
    fs::write(&keys, &*secrets.0.lock().unwrap()).unwrap();
    let (json, rows) =
        capture(dir.path(), &dir.path().join("tls.pcap"), &["--keylog", keys.to_str().unwrap()]);
    let mut paths: Vec<&str> = rows.iter().map(|r| r["path"].as_str().unwrap()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["/first", "/refused", "/taken"], "{json}");
    assert_eq!(json["ledger"]["connections_decrypted"], 3, "{json}");
}
