//! The governor against the real thing: a real Prometheus that scrapes a service behind a real HAProxy, users beside
//! us, alerts, budgets over kill -9, windows, kill switches, and a service that misbehaves in every way we know.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]
#![allow(clippy::disallowed_methods, reason = "tests measure real time against real servers")]

#[path = "support/exporter.rs"]
mod exporter;
mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use exporter::Exporter;
use serde_json::Value;
use support::*;

const USERS_OK: &str = "http_requests_total{code=\"200\"}";
const USERS_BAD: &str = "http_requests_total{code=\"500\"}";
const OURS: &str = "http_requests_total{code=\"200\",replay=\"yes\"}";

/// A service that counts users (made up, by the second) and us (truly, one by one) apart; HAProxy before it,
/// Prometheus beside it.
struct Scene {
    dir: tempfile::TempDir,
    exporter: Arc<Exporter>,
    sink: Sink,
    haproxy: Haproxy,
    prometheus: Prometheus,
    trace: String,
}

fn scene(users_rps: f64, rules: &str) -> Option<Scene> {
    let dir = tempfile::tempdir().unwrap();
    let exporter = Arc::new(Exporter::start());
    exporter.grow(USERS_OK, users_rps);
    exporter.set(USERS_BAD, 0.0);
    exporter.set(OURS, 0.0);
    exporter.set("page_now", 0.0);
    let counting = Arc::clone(&exporter);
    let sink = Sink::start(move |_| {
        counting.add(OURS, 1.0);
        OK.to_owned()
    });
    let haproxy = Haproxy::start(dir.path(), sink.addr.port())?;
    let prometheus = Prometheus::start_with(dir.path(), &[exporter.port()], "1s", rules)?;
    let trace = trace_of(dir.path(), "demo.pcap");
    wait_until("a rate", Duration::from_secs(30), || {
        prometheus.query("count(rate(http_requests_total%5B4s%5D))").contains("\"value\"")
    });
    Some(Scene { dir, exporter, sink, haproxy, prometheus, trace })
}

/// One run: its policy's tables beyond the usual ones, and its flags.
struct Case<'a> {
    name: &'a str,
    policy: &'a str,
    rate: &'a str,
    lasting: &'a str,
    lead_in: &'a str,
}

impl Scene {
    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.haproxy.port)
    }

    fn policy(&self, name: &str, tail: &str) -> String {
        let text = format!(
            "version = 1\nname = {name:?}\n[target]\nallow = [\"127.0.0.0/8\"]\nhosts = [\"*\"]\n\
             [prometheus]\nurl = \"http://127.0.0.1:{}\"\nscrape_interval = \"1s\"\n{tail}\n",
            self.prometheus.port
        );
        let path = self.dir.path().join(format!("{name}.toml"));
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn args(&self, case: &Case<'_>) -> Vec<String> {
        let policy = self.policy(case.name, case.policy);
        let out = self.out(case.name).display().to_string();
        let (url, trace) = (self.url(), self.trace.clone());
        [
            "--trace",
            &trace,
            "--target",
            &url,
            "--policy",
            &policy,
            "--rate",
            case.rate,
            "--for",
            case.lasting,
            "--lead-in",
            case.lead_in,
            "--out",
            &out,
            "--quiet",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    fn out(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(format!("run-{name}"))
    }

    fn start(&self, case: &Case<'_>) -> Process {
        let args = self.args(case);
        start_replay(self.dir.path(), &args.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

const RATE: &str = "[rate]\nmax_scale = 10\nmax_rps = 3000\nmax_new_connections_per_s = 2000\nrequest_timeout = \"10s\"\nmax_in_flight = 2000\n";

fn cause(r: &Value) -> String {
    r["cause"].as_str().unwrap_or_default().to_owned()
}

fn guard<'a>(r: &'a Value, name: &str) -> &'a Value {
    r["guards"]
        .as_array()
        .unwrap()
        .iter()
        .find(|g| g["name"] == name)
        .unwrap_or_else(|| panic!("{name} in {r}"))
}

/// The journal's ticks.
fn ticks(out: &Path) -> Vec<Value> {
    let journal = fs::read_to_string(out.join("journal.jsonl")).unwrap();
    let lines = journal.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
    lines.filter_map(|v| v.get("tick").cloned()).collect()
}

fn pictures() -> std::path::PathBuf {
    let dir = root().join("target/pictures");
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// 40 of users a second under 1160 of ours: 20 % of users failing is 0.67 % of all, and is caught.
#[test]
fn dilution_does_not_hide_users() {
    let Some(s) = scene(40.0, "") else { return };
    let all = r#"(sum(rate(http_requests_total{code="500"}[4s])) or vector(0)) / sum(rate(http_requests_total[4s]))"#;
    let users = r#"(sum(rate(http_requests_total{code="500",replay=""}[4s])) or vector(0)) / sum(rate(http_requests_total{replay=""}[4s]))"#;
    let policy = format!(
        "{RATE}[[guard]]\nname = \"all\"\nexpr = '{all}'\nunit = \"ratio\"\nback_off_above = \"2%\"\nabort_above = \"5%\"\npoll = \"500ms\"\n\
         [[guard]]\nname = \"users\"\nexpr = '{users}'\nunit = \"ratio\"\nback_off_above = \"2%\"\nabort_above = \"10%\"\npoll = \"500ms\"\n"
    );
    let case = Case { name: "dilution", policy: &policy, rate: "1160/s", lasting: "90s", lead_in: "none" };
    let mut run = s.start(&case);
    wait_until("load", Duration::from_secs(30), || s.sink.count() > 6_000);
    s.exporter.grow(USERS_OK, 32.0);
    s.exporter.grow(USERS_BAD, 8.0);
    let failing = Instant::now();
    let exit = wait_for_end(&mut run, Duration::from_secs(60));
    let took = failing.elapsed();
    let r = report(&s.out("dilution"));
    assert_eq!(exit, 4, "{}", cause(&r));
    assert!(cause(&r).contains("\"users\"") && cause(&r).contains("abort"), "{}", cause(&r));
    let naive = guard(&r, "all")["worst"].as_f64().unwrap();
    eprintln!(
        "dilution: stopped {took:.1?} after users began to fail; the guard on all requests read at worst {:.2} %",
        naive * 100.0
    );
    assert!(naive < 0.02, "a guard on all requests would have slept: {naive}");
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert_identities(&r);
}

/// Users of a service that cannot tell us apart: ours are subtracted.
#[test]
fn ours_can_be_subtracted_where_nothing_tells_us_apart() {
    let Some(s) = scene(50.0, "") else { return };
    let policy = format!(
        "{RATE}[[guard]]\nname = \"users\"\nerrors = 'sum(rate(http_requests_total{{code=\"500\"}}[4s])) or vector(0)'\n\
         requests = 'sum(rate(http_requests_total[4s]))'\nunit = \"ratio\"\nback_off_above = \"5%\"\nabort_above = \"10%\"\npoll = \"500ms\"\nmin_samples = 20\n"
    );
    let case = Case { name: "subtract", policy: &policy, rate: "100/s", lasting: "90s", lead_in: "none" };
    let mut run = s.start(&case);
    wait_until("load", Duration::from_secs(30), || s.sink.count() > 1_000);
    s.exporter.grow(USERS_OK, 35.0);
    s.exporter.grow(USERS_BAD, 15.0);
    let exit = wait_for_end(&mut run, Duration::from_secs(60));
    let r = report(&s.out("subtract"));
    assert_eq!(exit, 4, "{}", cause(&r));
    let worst = guard(&r, "users")["worst"].as_f64().unwrap();
    eprintln!(
        "subtracted: 30 % of users failed under twice as many of ours; the guard read {:.0} %",
        worst * 100.0
    );
    assert!(worst > 0.10, "{worst}");
}

/// A Prometheus that does not see us is found out in the probe; one that does lets the climb begin.
#[test]
fn visibility_is_proved_in_the_probe() {
    let Some(s) = scene(2.0, "") else { return };
    s.exporter.grow("other_requests_total{code=\"200\"}", 30.0);
    let policy = |expr: &str| {
        format!(
            "{RATE}[visibility]\nrequests = '{expr}'\n[governor]\nprobe_rate = \"10/s\"\nstep = \"25%\"\n"
        )
    };
    let wrong = policy("sum(rate(other_requests_total[4s]))");
    let case = Case { name: "blind", policy: &wrong, rate: "40/s", lasting: "5s", lead_in: "auto" };
    let mut run = s.start(&case);
    let exit = wait_for_end(&mut run, Duration::from_secs(90));
    let r = report(&s.out("blind"));
    assert_eq!((exit, r["state"].as_str()), (7, Some("aborted")), "{}", cause(&r));
    assert!(cause(&r).contains("do not see what we send"), "{}", cause(&r));
    assert_eq!(r["phases"]["measure"]["due"].as_u64(), Some(0), "it never went past the probe");
    let right = policy("sum(rate(http_requests_total[4s]))");
    let case = Case { name: "seen", policy: &right, rate: "40/s", lasting: "5s", lead_in: "auto" };
    let run = s.start(&case);
    wait_until("the climb", Duration::from_secs(60), || {
        fs::read_to_string(s.out("seen").join("journal.jsonl"))
            .unwrap_or_default()
            .contains("\"phase\":\"ramp\"")
    });
    run.signal("TERM");
}

/// Users and ours together stay at the target: ours shrinks when users arrive.
#[test]
fn ours_shrinks_when_users_arrive() {
    let Some(s) = scene(50.0, "") else { return };
    let policy = "[rate]\nmax_scale = 10\nmax_rps = 1000\nmax_new_connections_per_s = 1000\nhold_total = \"350/s\"\n\
        [visibility]\nrequests = 'sum(rate(http_requests_total[4s]))'\norganic = 'sum(rate(http_requests_total{replay=\"\"}[4s]))'\n";
    let case = Case { name: "surge", policy, rate: "300/s", lasting: "45s", lead_in: "none" };
    let mut run = s.start(&case);
    wait_until("load", Duration::from_secs(40), || s.sink.count() > 3_000);
    s.exporter.grow(USERS_OK, 200.0);
    let exit = wait_for_end(&mut run, Duration::from_secs(90));
    let out = s.out("surge");
    let r = report(&out);
    assert!([0, 5].contains(&exit), "{exit}: {}", cause(&r));
    let all = ticks(&out);
    let sending: Vec<&Value> = all.iter().filter(|t| t["state"]["phase"] == "measure").collect();
    let last = &sending[sending.len() - 50..];
    let ceiling = |t: &Value| t["grant"]["ceiling"].as_u64().unwrap() as f64 / 1e3;
    let highest = last.iter().map(|t| ceiling(t)).fold(0.0, f64::max);
    let sent = last.iter().map(|t| t["inputs"]["sent_1s"].as_f64().unwrap()).sum::<f64>() / last.len() as f64;
    eprintln!(
        "surge: users 50/s → 200/s, ours 300/s → {sent:.0}/s (ceiling at most {highest:.0}/s), together {:.0}/s of 350/s",
        sent + 200.0
    );
    assert!(highest <= 165.0 && sent > 100.0, "{highest} {sent}");
    let svg = pictures().join("users-surge-real.svg");
    let told = replay(&["explain", &out.display().to_string(), "--svg", &svg.display().to_string()]);
    assert_eq!(code(&told), 0, "{}", text(&told));
    assert!(text(&told).contains("room for") && text(&told).contains("come out the same"), "{}", text(&told));
    // More users than the window expects, or than leave any room: refused before the first request.
    let before = s.sink.count();
    let full = policy.replace("350/s", "201/s");
    let case = Case { name: "full", policy: &full, rate: "300/s", lasting: "5s", lead_in: "none" };
    let exit = wait_for_end(&mut s.start(&case), Duration::from_secs(60));
    assert_eq!(exit, 3, "{}", cause(&report(&s.out("full"))));
    assert_eq!(s.sink.count(), before);
}

const RULES: &str = "groups:\n- name: t\n  rules:\n  - alert: Watchdog\n    expr: vector(1)\n  - alert: Paged\n    expr: page_now > 0\n    labels: {severity: page}\n  \
    - alert: Slow\n    expr: page_now > 5\n    for: 1h\n    labels: {severity: page}\n";

/// A firing alert ends a run; without proof that alerting works no alert is no good news.
#[test]
fn alerts_stop_a_run() {
    let Some(s) = scene(20.0, RULES) else { return };
    let alerts = |liveness: &str| {
        format!(
            "{RATE}[[guard]]\nname = \"pages\"\nalerts = 'severity=\"page\"'\nliveness = '{liveness}'\npoll = \"500ms\"\n"
        )
    };
    let dead = alerts("ALERTS{alertname=\"NoSuchWatchdog\",alertstate=\"firing\"}");
    let case = Case {
        name: "dead",
        policy: &format!("{dead}[governor]\npreflight_max = \"8s\"\n"),
        rate: "50/s",
        lasting: "5s",
        lead_in: "none",
    };
    let exit = wait_for_end(&mut s.start(&case), Duration::from_secs(40));
    assert_eq!(exit, 3, "{}", cause(&report(&s.out("dead"))));
    let alive = alerts("ALERTS{alertname=\"Watchdog\",alertstate=\"firing\"}");
    let case = Case { name: "paged", policy: &alive, rate: "50/s", lasting: "60s", lead_in: "none" };
    let mut run = s.start(&case);
    wait_until("load", Duration::from_secs(30), || s.sink.count() > 100);
    s.exporter.set("page_now", 1.0);
    let fired = Instant::now();
    let exit = wait_for_end(&mut run, Duration::from_secs(40));
    let r = report(&s.out("paged"));
    assert_eq!(exit, 4, "{}", cause(&r));
    assert!(cause(&r).contains("\"pages\" passed its abort limit"), "{}", cause(&r));
    eprintln!(
        "alert: stopped {:.1?} after the metric (scrape 1 s, evaluation 1 s, poll 0.5 s)",
        fired.elapsed()
    );
}

/// A query as kill switch, another run on the same target, the wrong Prometheus.
#[test]
fn queries_stop_a_run_and_the_wrong_prometheus_never_starts_one() {
    let Some(s) = scene(20.0, "") else { return };
    let policy = format!("{RATE}[stop]\nquery = 'max(replay_stop_requested)'\n");
    let case = Case { name: "stopped", policy: &policy, rate: "50/s", lasting: "60s", lead_in: "none" };
    let mut run = s.start(&case);
    wait_until("load", Duration::from_secs(30), || s.sink.count() > 100);
    s.exporter.set("replay_stop_requested", 1.0);
    let asked = Instant::now();
    let exit = wait_for_end(&mut run, Duration::from_secs(40));
    let r = report(&s.out("stopped"));
    assert_eq!(exit, 4, "{}", cause(&r));
    assert!(cause(&r).contains("kill switch query"), "{}", cause(&r));
    eprintln!("kill switch query: stopped {:.1?} after the metric", asked.elapsed());
    s.exporter.remove("replay_stop_requested");
    // Another host's run on this target: refused; on another target: none of our business.
    let target = format!("127.0.0.1:{}", s.haproxy.port);
    let other = format!("replay_run_active{{target=\"{target}\",run=\"elsewhere\"}}");
    s.exporter.set(&other, 1.0);
    wait_until("the other run", Duration::from_secs(20), || {
        s.prometheus.query("replay_run_active").contains("elsewhere")
    });
    let case = Case { name: "second", policy: RATE, rate: "50/s", lasting: "5s", lead_in: "none" };
    let exit = wait_for_end(&mut s.start(&case), Duration::from_secs(40));
    let r = report(&s.out("second"));
    assert_eq!((exit, r["counts"]["due"].as_u64()), (3, Some(0)), "{}", cause(&r));
    assert!(cause(&r).contains("other runs on this target"), "{}", cause(&r));
    s.exporter.remove(&other);
    wait_until("its end", Duration::from_secs(20), || {
        !s.prometheus.query("replay_run_active").contains("elsewhere")
    });
    let wrong = "expect_labels = { cluster = \"prod-eu1\" }\n".to_owned() + RATE;
    let case = Case { name: "wrong", policy: &wrong, rate: "50/s", lasting: "5s", lead_in: "none" };
    let exit = wait_for_end(&mut s.start(&case), Duration::from_secs(40));
    let r = report(&s.out("wrong"));
    assert_eq!(exit, 3, "{}", cause(&r));
    assert!(cause(&r).contains("the expected Prometheus"), "{}", cause(&r));
    let right = "expect_labels = { cluster = \"test\" }\n".to_owned() + RATE;
    let case = Case { name: "right", policy: &right, rate: "50/s", lasting: "3s", lead_in: "none" };
    let exit = wait_for_end(&mut s.start(&case), Duration::from_secs(40));
    assert_eq!(exit, 0, "{}", cause(&report(&s.out("right"))));
}

/// Our own page is scraped: the run shows itself, and a Prometheus that does not see it is not trusted about others.
#[test]
fn a_run_shows_itself_and_must_be_seen() {
    let dir = tempfile::tempdir().unwrap();
    let (sink, page, nowhere) = (Sink::ok(), free_port(), free_port());
    let Some(prometheus) = Prometheus::start_with(dir.path(), &[page], "1s", "").or_else(|| {
        eprintln!("SKIPPED: no prometheus");
        None
    }) else {
        return;
    };
    let trace = trace_of(dir.path(), "demo.pcap");
    for (port, exit) in [(page, 0), (nowhere, 3)] {
        let policy = dir.path().join(format!("{port}.toml"));
        let text = format!(
            "version = 1\nname = \"p{port}\"\n[target]\nallow = [\"127.0.0.0/8\"]\nhosts = [\"*\"]\n{RATE}[prometheus]\nurl = \"http://127.0.0.1:{}\"\n\
             scrape_interval = \"1s\"\n[metrics]\nlisten = \"127.0.0.1:{port}\"\n[governor]\npreflight_max = \"12s\"\n",
            prometheus.port
        );
        fs::write(&policy, text).unwrap();
        let out = dir.path().join(format!("run{port}")).display().to_string();
        let args = [
            "--trace",
            &trace,
            "--target",
            &sink.url(),
            "--policy",
            &policy.display().to_string(),
            "--rate",
            "50/s",
            "--for",
            "5s",
            "--lead-in",
            "none",
            "--out",
            &out,
            "--quiet",
        ];
        let mut run = start_replay(dir.path(), &args);
        if exit == 0 {
            wait_until("our own metric", Duration::from_secs(30), || {
                get(page, "/metrics").is_ok_and(|t| t.contains(&format!("target=\"{}\"}} 1", sink.addr)))
            });
        }
        assert_eq!(
            wait_for_end(&mut run, Duration::from_secs(60)),
            exit,
            "{}",
            cause(&report(Path::new(&out)))
        );
    }
}

fn plain(dir: &Path, name: &str, tail: &str) -> String {
    let path = dir.join(format!("{name}.toml"));
    fs::write(
        &path,
        format!("version = 1\nname = {name:?}\n[target]\nallow = [\"127.0.0.0/8\"]\nhosts = [\"*\"]\n{tail}"),
    )
    .unwrap();
    path.display().to_string()
}

fn run_args<'a>(
    trace: &'a str,
    url: &'a str,
    policy: &'a str,
    out: &'a str,
    rate: &'a str,
    lasting: &'a str,
) -> Vec<&'a str> {
    vec![
        "--trace",
        trace,
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

/// Budgets are absolute: over kill -9, over runs, and exact.
#[test]
fn budgets_survive_kill_9_and_a_crash_needs_a_look() {
    let dir = tempfile::tempdir().unwrap();
    let (sink, trace) = (Sink::ok(), trace_of(dir.path(), "demo.pcap"));
    let name = format!("budget-{}", std::process::id());
    let policy = plain(dir.path(), &name, &format!("{RATE}[budget]\nrequests = 3000\n"));
    let (url, out) = (sink.url(), dir.path().join("a").display().to_string());
    let mut run = start_replay(dir.path(), &run_args(&trace, &url, &policy, &out, "200/s", "60s"));
    wait_until("load", Duration::from_secs(20), || sink.count() > 700);
    signal(run.0.id(), "KILL");
    wait_for_end(&mut run, Duration::from_secs(10));
    let (seen, state) = (sink.count() as u64, state_dir());
    let spent = || {
        let text = fs::read_to_string(state.join(format!("budget-{}.json", name.replace('-', "_")))).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["spent"]["requests"].as_u64().unwrap()
    };
    eprintln!("killed after {seen} requests; the disk says {} were spent", spent());
    assert!(spent() >= seen, "a crash never forgets a request");
    // The next one refuses until somebody has looked.
    let out = dir.path().join("b").display().to_string();
    let refused = replay(&run_args(&trace, &url, &policy, &out, "200/s", "60s"));
    assert_eq!(code(&refused), 3, "{}", text(&refused));
    assert!(
        text(&refused).contains("without a last word") && text(&refused).contains("replay ack"),
        "{}",
        text(&refused)
    );
    let story = replay(&["explain", &dir.path().join("a").display().to_string()]);
    assert!(text(&story).contains("THE JOURNAL BREAKS OFF"), "{}", text(&story));
    let ack = replay(&["ack", &sink.addr.to_string()]);
    assert_eq!(code(&ack), 0, "{}", text(&ack));
    let before = spent();
    let done = replay(&run_args(&trace, &url, &policy, &out, "400/s", "60s"));
    assert_eq!(code(&done), 5, "{}", text(&done));
    let r = report(Path::new(&out));
    assert_eq!(r["state"], "completed_capped");
    assert_eq!(r["counts"]["sent"].as_u64(), Some(3_000 - before), "exact, whatever the crash had reserved");
    assert_eq!(spent(), 3_000);
    assert!(sink.count() as u64 <= 3_000);
    assert_identities(&r);
    // Used up: the third is refused before the first request.
    let out = dir.path().join("c").display().to_string();
    let refused = replay(&run_args(&trace, &url, &policy, &out, "200/s", "5s"));
    assert_eq!(code(&refused), 3, "{}", text(&refused));
    assert!(text(&refused).contains("used up"), "{}", text(&refused));
}

/// Failing requests and received bytes end a run when their budget is gone.
#[test]
fn budgets_of_failures_and_bytes_abort() {
    let dir = tempfile::tempdir().unwrap();
    let trace = trace_of(dir.path(), "demo.pcap");
    let mut said = Vec::new();
    for (name, budget, sink, words) in [
        (
            "failures",
            "[local]\nerror_ratio = { back_off_above = \"60%\" }\n[budget]\nfailed_requests = 40\n",
            Sink::start(|n| {
                if n % 5 == 0 {
                    "HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n".to_owned()
                } else {
                    OK.to_owned()
                }
            }),
            "budget of failed_requests",
        ),
        (
            "bytes",
            "[budget]\nbytes_received = \"1MiB\"\n",
            Sink::start(|_| format!("HTTP/1.1 200 OK\r\nContent-Length: 4096\r\n\r\n{}", "x".repeat(4096))),
            "budget of bytes_received",
        ),
    ] {
        let unique = format!("{name}-{}", std::process::id());
        let policy = plain(dir.path(), &unique, &format!("{RATE}{budget}"));
        let out = dir.path().join(name).display().to_string();
        let done = replay(&run_args(&trace, &sink.url(), &policy, &out, "100/s", "60s"));
        assert_eq!(code(&done), 4, "{}", text(&done));
        let r = report(Path::new(&out));
        assert!(cause(&r).contains(words), "{}", cause(&r));
        said.push(format!("{name}: stopped after {} requests", r["counts"]["written"]));
    }
    eprintln!("{}", said.join("; "));
}

/// Site limits stand above every policy and flag, and a file that cannot be trusted lets nothing run.
#[test]
fn site_limits_stand_above_policies() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let (sink, trace) = (Sink::ok(), trace_of(dir.path(), "demo.pcap"));
    let site = dir.path().join("limits.toml");
    fs::write(&site, "version = 1\nmax_rps = 30\ntargets = [\"127.0.0.1/32\"]\nmax_duration = \"30s\"\n")
        .unwrap();
    fs::set_permissions(&site, fs::Permissions::from_mode(0o644)).unwrap();
    let (also, url) = (site.display().to_string(), sink.url());
    let out = dir.path().join("run").display().to_string();
    let args = [
        "--trace",
        &trace,
        "--target",
        &url,
        "--scale",
        "4x",
        "--for",
        "4s",
        "--loop",
        "--lead-in",
        "none",
        "--out",
        &out,
        "--quiet",
    ];
    let done = replay_with(&args, &[("REPLAY_LIMITS_ALSO", &also)]);
    assert_eq!(code(&done), 5, "{}", text(&done));
    let r = report(Path::new(&out));
    assert!(
        r["run"]["site_limits"].as_array().unwrap().iter().any(|s| s.as_str().unwrap().contains("max_rps")),
        "{}",
        r["run"]
    );
    let times = sink.times();
    let span = times.last().unwrap().duration_since(times[0]).as_secs_f64();
    assert!(times.len() as f64 <= 30.0 * span + 17.0, "{} in {span} s", times.len());
    let rate = replay_with(
        &["--trace", &trace, "--target", &url, "--rate", "40/s", "--for", "2s", "--lead-in", "none"],
        &[("REPLAY_LIMITS_ALSO", &also)],
    );
    assert_eq!(code(&rate), 3, "{}", text(&rate));
    let elsewhere = replay_with(
        &["--trace", &trace, "--target", "http://127.0.0.2:80", "--lead-in", "none"],
        &[("REPLAY_LIMITS_ALSO", &also)],
    );
    assert_eq!(code(&elsewhere), 3, "{}", text(&elsewhere));
    fs::set_permissions(&site, fs::Permissions::from_mode(0o666)).unwrap();
    let loose = replay_with(&args, &[("REPLAY_LIMITS_ALSO", &also)]);
    assert_eq!(code(&loose), 3, "{}", text(&loose));
    assert!(text(&loose).contains("can be written by others"), "{}", text(&loose));
}

/// The control socket: pause, freeze, resume, stop; and a second signal that does not wait.
#[test]
fn a_person_can_pause_freeze_resume_and_stop() {
    let dir = tempfile::tempdir().unwrap();
    let (sink, trace) = (Sink::ok(), trace_of(dir.path(), "demo.pcap"));
    let policy = plain(
        dir.path(),
        "control",
        &format!("{RATE}[governor]\nstep_hold = \"2s\"\nclear_for = \"2s\"\ncooldown = \"2s\"\n"),
    );
    let (url, out) = (sink.url(), dir.path().join("run"));
    let folder = out.display().to_string();
    let mut run = start_replay(dir.path(), &run_args(&trace, &url, &policy, &folder, "200/s", "120s"));
    wait_until("load", Duration::from_secs(20), || sink.count() > 300);
    let id = {
        let journal = fs::read_to_string(out.join("journal.jsonl")).unwrap();
        let first: Value = serde_json::from_str(journal.lines().next().unwrap()).unwrap();
        first["start"]["run"].as_str().unwrap().to_owned()
    };
    let tell = |word: &str| {
        let done = replay(&[word, &id, "--json"]);
        assert_eq!(code(&done), 0, "{}", text(&done));
        serde_json::from_slice::<Value>(&done.stdout).unwrap()
    };
    let state = || tell("status")["state"].as_str().unwrap().to_owned();
    let status = tell("status");
    assert_eq!(
        (status["state"].as_str(), status["order"].as_str()),
        (Some("measure"), Some("go")),
        "{status}"
    );
    let asked = Instant::now();
    tell("pause");
    let told = Instant::now();
    wait_until("the pause", Duration::from_secs(5), || state() == "paused");
    let last = sink.times().into_iter().max().unwrap();
    eprintln!(
        "pause: last request {:?} after the answer, {:?} after the command began",
        last.saturating_duration_since(told),
        last.saturating_duration_since(asked)
    );
    assert!(last.saturating_duration_since(told) < Duration::from_millis(500));
    let still = sink.count();
    tell("freeze");
    assert_eq!(state(), "paused", "a freeze starts nothing");
    assert_eq!(sink.count(), still);
    tell("resume");
    wait_until("recovery", Duration::from_secs(30), || state() == "recover" && sink.count() > still + 20);
    tell("freeze");
    wait_until("the freeze", Duration::from_secs(5), || state() == "hold");
    let share = tell("status")["share"].as_f64().unwrap();
    let frozen = sink.count();
    wait_until("more load", Duration::from_secs(20), || sink.count() > frozen + 40);
    assert!(tell("status")["share"].as_f64().unwrap() <= share + 1e-9, "a frozen rate does not grow");
    tell("stop");
    let told = Instant::now();
    let exit = wait_for_end(&mut run, Duration::from_secs(20));
    let last = sink.times().into_iter().max().unwrap();
    eprintln!("replay stop: last request {:?} after the answer", last.saturating_duration_since(told));
    assert_eq!(exit, 6);
    assert!(last.saturating_duration_since(told) < Duration::from_millis(100));
    let r = report(&out);
    assert!(cause(&r).contains("replay stop"), "{}", cause(&r));
    assert_identities(&r);
    let gone = replay(&["stop", &id]);
    assert_eq!(code(&gone), 2, "{}", text(&gone));
}

#[test]
fn a_second_signal_does_not_wait_for_answers() {
    let dir = tempfile::tempdir().unwrap();
    let trace = trace_of(dir.path(), "demo.pcap");
    // Answers that never come, so that an orderly end would take its whole grace.
    let sink = Sink::start(|n| if n < 50 { OK.to_owned() } else { String::new() });
    let out = dir.path().join("run").display().to_string();
    let url = sink.url();
    let args = [
        "--trace",
        &trace,
        "--target",
        &url,
        "--rate",
        "20/s",
        "--for",
        "60s",
        "--lead-in",
        "none",
        "--out",
        &out,
        "--quiet",
    ];
    let mut run = start_replay(dir.path(), &args);
    wait_until("requests without answers", Duration::from_secs(20), || sink.count() > 55);
    run.signal("INT");
    wait_until("the end of sending", Duration::from_secs(5), || {
        fs::read_to_string(Path::new(&out).join("journal.jsonl")).unwrap().contains("\"phase\":\"aborting\"")
    });
    assert!(run.0.try_wait().unwrap().is_none(), "it waits for answers");
    let second = Instant::now();
    run.signal("INT");
    let exit = wait_for_end(&mut run, Duration::from_secs(4));
    eprintln!("second signal: gone after {:?}", second.elapsed());
    assert_eq!(exit, 6);
    assert!(second.elapsed() < Duration::from_secs(1), "{:?}", second.elapsed());
}

/// A closed window refuses; one that is too short for the run refuses; one that fits lets it go.
#[test]
fn windows_bound_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let (sink, trace) = (Sink::ok(), trace_of(dir.path(), "demo.pcap"));
    let now = jiff::Timestamp::now();
    let clock = |minutes: i64| {
        let t = now.checked_add(jiff::SignedDuration::from_mins(minutes)).unwrap().to_string();
        t[11..16].to_owned()
    };
    for (start, duration, lasting, exit, words) in [
        (clock(60), "30m", "2s", 3, "is closed; it opens"),
        (clock(-1), "2m", "10m", 3, "G028"),
        (clock(-1), "10m", "3s", 0, ""),
    ] {
        let tail = format!(
            "{RATE}[window]\ntimezone = \"UTC\"\nstart = \"daily {start}\"\nduration = \"{duration}\"\n"
        );
        let policy = plain(dir.path(), &format!("w{exit}-{}", duration), &tail);
        let out = dir.path().join(format!("run-{start}-{duration}")).display().to_string();
        let done = replay(&run_args(&trace, &sink.url(), &policy, &out, "50/s", lasting));
        assert_eq!(code(&done), exit, "{}", text(&done));
        assert!(text(&done).contains(words), "{words} not in {}", text(&done));
    }
}
