//! The tools around a run: init, check with facts and back-test, drill, explain, simulate; lints, and the table of edges.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]
#![allow(clippy::disallowed_methods, reason = "tests measure real time against real servers")]

#[path = "support/exporter.rs"]
mod exporter;
mod support;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use exporter::Exporter;
use serde_json::Value;
use support::*;

const DAY_S: u64 = 86_400;

/// A number between 0 and 1 that depends on `n` alone.
fn noise(n: u64) -> f64 {
    let mut x = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 31;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (x >> 40) as f64 / f64::from(1u32 << 24)
}

/// Two weeks of a service, a point a minute: days and nights, 0.02-0.1 % errors, one bad night of its own (2 % for
/// ten minutes), and two runs of ours (8 % errors for half an hour) with `replay_run_active` set.
fn two_weeks(now_s: u64, target: &str) -> String {
    let start = now_s - 14 * DAY_S;
    let own = [(now_s - 10 * DAY_S, 1_800), (now_s - 3 * DAY_S, 1_800)];
    let bad_night = now_s - 6 * DAY_S;
    let minutes = 14 * 24 * 60;
    let (mut ok, mut bad, mut fast, mut all) = (0.0, 0.0, 0.0, 0.0);
    let [mut oks, mut bads, mut fasts, mut alls, mut active] = [const { String::new() }; 5];
    for m in 0..minutes {
        let t = start + m * 60;
        let of_day = (t % DAY_S) as f64 / DAY_S as f64;
        let users = 60.0 * (120.0 - 90.0 * (of_day * std::f64::consts::TAU).cos()) * (0.9 + 0.2 * noise(t));
        let mine = own.iter().any(|(from, len)| (*from..from + len).contains(&t));
        let incident = (bad_night..bad_night + 600).contains(&t);
        let share = if mine {
            0.08
        } else if incident {
            0.02
        } else {
            0.0002 + 0.0008 * noise(t + 1)
        };
        let requests = users + if mine { 60.0 * 200.0 } else { 0.0 };
        ok += (requests * (1.0 - share)).round();
        bad += (requests * share).round();
        all += requests.round();
        fast += (requests * if mine { 0.9 } else { 0.985 + 0.01 * noise(t + 2) }).round();
        writeln!(oks, "http_requests_total{{code=\"200\"}} {ok} {t}").unwrap();
        writeln!(bads, "http_requests_total{{code=\"500\"}} {bad} {t}").unwrap();
        writeln!(fasts, "http_request_duration_seconds_bucket{{le=\"0.5\"}} {fast} {t}").unwrap();
        writeln!(alls, "http_request_duration_seconds_count {all} {t}").unwrap();
        if mine {
            writeln!(active, "replay_run_active{{run=\"r{}\",target=\"{target}\"}} 1 {t}", t / DAY_S)
                .unwrap();
        }
    }
    format!(
        "# TYPE http_requests counter\n{oks}{bads}# TYPE http_request_duration_seconds_bucket gauge\n{fasts}\
         # TYPE http_request_duration_seconds_count gauge\n{alls}# TYPE replay_run_active gauge\n{active}# EOF\n"
    )
}

/// Back-test over two weeks of made-up data: our own runs are left out, the service's own bad night is found.
#[test]
fn a_backtest_leaves_our_own_runs_out() {
    let Some(promtool) = tool("promtool") else { return };
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::ok();
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 60 * 60 - 600;
    let data = dir.path().join("data.om");
    fs::write(&data, two_weeks(now_s, &sink.addr.to_string())).unwrap();
    let made = Command::new(promtool)
        .args(["tsdb", "create-blocks-from", "openmetrics", "-q"])
        .args([&data, &dir.path().join("tsdb")])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", text(&made));
    let Some(prometheus) = Prometheus::start_with(dir.path(), &[free_port()], "30s", "") else { return };
    let policy = dir.path().join("p.toml");
    let of = |target: &str| {
        let text = format!(
            "version = 1\nname = \"backtest\"\n[target]\nurl = \"http://{target}\"\nallow = [\"127.0.0.0/8\"]\n[prometheus]\nurl = \"http://127.0.0.1:{}\"\n\
             scrape_interval = \"1m\"\n[[guard]]\nname = \"errors\"\nexpr = '(sum(rate(http_requests_total{{code=\"500\"}}[5m])) or vector(0)) / sum(rate(http_requests_total[5m]))'\n\
             unit = \"ratio\"\nhold_above = \"0.5%\"\nback_off_above = \"1%\"\nabort_above = \"5%\"\nmin_samples = 100\n\
             [[guard]]\nname = \"slow\"\nexpr = '1 - sum(rate(http_request_duration_seconds_bucket{{le=\"0.5\"}}[5m])) / sum(rate(http_request_duration_seconds_count[5m]))'\n\
             unit = \"ratio\"\nback_off_above = \"50%\"\n",
            prometheus.port
        );
        fs::write(&policy, text).unwrap();
        let done = replay(&["check", &policy.display().to_string(), "--backtest", "2w"]);
        // The data ends ten minutes ago, so a run would not start; the back-test is about the past.
        text_of(&done)
    };
    let with_runs_left_out = of(&sink.addr.to_string());
    eprintln!("{with_runs_left_out}");
    let counts = |all: &str, guard: &str| {
        let part = all.split(&format!("  {guard}: ")).nth(1).unwrap_or_else(|| panic!("{guard} in {all}"));
        let line = part.lines().find(|l| l.contains("would have held")).unwrap().to_owned();
        let n = |word: &str| {
            line.split(word).nth(1).unwrap().trim().split('x').next().unwrap().parse::<u32>().unwrap()
        };
        (n("halved"), n("stopped"))
    };
    assert_eq!(counts(&with_runs_left_out, "errors"), (1, 0), "the bad night, and nothing of ours");
    assert!(with_runs_left_out.contains("suggested: hold"), "50 % slow would let much harm pass");
    // A target that those runs did not hit: then they are the service's own past.
    let with_them = of("127.0.0.1:1");
    assert_eq!(counts(&with_them, "errors").1, 2, "{with_them}");
}

fn text_of(out: &std::process::Output) -> String {
    support::text(out)
}

/// A policy from what a Prometheus has and a trace holds; it passes the check as it stands.
#[test]
fn init_proposes_a_policy_that_check_accepts() {
    let dir = tempfile::tempdir().unwrap();
    let exporter = Exporter::start();
    exporter.grow("http_requests_total{code=\"200\",service=\"checkout\"}", 50.0);
    exporter.set("http_requests_total{code=\"500\",service=\"checkout\"}", 0.0);
    for (le, rps) in [("0.1", 30.0), ("0.5", 48.0), ("1", 50.0), ("+Inf", 50.0)] {
        exporter
            .grow(&format!("http_request_duration_seconds_bucket{{le=\"{le}\",service=\"checkout\"}}"), rps);
    }
    exporter.grow("http_request_duration_seconds_count{service=\"checkout\"}", 50.0);
    let Some(prometheus) = Prometheus::start_with(dir.path(), &[exporter.port()], "1s", "") else { return };
    wait_until("a rate", Duration::from_secs(30), || {
        prometheus.query("sum(rate(http_requests_total%5B1m%5D))").contains("\"value\"")
    });
    let (trace, sink) = (trace_of(dir.path(), "shop-edge.pcap"), Sink::ok());
    let out = dir.path().join("new.toml");
    let url = format!("http://127.0.0.1:{}", prometheus.port);
    let args = [
        "init",
        "--trace",
        &trace,
        "--target",
        &sink.url(),
        "--prometheus",
        &url,
        "--scope",
        "service=\"checkout\"",
        "-o",
        &out.display().to_string(),
    ];
    let done = replay(&args);
    assert_eq!(code(&done), 0, "{}", text(&done));
    let policy = fs::read_to_string(&out).unwrap();
    eprintln!("{policy}");
    assert!(policy.lines().count() <= 30, "{} lines", policy.lines().count());
    for word in [
        "errors = '",
        "requests = '",
        "slow requests (bucket 0.5)",
        "visibility",
        "service=\"checkout\"",
        "GET /",
    ] {
        assert!(policy.contains(word), "{word} not in\n{policy}");
    }
    let checked = replay(&["check", &out.display().to_string(), "--trace", &trace, "--explain"]);
    assert_eq!(code(&checked), 0, "{}", text(&checked));
    for word in ["one HEAD / was sent: status 200", "trace:", "would start", "acts within", "visibility over"]
    {
        assert!(text(&checked).contains(word), "{word} not in\n{}", text(&checked));
    }
    // Nothing is written over.
    assert_eq!(code(&replay(&args)), 2);
    let empty = Exporter::start();
    empty.set("something_else", 1.0);
    let dir2 = tempfile::tempdir().unwrap();
    let Some(other) = Prometheus::start_with(dir2.path(), &[empty.port()], "1s", "") else { return };
    let none = replay(&[
        "init",
        "--trace",
        &trace,
        "--target",
        &sink.url(),
        "--prometheus",
        &format!("http://127.0.0.1:{}", other.port),
    ]);
    assert_eq!(code(&none), 2, "{}", text(&none));
    assert!(text(&none).contains("write the guards by hand"), "{}", text(&none));
}

/// Every way to stop works, its time is printed and kept, and a policy may demand it.
#[test]
fn a_drill_times_every_way_to_stop() {
    let dir = tempfile::tempdir().unwrap();
    let exporter = Arc::new(Exporter::start());
    exporter.grow("http_requests_total{code=\"200\"}", 50.0);
    let sink = Sink::ok();
    let Some(prometheus) = Prometheus::start_with(dir.path(), &[exporter.port()], "1s", "") else { return };
    wait_until("a rate", Duration::from_secs(30), || {
        prometheus.query("count(rate(http_requests_total%5B4s%5D))").contains("\"value\"")
    });
    let trace = trace_of(dir.path(), "demo.pcap");
    let (policy, kill) = (dir.path().join("p.toml"), dir.path().join("STOP"));
    let body = format!(
        "version = 1\nname = \"drill-{}\"\n[target]\nurl = {:?}\nallow = [\"127.0.0.0/8\"]\nhosts = [\"*\"]\n[stop]\nkill_file = {:?}\n[drill]\nmax_age = \"30d\"\n\
         [rate]\nmax_rps = 100\n[prometheus]\nurl = \"http://127.0.0.1:{}\"\nscrape_interval = \"1s\"\n[[guard]]\nname = \"errors\"\n\
         expr = '(sum(rate(http_requests_total{{code=\"500\"}}[4s])) or vector(0)) / sum(rate(http_requests_total[4s]))'\nunit = \"ratio\"\nback_off_above = \"1%\"\nabort_above = \"5%\"\npoll = \"500ms\"\n\
         [local]\nerror_ratio = {{ back_off_above = \"5%\", abort_above = \"30%\" }}\n[governor]\nno_data_abort = \"5s\"\n",
        std::process::id(),
        sink.url(),
        kill.display().to_string(),
        prometheus.port
    );
    fs::write(&policy, body).unwrap();
    let path = policy.display().to_string();
    let out = dir.path().join("run").display().to_string();
    let run = [
        "--trace",
        &trace,
        "--policy",
        &path,
        "--rate",
        "20/s",
        "--for",
        "2s",
        "--lead-in",
        "none",
        "--out",
        &out,
        "--quiet",
    ];
    let refused = replay(&run);
    assert_eq!(code(&refused), 3, "{}", text(&refused));
    assert!(text(&refused).contains("has never been drilled"), "{}", text(&refused));
    let drill = ["drill", &path, "--trace", &trace, "--out", &dir.path().join("drill").display().to_string()];
    let done = replay(&drill);
    eprintln!("{}", text(&done));
    assert_eq!(code(&done), 0, "{}", text(&done));
    for way in [
        "signal",
        "kill file",
        "replay stop",
        "guard \"errors\" tripped",
        "guard \"local error_ratio\"",
        "Prometheus cut off",
    ] {
        assert!(text(&done).contains(way), "{way} not in\n{}", text(&done));
    }
    assert!(!kill.exists(), "it takes its own kill file away");
    assert_eq!(code(&replay(&run)), 0, "drilled, so it may run");
    // Another text of the policy was never drilled.
    fs::write(&policy, fs::read_to_string(&policy).unwrap() + "# changed\n").unwrap();
    let refused = replay(&run);
    assert_eq!(code(&refused), 3, "{}", text(&refused));
    assert!(text(&refused).contains("has changed since it was drilled"), "{}", text(&refused));
}

/// `simulate` decides a recorded run again, under its own limits and under others.
#[test]
fn a_recorded_run_is_decided_again_under_other_limits() {
    let dir = tempfile::tempdir().unwrap();
    // Every tenth answer is slow: 50 ms.
    let sink = Sink::start(|n| {
        if n % 10 == 0 {
            std::thread::sleep(Duration::from_millis(50)); // the slowness is what is tested
        }
        OK.to_owned()
    });
    let (trace, out) = (trace_of(dir.path(), "demo.pcap"), dir.path().join("run"));
    let policy = |name: &str, limit: &str| {
        let path = dir.path().join(format!("{name}.toml"));
        let text = format!(
            "version = 1\nname = {name:?}\n[target]\nallow = [\"127.0.0.0/8\"]\nhosts = [\"*\"]\n[local]\np95 = {{ back_off_above = \"{limit}\" }}\n"
        );
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (loose, tight) = (policy("loose", "2s"), policy("tight", "20ms"));
    let folder = out.display().to_string();
    let done = replay(&[
        "--trace",
        &trace,
        "--target",
        &sink.url(),
        "--policy",
        &loose,
        "--rate",
        "100/s",
        "--for",
        "6s",
        "--lead-in",
        "none",
        "--out",
        &folder,
        "--quiet",
    ]);
    assert_eq!(code(&done), 0, "{}", text(&done));
    let same = replay(&["simulate", &folder]);
    assert_eq!(code(&same), 0, "{}", text(&same));
    assert!(text(&same).contains("the same states"), "{}", text(&same));
    let svg = dir.path().join("x.svg");
    let other = replay(&["simulate", &folder, "--policy", &tight, "--svg", &svg.display().to_string()]);
    assert_eq!(code(&other), 0, "{}", text(&other));
    assert!(text(&other).contains("the first difference is at"), "{}", text(&other));
    assert!(fs::read_to_string(&svg).unwrap().starts_with("<svg"));
}

/// The edges that docs/GOVERNOR.md lists are those that the code has: found by walking random and chosen inputs.
#[test]
fn the_documented_edges_are_those_of_the_code() {
    let text = fs::read_to_string(root().join("docs/GOVERNOR.md")).unwrap();
    let table = text.split("<!-- edges -->").nth(1).unwrap().split("<!-- /edges -->").next().unwrap();
    let documented: BTreeSet<(String, String)> = table
        .lines()
        .filter_map(|l| {
            let cells: Vec<&str> = l.trim_matches('|').split('|').map(str::trim).collect();
            (cells.len() >= 2 && !cells[0].starts_with('-') && cells[0] != "from")
                .then(|| (cells[0].to_owned(), cells[1].to_owned()))
        })
        .collect();
    assert!(documented.len() > 30, "{documented:?}");
    let found = edges::all();
    let missing: Vec<_> = found.difference(&documented).collect();
    let extra: Vec<_> = documented.difference(&found).collect();
    assert!(
        missing.is_empty() && extra.is_empty(),
        "in the code only: {missing:?}; in the document only: {extra:?}"
    );
}

/// Edges of the machine, by trying inputs of every kind in every phase.
mod edges {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use replay::govern::budget::BudgetKind;
    use replay::govern::guard::{GuardSpec, Level, Origin, Side, Thresholds, View};
    use replay::govern::inputs::{Baseline, Finish, Inputs, Order};
    use replay::govern::latch::StopCause;
    use replay::govern::reading::{NoData, Reading};
    use replay::govern::settings::Settings;
    use replay::govern::state::{HeldFrom, Phase, State};
    use replay::govern::step::{Effect, step};
    use replay::policy::check;
    use replay::policy::settings::{LeadIn, govern};
    use replay::units::{Rate, RunTime, Share};

    const AT: RunTime = RunTime::from_millis(10_000_000);

    fn settings(lead_in: LeadIn) -> Settings {
        let policy =
            check::parse("version = 1\nname = \"t\"\n[target]\nallow = [\"127.0.0.0/8\"]\n", "t").unwrap();
        let spec = GuardSpec {
            name: "g".to_owned(),
            origin: Origin::Prometheus,
            unit: "ratio".to_owned(),
            thresholds: Thresholds {
                side: Side::Above,
                hold: Some(0.1),
                back_off: Some(0.2),
                abort: Some(0.5),
                clear: 0.05,
            },
            required: true,
            harm: true,
            min_samples: 0,
            need_traffic: false,
            neutral_blocks: true,
            confirm: 1,
            confirm_of: 1,
            max_age: Duration::from_secs(1),
            clear_for: Duration::from_secs(1),
            lag: Duration::from_secs(1),
        };
        Settings { guards: vec![spec], ..govern(&policy, Rate::per_sec(100), lead_in) }
    }

    fn view(level: Level) -> View {
        let reading = match level {
            Level::Good => Reading::Good(0.0),
            Level::Neutral => Reading::Neutral,
            Level::Suspect | Level::BackOff => Reading::BackOff(0.3),
            Level::Hold => Reading::Hold(0.15),
            Level::NoData => Reading::NoData(NoData::Empty),
            Level::Abort => Reading::Abort(0.9),
            Level::Fault => Reading::Fault(replay::govern::reading::Fault::Auth),
        };
        View { level, reading, no_data_ms: 0, clean_ms: if level == Level::Good { 3_600_000 } else { 0 } }
    }

    fn inputs(level: Level) -> Inputs {
        Inputs {
            now: AT,
            tick_late_ms: 0,
            clock_jump_ms: 0,
            worker_silent_ms: 0,
            stop: None,
            guards: vec![view(level)],
            sent_1s: 90,
            offered_1s: 90,
            due_1s: 100,
            due: 1_000,
            sent: 1_000,
            offered: 1_000,
            achieved_max: Rate::per_sec(90),
            in_flight: 0,
            finish: None,
            saturated: false,
            quiet_until: RunTime::START,
            order: Order::Go,
            budget: None,
            window_left_ms: None,
            baseline: Baseline::Ready,
            visible: None,
            organic: None,
            skew_ms: 0,
            connections: 0,
        }
    }

    /// Inputs of every kind.
    fn kinds() -> Vec<Inputs> {
        use Level::{Abort, BackOff, Fault, Good, Hold, Neutral, NoData, Suspect};
        let mut out: Vec<Inputs> =
            [Good, Neutral, Suspect, Hold, NoData, BackOff, Abort, Fault].map(inputs).to_vec();
        let good = || inputs(Good);
        out.push(Inputs { stop: Some(StopCause::Signal), ..good() });
        out.push(Inputs { finish: Some(Finish::WindowEnd), window_left_ms: Some(0), ..good() });
        out.push(Inputs { finish: Some(Finish::TraceEnd), ..good() });
        out.push(Inputs { budget: Some(BudgetKind::FailedRequests), ..good() });
        out.push(Inputs { baseline: Baseline::Missing(0), ..good() });
        out.push(Inputs { order: Order::Pause, ..good() });
        out.push(Inputs { order: Order::Freeze, ..good() });
        out.push(Inputs { visible: Some(false), ..good() });
        out.push(Inputs { in_flight: 5, ..good() });
        out
    }

    pub(super) fn all() -> BTreeSet<(String, String)> {
        const PHASES: [Phase; 15] = [
            Phase::Preflight,
            Phase::Baseline,
            Phase::Probe,
            Phase::Ramp,
            Phase::Measure,
            Phase::Hold(HeldFrom::Ramp),
            Phase::Hold(HeldFrom::Measure),
            Phase::Hold(HeldFrom::Recover),
            Phase::BackOff,
            Phase::Recover,
            Phase::Paused,
            Phase::Draining,
            Phase::Aftercare,
            Phase::Aborting,
            Phase::Done,
        ];
        let mut out = BTreeSet::new();
        for lead_in in [LeadIn::Auto, LeadIn::None] {
            let settings = settings(lead_in);
            for phase in PHASES {
                for share in [0.3, 1.0] {
                    for (age_s, measuring, resuming, probed) in [0u64, 3, 3_000]
                        .iter()
                        .flat_map(|a| [false, true].map(|m| (*a, m)))
                        .flat_map(|(a, m)| [(a, m, false, true), (a, m, true, true), (a, m, true, false)])
                    {
                        let then = RunTime(AT.0 - age_s * 1_000_000_000);
                        let state = State {
                            phase,
                            share: Share::from_f64(share),
                            entered: then,
                            step_began: then,
                            cut_at: then,
                            lead_in_began: AT,
                            sent_anything: phase.is_sending(),
                            measuring,
                            resuming,
                            probed,
                            ..State::start(&settings)
                        };
                        for i in kinds() {
                            let (_, effects) = step(&settings, &state, &i);
                            out.extend(effects.iter().filter_map(|e| match e {
                                Effect::Entered { from, to } => {
                                    Some((from.name().to_owned(), to.name().to_owned()))
                                }
                                _ => None,
                            }));
                        }
                    }
                }
            }
        }
        out
    }
}

/// A disk that is full at the start refuses; one that fails in the run ends it.
#[test]
fn a_journal_that_cannot_be_written_ends_the_run() {
    use replay::engine::journal::Journal;
    use replay::govern::latch::{Latch, StopCause};
    use replay::govern::record::Line;
    let dir = tempfile::tempdir().unwrap();
    if Path::new("/dev/full").exists() {
        let latch = Latch::new();
        assert!(Journal::start(Path::new("/dev/full"), &Line::End, latch).is_err(), "no journal, no run");
    }
    // A pipe whose reader goes away fails like a disk that is full: the write is refused.
    let fifo = dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let path = fifo.clone();
    let reader = std::thread::spawn(move || fs::File::open(path).unwrap());
    let latch = Latch::new();
    let journal = Journal::start(&fifo, &Line::End, latch.clone()).unwrap();
    drop(reader.join().unwrap());
    wait_until("the latch", Duration::from_secs(5), || {
        journal.put(Line::End);
        latch.is_set()
    });
    assert_eq!(latch.cause(), Some(StopCause::Journal));
    assert!(journal.finish().is_err());
}

/// Every lint with a policy that it refuses or warns of, and one that it lets pass.
#[test]
fn every_lint_has_a_bad_and_a_good_policy() {
    let prometheus = "[prometheus]\nurl = \"http://127.0.0.1:9\"\nscrape_interval = \"15s\"\n";
    let g = |tail: &str| format!("{prometheus}[[guard]]\nname = \"g\"\n{tail}\n");
    let local =
        |text: &str| format!("version = 1\nname = \"t\"\n[target]\nallow = [\"127.0.0.0/8\"]\n{text}");
    let expr = "expr = 'sum(rate(x_total[1m]))'\nback_off_above = 1\n";
    let example = fs::read_to_string(root().join("policies/production-example.toml")).unwrap();
    // What is cut out of the example, which passes with all of it.
    let without = |from: &str, to: &str| {
        let (before, rest) = example.split_once(from).unwrap_or_else(|| panic!("{from}"));
        let (_, after) = rest.split_once(to).unwrap_or_else(|| panic!("{to}"));
        format!("{before}{to}{after}")
    };
    let instead = |from: &str, to: &str| {
        assert!(example.contains(from), "{from}");
        example.replace(from, to)
    };
    #[rustfmt::skip]
    let mut table: Vec<(&str, String, String)> = vec![
        ("G001", local(&g("expr = 'sum(rate(x[1m]'\nback_off_above = 1")), local(&g(expr))),
        ("G002", local(&g("expr = 'x[1m]'\nback_off_above = 1")), local(&g(expr))),
        ("G003", local(&g("expr = 'sum(rate(x_total[1m])) > 5'\nback_off_above = 1")), local(&g("expr = 'sum(rate(x_total[1m])) > bool 5'\nback_off_above = 1"))),
        ("G004", local(&g("expr = 'sum(rate(x_total[1m])) or vector(0)'\nback_off_above = 1")), local(&g(expr))),
        ("G005", local(&g("expr = 'sum(rate(x_total{code=~\"5..\"}[1m])) / sum(rate(x_total[1m]))'\nback_off_above = 1")), local(&g("expr = '(sum(rate(x_total{code=~\"5..\"}[1m])) or vector(0)) / sum(rate(x_total[1m]))'\nback_off_above = 1"))),
        ("G006", local(&g("expr = 'sum(rate(x_total[30s]))'\nback_off_above = 1")), local(&g(expr))),
        ("G007", local(&(g(expr) + "[governor]\nstep_hold = \"10s\"\n")), local(&(g(expr) + "[governor]\nstep_hold = \"90s\"\n"))),
        ("G008", local(&g("expr = 'sum(rate(queue_depth[1m]))'\nback_off_above = 1")), local(&g(expr))),
        ("G009", local(&g("expr = 'histogram_quantile(0.9, sum(rate(d_bucket[1m])))'\nunit = \"seconds\"\nback_off_above = \"1s\"")), local(&g("expr = 'histogram_quantile(0.9, sum by (le) (rate(d_bucket[1m])))'\nunit = \"seconds\"\nback_off_above = \"1s\""))),
        ("G010", local(&g("expr = 'sum(rate(x_total[1m]))'\nunit = \"ratio\"\nback_off_above = 1")), local(&g("expr = 'sum(rate(x_total[1m]))'\nunit = \"ratio\"\nback_off_above = \"1%\""))),
        ("G011", local(&g("expr = 'sum(rate(x_total[1m]))'\nback_off_above = 5\nabort_above = 1")), local(&g("expr = 'sum(rate(x_total[1m]))'\nback_off_above = 1\nabort_above = 5"))),
        ("G012", without("[stop]", "[prometheus]"), example.clone()),
        ("G013", local(&g("expr = 'sum(rate(x_total[1m] offset 1w))'\nback_off_above = { baseline = \"before\", ratio = 2.0, floor = 1, cap = 9 }")), local(&g("expr = 'sum(rate(x_total[1m]))'\nback_off_above = { baseline = \"before\", ratio = 2.0, floor = 1, cap = 9 }"))),
        ("G014", local(&g("expr = 'rate(x_total[1m])'\nback_off_above = 1")), local(&g("expr = 'rate(x_total[1m])'\nreduce = \"max\"\nback_off_above = 1"))),
        ("G015", local(&g("expr = 'max(replay_in_flight)'\nback_off_above = 1")), local(&g(expr))),
        ("G016", local(&g("expr = 'sum(rate(x_total[1m]))'\nback_off_above = 1\nconfirm = \"10 of 10\"\npoll = \"30s\"")), local(&g(&format!("{expr}confirm = \"2 of 3\"\npoll = \"5s\"")))),
        ("G017", local("[rate]\nmax_rps = 10\nrequest_timeout = \"1s\"\nmax_in_flight = 10\n"), local("[rate]\nmax_rps = 10\nrequest_timeout = \"1s\"\nmax_in_flight = 9\n")),
        ("G018", local("[governor]\nstep = \"30%\"\n"), local("[governor]\nstep = \"25%\"\n")),
        ("G019", local("[rate]\nmax_rps = 5\n[governor]\nprobe_rate = \"5/s\"\n"), local("[rate]\nmax_rps = 50\n[governor]\nprobe_rate = \"5/s\"\n")),
        ("G020", local("[window]\ntimezone = \"UTC\"\nstart = \"Sun 3\"\nduration = \"1h\"\n"), local("[window]\ntimezone = \"UTC\"\nstart = \"Sun 03:00\"\nduration = \"1h\"\n")),
        ("G020", local("[window]\ntimezone = \"UTC\"\nstart = \"Sun 23:30\"\nduration = \"31m\"\n"), local("[window]\ntimezone = \"UTC\"\nstart = \"Sun 23:30\"\nduration = \"30m\"\n")),
        ("G021", local(&g("expr = 'sum(rate(x_total[1m]))'\nunit = \"ratio\"\nback_off_above = \"1%\"\nrequired = false")), local(&g("expr = 'sum(rate(x_total[1m]))'\nunit = \"ratio\"\nback_off_above = \"1%\""))),
        ("G022", local(&g("expr = 'sum(rate(x_total{job=~\".*\"}[1m]))'\nback_off_above = 1")), local(&g(expr))),
        ("G024", local("[prometheus]\nurl = \"http://prometheus.example:9090\"\ntoken_file = \"/x\"\n"), local("[prometheus]\nurl = \"https://prometheus.example:9090\"\ntoken_file = \"/x\"\n")),
        ("G025", local(&g("alerts = 'severity=\"page\"'")), local(&(g("alerts = 'severity=\"page\"'\nliveness = 'ALERTS{alertname=\"Watchdog\"}'") + &format!("[[guard]]\nname = \"h\"\n{expr}abort_above = 5\n")))),
        ("G026", local("[budget]\nrequests = 1000\nfailed_requests = 11\n"), local("[budget]\nrequests = 1000\nfailed_requests = 10\n")),
        ("G027", instead(",replay=\"\"", "").replace("organic = 'sum", "# organic = 'sum"), example.clone()),
        ("G029", without("allow = [\"GET /api", "deny = "), example.clone()),
        ("G031", local(&g("expr = 'sum(rate(x_total[1m]))'\nback_off_above = 1\nmin_samples = 5")), local(&g("expr = 'sum(rate(e_total[1m])) / sum(rate(x_total[1m]))'\nback_off_above = 1\nmin_samples = 5"))),
        ("G032", local("[notify]\nx = 1\n"), local("")),
        ("G033", local(&g(&format!("{expr}poll = \"200ms\""))), local(&g(expr))),
        ("G034", local("[rewrite]\nset = { Host = \"x\" }\n"), local("[rewrite]\nset = { X-Tenant = \"x\" }\n")),
        ("G035", instead("url = \"https://api", "url = \"http://api").replace("api.example.com:443", "api.example.com:80") + "[[rewrite.auth]]\nenv = \"X\"\n", example.clone() + "[[rewrite.auth]]\nenv = \"X\"\n"),
    ];
    let dir = tempfile::tempdir().unwrap();
    let check = |text: &str| {
        let path = dir.path().join("p.toml");
        fs::write(&path, text).unwrap();
        support::text(&replay(&["check", &path.display().to_string(), "--offline"]))
    };
    let mut wrong = Vec::new();
    for (id, bad, good) in &table {
        let (said, fine) = (check(bad), check(good));
        if !said.contains(&format!(" {id}:")) {
            wrong.push(format!("{id} is not told of its bad policy:\n{said}"));
        }
        if fine.contains(&format!(" {id}:")) || !fine.contains("the policy is accepted") {
            wrong.push(format!("{id}: its good policy:\n{fine}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n---\n"));
    table.dedup_by_key(|(id, ..)| *id);
    eprintln!("{} lints with a bad and a good policy each", table.len());
}

#[test]
fn the_policy_schema_accepts_what_the_parser_accepts() {
    let schema: Value =
        serde_json::from_str(&fs::read_to_string(root().join("policies/policy.schema.json")).unwrap())
            .unwrap();
    for name in ["default.toml", "demo.toml", "login-flow.toml", "production-example.toml"] {
        let text = fs::read_to_string(root().join("policies").join(name)).unwrap();
        let policy: toml::Table = toml::from_str(&text).unwrap();
        for (key, value) in &policy {
            let known = &schema["properties"][key];
            assert!(known.is_object(), "{name}: {key}");
            let table = if known["type"] == "array" { &known["items"] } else { known };
            let rows: Vec<&toml::Table> = match value {
                toml::Value::Table(t) if key != "local" => vec![t],
                toml::Value::Array(rows) => rows.iter().filter_map(|r| r.as_table()).collect(),
                _ => continue,
            };
            for inner in rows.iter().flat_map(|r| r.keys()) {
                assert!(table["properties"][inner].is_object(), "{name}: {key}.{inner}");
            }
        }
    }
}

/// The lints that need a Prometheus: real series, real buckets, the real interval between samples.
#[test]
fn check_says_what_only_a_prometheus_knows() {
    let dir = tempfile::tempdir().unwrap();
    let exporter = Exporter::start();
    for (le, rps) in [("0.1", 8.0), ("0.5", 10.0), ("+Inf", 10.0)] {
        exporter.grow(&format!("d_seconds_bucket{{job2=\"shop\",le=\"{le}\"}}"), rps);
    }
    let Some(prometheus) = Prometheus::start_with(dir.path(), &[exporter.port()], "1s", "") else { return };
    wait_until("samples", Duration::from_secs(30), || {
        prometheus.query("count(d_seconds_bucket%20offset%204s)").contains("\"value\"")
    });
    let check = |scrape: &str, selector: &str, limits: &str, rate: &str| {
        let text = format!(
            "version = 1\nname = \"n\"\n[target]\nallow = [\"127.0.0.0/8\"]\n{rate}[prometheus]\nurl = \"http://127.0.0.1:{}\"\n\
             scrape_interval = \"{scrape}\"\n[[guard]]\nname = \"p95\"\nunit = \"seconds\"\n{limits}\n\
             expr = 'histogram_quantile(0.95, sum by (le) (rate(d_seconds_bucket{selector}[10s])))'\n",
            prometheus.port
        );
        let path = dir.path().join("n.toml");
        fs::write(&path, text).unwrap();
        let done = replay(&["check", &path.display().to_string()]);
        (code(&done), support::text(&done))
    };
    let limits = "back_off_above = \"490ms\"";
    let (exit, said) = check("1s", "{job2=\"shop\"}", limits, "");
    assert_eq!(exit, 0, "{said}");
    assert!(said.contains("3 series, a sample every 1s, ") && said.contains(" s old"), "{said}");
    assert!(!said.contains("error") && !said.contains("G022"), "{said}");
    let (exit, said) = check("1s", "", "back_off_above = \"500ms\"", "");
    assert_eq!(exit, 3, "{said}");
    assert!(said.contains("error G009: p95: back_off_above") && said.contains("ends at 0.5 s"), "{said}");
    let (exit, said) = check("500ms", "", limits, "");
    assert_eq!(exit, 3, "{said}");
    assert!(said.contains("error G006: p95: scrape_interval") && said.contains("write 1s"), "{said}");
    let (exit, said) = check("1s", "{pdo=\"shop\"}", limits, "");
    assert_eq!(exit, 3, "{said}");
    assert!(said.contains("warning G022") && said.contains("\"pdo\"") && said.contains("0 series"), "{said}");
    let tight = "[rate]\nmax_rps = 1000\nmax_in_flight = 100\n";
    let (exit, said) = check("1s", "", limits, tight);
    assert_eq!(exit, 0, "{said}");
    assert!(said.contains("warning G017: rate.max_in_flight"), "{said}");
}
