//! A real knee behind a real HAProxy: a shop that carries 250 requests a second by construction, a plan for 350, and a
//! governor that has to find that out without users noticing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]
#![allow(clippy::disallowed_methods, reason = "tests measure real time against real servers")]

mod support;

use std::fs;
use std::time::Duration;

use replay::demo::{Shop, ShopSettings};
use serde_json::Value;
use support::*;

const SHOP: ShopSettings = ShopSettings { workers: 5, service_time: Duration::from_millis(20) };
const CAPACITY_RPS: f64 = 250.0;

const LOCAL: &str = "[local]\nerror_ratio = { back_off_above = \"5%\", abort_above = \"50%\" }\np95 = { back_off_above = \"250ms\" }\n";

fn prometheus(port: u16) -> String {
    format!(
        "[prometheus]\nurl = \"http://127.0.0.1:{port}\"\nscrape_interval = \"1s\"\n[[guard]]\nname = \"queue\"\n\
         expr = 'avg(avg_over_time(shop_queue_depth[4s]))'\nunit = \"requests\"\nuser_harm = true\nback_off_above = 40\nabort_above = 2000\nclear = 10\npoll = \"500ms\"\n"
    )
}

/// What one run came to.
#[derive(Debug)]
struct Knee {
    failed_ratio: f64,
    peak: f64,
    over_s: usize,
    back_offs: usize,
    settled_rps: f64,
}

fn climb(name: &str, guards: impl FnOnce(u16) -> String, step: &str) -> Option<Knee> {
    let dir = tempfile::tempdir().unwrap();
    let shop = Shop::open(SHOP).unwrap();
    let haproxy = Haproxy::start(dir.path(), shop.addr().port())?;
    let watching = Prometheus::start_with(dir.path(), &[shop.addr().port()], "1s", "")?;
    let trace = trace_of(dir.path(), "demo.pcap");
    let policy = dir.path().join("p.toml");
    let text = format!(
        "version = 1\nname = {name:?}\n[target]\nallow = [\"127.0.0.0/8\"]\nhosts = [\"*\"]\n[rate]\nmax_rps = 2000\nmax_new_connections_per_s = 500\n\
         request_timeout = \"5s\"\n{}[governor]\nprobe_rate = \"10/s\"\n{step}\nbackoff_window = \"5s\"\n",
        guards(watching.port)
    );
    fs::write(&policy, text).unwrap();
    let out = dir.path().join("run");
    let (url, folder) = (format!("http://127.0.0.1:{}", haproxy.port), out.display().to_string());
    let args = [
        "--trace",
        &trace,
        "--target",
        &url,
        "--policy",
        &policy.display().to_string(),
        "--rate",
        "350/s",
        "--for",
        "15s",
        "--out",
        &folder,
        "--quiet",
    ];
    let done = replay(&args);
    let r = report(&out);
    assert_eq!(code(&done), 5, "{}: {}", r["state"], r["cause"]);
    assert_identities(&r);
    let pictures = root().join("target/pictures");
    fs::create_dir_all(&pictures).unwrap();
    let svg = pictures.join(format!("{name}.svg")).display().to_string();
    assert_eq!(code(&replay(&["explain", &folder, "--svg", &svg])), 0);
    let c = &r["counts"];
    let failed = c["timeout"].as_u64().unwrap() + sum(&c["error"]) + sum(&c["unexpected"]);
    let seconds: Vec<f64> =
        r["timeline"].as_array().unwrap().iter().map(|row| row["sent"].as_f64().unwrap()).collect();
    let measured: Vec<f64> = rows(&r, "measure");
    let knee = Knee {
        failed_ratio: failed as f64 / c["written"].as_f64().unwrap(),
        peak: seconds.iter().copied().fold(0.0, f64::max) / CAPACITY_RPS,
        over_s: seconds.iter().filter(|s| **s > CAPACITY_RPS).count(),
        back_offs: r["events"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|e| e["what"].as_str().unwrap().ends_with("→ back_off"))
            .count(),
        settled_rps: measured.iter().sum::<f64>() / measured.len().max(1) as f64,
    };
    eprintln!("{name}: {knee:?}");
    Some(knee)
}

fn rows(r: &Value, state: &str) -> Vec<f64> {
    let all = r["timeline"].as_array().unwrap().iter();
    all.filter(|row| row["state"] == state).map(|row| row["sent"].as_f64().unwrap()).collect()
}

fn judge(knee: &Knee) {
    assert!(knee.failed_ratio <= 0.001, "{knee:?}");
    assert!(knee.back_offs >= 1, "the knee was found: {knee:?}");
    assert!(knee.settled_rps > 0.5 * CAPACITY_RPS && knee.settled_rps <= CAPACITY_RPS, "{knee:?}");
    assert!(knee.over_s <= 6, "{knee:?}");
    // A second of sessions drawn at random is above its mean by chance; two steps above the knee would be more.
    assert!(knee.peak <= 1.2, "{knee:?}");
}

#[test]
fn a_knee_is_found_by_local_guards_alone() {
    if let Some(knee) = climb(
        "knee-local-real",
        |_| LOCAL.to_owned(),
        "step = \"5%\"\nstep_hold = \"2s\"\ncooldown = \"5s\"\nclear_for = \"3s\"",
    ) {
        judge(&knee);
    }
}

#[test]
fn a_knee_is_found_by_both_kinds_of_guards() {
    if let Some(knee) = climb(
        "knee-both-real",
        |port| format!("{}{LOCAL}", prometheus(port)),
        "step = \"10%\"\ncooldown = \"8s\"\nclear_for = \"8s\"",
    ) {
        judge(&knee);
    }
}

/// Slow, so only on demand: `KNEE_ALL=1`.
#[test]
fn a_knee_is_found_by_prometheus_alone() {
    if std::env::var_os("KNEE_ALL").is_none() {
        eprintln!("SKIPPED: set KNEE_ALL=1");
        return;
    }
    if let Some(knee) =
        climb("knee-prometheus-real", prometheus, "step = \"10%\"\ncooldown = \"8s\"\nclear_for = \"8s\"")
    {
        judge(&knee);
    }
}
