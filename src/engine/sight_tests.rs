//! Baselines and visibility, step by step: what is not known yet holds the run back.

use super::*;
use crate::govern::guard::Guard;
use crate::govern::reading::NoData;
use crate::policy::check::parse;
use crate::policy::settings::{LeadIn, govern};

const HEAD: &str = "version = 1\nname = \"s\"\n[target]\nallow = [\"127.0.0.0/8\"]\n[metrics]\nlisten = \"127.0.0.1:9\"\n[prometheus]\nurl = \"http://127.0.0.1:9\"\nscrape_interval = \"1s\"\n";
const RELATIVE: &str = "[[guard]]\nname = \"r\"\nexpr = 'sum(rate(x_total[10s]))'\nback_off_above = { baseline = \"offset 1w\", ratio = 2.0, floor = 1, cap = 9 }\n[[guard]]\nname = \"a\"\nexpr = 'sum(rate(x_total[10s]))'\nback_off_above = 5\n";
const VISIBLE: &str = "[visibility]\nrequests = 'sum(rate(x_total[10s]))'\n";

fn policy(words: &str) -> Policy {
    parse(&format!("{HEAD}{words}"), "s").unwrap_or_else(|e| panic!("{words}: {e}"))
}

fn at(ms: u64) -> RunTime {
    RunTime::from_millis(ms)
}

fn value(value: f64) -> Answer {
    Answer::Value { value, samples: u64::MAX }
}

fn sample(seq: u64, answer: Answer) -> Sample {
    Sample { seq, requested_at: RunTime::START, answer }
}

/// The views of guards that all read `v`.
fn views(specs: &[GuardSpec], v: f64) -> Vec<View> {
    specs
        .iter()
        .map(|s| {
            let mut guard = Guard::default();
            guard.observe(s, at(1_000), Sample { seq: 1, requested_at: at(900), answer: value(v) });
            guard.view(s, at(1_000))
        })
        .collect()
}

#[test]
fn limits_are_fixed_when_their_baseline_is_known_and_once() {
    let policy = policy(RELATIVE);
    let settings = govern(&policy, Rate::per_sec(100), LeadIn::Auto);
    let offset = settings.guards.iter().position(|g| g.name == "r").unwrap();
    let mut specs = settings.guards.clone();
    let baselines = Baselines::new(&policy.guards);
    let mut sight = Sight::new(&policy, baselines.clone(), Arc::default());
    let calm = views(&specs, 0.5);
    assert_eq!(sight.baseline(offset, &specs, &calm), Baseline::Pending);
    assert!(sight.fix_limits(offset, &mut specs, at(1)).is_empty());
    assert_eq!(specs, settings.guards, "nothing is known, nothing is changed");
    baselines.put(0, Known::Values(vec![2.0]));
    let lines = sight.fix_limits(offset, &mut specs, at(2));
    assert_eq!(specs[offset].thresholds.back_off, Some(4.0), "twice the baseline");
    assert_eq!(specs[offset + 1], settings.guards[offset + 1], "the absolute one stays");
    assert!(
        matches!(lines[..], [Line::Baseline { guard, baseline, .. }] if guard == offset && baseline.to_bits() == 2.0_f64.to_bits()),
        "{lines:?}"
    );
    assert!(sight.fix_limits(offset, &mut specs, at(3)).is_empty(), "once");
    assert_eq!(sight.baseline(offset, &specs, &calm), Baseline::Ready);
    // Three times the baseline of the week before is not a night like others.
    assert_eq!(sight.baseline(offset, &specs, &views(&specs, 6.0)), Baseline::Ready);
    assert_eq!(sight.baseline(offset, &specs, &views(&specs, 6.1)), Baseline::Abnormal(offset));
    baselines.put(0, Known::Missing);
    assert_eq!(sight.baseline(offset, &specs, &calm), Baseline::Missing(offset));
}

#[test]
fn limits_go_to_their_own_guard_wherever_it_stands() {
    let (first, second) = RELATIVE.split_at(RELATIVE.rfind("[[guard]]").unwrap());
    let policy = policy(&format!("{second}{first}"));
    let settings = govern(&policy, Rate::per_sec(100), LeadIn::Auto);
    let offset = settings.guards.iter().position(|g| g.name == "a").unwrap();
    let mut specs = settings.guards.clone();
    let baselines = Baselines::new(&policy.guards);
    let mut sight = Sight::new(&policy, baselines.clone(), Arc::default());
    baselines.put(1, Known::Values(vec![2.0]));
    let lines = sight.fix_limits(offset, &mut specs, at(2));
    assert!(matches!(lines[..], [Line::Baseline { guard, .. }] if guard == offset + 1), "{lines:?}");
    assert_eq!(specs[offset + 1].thresholds.back_off, Some(4.0));
    let others = |all: &[GuardSpec]| {
        all.iter().enumerate().filter(|(i, _)| *i != offset + 1).map(|(_, g)| g.clone()).collect::<Vec<_>>()
    };
    assert_eq!(others(&specs), others(&settings.guards), "no other guard's");
    let mut far = views(&specs, 0.5);
    assert_eq!(sight.baseline(offset, &specs, &far), Baseline::Ready);
    far[offset + 1] = views(&specs, 6.1)[offset + 1];
    assert_eq!(sight.baseline(offset, &specs, &far), Baseline::Abnormal(offset + 1));
    baselines.put(1, Known::Missing);
    assert_eq!(sight.baseline(offset, &specs, &far), Baseline::Missing(offset + 1));
}

#[test]
fn visibility_needs_a_past_and_becomes_an_amplification() {
    let policy = policy(&format!("{VISIBLE}organic = 'sum(rate(x_total{{replay=\"\"}}[10s]))'\n"));
    let index = |f: fn(&GuardQuery) -> bool| policy.guards.iter().position(|g| f(&g.query)).unwrap();
    let seen = index(|q| matches!(q, GuardQuery::Visibility(_)));
    let users = index(|q| matches!(q, GuardQuery::Organic { .. }));
    let ours: Arc<Mutex<OwnTraffic>> = Arc::default();
    let mut sight = Sight::new(&policy, Baselines::new(&policy.guards), Arc::clone(&ours));
    assert_eq!(sight.visible(), Some(false));
    assert_eq!(sight.baseline(0, &[], &[]), Baseline::Pending);
    // Before the load: calm looks, at most one each scrape.
    let mut seq = 0;
    let mut look = |sight: &mut Sight, v: f64, sending: bool, ms: u64| {
        seq += 1;
        sight.translate(seen, sample(seq, value(v)), sending, at(ms)).answer
    };
    for i in 0..8u64 {
        assert_eq!(look(&mut sight, 100.0, false, i * 500), Answer::Value { value: 0.0, samples: 0 });
    }
    assert_eq!(sight.baseline(0, &[], &[]), Baseline::Pending, "four scrapes in 3.5 s, five are needed");
    let _ = look(&mut sight, 100.0, false, 4_000);
    assert_eq!(sight.baseline(0, &[], &[]), Baseline::Ready);
    // The same question twice, an answer that is none, and another guard's pass through.
    let none = sample(99, Answer::NoData(NoData::Empty));
    assert_eq!(sight.translate(seen, none, true, at(5_000)), none);
    let other = sample(99, value(3.0));
    assert_eq!(sight.translate(seen + 7, other, true, at(5_000)), other);
    assert_eq!(sight.translate(users, other, true, at(5_000)), other);
    // Under load: 50/s of ours show as 50/s more, less what the noise of the past may explain.
    for tick in 0..600u64 {
        sight.sent(at(4_000 + tick * 100), tick * 5, 0);
    }
    let mut last = Answer::NoData(NoData::NotYet);
    for i in 0..20u64 {
        let shown = sight.translate(users, sample(100 + i, value(100.0)), true, at(30_000 + i * 1_000));
        assert_eq!(shown.answer, value(100.0), "users are told as they are");
        last = sight.translate(seen, sample(100 + i, value(150.0)), true, at(30_000 + i * 1_000)).answer;
    }
    assert!(
        matches!(last, Answer::Value { value, samples } if value > 0.7 && value <= 1.0 && samples > 0),
        "{last:?}"
    );
    assert_eq!(sight.visible(), Some(true));
    // A look that is no newer says what the last one said.
    assert_eq!(sight.translate(seen, sample(119, value(900.0)), true, at(90_000)).answer, last);
    assert_eq!(
        sight.translate(seen, sample(200, value(900.0)), true, at(49_500)).answer,
        last,
        "within one scrape"
    );
}

#[test]
fn too_little_traffic_is_not_a_night_like_others() {
    let words = HEAD.replace("scrape_interval = \"1s\"", "scrape_interval = \"1s\"\nexpect_min_rps = 50");
    let policy = parse(&format!("{words}{VISIBLE}"), "s").unwrap();
    let seen = policy.guards.iter().position(|g| matches!(g.query, GuardQuery::Visibility(_))).unwrap();
    let with = |rps: f64| {
        let mut sight = Sight::new(&policy, Baselines::new(&policy.guards), Arc::default());
        for i in 0..6 {
            let calm = sight.translate(seen, sample(i + 1, value(rps)), false, at(i * 1_000));
            assert_eq!(calm.answer, Answer::Value { value: 0.0, samples: 0 });
        }
        sight.baseline(10, &[], &[])
    };
    assert_eq!(with(50.0), Baseline::Ready);
    assert_eq!(with(49.0), Baseline::Abnormal(10 + seen));
    let nobody = Sight::new(&policy_without(), Baselines::new(&[]), Arc::default());
    assert_eq!((nobody.visible(), nobody.baseline(0, &[], &[])), (None, Baseline::Ready));
}

fn policy_without() -> Policy {
    parse("version = 1\nname = \"s\"\n[target]\nallow = [\"127.0.0.0/8\"]\n", "s").unwrap()
}
