//! A real Prometheus watching a shop with a knee: breach, blindness, and answers that are no number.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]
#![allow(clippy::disallowed_methods, reason = "tests measure real time against real servers")]

mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use replay::demo::{Shop, ShopSettings};
use serde_json::Value;
use support::*;

/// 250 requests a second.
const SHOP: ShopSettings = ShopSettings { workers: 5, service_time: Duration::from_millis(20) };

fn policy(dir: &Path, prometheus: u16, expr: &str, limits: &str) -> String {
    let text = format!(
        "version = 1\nname = \"t\"\n[target]\nallow = [\"127.0.0.0/8\"]\nhosts = [\"*\"]\n[rate]\nmax_scale = 10\nmax_rps = 2000\n\
         max_new_connections_per_s = 1000\nrequest_timeout = \"10s\"\n[prometheus]\nurl = \"http://127.0.0.1:{prometheus}\"\n\
         scrape_interval = \"2s\"\n[[guard]]\nname = \"queue\"\nexpr = '{expr}'\nunit = \"requests\"\nuser_harm = true\n{limits}\n\
         confirm = \"1 of 2\"\npoll = \"1s\"\n[governor]\nclear_for = \"5s\"\ncooldown = \"5s\"\nstep_hold = \"5s\"\nstep = \"25%\"\n\
         preflight_max = \"15s\"\nno_data_abort = \"8s\"\nbackoff_window = \"5s\"\n"
    );
    let path = dir.join("policy.toml");
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn ticks(out: &Path) -> Vec<Value> {
    let journal = fs::read_to_string(out.join("journal.jsonl")).unwrap();
    journal
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).unwrap())
        .filter_map(|v| v.get("tick").cloned())
        .collect()
}

struct Scene {
    dir: tempfile::TempDir,
    shop: Shop,
    prometheus: Prometheus,
    trace: String,
}

fn scene() -> Option<Scene> {
    let dir = tempfile::tempdir().unwrap();
    let shop = Shop::open(SHOP).unwrap();
    let prometheus = Prometheus::start(dir.path(), shop.addr().port())?;
    let trace = trace_of(dir.path(), "demo.pcap");
    Some(Scene { dir, shop, prometheus, trace })
}

impl Scene {
    fn args<'a>(
        &'a self,
        policy: &'a str,
        out: &'a str,
        url: &'a str,
        rate: &'a str,
        lasting: &'a str,
    ) -> Vec<&'a str> {
        vec![
            "--trace",
            &self.trace,
            "--target",
            url,
            "--policy",
            policy,
            "--rate",
            rate,
            "--for",
            lasting,
            "--lead-in",
            "none",
            "--out",
            out,
            "--quiet",
        ]
    }
}

/// The index of the queue guard among all guards: local ones come first.
fn guard_index(r: &Value) -> usize {
    r["guards"].as_array().unwrap().iter().position(|g| g["name"] == "queue").unwrap()
}

#[test]
fn a_breach_seen_by_prometheus_halves_the_share() {
    let Some(s) = scene() else { return };
    let policy = policy(
        s.dir.path(),
        s.prometheus.port,
        "max(shop_queue_depth)",
        "back_off_above = 60\nabort_above = 100000\nclear = 20",
    );
    let out = s.dir.path().join("run");
    let (url, folder) = (format!("http://{}", s.shop.addr()), out.display().to_string());
    let done = replay(&s.args(&policy, &folder, &url, "350/s", "22s"));
    let r = report(&out);
    assert_eq!(code(&done), 5, "{}\n{}", text(&done), r["cause"]);
    assert_identities(&r);
    assert_eq!(r["state"], "completed_capped");
    let (guard, ticks) = (guard_index(&r), ticks(&out));
    let breached = ticks.iter().position(|t| t["inputs"]["guards"][guard]["level"] == "back_off").unwrap();
    let t = |i: usize| ticks[i]["inputs"]["now"].as_u64().unwrap() as f64 / 1e9;
    let share = |i: usize| ticks[i]["grant"]["share"].as_u64().unwrap() as f64 / 1e6;
    let before = share(breached - 1);
    let halved = (breached..ticks.len()).find(|i| share(*i) <= before / 2.0).unwrap();
    eprintln!(
        "breach seen at {:.1} s ({}), share {:.1} % → {:.1} % at {:.1} s",
        t(breached),
        ticks[breached]["inputs"]["guards"][guard]["reading"],
        before * 100.0,
        share(halved) * 100.0,
        t(halved)
    );
    assert!(t(halved) - t(breached) <= 0.2, "one tick");
    assert_eq!(
        s.shop.served(),
        r["counts"]["written"].as_u64().unwrap(),
        "the shop counts what we say we wrote"
    );
}

#[test]
fn a_prometheus_that_falls_silent_cuts_and_then_aborts() {
    let Some(s) = scene() else { return };
    let policy = policy(
        s.dir.path(),
        s.prometheus.port,
        "max(shop_queue_depth)",
        "back_off_above = 500\nabort_above = 100000",
    );
    let out = s.dir.path().join("run");
    let (url, folder) = (format!("http://{}", s.shop.addr()), out.display().to_string());
    let mut process = start_replay(s.dir.path(), &s.args(&policy, &folder, &url, "100/s", "60s"));
    wait_until("traffic", Duration::from_secs(30), || s.shop.served() > 200);
    s.prometheus.process.signal("STOP");
    let exit = wait_for_end(&mut process, Duration::from_secs(40));
    s.prometheus.process.signal("CONT");
    let r = report(&out);
    assert_eq!(exit, 7, "{}", r["cause"]);
    assert_identities(&r);
    let cause = r["cause"].as_str().unwrap();
    assert!(
        cause.starts_with("guard \"queue\" had no data for too long") && cause.contains("Timeout"),
        "{cause}"
    );
    let events = r["events"].as_array().unwrap();
    let cut = events.iter().find(|e| e["what"].as_str().unwrap().starts_with("share cut")).unwrap();
    let end = events.iter().find(|e| e["what"].as_str().unwrap().ends_with("→ aborting")).unwrap();
    eprintln!("silent Prometheus: {cut}, then {end}");
    assert!(cut["t"].as_f64().unwrap() < end["t"].as_f64().unwrap());
}

/// NaN, nothing and two series are no data: the run never starts, so it can never grow.
#[test]
fn answers_that_are_no_number_never_start_a_run() {
    let Some(s) = scene() else { return };
    for (expr, why) in [
        ("max(shop_queue_depth) * 0 / max(shop_queue_depth * 0)", "na_n"),
        ("max(no_such_metric)", "empty"),
        (r#"{__name__=~"shop_queue_depth|shop_workers"}"#, "multi"),
    ] {
        let policy = policy(s.dir.path(), s.prometheus.port, expr, "back_off_above = 60");
        let out = s.dir.path().join(why);
        let (url, folder) = (format!("http://{}", s.shop.addr()), out.display().to_string());
        let done = replay(&s.args(&policy, &folder, &url, "100/s", "10s"));
        assert_eq!(code(&done), 3, "{expr}: {}", text(&done));
        let r = report(&out);
        assert_eq!((r["state"].as_str(), r["counts"]["due"].as_u64()), (Some("refused"), Some(0)), "{expr}");
        let guard = guard_index(&r);
        let readings: Vec<String> =
            ticks(&out).iter().map(|t| t["inputs"]["guards"][guard]["reading"].to_string()).collect();
        assert!(readings.iter().any(|x| x.contains(why)), "{expr}: {:?}", readings.last());
    }
    assert_eq!(s.shop.served(), 0, "nothing was sent");
}

#[test]
fn check_asks_each_guard_once() {
    let Some(s) = scene() else { return };
    let good = policy(s.dir.path(), s.prometheus.port, "max(shop_queue_depth)", "back_off_above = 60");
    let done = replay(&["check", &good, "--explain"]);
    assert_eq!(code(&done), 0, "{}", text(&done));
    assert!(
        text(&done).contains("Good(0.0) (limits: back off 60 requests): would start")
            && text(&done).contains("L = "),
        "{}",
        text(&done)
    );
    let bad = policy(s.dir.path(), s.prometheus.port, "max(no_such_metric)", "back_off_above = 60");
    let done = replay(&["check", &bad]);
    assert_eq!(code(&done), 3, "{}", text(&done));
    assert!(
        text(&done).contains("NoData(Empty) (limits: back off 60 requests): would not start"),
        "{}",
        text(&done)
    );
    assert_eq!(code(&replay(&["check", &bad, "--offline"])), 0);
}
