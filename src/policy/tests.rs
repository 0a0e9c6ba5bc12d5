//! Policies that are refused, and how; policies that are accepted, and what they become.

use super::*;
use crate::govern::guard::{Origin, Side};
use crate::policy::settings::{LeadIn, govern, lag, time_to_full};
use crate::units::Share;

const BASE: &str = "version = 1\nname = \"t\"\n[target]\nallow = [\"127.0.0.0/8\"]\n";

fn parse(tail: &str) -> Result<Policy, Refused> {
    check::parse(&format!("{BASE}{tail}"), "test")
}

fn first(tail: &str) -> Finding {
    parse(tail).unwrap_err().0.remove(0)
}

#[test]
fn wrong_files_are_refused_with_line_key_and_reason() {
    let guard =
        "[prometheus]\nurl = \"http://127.0.0.1:9090\"\nscrape_interval = \"2s\"\n[[guard]]\nname = \"g\"\n";
    let g = |tail: &str| format!("{guard}{tail}");
    let expr = "expr = 'sum(rate(x[10s]))'\n";
    #[rustfmt::skip]
    let table: Vec<(String, usize, &str, &str)> = vec![
        // tail, line, key contains, reason contains
        ("[rate]\nmax_rsp = 5\n".into(), 6, "max_rsp", "unknown field"),
        ("[rte]\nmax_rps = 5\n".into(), 5, "rte", "unknown field"),
        ("[rate]\nrequest_timeout = \"5sec\"\n".into(), 6, "rate.request_timeout", "not a duration"),
        ("[rate]\nmax_rps = -1.0\n".into(), 6, "rate.max_rps", "above 0"),
        ("[rate]\nmax_in_flight = 0\n".into(), 6, "rate.max_in_flight", "from 1 to"),
        ("[notify]\nslack = \"x\"\n".into(), 5, "notify", "not enforced"),
        ("[window]\ntimezone = \"UTC\"\nstart = \"Sunday 03:00\"\nduration = \"1h\"\n".into(), 7, "window.start", "Sun 03:00"),
        ("[window]\ntimezone = \"UTC\"\nstart = \"Sun 03:00\"\nduration = \"13h\"\n".into(), 8, "window.duration", "at most 12h"),
        ("[budget]\nfailed_requests = 0\n".into(), 6, "budget.failed_requests", "above 0"),
        ("[budget]\nbytes_received = \"5GB\"\n".into(), 6, "budget.bytes_received", "GiB"),
        ("[budget]\nrequests = 100\nfailed_requests = 5\n".into(), 5, "budget.failed_requests", "1 %"),
        ("[budget]\n".into(), 5, "budget", "limits nothing"),
        ("[rate]\nhold_total = \"2x\"\n".into(), 6, "rate.hold_total", "[visibility]"),
        ("[metrics]\nlisten = \"here\"\n".into(), 6, "metrics.listen", "127.0.0.1:9464"),
        ("[stop]\nquery = 'x'\n".into(), 6, "stop.query", "no [prometheus]"),
        (g(&format!("{expr}alerts = 'x=\"y\"'\n")), 8, "g", "exactly one of"),
        (g("alerts = 'x=\"y\"'\nback_off_above = 1\n"), 8, "g", "no limits of its own"),
        (g("alerts = 'not a matcher'\n"), 10, "g: alerts", "label matchers"),
        (g("errors = 'sum(rate(x[10s]))'\nback_off_above = 1\n"), 8, "g", "belong together"),
        (g(&format!("{expr}min_samples = 20\nback_off_above = 1\n")), 11, "g: min_samples", "samples = "),
        (g(&format!("{expr}need_traffic = true\nback_off_above = 1\n")), 0, "g: min_samples", "mean nothing"),
        (g(&format!("{expr}back_off_above = {{ baseline = \"before\", ratio = 2.0 }}\n")), 11, "g: back_off_above", "floor"),
        (g(&format!("{expr}back_off_above = {{ baseline = \"now\", ratio = 2.0, floor = 1, cap = 2 }}\n")), 11, "g: back_off_above", "offset 1w"),
        (g(&format!("{expr}back_off_above = {{ baseline = \"before\", ratio = 0.5, floor = 1, cap = 2 }}\n")), 11, "g: back_off_above", "above 1"),
        (g(&format!("{expr}abort_above = {{ baseline = \"before\", ratio = 2.0, floor = 1, cap = 2 }}\n")), 11, "g: abort_above", "abort limit is absolute"),
        (g(expr), 8, "g", "without a threshold"),
        (g(&format!("{expr}unit = \"ratio\"\nback_off_above = 1\n")), 12, "g: back_off_above", "not a ratio"),
        (g(&format!("{expr}unit = \"ratio\"\nback_off_above = \"1\"\n")), 12, "g: back_off_above", "not a ratio"),
        (g(&format!("{expr}unit = \"seconds\"\nback_off_above = \"5x\"\n")), 12, "g: back_off_above", "not a duration"),
        (g(&format!("{expr}back_off_above = 5\nabort_above = 1\n")), 8, "g", "out of order"),
        (g("expr = 'sum(rate(x[10s])'\nback_off_above = 1\n"), 10, "g: expr", "not a PromQL"),
        (g("expr = 'sum(rate(x[10s])) > 1'\nback_off_above = 1\n"), 10, "g: expr", "filters"),
        (g("expr = 'sum(rate(x[4s]))'\nback_off_above = 1\n"), 10, "g: expr", "four scrapes"),
        ("[[guard]]\nname = \"g\"\nexpr = 'x'\nback_off_above = 1\n".into(), 7, "g", "no [prometheus]"),
        ("[local]\nerrors = { back_off_above = \"5%\" }\n".into(), 6, "local.errors", "known are error_ratio"),
        ("[local]\nerror_ratio = { }\n".into(), 6, "local.error_ratio", "without a threshold"),
        ("[routes]\nallow = [\"GET search\"]\n".into(), 6, "routes.allow", "is not a route"),
        ("[governor]\nstep = \"50%\"\n".into(), 6, "governor.step", "at most 25%"),
        ("not toml at all".into(), 5, "not", "expected"),
    ];
    for (tail, line, key, why) in table {
        let f = first(&tail);
        assert_eq!(f.severity, Severity::Error, "{tail}");
        assert_eq!(f.line.unwrap_or(0), line, "{tail}: {f}");
        assert!(f.key.contains(key) && f.why.contains(why), "{tail}: {f}");
    }
}

#[test]
fn every_finding_is_reported_at_once() {
    let refused =
        parse("[rate]\nmax_rps = 0\nrequest_timeout = \"x\"\n[governor]\nstep = \"x\"\n").unwrap_err();
    assert_eq!(refused.0.len(), 3, "{refused}");
}

#[test]
fn a_guard_becomes_its_numbers() {
    let tail = "[prometheus]\nurl = \"http://127.0.0.1:9090\"\nscrape_interval = \"15s\"\n[[guard]]\nname = \"errors\"\n\
        expr = '(sum(rate(x{code=~\"5..\"}[1m])) or vector(0)) / sum(rate(x[1m]))'\nunit = \"ratio\"\n\
        hold_above = \"0.5%\"\nback_off_above = \"1%\"\nabort_above = \"5%\"\nconfirm = \"1 of 2\"\npoll = \"5s\"\n";
    let policy = parse(tail).unwrap();
    let g = &policy.guards[0];
    let t = g.spec.thresholds;
    assert_eq!((t.hold, t.back_off, t.abort, t.side), (Some(0.005), Some(0.01), Some(0.05), Side::Above));
    assert!((t.clear - 0.004).abs() < 1e-9);
    assert_eq!((g.spec.confirm, g.spec.confirm_of, g.spec.origin), (1, 2, Origin::Prometheus));
    // L = scrape 15 s + range 60 s + poll 5 s + time-out 2 s.
    assert_eq!((g.spec.lag, lag(&policy)), (Duration::from_secs(82), Duration::from_secs(82)));
    assert_eq!(g.spec.max_age, Duration::from_secs(12));
    let settings = govern(&policy, Rate::per_sec(500), LeadIn::Auto);
    assert_eq!((settings.step_hold, settings.cooldown), (Duration::from_secs(82), Duration::from_secs(82)));
    assert_eq!(settings.guards.last().unwrap().clear_for, Duration::from_secs(82));
    assert!(time_to_full(&settings) > Duration::from_secs(900));
}

#[test]
fn nothing_may_act_faster_than_it_can_see() {
    let tail = "[prometheus]\nurl = \"http://127.0.0.1:9090\"\n[governor]\nstep_hold = \"10s\"\n[[guard]]\nname = \"g\"\nexpr = 'sum(rate(x[1m]))'\nback_off_above = 1\n";
    let f = first(tail);
    assert!(f.id == "G007" && f.key == "governor.step_hold" && f.why.contains("1m22s"), "{f}");
}

#[test]
fn production_needs_more() {
    let text = "version = 1\nname = \"p\"\n[target]\nurl = \"https://api.example.com\"\nallow = [\"api.example.com:443\"]\n";
    let refused = check::parse(text, "test").unwrap_err().to_string();
    for need in ["G012", "G029", "kill file", "owner", "local guards", "abort limit"] {
        assert!(refused.contains(need), "{need} not in:\n{refused}");
    }
}

#[test]
fn the_target_must_be_on_its_own_list() {
    let text =
        "version = 1\nname = \"p\"\n[target]\nurl = \"http://localhost:9\"\nallow = [\"localhost:8\"]\n";
    let f = check::parse(text, "test").unwrap_err().0.remove(0);
    assert!(f.key == "target.url" && f.line == Some(4) && f.why.contains("must list it"), "{f}");
}

#[test]
fn a_policy_below_the_target_caps_the_share() {
    let policy = parse("[rate]\nmax_rps = 100\n").unwrap();
    let settings = govern(&policy, Rate::per_sec(400), LeadIn::None);
    assert_eq!(settings.share_max, Share::from_f64(0.25));
    assert_eq!(settings.probe_share, Share::from_f64(0.01), "1 % of 400/s is 4/s");
    assert_eq!(
        govern(&policy, Rate::per_sec(10), LeadIn::None).probe_share,
        Share::from_f64(0.1),
        "at least 1/s"
    );
}

#[test]
fn shipped_policies_are_accepted() {
    for (name, text) in [
        ("default.toml", include_str!("../../policies/default.toml")),
        ("demo.toml", include_str!("../../policies/demo.toml")),
        ("production-example.toml", include_str!("../../policies/production-example.toml")),
    ] {
        let policy = check::parse(text, name);
        assert!(policy.is_ok(), "{name}:\n{}", policy.unwrap_err());
    }
}
