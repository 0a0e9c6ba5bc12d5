//! The stop rules of deploy/balancer in real balancers: off, on and off again, and in the way of a run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]
#![allow(clippy::disallowed_methods, reason = "tests measure real time against real servers")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use support::*;

const MARKED: &str = "User-Agent: test replay/0 run=r1\r\nX-Replay-Run: r1\r\n";

/// What users send; the last two are not the mark either.
const UNMARKED: [&str; 3] = ["", "User-Agent: test replay/0\r\n", "X-Replay-Run: \r\n"];

/// A file of deploy/balancer, with the path of its switch replaced by one of ours.
fn rules(file: &str, path: &str, ours: &Path) -> String {
    let text = fs::read_to_string(root().join("deploy/balancer").join(file)).unwrap();
    assert!(text.contains(path), "{file} does not name {path}");
    text.replace(path, &ours.display().to_string())
}

enum Switch {
    /// nginx: on while the file exists.
    File(PathBuf),
    /// HAProxy: a map, changed over the socket and kept in its file.
    Map { file: PathBuf, socket: PathBuf },
}

/// A balancer with the rules, in front of a backend.
struct Balancer {
    _process: Process,
    port: u16,
    switch: Switch,
}

impl Balancer {
    /// The site has headers and an error page of its own, which must not get in the way of the rules.
    fn nginx(dir: &Path, backend: u16) -> Option<Self> {
        let (program, port, file) = (tool("nginx")?, free_port(), dir.join("replay-stop"));
        let d = dir.display();
        fs::create_dir_all(dir.join("tmp")).unwrap();
        let included = dir.join("rules.conf");
        fs::write(&included, rules("replay-stop.nginx.conf", "/etc/nginx/replay-stop", &file)).unwrap();
        let temps: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|n| format!("{n}_temp_path {d}/tmp/{n};\n"))
            .collect();
        let conf = format!(
            "user root;\ndaemon off;\npid {d}/nginx.pid;\nerror_log {d}/error.log;\nworker_processes 2;\n\
             events {{ worker_connections 4096; }}\nhttp {{\n{temps}access_log {d}/access.log;\n\
             keepalive_requests 1000000;\nkeepalive_timeout 300s;\n\
             upstream backend {{ server 127.0.0.1:{backend}; keepalive 64; }}\n\
             server {{\nlisten 127.0.0.1:{port} backlog=4096;\ninclude {};\n\
             add_header X-Site shop always;\nerror_page 500 502 503 504 /sorry;\n\
             location = /sorry {{ return 200 \"sorry\\n\"; }}\n\
             location / {{ proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection \"\"; }}\n\
             }}\n}}\n",
            included.display()
        );
        let path = dir.join("nginx.conf");
        fs::write(&path, conf).unwrap();
        let error = format!("{d}/error.log");
        let args = ["-e", &error, "-p", &d.to_string(), "-c", &path.display().to_string()];
        let process = Process::start(&program, &args, &dir.join("nginx.out"));
        wait_for_port(port);
        Some(Self { _process: process, port, switch: Switch::File(file) })
    }

    /// `state` is what the map's file says at the start: on or off.
    fn haproxy(dir: &Path, backend: u16, state: &str) -> Option<Self> {
        let (program, port, file) = (tool("haproxy")?, free_port(), dir.join("replay-stop.map"));
        let socket = dir.join("admin.sock");
        fs::write(&file, format!("stop {state}\n")).unwrap();
        let rules = rules("replay-stop.haproxy.cfg", "/etc/haproxy/replay-stop.map", &file);
        let conf = format!(
            "global\n  maxconn 8000\n  stats socket {} mode 600 level admin\n\
             defaults\n  mode http\n  timeout connect 5s\n  timeout client 5m\n  timeout server 5m\n\
             frontend f\n  bind 127.0.0.1:{port}\n{rules}\n  default_backend b\n\
             backend b\n  server s 127.0.0.1:{backend}\n",
            socket.display()
        );
        let path = dir.join("haproxy.cfg");
        fs::write(&path, conf).unwrap();
        let args = ["-db", "-f", &path.display().to_string()];
        let process = Process::start(&program, &args, &dir.join("haproxy.out"));
        wait_for_port(port);
        Some(Self { _process: process, port, switch: Switch::Map { file, socket } })
    }

    /// What deploy/balancer/README.md tells the person on call to do.
    fn switch(&self, on: bool) {
        match &self.switch {
            Switch::File(file) if on => fs::write(file, "").unwrap(),
            Switch::File(file) => fs::remove_file(file).unwrap(),
            Switch::Map { file, socket } => {
                let state = if on { "on" } else { "off" };
                let answer = tell(socket, &format!("set map {} stop {state}\n", file.display()));
                assert_eq!(answer.trim(), "", "the answer of HAProxy");
                fs::write(file, format!("stop {state}\n")).unwrap();
            }
        }
    }

    /// A request with more header lines; the answer in lower case and without its date.
    fn ask(&self, path: &str, headers: &str) -> String {
        let mut s = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        s.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        write!(s, "GET {path} HTTP/1.1\r\nHost: t\r\n{headers}Connection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        s.read_to_string(&mut answer).unwrap();
        let answer = answer.to_ascii_lowercase();
        let lines: Vec<&str> = answer.lines().filter(|l| !l.starts_with("date:")).collect();
        lines.join("\n")
    }
}

/// One command over HAProxy's runtime socket, and the answer.
fn tell(socket: &Path, command: &str) -> String {
    let mut s = UnixStream::connect(socket).unwrap();
    s.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    s.write_all(command.as_bytes()).unwrap();
    let mut answer = String::new();
    s.read_to_string(&mut answer).unwrap();
    answer
}

/// Every unmarked request passes; a marked one passes or is stopped. Gives the answers to the unmarked.
fn check(balancer: &Balancer, sink: &Sink, stopped: bool) -> Vec<String> {
    for path in ["/", "/product/7?q=1", "/img/a.png"] {
        let before = sink.count();
        let answer = balancer.ask(path, MARKED);
        let reached = sink.count() - before;
        if stopped {
            assert!(answer.starts_with("http/1.1 503 "), "{answer}");
            assert!(answer.contains("\nx-replay-stop: balancer\n"), "{answer}");
            assert!(answer.contains("\ncache-control: no-store\n"), "{answer}");
            assert_eq!(reached, 0, "{path} reached the backend");
        } else {
            assert!(answer.starts_with("http/1.1 200 ") && !answer.contains("x-replay-stop"), "{answer}");
            assert_eq!(reached, 1, "{path}");
        }
    }
    let mut answers = Vec::new();
    for headers in UNMARKED {
        let before = sink.count();
        let answer = balancer.ask("/product/7?q=1", headers);
        assert!(answer.starts_with("http/1.1 200 ") && !answer.contains("x-replay-stop"), "{answer}");
        assert_eq!(sink.count() - before, 1, "{headers:?}");
        answers.push(answer);
    }
    answers
}

fn off_on_off(balancer: &Balancer, sink: &Sink) {
    let off = check(balancer, sink, false);
    balancer.switch(true);
    assert_eq!(check(balancer, sink, true), off, "an unmarked request was touched");
    balancer.switch(false);
    assert_eq!(check(balancer, sink, false), off);
}

#[test]
fn nginx_stops_marked_requests_while_the_file_exists() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::ok();
    let Some(balancer) = Balancer::nginx(dir.path(), sink.addr.port()) else { return };
    // The place where the answer is made cannot be asked for: it would stop a run that nobody stopped.
    let inside = balancer.ask("/.replay-stop", MARKED);
    assert!(inside.starts_with("http/1.1 404 ") && !inside.contains("x-replay-stop"), "{inside}");
    off_on_off(&balancer, &sink);
}

#[test]
fn haproxy_stops_marked_requests_while_the_map_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::ok();
    let Some(balancer) = Balancer::haproxy(dir.path(), sink.addr.port(), "off") else { return };
    off_on_off(&balancer, &sink);
}

/// So the switch outlives a restart.
#[test]
fn haproxy_starts_as_the_file_of_its_map_says() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::ok();
    let Some(balancer) = Balancer::haproxy(dir.path(), sink.addr.port(), "on") else { return };
    check(&balancer, &sink, true);
    balancer.switch(false);
    check(&balancer, &sink, false);
}

/// A run through the balancer ends when the rules are switched on there, and users go on.
fn stop_a_run(dir: &Path, name: &str, balancer: &Balancer, sink: &Sink) {
    let trace = trace_of(dir, "demo.pcap");
    let out = dir.join("run");
    let (url, folder) = (format!("http://127.0.0.1:{}", balancer.port), out.display().to_string());
    let args = [
        "--trace",
        &trace,
        "--target",
        &url,
        "--lead-in",
        "none",
        "--loop",
        "--for",
        "30s",
        "--out",
        &folder,
        "--quiet",
    ];
    let mut process = start_replay(dir, &args);
    wait_until("traffic", Duration::from_secs(20), || sink.count() > 100);
    let switched = Instant::now();
    balancer.switch(true);
    let exit = wait_for_end(&mut process, Duration::from_secs(20));
    assert_eq!(exit, 4, "{}", fs::read_to_string(dir.join("replay.out")).unwrap());
    let r = report(&out);
    assert_identities(&r);
    assert_eq!(r["state"], "aborted", "{}", r["cause"]);
    assert!(r["cause"].as_str().unwrap().contains("X-Replay-Stop"), "{}", r["cause"]);
    let times = sink.times();
    let late = times.iter().filter(|t| **t > switched).count();
    let took = times.into_iter().max().unwrap().saturating_duration_since(switched);
    eprintln!("{name}: last request at the backend {took:?} after switching on ({late} came after it)");
    assert!(took < Duration::from_secs(1), "{took:?}");
    check(balancer, sink, true);
}

#[test]
fn a_run_is_stopped_at_nginx() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::ok();
    let Some(balancer) = Balancer::nginx(dir.path(), sink.addr.port()) else { return };
    stop_a_run(dir.path(), "nginx", &balancer, &sink);
}

#[test]
fn a_run_is_stopped_at_haproxy() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::ok();
    let Some(balancer) = Balancer::haproxy(dir.path(), sink.addr.port(), "off") else { return };
    stop_a_run(dir.path(), "HAProxy", &balancer, &sink);
}
