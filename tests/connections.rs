//! Connections that are not the recorded ones: a pool, other local addresses; and what a run says when this machine has
//! no more of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]
#![allow(clippy::disallowed_methods, reason = "tests measure real time against real servers")]

#[path = "support/steady_trace.rs"]
mod steady_trace;
mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use support::*;

/// A policy without a lid on the rates that these tests need.
fn policy(dir: &Path) -> String {
    let path = dir.join("p.toml");
    let text = "version = 1\nname = \"c\"\n[target]\nallow = [\"127.0.0.0/8\"]\n[rate]\nmax_rps = 10000\nmax_new_connections_per_s = 5000\n";
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn steady(dir: &Path, rate: u64, seconds: u64, sessions: u64) -> String {
    let path = dir.join("steady.trace");
    steady_trace::write(&path, rate, seconds, sessions);
    path.display().to_string()
}

/// nginx that logs which connection and which address each request came by.
fn nginx(dir: &Path) -> Option<Nginx> {
    Nginx::start_with(dir, |port| {
        format!(
            "log_format who '$connection $remote_addr';\nserver {{ listen 127.0.0.1:{port} backlog=4096; \
             access_log {}/who.log who; location / {{ return 200 \"ok\"; }} }}",
            dir.display()
        )
    })
}

/// Requests by connection, and by address.
fn who(dir: &Path) -> (BTreeMap<String, u64>, BTreeMap<String, u64>) {
    let (mut connections, mut addresses) = (BTreeMap::new(), BTreeMap::new());
    for line in std::fs::read_to_string(dir.join("who.log")).unwrap().lines() {
        let (connection, address) = line.split_once(' ').unwrap();
        *connections.entry(connection.to_owned()).or_default() += 1;
        *addresses.entry(address.to_owned()).or_default() += 1;
    }
    (connections, addresses)
}

fn run(dir: &Path, trace: &str, port: u16, more: &[&str]) -> (i32, serde_json::Value) {
    let (url, out) = (format!("http://127.0.0.1:{port}"), dir.join("run").display().to_string());
    let policy = policy(dir);
    let args = ["--trace", trace, "--target", &url, "--policy", &policy, "--lead-in", "none", "--out", &out];
    let done = replay(&[&args[..], &["--quiet"], more].concat());
    println!("{}", text(&done));
    let r = report(&dir.join("run"));
    assert_identities(&r);
    (code(&done), r)
}

/// 200 recorded connections, and the target sees four.
#[test]
fn a_pool_carries_all_sessions_on_few_connections() {
    let dir = tempfile::tempdir().unwrap();
    let Some(nginx) = nginx(dir.path()) else { return };
    let trace = steady(dir.path(), 500, 4, 200);
    let (exit, r) = run(dir.path(), &trace, nginx.port, &["--connections", "pool:4"]);
    assert_eq!((exit, &r["counts"]["ok"]), (0, &2_000.into()));
    let (connections, _) = who(dir.path());
    assert!(connections.len() <= 4, "{connections:?}");
    assert_eq!(connections.values().sum::<u64>(), 2_000);
    assert_eq!(r["connections"]["opened"].as_u64().unwrap(), connections.len() as u64);
    assert_eq!(r["run"]["connections"], "pool:4");
}

/// A target that takes its time: with one connection only one request is under way; what had to wait too long is shed.
#[test]
fn a_pool_that_is_too_small_sheds_and_never_grows() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::start(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_owned()
    });
    let trace = steady(dir.path(), 100, 4, 50);
    let port: u16 = sink.url().rsplit(':').next().unwrap().parse().unwrap();
    let (_, r) = run(dir.path(), &trace, port, &["--connections", "pool:1"]);
    assert_eq!(r["connections"]["opened"], 1);
    let sent = r["counts"]["sent"].as_u64().unwrap();
    assert!((40..=110).contains(&sent), "at 20 a second: {sent}");
    assert!(r["counts"]["shed"]["session_blocked"].as_u64().unwrap() > 100, "{}", r["counts"]);
}

#[test]
fn connections_come_from_the_given_addresses_in_turn() {
    let dir = tempfile::tempdir().unwrap();
    let Some(nginx) = nginx(dir.path()) else { return };
    let trace = steady(dir.path(), 300, 2, 60);
    let (exit, r) = run(dir.path(), &trace, nginx.port, &["--source-ip", "127.0.0.2,127.0.0.3,127.0.7.7"]);
    assert_eq!((exit, &r["counts"]["ok"]), (0, &600.into()));
    let (_, addresses) = who(dir.path());
    let want = ["127.0.0.2", "127.0.0.3", "127.0.7.7"].map(|a| (a.to_owned(), 200));
    assert_eq!(addresses.into_iter().collect::<Vec<_>>(), want);
    assert_eq!(r["run"]["source_ips"], serde_json::json!(["127.0.0.2", "127.0.0.3", "127.0.7.7"]));
}

/// Refused before anything is sent, with what to do about it.
#[test]
fn what_this_machine_cannot_do_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::ok();
    let trace = steady(dir.path(), 600, 1, 300);
    let (url, policy) = (sink.url(), policy(dir.path()));
    let flow = dir.path().join("flow.toml");
    let words = "\n[[rewrite.take]]\nname = \"id\"\nfrom = \"GET /\"\nheader = \"x-id\"\n";
    std::fs::write(&flow, std::fs::read_to_string(&policy).unwrap() + words).unwrap();
    let flow = flow.display().to_string();
    #[rustfmt::skip]
    let table: [(&str, &str, &[&str], i32, &str); 5] = [
        ("256", &policy, &[], 3, "300 connections at once need more than the 256 open files that this process may have; raise LimitNOFILE="),
        ("256", &policy, &["--connections", "pool:20", "--dry-run"], 0, ""),
        ("1024", &policy, &["--source-ip", "203.0.113.7"], 3, "--source-ip 203.0.113.7 is no address of this machine that connections can come from"),
        ("1024", &policy, &["--connections", "pool:0"], 2, "\"pool:N\" with N from 1 to 4096"),
        ("1024", &flow, &["--connections", "pool:4"], 3, "--connections pool:N shares connections among all sessions"),
    ];
    for (files, policy, more, exit, want) in table {
        let out = dir.path().join("refused").display().to_string();
        let args =
            ["--trace", &trace, "--target", &url, "--policy", policy, "--lead-in", "none", "--out", &out];
        let line = format!("ulimit -n {files}; exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &line, REPLAY]).args(args).args(more).env("REPLAY_STATE_DIR", state_dir());
        let done = command.output().unwrap();
        assert_eq!(code(&done), exit, "{more:?}: {}", text(&done));
        assert!(text(&done).contains(want), "{more:?}: {}", text(&done));
    }
    assert_eq!(sink.count(), 0);
}

/// In a network of its own, with sixteen local ports and forty connections wanted: the report names what ran out, and it is
/// not the target.
#[test]
fn local_ports_that_run_out_are_named() {
    let before = ["--user", "--map-root-user", "--net"];
    let probe = Command::new("unshare").args(before).arg("true").output();
    if !probe.is_ok_and(|p| p.status.success()) {
        assert!(std::env::var_os("CI").is_none(), "this machine allows no network namespace");
        eprintln!("SKIPPED: local_ports_that_run_out_are_named: no right to make a network namespace here");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some(nginx) = tool("nginx") else { return };
    let d = dir.path().display();
    std::fs::create_dir_all(dir.path().join("tmp")).unwrap();
    let temps: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|n| format!("{n}_temp_path {d}/tmp/{n};\n"))
        .collect();
    let conf = format!(
        "user root;\npid {d}/nginx.pid;\nerror_log {d}/error.log;\nworker_processes 1;\nevents {{ worker_connections 400; }}\n\
         http {{\n{temps}access_log off;\nserver {{ listen 127.0.0.1:8080; location / {{ return 200 \"ok\"; }} }}\n}}\n"
    );
    std::fs::write(dir.path().join("nginx.conf"), conf).unwrap();
    let (trace, policy, out) = (steady(dir.path(), 80, 3, 40), policy(dir.path()), dir.path().join("run"));
    let script = format!(
        "ip link set lo up && echo '40000 40015' > /proc/sys/net/ipv4/ip_local_port_range && '{}' -e {d}/error.log -p {d} -c {d}/nginx.conf \
         && '{REPLAY}' --trace {trace} --target http://127.0.0.1:8080 --policy {policy} --lead-in none --out {} --quiet; \
         code=$?; kill $(cat {d}/nginx.pid); exit $code",
        nginx.display(),
        out.display()
    );
    let mut command = Command::new("unshare");
    command.args(before).args(["sh", "-c", &script]).env("REPLAY_STATE_DIR", state_dir());
    let done = command.output().unwrap();
    let said = text(&done);
    assert!(
        said.contains("40 connections to one address take more than half of the 16 local ports"),
        "{said}"
    );
    let r = report(&out);
    assert_identities(&r);
    let errors = r["connections"]["errors"].as_object().unwrap();
    let named = "no local port is left to 127.0.0.1:8080: give more addresses (--source-ip)";
    assert!(errors.keys().any(|k| k.contains(named)), "{errors:?}");
}
