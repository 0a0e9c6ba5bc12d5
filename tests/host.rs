//! What the machine under a run can do to it: a clock that is set, a disk that is full, a policy edited meanwhile, a
//! service manager that waits for a sign of life.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]
#![allow(clippy::disallowed_methods, reason = "tests measure real time against real servers")]

mod support;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::*;

/// A run of ten minutes at 200/s into a sink, unless something ends it.
struct Scene {
    dir: tempfile::TempDir,
    sink: Sink,
    trace: String,
    policy: PathBuf,
    out: PathBuf,
}

fn policy_text(tail: &str) -> String {
    format!(
        "version = 1\nname = \"host\"\n[target]\nallow = [\"127.0.0.0/8\"]\nhosts = [\"*\"]\n\
         [rate]\nmax_scale = 10\nmax_rps = 3000\nmax_new_connections_per_s = 2000\n{tail}"
    )
}

fn scene(tail: &str) -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let (sink, trace) = (Sink::ok(), trace_of(dir.path(), "demo.pcap"));
    let (policy, out) = (dir.path().join("host.toml"), dir.path().join("run"));
    fs::write(&policy, policy_text(tail)).unwrap();
    Scene { dir, sink, trace, policy, out }
}

impl Scene {
    fn command(&self, program: &Path, before: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(before).args(["--trace", &self.trace, "--target", &self.sink.url(), "--policy"]);
        command.arg(&self.policy).args(["--rate", "200/s", "--for", "10m", "--lead-in", "none", "--quiet"]);
        command.arg("--out").arg(&self.out).env("REPLAY_STATE_DIR", state_dir()).stdin(Stdio::null());
        let log = fs::File::create(self.dir.path().join("replay.out")).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        command
    }

    fn start(&self, mut command: Command) -> Process {
        let run = Process(command.spawn().unwrap());
        wait_until("load", Duration::from_secs(30), || self.sink.count() > 200);
        run
    }

    fn said(&self) -> String {
        fs::read_to_string(self.dir.path().join("replay.out")).unwrap_or_default()
    }

    /// Time from `since` to the last request.
    fn last_after(&self, since: Instant) -> Duration {
        self.sink.times().into_iter().max().unwrap().saturating_duration_since(since)
    }
}

/// The library that makes a process see another wall clock than the machine's.
fn faketime() -> Option<PathBuf> {
    let wrapper = tool("faketime")?;
    let lib = wrapper.parent()?.parent()?.join("tree/usr/lib");
    let found = fs::read_dir(lib).ok()?.flatten().map(|e| e.path().join("faketime/libfaketimeMT.so.1"));
    found.into_iter().find(|p| p.exists())
}

/// A wall clock that is set while a run is under way: windows, stamps and the guards' queries all hang on it.
#[test]
fn a_clock_that_is_set_ends_the_run() {
    let Some(library) = faketime() else { return };
    for (step, ends) in [("+1.0s", false), ("-1h", true), ("+1h", true), ("+3s", true)] {
        let s = scene("");
        let file = s.dir.path().join("clock");
        fs::write(&file, "+0\n").unwrap();
        let mut command = s.command(Path::new(REPLAY), &[]);
        command.env("LD_PRELOAD", &library).env("FAKETIME_TIMESTAMP_FILE", &file);
        command.envs([("FAKETIME_NO_CACHE", "1"), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")]);
        let mut run = s.start(command);
        // Replaced, not rewritten: a half written file would be another step.
        let fresh = s.dir.path().join("clock.new");
        fs::write(&fresh, format!("{step}\n")).unwrap();
        fs::rename(&fresh, &file).unwrap();
        let set = Instant::now();
        if ends {
            let exit = wait_for_end(&mut run, Duration::from_secs(20));
            let last = s.last_after(set);
            eprintln!("wall clock set by {step}: last request {last:?} later, exit {exit}");
            let r = report(&s.out);
            assert_eq!((exit, r["state"].as_str()), (7, Some("aborted")), "{step}: {}", s.said());
            let cause = r["cause"].as_str().unwrap();
            assert!(cause.contains("clock"), "{step}: {cause}");
            // Noticed at the next tick.
            assert!(last <= Duration::from_millis(400), "{step}: {last:?}");
            assert_identities(&r);
        } else {
            let sent = s.sink.count();
            wait_until("more load", Duration::from_secs(20), || s.sink.count() > sent + 300);
            run.signal("TERM");
            assert_eq!(wait_for_end(&mut run, Duration::from_secs(20)), 6, "{step}: {}", s.said());
            assert!(report(&s.out)["cause"].as_str().unwrap().contains("signal"));
        }
    }
}

/// `mount` in a namespace of its own: a disk of `size` at `at`, for one process.
fn on_a_small_disk(at: &Path, size: &str) -> Option<Vec<String>> {
    fs::create_dir_all(at).unwrap();
    let script = format!("mount -t tmpfs -o size={size} none {} && exec \"$@\"", at.display());
    let args = ["-rm", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec();
    let probe = Command::new("unshare").args(&args).arg("true").stderr(Stdio::null()).status();
    if probe.is_ok_and(|s| s.success()) {
        return Some(args);
    }
    assert!(std::env::var_os("CI").is_none(), "this machine allows no mount in a namespace");
    eprintln!("SKIPPED: this machine allows no mount in a namespace of one's own");
    None
}

/// Whatever must be on the disk ahead of the load ends the load when the disk is full: the journal, and the budget.
#[test]
fn a_full_disk_ends_the_run() {
    let s = scene("");
    let Some(mut before) = on_a_small_disk(&s.out, "512k") else { return };
    before.push(REPLAY.to_owned());
    let before: Vec<&str> = before.iter().map(String::as_str).collect();
    let mut run = s.start(s.command(Path::new("unshare"), &before));
    let exit = wait_for_end(&mut run, Duration::from_secs(60));
    let ended = Instant::now();
    let said = s.said();
    assert_eq!(exit, 1, "our own fault, not production's: {said}");
    assert!(said.contains("No space left on device") && said.contains("journal"), "{said}");
    let last = ended.duration_since(s.sink.times().into_iter().max().unwrap());
    eprintln!("full disk below the journal: {} requests, the last {last:?} before the end", s.sink.count());
    assert!(s.sink.count() < 100_000, "the disk was full long before");

    let s = scene("[budget]\nrequests = 1000000\n");
    let state = s.dir.path().join("state");
    let mut before = on_a_small_disk(&state, "16k").unwrap();
    // The disk fills while the run is under way.
    let fill = format!(
        "\"$@\" & until [ -s {}/journal.jsonl ]; do sleep 0.1; done; dd if=/dev/zero of={}/full bs=1k 2>/dev/null; wait",
        s.out.display(),
        state.display()
    );
    before.extend(["sh", "-c", &fill, "sh", REPLAY].map(str::to_owned));
    let before: Vec<&str> = before.iter().map(String::as_str).collect();
    let mut command = s.command(Path::new("unshare"), &before);
    command.env("REPLAY_STATE_DIR", &state);
    let mut run = Process(command.spawn().unwrap());
    wait_for_end(&mut run, Duration::from_secs(60));
    let r = report(&s.out);
    let cause = r["cause"].as_str().unwrap_or_default();
    assert!(cause.contains("budget store"), "{cause}: {}", s.said());
    assert_eq!(r["exit_code"], 1);
    eprintln!("full disk below the budget store: {} requests, {cause}", s.sink.count());
}

/// An edit of the policy is told and not followed, and systemd's watchdog is fed by the tick.
#[test]
fn an_edited_policy_is_told_and_the_watchdog_is_fed() {
    let s = scene("");
    let socket = s.dir.path().join("notify");
    let listener = UnixDatagram::bind(&socket).unwrap();
    listener.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut command = s.command(Path::new(REPLAY), &[]);
    command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "400000");
    let mut run = s.start(command);
    let mut buffer = [0u8; 64];
    for _ in 0..5 {
        let n = listener.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"WATCHDOG=1");
    }
    fs::write(&s.policy, policy_text("max_in_flight = 1\n")).unwrap();
    wait_until("the note", Duration::from_secs(10), || s.said().contains("was changed"));
    let sent = s.sink.count();
    wait_until("load as before", Duration::from_secs(20), || s.sink.count() > sent + 300);
    // A process that is stopped gives no more signs of life: this is what the watchdog is for.
    run.signal("STOP");
    listener.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    while listener.recv(&mut buffer).is_ok() {}
    run.signal("CONT");
    run.signal("TERM");
    wait_for_end(&mut run, Duration::from_secs(20));
    let r = report(&s.out);
    let told = |e: &Value| e["what"].as_str().unwrap_or_default().contains("host.toml was changed");
    assert!(r["events"].as_array().unwrap().iter().any(told), "{}", r["events"]);
    let story = replay(&["explain", &s.out.display().to_string()]);
    assert!(text(&story).contains("Noted: the policy"), "{}", text(&story));
}
