//! Every fault between a whole running program and a real Prometheus: set before the start, and set under load.
//!
//! `fault_matrix.rs` holds every state to its deadline on a test clock. This holds the whole: process, threads,
//! sockets, signals, journal and report, in real time, a sink that says when the last request came. Each run has a
//! sink and a proxy of its own; a few run side by side.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]
#![allow(clippy::disallowed_methods, reason = "tests measure real time against real servers")]

#[path = "support/exporter.rs"]
mod exporter;
#[path = "support/fault_proxy.rs"]
mod fault_proxy;
mod support;

use std::fs;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use exporter::Exporter;
use fault_proxy::{Fault, FaultProxy};
use serde_json::Value;
use support::*;

const POLL: Duration = Duration::from_millis(500);
const TIMEOUT: Duration = Duration::from_secs(1);
const NO_DATA_ABORT: Duration = Duration::from_secs(5);
/// A tick, and what a busy machine adds: several programs run at once.
const SLACK: Duration = Duration::from_millis(1_000);
/// Runs side by side.
const AT_ONCE: usize = 6;

struct Scene {
    dir: tempfile::TempDir,
    trace: String,
    prometheus: u16,
}

/// One run of the program with its own sink and its own way to Prometheus.
struct Run {
    sink: Sink,
    proxy: FaultProxy,
    process: Process,
    out: std::path::PathBuf,
    log: std::path::PathBuf,
}

impl Scene {
    fn start(&self, name: &str, fault: Fault) -> Run {
        let (sink, proxy) = (Sink::ok(), FaultProxy::start(self.prometheus));
        proxy.set(fault);
        let policy = self.dir.path().join(format!("{name}.toml"));
        let text = format!(
            "version = 1\nname = {name:?}\n[target]\nallow = [\"127.0.0.0/8\"]\nhosts = [\"*\"]\n[rate]\nmax_scale = 10\nmax_rps = 2000\n\
             [prometheus]\nurl = \"http://127.0.0.1:{}\"\nscrape_interval = \"1s\"\n[[guard]]\nname = \"errors\"\n\
             expr = '(sum(rate(http_requests_total{{code=\"500\"}}[4s])) or vector(0)) / sum(rate(http_requests_total[4s]))'\n\
             unit = \"ratio\"\nhold_above = \"0.5%\"\nback_off_above = \"1%\"\nabort_above = \"5%\"\npoll = \"500ms\"\ntimeout = \"1s\"\n\
             [governor]\nno_data_abort = \"5s\"\npreflight_max = \"10s\"\n",
            proxy.port()
        );
        fs::write(&policy, text).unwrap();
        let (out, log) = (self.dir.path().join(name), self.dir.path().join(format!("{name}.log")));
        let file = fs::File::create(&log).unwrap();
        let mut command = Command::new(REPLAY);
        command.args(["--trace", &self.trace, "--target", &sink.url(), "--policy"]).arg(&policy);
        command.args(["--rate", "40/s", "--for", "12s", "--lead-in", "none", "--quiet", "--out"]).arg(&out);
        command.env("REPLAY_STATE_DIR", state_dir()).stdin(Stdio::null());
        command.stdout(file.try_clone().unwrap()).stderr(file);
        Run { sink, proxy, process: Process(command.spawn().unwrap()), out, log }
    }

    /// The fault is there from the start: nothing may ever be sent.
    fn before(&self, fault: Fault) -> Result<String, String> {
        let mut run = self.start(&format!("before-{fault:?}"), fault);
        let exit = wait_for_end(&mut run.process, Duration::from_secs(60));
        let said = fs::read_to_string(&run.log).unwrap_or_default();
        let sent = run.sink.count();
        if exit != 3 || sent > 0 {
            return Err(format!("{fault:?} before the start: exit {exit}, {sent} requests: {said}"));
        }
        Ok("refused".to_owned())
    }

    /// The fault comes under load.
    fn under_load(&self, fault: Fault) -> Result<String, String> {
        let mut run = self.start(&format!("load-{fault:?}"), Fault::None);
        wait_until("load", Duration::from_secs(60), || run.sink.count() > 80);
        run.proxy.set(fault);
        let set = Instant::now();
        let exit = wait_for_end(&mut run.process, Duration::from_secs(60));
        let last = run.sink.times().into_iter().max().unwrap().saturating_duration_since(set);
        judge(fault, exit, last, &report(&run.out))
    }
}

fn judge(fault: Fault, exit: i32, last: Duration, r: &Value) -> Result<String, String> {
    let events: Vec<&str> =
        r["events"].as_array().unwrap().iter().filter_map(|e| e["what"].as_str()).collect();
    let cut = events.iter().any(|e| e.starts_with("share cut"));
    let grown = events.iter().any(|e| e.starts_with("share grown"));
    let wrong = |why: &str| {
        Err(format!("{fault:?} under load: {why}; exit {exit}, last {last:?}, {}, {events:?}", r["cause"]))
    };
    assert_identities(r);
    if grown {
        return wrong("it grew");
    }
    let cause = r["cause"].as_str().unwrap_or_default();
    match fault {
        // A clock somewhat off freezes; the trace ends by itself.
        Fault::ServerClockAhead10s => {
            if !events.iter().any(|e| e.ends_with("→ hold")) || !matches!(exit, 0 | 5) {
                return wrong("not frozen");
            }
            Ok(format!("held, exit {exit}"))
        }
        // The source says that the guard itself is wrong: no reason to wait.
        Fault::Unauthorized401 | Fault::BadQuery422 => {
            if exit != 7 || last > POLL + TIMEOUT + SLACK || !cause.starts_with("guard \"") {
                return wrong("not ended at once");
            }
            Ok(format!("ended after {:.1} s", last.as_secs_f64()))
        }
        _ => {
            if exit != 7
                || !cut
                || last > NO_DATA_ABORT + POLL + TIMEOUT + SLACK
                || !cause.starts_with("guard \"")
            {
                return wrong("not cut and ended in time");
            }
            Ok(format!("halved, ended after {:.1} s", last.as_secs_f64()))
        }
    }
}

#[test]
fn every_fault_before_the_start_and_under_load_fails_closed() {
    let dir = tempfile::tempdir().unwrap();
    let exporter = Exporter::start();
    exporter.grow("http_requests_total{code=\"200\"}", 100.0);
    let Some(server) = Prometheus::start_with(dir.path(), &[exporter.port()], "1s", "") else { return };
    wait_until("a rate", Duration::from_secs(40), || {
        let answer = server.query("sum(rate(http_requests_total%5B4s%5D))");
        answer.contains("\"value\"") && !answer.contains("\"0\"]")
    });
    let trace = trace_of(dir.path(), "demo.pcap");
    let scene = Scene { dir, trace, prometheus: server.port };
    type Case = fn(&Scene, Fault) -> Result<String, String>;
    let cases: Vec<(&str, Fault, Case)> = Fault::ALL
        .into_iter()
        .flat_map(|f| [("before", f, Scene::before as Case), ("load", f, Scene::under_load as Case)])
        .collect();
    let (queue, done) = (Mutex::new(cases.iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some((when, fault, case)) = queue.lock().unwrap().next() else { return };
                    let result = case(&scene, *fault);
                    done.lock().unwrap().push((*when, *fault, result));
                }
            });
        }
    });
    let done = done.into_inner().unwrap();
    for (when, fault, result) in &done {
        eprintln!(
            "{:<22} {when:<7} {}",
            format!("{fault:?}"),
            result.as_ref().map_or("WRONG", |s| s.as_str())
        );
    }
    let wrong: Vec<&str> = done.iter().filter_map(|(.., r)| r.as_ref().err().map(String::as_str)).collect();
    assert!(wrong.is_empty(), "{} of {} are wrong:\n{}", wrong.len(), done.len(), wrong.join("\n"));
    assert_eq!(done.len(), 2 * Fault::ALL.len());
}
