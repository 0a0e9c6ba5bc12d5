//! Every fault between governor and Prometheus, in every state: the end state and the deadline of each cell.
//!
//! The answers are real: a real Prometheus scrapes a real exporter, a proxy of ours does each fault to its answers,
//! and the real poller asks through it, with its own deadlines, in real time. What it put on the board is then fed
//! to the real core from each state, on a clock of the test's own, for five minutes: no state is left untried
//! because it is hard to reach.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]
#![allow(clippy::disallowed_methods, reason = "tests measure real time against real servers")]

#[path = "support/exporter.rs"]
mod exporter;
#[path = "support/fault_proxy.rs"]
mod fault_proxy;
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use exporter::Exporter;
use fault_proxy::{Fault, FaultProxy};
use replay::edge::clock::Clock;
use replay::edge::watch::poll::{Board, PollContext, poll};
use replay::govern::guard::{Guard, Sample, View};
use replay::govern::inputs::{Baseline, Inputs, Order};
use replay::govern::local_rules::LocalMetric;
use replay::govern::reading::{Answer, Reading};
use replay::govern::settings::Settings;
use replay::govern::state::{HeldFrom, Phase, State, Terminal};
use replay::govern::step::step;
use replay::policy::settings::{LeadIn, govern, local_guards};
use replay::policy::{Policy, check};
use replay::units::{Rate, RunTime, Share};
use support::*;

const POLL: Duration = Duration::from_millis(500);
const TIMEOUT: Duration = Duration::from_secs(2);
const WATCHED: Duration = Duration::from_secs(9);

fn policy(port: u16) -> Policy {
    let text = format!(
        "version = 1\nname = \"matrix\"\n[target]\nallow = [\"127.0.0.0/8\"]\n[rate]\nmax_rps = 2000\n[prometheus]\nurl = \"http://127.0.0.1:{port}\"\n\
         scrape_interval = \"2s\"\n[[guard]]\nname = \"errors\"\n\
         expr = '(sum(rate(http_requests_total{{code=\"500\"}}[10s])) or vector(0)) / sum(rate(http_requests_total[10s]))'\n\
         unit = \"ratio\"\nhold_above = \"0.5%\"\nback_off_above = \"1%\"\nabort_above = \"5%\"\npoll = \"500ms\"\n\
         [governor]\nno_data_abort = \"30s\"\npreflight_max = \"1m\"\n"
    );
    check::parse(&text, "test").unwrap()
}

/// What the poller saw after the fault began.
#[derive(Debug, Clone)]
struct Seen {
    /// Time since the fault, the sample (requested that long after it), and the skew told with it.
    samples: Vec<(Duration, Sample, u64)>,
}

/// Asks through a fault for [`WATCHED`] and returns what came onto the board.
async fn watch(upstream: u16, fault: Fault) -> Seen {
    let proxy = FaultProxy::start(upstream);
    let policy = policy(proxy.port());
    let clock = Clock::start();
    let board = Board::new(1);
    let context = PollContext {
        exported: false,
        board: board.clone(),
        clock,
        prometheus: policy.prometheus.clone(),
        tls: None,
        token: None,
        ours: Arc::default(),
        questions: Arc::default(),
        run: "matrix".to_owned(),
        target: "127.0.0.1:1".to_owned(),
    };
    let task = tokio::spawn(poll(context, 0, policy.guards[0].clone()));
    let good = |s: &Option<Sample>| matches!(s, Some(Sample { answer: Answer::Value { .. }, .. }));
    let began = Instant::now();
    while !good(&board.read()[0]) {
        assert!(began.elapsed() < Duration::from_secs(30), "{fault:?}: no good answer before the fault");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    proxy.set(fault);
    let start = clock.now();
    let mut last = board.read()[0].map_or(0, |s| s.seq);
    let mut samples = Vec::new();
    while clock.now().since(start) < WATCHED {
        if let Some(sample) = board.read()[0].filter(|s| s.seq > last) {
            last = sample.seq;
            let requested_at = RunTime(sample.requested_at.0.saturating_sub(start.0));
            samples.push((clock.now().since(start), Sample { requested_at, ..sample }, board.skew_ms()));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    task.abort();
    Seen { samples }
}

const START: RunTime = RunTime::from_millis(1_000_000);

const STATES: [Phase; 14] = [
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
];

/// A run that has been in `phase` for a moment, at 40 % of the plan where it sends.
fn begun(settings: &Settings, phase: Phase) -> State {
    let share = match phase {
        Phase::Probe => settings.probe_share,
        p if p.is_sending() => Share::from_f64(0.4),
        _ => Share::ZERO,
    };
    State {
        phase,
        share,
        entered: START,
        step_began: START,
        cut_at: START,
        lead_in_began: START,
        sent_anything: !matches!(phase, Phase::Preflight | Phase::Baseline),
        measuring: matches!(phase, Phase::Measure | Phase::Hold(HeldFrom::Measure) | Phase::Recover),
        load_ended: (phase == Phase::Aftercare).then_some(START),
        terminal: (phase == Phase::Aborting)
            .then_some(Terminal::Aborted(replay::govern::state::Cause::BelowFloor)),
        ..State::start(settings)
    }
}

#[derive(Debug, Default)]
struct Cell {
    /// When the ceiling was first at most half of what it was.
    halved: Option<Duration>,
    /// When the run was aborting.
    aborting: Option<Duration>,
    /// Highest ceiling after the first poll could have answered, over the one at the start.
    grew: bool,
    sent_from_nothing: bool,
    end: String,
    terminal: Option<Terminal>,
}

/// Five minutes of the core from `phase`, with the recorded answers of one fault and their like for ever.
fn live(policy: &Policy, settings: &Settings, seen: &Seen, phase: Phase) -> Cell {
    let mut state = begun(settings, phase);
    let local: Vec<LocalMetric> = local_guards(policy).into_iter().map(|(m, _)| m).collect();
    let mut guards: Vec<Guard> = settings.guards.iter().map(|_| Guard::default()).collect();
    let asked = local.len();
    // Healthy for a minute before.
    let fine = |seq: u64, at: RunTime| Sample {
        seq,
        requested_at: at,
        answer: Answer::Value { value: 0.0, samples: u64::MAX },
    };
    for (i, guard) in guards.iter_mut().enumerate() {
        for s in 0..60 {
            let at = RunTime(START.0 - (60 - s) * 1_000_000_000);
            guard.observe(&settings.guards[i], at, fine(at.0, at));
        }
    }
    let first = state.grant(settings, START).ceiling;
    let mut cell = Cell::default();
    let (mut next, mut skew) = (0usize, 0u64);
    let last_at = seen.samples.last().map_or(Duration::ZERO, |(at, ..)| *at);
    let spacing = (last_at / seen.samples.len().max(1) as u32).max(POLL);
    for tick in 1..=3_000u64 {
        let now = START.plus(Duration::from_millis(tick * 100));
        let since = now.since(START);
        // As recorded, and after that the last answer again and again at the pace of the recording.
        loop {
            let (at, sample, told) = match seen.samples.get(next) {
                Some((at, sample, told)) => (*at, *sample, *told),
                None => {
                    let Some((_, sample, told)) = seen.samples.last() else { break };
                    let more = (next - seen.samples.len() + 1) as u32;
                    let requested_at = sample.requested_at.plus(spacing * more);
                    (last_at + spacing * more, Sample { requested_at, ..*sample }, *told)
                }
            };
            if at > since {
                break;
            }
            next += 1;
            skew = told;
            let sample = Sample {
                seq: START.0 + next as u64,
                requested_at: START.plus(Duration::from_nanos(sample.requested_at.0)),
                ..sample
            };
            guards[asked].observe(&settings.guards[asked], now, sample);
        }
        for (i, guard) in guards.iter_mut().enumerate().filter(|(i, _)| *i != asked) {
            guard.observe(&settings.guards[i], now, fine(now.0, now));
        }
        let views: Vec<View> = guards.iter().zip(&settings.guards).map(|(g, s)| g.view(s, now)).collect();
        let sent = (state.allowed().as_f64() * 1_000.0) as u64;
        let inputs = Inputs {
            now,
            tick_late_ms: 0,
            clock_jump_ms: 0,
            worker_silent_ms: 0,
            stop: None,
            guards: views,
            sent_1s: sent,
            offered_1s: sent,
            due_1s: 1_000,
            due: tick * 100,
            sent: (state.allowed().as_f64() * 100.0 * tick as f64) as u64 + 1,
            offered: (state.allowed().as_f64() * 100.0 * tick as f64) as u64 + 1,
            achieved_max: Rate::per_sec(sent),
            in_flight: 0,
            finish: None,
            saturated: false,
            quiet_until: RunTime::START,
            order: if phase == Phase::Paused { Order::Pause } else { Order::Go },
            budget: None,
            window_left_ms: None,
            // Baselines take a while to be found; the fault comes in that time.
            baseline: if since < Duration::from_secs(5) { Baseline::Pending } else { Baseline::Ready },
            visible: None,
            organic: None,
            skew_ms: skew,
            connections: 0,
        };
        state = step(settings, &state, &inputs).0;
        let ceiling = state.grant(settings, now).ceiling;
        // A growth in the very first moments may still stand on the last good answer.
        if since > POLL + TIMEOUT + Duration::from_millis(200) {
            cell.grew |= ceiling > first && first > Rate::ZERO;
            cell.sent_from_nothing |= first == Rate::ZERO && ceiling > Rate::ZERO;
        }
        if ceiling.mrps * 2 <= first.mrps {
            cell.halved.get_or_insert(since);
        }
        if state.phase == Phase::Aborting || state.phase == Phase::Done {
            cell.aborting.get_or_insert(since);
        }
    }
    cell.end = state.phase.name().to_owned();
    cell.terminal = state.terminal;
    cell
}

/// What a fault comes to at the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    /// No number, and no reason to hope for one.
    NoData,
    /// The source says that the guard itself is wrong.
    Fault,
    /// A number from a clock that is off.
    Skewed,
}

fn class(fault: Fault, seen: &Seen, spec: &replay::govern::guard::GuardSpec) -> (Class, String) {
    let (_, sample, skew) =
        seen.samples.last().unwrap_or_else(|| panic!("{fault:?}: the poller said nothing"));
    let reading = spec.read(sample.answer);
    let class = match reading {
        Reading::NoData(_) => Class::NoData,
        Reading::Fault(_) => Class::Fault,
        _ if *skew > 2_000 => Class::Skewed,
        other => panic!("{fault:?} reads as {other:?} with a skew of {skew} ms: that is a fail-open"),
    };
    (class, format!("{reading:?}"))
}

/// Whether a cell is as it must be.
fn judge(phase: Phase, class: Class, cell: &Cell) -> Result<(), String> {
    let within = |what: &str, at: Option<Duration>, limit: Duration| match at {
        Some(at) if at <= limit => Ok(()),
        other => Err(format!("{what} at {other:?}, must be within {limit:?}")),
    };
    let tick = Duration::from_millis(200);
    let cut = POLL + TIMEOUT + tick;
    let abort = Duration::from_secs(30) + POLL + TIMEOUT + tick;
    if cell.grew || cell.sent_from_nothing {
        return Err("the ceiling rose".to_owned());
    }
    match (class, phase) {
        (_, Phase::Aborting) => within("done", cell.aborting, tick),
        (Class::Fault, Phase::Preflight | Phase::Baseline) => {
            within("aborting", cell.aborting, cut)?;
            matches!(cell.terminal, Some(Terminal::Refused(_)))
                .then_some(())
                .ok_or_else(|| format!("{:?}", cell.terminal))
        }
        // What is over before the first answer comes has nothing left to stop.
        (_, Phase::Draining | Phase::Aftercare) => {
            (cell.end == "done").then_some(()).ok_or_else(|| cell.end.clone())
        }
        (Class::Fault, _) => within("aborting", cell.aborting, cut),
        (Class::NoData, Phase::Preflight | Phase::Baseline) => {
            within("refused", cell.aborting, Duration::from_secs(120) + tick)?;
            matches!(cell.terminal, Some(Terminal::Refused(_)))
                .then_some(())
                .ok_or_else(|| format!("{:?}", cell.terminal))
        }
        (_, Phase::Paused) => (cell.end == "paused").then_some(()).ok_or_else(|| cell.end.clone()),
        (Class::NoData, Phase::Probe | Phase::BackOff) => within("aborted", cell.aborting, abort),
        (Class::NoData, _) => {
            within("halved", cell.halved, cut)?;
            within("aborted", cell.aborting, abort)
        }
        // A clock that is off never starts a run; one under way is frozen, and a freeze that lasts becomes a back-off
        // (five minutes, the end of what is watched here).
        (Class::Skewed, Phase::Preflight | Phase::Baseline) => {
            matches!(cell.terminal, Some(Terminal::Refused(_)))
                .then_some(())
                .ok_or_else(|| format!("{:?}", cell.terminal))
        }
        (Class::Skewed, Phase::Probe) => within("given up", cell.aborting, Duration::from_secs(61)),
        (Class::Skewed, _) => matches!(cell.end.as_str(), "hold" | "back_off" | "done")
            .then_some(())
            .ok_or_else(|| cell.end.clone()),
    }
}

#[test]
fn every_fault_in_every_state_fails_closed() {
    let dir = tempfile::tempdir().unwrap();
    let exporter = Exporter::start();
    exporter.grow("http_requests_total{code=\"200\"}", 100.0);
    let Some(prometheus) = Prometheus::start(dir.path(), exporter.port()) else { return };
    wait_until("a rate", Duration::from_secs(40), || {
        let answer = prometheus.query("sum(rate(http_requests_total%5B10s%5D))");
        answer.contains("\"value\"") && !answer.contains("\"0\"]")
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let seen: Vec<(Fault, Seen)> = runtime.block_on(async {
        let tasks: Vec<_> =
            Fault::ALL.into_iter().map(|f| (f, tokio::spawn(watch(prometheus.port, f)))).collect();
        let mut out = Vec::new();
        for (fault, task) in tasks {
            out.push((fault, task.await.unwrap()));
        }
        out
    });
    let policy = policy(9);
    let settings = govern(&policy, Rate::per_sec(1_000), LeadIn::Auto);
    let spec = settings.guards.iter().find(|g| g.name == "errors").unwrap().clone();
    let (mut cells, mut wrong, mut counts) = (0, Vec::new(), BTreeMap::new());
    eprintln!("{:<22} {:<26} {:>9} {:>10} {:>10}", "fault", "reads as", "noticed", "halved*", "aborted*");
    for (fault, seen) in &seen {
        // The skewed clock of 10 s gives a good number; everything else must not.
        let (class, reading) = class(*fault, seen, &spec);
        let noticed = seen
            .samples
            .iter()
            .find(|(_, s, skew)| *skew > 2_000 || !matches!(s.answer, Answer::Value { .. }));
        let (mut halved, mut aborted) = (Duration::ZERO, Duration::ZERO);
        for phase in STATES {
            let cell = live(&policy, &settings, seen, phase);
            cells += 1;
            *counts.entry((class, cell.end.clone())).or_insert(0) += 1;
            halved = halved.max(cell.halved.unwrap_or_default());
            aborted = aborted.max(cell.aborting.filter(|_| phase.is_sending()).unwrap_or_default());
            if let Err(why) = judge(phase, class, &cell) {
                wrong.push(format!("{fault:?} in {phase:?}: {why} ({cell:?})"));
            }
        }
        let at = noticed.map_or_else(|| "never".to_owned(), |(at, ..)| format!("{:.1} s", at.as_secs_f64()));
        eprintln!(
            "{:<22} {reading:<26} {at:>9} {:>8.1} s {:>8.1} s",
            format!("{fault:?}"),
            halved.as_secs_f64(),
            aborted.as_secs_f64()
        );
    }
    eprintln!(
        "* longest over the sending states. {cells} cells ({} faults x {} states); ends: {counts:?}",
        seen.len(),
        STATES.len()
    );
    assert!(wrong.is_empty(), "{} of {cells} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(cells, Fault::ALL.len() * STATES.len());
}
