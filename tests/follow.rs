//! Real nginx writes its log, which is renamed and opened anew as logrotate does it, while it is followed; the follower is stopped,
//! killed and started again. Over all traces every request is there once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use support::*;

/// Requests with running numbers on one connection each.
fn ask(nginx: &Nginx, numbers: std::ops::Range<usize>) {
    let mut stream = TcpStream::connect(("127.0.0.1", nginx.port)).unwrap();
    let mut answer = [0; 4096];
    for n in numbers {
        stream
            .write_all(format!("GET /line/{n} HTTP/1.1\r\nHost: x\r\nUser-Agent: u\r\n\r\n").as_bytes())
            .unwrap();
        assert!(stream.read(&mut answer).unwrap() > 0);
    }
}

fn follow(dir: &Path, round: usize) -> Process {
    let (log, output) = (dir.join("access.log"), dir.join("out/f.trace"));
    let said = dir.join(format!("follow-{round}.log"));
    let args = [
        "capture",
        "--follow",
        log.to_str().unwrap(),
        "-o",
        output.to_str().unwrap(),
        "--rotate",
        "1s",
        "--json",
    ];
    let process = Process::start(Path::new(REPLAY), &args, &said);
    wait_until("the log is followed", Duration::from_secs(10), || {
        let said = fs::read_to_string(&said).unwrap();
        assert!(!said.contains("cannot"), "{said}");
        said.contains("following 1 logs")
    });
    process
}

/// Paths of the requests in all finished traces.
fn captured(dir: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir.join("out")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "trace") {
            let out = replay(&["trace", "cat", path.to_str().unwrap()]);
            let one =
                |l: &str| serde_json::from_str::<Value>(l).unwrap()["path"].as_str().unwrap().to_owned();
            all.extend(String::from_utf8(out.stdout).unwrap().lines().map(one));
        }
    }
    all.sort();
    all
}

fn wanted(n: usize) -> Vec<String> {
    let mut all: Vec<String> = (0..n).map(|n| format!("/line/{n}")).collect();
    all.sort();
    all
}

#[test]
fn through_rotation_stop_and_kill_every_request_is_there_once() {
    let dir = tempfile::tempdir().unwrap();
    let Some(nginx) = Nginx::start(dir.path()) else { return };
    fs::create_dir(dir.path().join("out")).unwrap();
    // In all its logs: for a moment it writes on to the one that was renamed.
    let lines = || {
        let files = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path());
        let logs = files.filter(|p| p.file_name().unwrap().to_string_lossy().starts_with("access.log"));
        logs.map(|p| fs::read_to_string(p).unwrap().lines().count()).sum::<usize>()
    };
    let logged = |n: usize| wait_until("nginx has logged", Duration::from_secs(10), || lines() >= n);
    let rotate = |to: &str| {
        fs::rename(dir.path().join("access.log"), dir.path().join(to)).unwrap();
        nginx.process.signal("USR1");
        wait_until("nginx has a new log", Duration::from_secs(10), || dir.path().join("access.log").exists());
    };
    ask(&nginx, 0..50);
    logged(50);
    let mut follower = follow(dir.path(), 0);
    ask(&nginx, 50..100);
    wait_until("a trace is ended", Duration::from_secs(20), || !captured(dir.path()).is_empty());
    rotate("access.log.1");
    ask(&nginx, 100..200);
    wait_until("the new log is read", Duration::from_secs(20), || {
        captured(dir.path()).contains(&"/line/199".to_owned())
    });
    follower.signal("TERM");
    assert_eq!(wait_for_end(&mut follower, Duration::from_secs(10)), 0);
    assert_eq!(captured(dir.path()), wanted(200));
    // While nobody follows.
    ask(&nginx, 200..250);
    logged(250);
    fs::rename(dir.path().join("access.log.1"), dir.path().join("access.log.2")).unwrap();
    rotate("access.log.1");
    ask(&nginx, 250..300);
    logged(300);
    let mut follower = follow(dir.path(), 1);
    ask(&nginx, 300..350);
    wait_until("traces go on", Duration::from_secs(20), || captured(dir.path()).len() > 250);
    // Killed at any moment: what was in no finished trace is read again, the rest is not.
    ask(&nginx, 350..400);
    follower.signal("KILL");
    assert!(follower.0.wait().is_ok());
    ask(&nginx, 400..450);
    logged(450);
    let mut follower = follow(dir.path(), 2);
    ask(&nginx, 450..500);
    logged(500);
    follower.signal("INT");
    assert_eq!(wait_for_end(&mut follower, Duration::from_secs(10)), 0);
    assert_eq!(captured(dir.path()), wanted(500));
}

#[test]
fn what_cannot_be_followed_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let (log, output) = (dir.path().join("access.log"), dir.path().join("f.trace"));
    let run = |more: &[&str]| {
        let mut args =
            vec!["capture", "--follow", log.to_str().unwrap(), "-o", output.to_str().unwrap(), "--for", "0s"];
        args.extend(more);
        let out = replay(&args);
        (code(&out), text(&out))
    };
    let (exit, words) = run(&[]);
    assert!(exit == 2 && words.contains("--log-format"), "{words}");
    fs::write(&log, "no line of any format\n").unwrap();
    let (exit, words) = run(&[]);
    assert!(exit == 2 && words.contains("none of its first lines"), "{words}");
    assert_eq!(run(&["--format", "combined"]).0, 0);
    fs::write(dir.path().join("f.position"), "{}").unwrap();
    let (exit, words) = run(&["--format", "combined"]);
    assert!(exit == 2 && words.contains("f.position") && words.contains("remove it"), "{words}");
}
