//! The control loop against an invented plant with a knee: a table over five seeds, held to its bounds and to a
//! snapshot. The plant is a toy (no memory in the queue, no users who retry): read the ordering, not the digits.
//! Peak and time over capacity are of means of ten seconds: single seconds of random arrivals exceed any rate by
//! chance, a queue swallows that, and it would say nothing of the governor. The highest second is shown beside.
//!
//! A change of the governor that moves these numbers must say so: `UPDATE_SNAPSHOTS=1 cargo test --test control_loop`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]

use std::fmt::Write;
use std::path::Path;

use replay::govern::state::Terminal;
use replay::simulate::{Outcome, Scenario, run};

struct Row {
    name: &'static str,
    guards: &'static str,
    governor: &'static str,
    /// Where the policy has local guards and steps no faster than it can see the bounds must hold, and the load stays
    /// above the capacity at most this many seconds. Two is the goal; it takes a limit near the calm latency.
    over_max_s: Option<f64>,
}

const ROWS: [Row; 8] = [
    Row {
        name: "Prometheus only, +100 every 10 s (faster than it can see)",
        guards: "local = false, prometheus = true",
        governor: "step = \"5%\", step_hold = \"10s\"",
        over_max_s: None,
    },
    Row {
        name: "Prometheus only, +100 every L",
        guards: "local = false, prometheus = true",
        governor: "step = \"5%\"",
        over_max_s: None,
    },
    Row {
        name: "local only, +100 every 10 s",
        guards: "local = true, prometheus = false",
        governor: "step = \"5%\", step_hold = \"10s\"",
        over_max_s: Some(5.0),
    },
    Row {
        name: "both, +100 every 10 s (faster than Prometheus can see)",
        guards: "local = true, prometheus = true",
        governor: "step = \"5%\", step_hold = \"10s\"",
        over_max_s: None,
    },
    Row {
        name: "both, +100 every L",
        guards: "local = true, prometheus = true",
        governor: "step = \"5%\"",
        over_max_s: Some(5.0),
    },
    Row {
        name: "both, +100 every L, p95 limit 3 x the calm one, not 10 x",
        guards: "local = true, prometheus = true, p95 = \"60ms\"",
        governor: "step = \"5%\"",
        over_max_s: Some(2.0),
    },
    Row {
        name: "local only, +100 every 10 s, p95 limit 3 x",
        guards: "local = true, prometheus = false, p95 = \"60ms\"",
        governor: "step = \"5%\", step_hold = \"10s\"",
        over_max_s: Some(2.0),
    },
    Row {
        name: "both, +500 every L (the largest step allowed)",
        guards: "local = true, prometheus = true",
        governor: "step = \"25%\"",
        over_max_s: None,
    },
];

fn outcome(row: &Row, seed: u64) -> Outcome {
    // Users differ by seed, so that the knee falls at another place within a step each time.
    let users = 100 + seed * 17;
    let text = format!(
        "version = 1\nname = \"t\"\nduration = \"60m\"\ntarget = \"2000/s\"\nseed = {seed}\n\
         plant = {{ capacity = \"1800/s\", service_time = \"20ms\", timeout = \"2s\" }}\nusers = {{ rate = \"{users}/s\" }}\n\
         guards = {{ {} }}\ngovernor = {{ {} }}\n",
        row.guards, row.governor
    );
    run(&Scenario::parse(&text).unwrap()).1
}

#[test]
fn the_control_loop_keeps_its_bounds() {
    let mut table = String::from(
        "peak/C (of ten seconds, of one) and failed % are the worst of five seeds, the rest their means\n",
    );
    let mut wrong = Vec::new();
    for row in &ROWS {
        let all: Vec<Outcome> = (1..=5).map(|seed| outcome(row, seed)).collect();
        let mean = |f: &dyn Fn(&Outcome) -> f64| all.iter().map(f).sum::<f64>() / all.len() as f64;
        let worst = |f: &dyn Fn(&Outcome) -> f64| all.iter().map(f).fold(0.0, f64::max);
        let second = worst(&|o| o.peak_over_capacity);
        let (peak, failed) = (worst(&|o| o.sustained_over_capacity), worst(&|o| o.failed_ratio * 100.0));
        let over = mean(&|o| o.over_capacity_s);
        let aborted = all.iter().filter(|o| matches!(o.terminal, Some(Terminal::Aborted(_)))).count();
        writeln!(
            table,
            "{:<58} peak/C {peak:.2} ({second:.2})  failed {failed:.3} %  s over C {over:>6.1}  back-offs {:.1}  aborted {aborted}/5  settled {:.0}/s",
            row.name,
            mean(&|o| o.back_offs as f64),
            mean(&|o| o.settled_rps)
        )
        .unwrap();
        let bad = |max: f64| failed > 0.1 || peak > 1.10 || over > max || aborted > 0;
        if row.over_max_s.is_some_and(bad) {
            let name = row.name;
            wrong.push(format!("{name}: failed {failed} %, peak {peak}, over {over} s, {aborted} aborted"));
        }
    }
    eprintln!("{table}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots/control_loop.txt");
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, &table).unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        table,
        "the numbers moved; look why, then UPDATE_SNAPSHOTS=1"
    );
}

/// Every shipped scenario runs, and does what its head says.
#[test]
fn shipped_scenarios_do_what_they_say() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/scenarios");
    let of = |name: &str| {
        let text = std::fs::read_to_string(dir.join(name)).unwrap();
        run(&Scenario::parse(&text).unwrap_or_else(|e| panic!("{name}: {e}")))
    };
    for name in ["knee-local.toml", "knee-prometheus.toml", "knee-both.toml"] {
        let (_, o) = of(name);
        assert!(o.back_offs >= 1 && o.failed_ratio < 0.005, "{name}: {o:?}");
    }
    let (ticks, o) = of("users-surge.toml");
    // Users at 900/s leave 600/s of the 1500/s.
    let held = ticks.iter().filter(|t| (1_300.0..1_480.0).contains(&t.inputs.now.as_secs_f64()));
    let ours: Vec<f64> = held.map(|t| t.inputs.sent_1s as f64).collect();
    let mean = ours.iter().sum::<f64>() / ours.len() as f64;
    assert!((560.0..=610.0).contains(&mean), "{mean}");
    assert!(o.users_failed < 1e-9, "{o:?}");
    let (ticks, o) = of("dilution.toml");
    assert!(matches!(o.terminal, Some(Terminal::Aborted(_))), "{o:?}");
    let end = ticks.last().unwrap().inputs.now.as_secs_f64();
    assert!((1_200.0..1_200.0 + 120.0).contains(&end), "it ended at {end} s; users began to fail at 1200 s");
    assert!(o.failed_ratio < 0.01, "over all requests it hardly shows: {}", o.failed_ratio);
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 5, "a scenario without a test");
}
