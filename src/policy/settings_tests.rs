//! What a policy's words become as numbers of the governor: each derived value, and the words that replace it.

use std::time::Duration;

use super::super::check::parse;
use super::super::sources;
use super::*;
use crate::govern::settings::Settings;

const PROMETHEUS: &str = "[prometheus]\nurl = \"http://127.0.0.1:9\"\nscrape_interval = \"2s\"\n";
const GUARD: &str =
    "[[guard]]\nname = \"g\"\nexpr = 'sum(rate(x_total[10s]))'\nback_off_above = 5\npoll = \"1s\"\n";

fn policy(tail: &str) -> Policy {
    let text = format!("version = 1\nname = \"s\"\n[target]\nallow = [\"127.0.0.0/8\"]\n{tail}");
    parse(&text, "s").unwrap_or_else(|e| panic!("{tail}: {e}"))
}

fn rps(n: u64) -> Rate {
    Rate { mrps: n * 1000 }
}

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn made(tail: &str, peak: u64, lead_in: LeadIn) -> Settings {
    govern(&policy(tail), rps(peak), lead_in)
}

fn share(s: Share) -> f64 {
    (s.as_f64() * 1e6).round() / 1e6
}

#[test]
fn in_flight_follows_rate_and_timeout_within_its_bounds() {
    let table = [
        // words, planned rate, most in flight
        ("max_rps = 100\nrequest_timeout = \"4s\"", 100, 100),
        ("max_rps = 100\nrequest_timeout = \"4s\"", 50, 50),
        // A plan above the policy's rate is held to the policy's.
        ("max_rps = 100\nrequest_timeout = \"4s\"", 500, 100),
        ("max_rps = 100\nrequest_timeout = \"8s\"", 100, 200),
        // Rounded up, and never so small that one page could not load.
        ("max_rps = 100\nrequest_timeout = \"1s\"", 99, 25),
        ("max_rps = 100\nrequest_timeout = \"1s\"", 1, 16),
        ("max_rps = 100\nrequest_timeout = \"4s\"\nmax_in_flight = 7", 100, 7),
        ("max_rps = 100\nrequest_timeout = \"4s\"\nmax_in_flight = 390", 100, 390),
    ];
    for (words, planned, want) in table {
        let policy = policy(&format!("[rate]\n{words}\n"));
        assert_eq!(in_flight_max(&policy, rps(planned)), want, "{words} at {planned}/s");
    }
    let mut policy = policy("[rate]\nmax_rps = 100\nrequest_timeout = \"4s\"\nmax_in_flight = 390\n");
    policy.rate.in_flight_ceiling = 50;
    assert_eq!(in_flight_max(&policy, rps(100)), 50, "the site's ceiling");
    policy.rate.max_in_flight = None;
    assert_eq!(in_flight_max(&policy, rps(100)), 50, "the site's ceiling on a derived number");
}

#[test]
fn the_local_guards_of_a_run_are_the_fixed_ones_and_those_that_are_asked_for() {
    let names = |tail: &str| -> Vec<&str> {
        local_guards(&policy(tail)).iter().map(|(metric, _)| metric.name()).collect()
    };
    let fixed: Vec<&str> = LocalMetric::ALWAYS.iter().map(|m| m.name()).collect();
    let without = names("");
    assert!(fixed.iter().all(|f| without.contains(f)), "{without:?}");
    assert!(!without.contains(&"received"));
    let with = names("[rate]\nmax_mbit_per_s = 80\n");
    assert_eq!(with.len(), without.len() + 1);
    let received = local_guards(&policy("[rate]\nmax_mbit_per_s = 80\n")).pop().unwrap().1;
    assert_eq!((received.thresholds.hold, received.thresholds.back_off), (Some(72.0), Some(80.0)));
    // The limit on the oldest request follows the time-out.
    let oldest = local_guards(&policy("[rate]\nrequest_timeout = \"20s\"\n"));
    let oldest = oldest.iter().find(|(m, _)| *m == LocalMetric::OldestInFlight).unwrap();
    assert_eq!(oldest.1.thresholds.back_off, Some(18.0));
}

#[test]
fn a_guard_of_the_programs_own_is_found_behind_the_local_ones() {
    let organic = "[visibility]\nrequests = 'sum(rate(x_total[10s]))'\n[rate]\nhold_total = \"2x\"\n";
    let policy = policy(&format!("{PROMETHEUS}{organic}"));
    let settings = govern(&policy, rps(100), LeadIn::Auto);
    for name in [sources::ORGANIC, sources::VISIBILITY] {
        let index = own_guard(&policy, name).unwrap();
        assert_eq!(settings.guards[index].name, name);
    }
    assert_eq!(own_guard(&policy, "nobody"), None);
    let rule = settings.organic.unwrap();
    assert_eq!(settings.guards[rule.guard].name, sources::ORGANIC);
    assert_eq!((rule.hold_total, rule.expected_below), (Some(rps(200)), None));
}

#[test]
fn what_users_and_ours_may_make_together_is_a_rate_or_times_the_recorded_peak() {
    let seen = "[visibility]\nrequests = 'sum(rate(x_total[10s]))'\n";
    let table = [("2x", 120, Some(rps(240))), ("1.5x", 120, Some(rps(180))), ("700/s", 120, Some(rps(700)))];
    for (words, peak, want) in table {
        let policy = policy(&format!("{PROMETHEUS}{seen}[rate]\nhold_total = \"{words}\"\n"));
        assert_eq!(hold_total(&policy, rps(peak)), want, "{words}");
    }
    assert_eq!(hold_total(&policy(""), rps(120)), None);
    let window = "[window]\ntimezone = \"UTC\"\nstart = \"Sun 03:00\"\nduration = \"1h\"\nexpect_organic_below = \"40/s\"\n";
    let rule = made(&format!("{PROMETHEUS}{seen}{window}"), 100, LeadIn::Auto).organic.unwrap();
    assert_eq!((rule.hold_total, rule.expected_below), (None, Some(rps(40))));
    assert!(made("", 100, LeadIn::Auto).organic.is_none());
}

#[test]
fn lag_is_that_of_the_slowest_timely_guard() {
    // One window of 1 s and two ticks.
    assert_eq!(lag(&policy("")), Duration::from_millis(1200));
    // Scrape 2 s, range 10 s, poll 1 s, time-out 2 s.
    assert_eq!(lag(&policy(&format!("{PROMETHEUS}{GUARD}"))), secs(15));
    let alerts = "[[guard]]\nname = \"a\"\nalerts = 'severity=\"page\"'\nliveness = 'up'\n";
    let with_alerts = policy(&format!("{PROMETHEUS}{GUARD}{alerts}"));
    assert_eq!(lag(&with_alerts), secs(15));
    let mut only_late = with_alerts;
    only_late.guards.retain(|g| matches!(g.query, GuardQuery::Alerts(_)));
    only_late.guards[0].spec.lag = secs(900);
    assert_eq!(lag(&only_late), Duration::from_millis(1200), "alerts are a back-stop");
}

#[test]
fn times_follow_the_lag_and_a_policys_word_replaces_each() {
    let quick = made("", 1000, LeadIn::Auto);
    assert_eq!((quick.cooldown, quick.step_hold), (secs(30), Duration::from_millis(1200)));
    assert_eq!(quick.visible_within, Duration::from_millis(2400));
    // Without Prometheus: three polls of a tick.
    assert_eq!(quick.preflight_clean, Duration::from_millis(300));
    assert_eq!((quick.hold_max, quick.backoff_window), (secs(300), secs(600)));
    assert_eq!((quick.max_backoffs, quick.no_data_abort), (3, secs(30)));
    assert_eq!(quick.aftercare, Duration::ZERO, "loopback");
    assert!(quick.guards.iter().all(|g| g.clear_for == secs(30)), "the shortest calm");

    let seen = format!("{PROMETHEUS}{GUARD}");
    let slow = made(&seen, 1000, LeadIn::Auto);
    assert_eq!((slow.cooldown, slow.step_hold, slow.lag), (secs(30), secs(15), secs(15)));
    assert_eq!(slow.preflight_clean, secs(6), "three looks of the slowest guard");
    assert_eq!(slow.visible_within, secs(30));

    let long = seen.replace("[10s]", "[2m]");
    let longer = made(&long, 1000, LeadIn::Auto);
    assert_eq!((longer.cooldown, longer.step_hold), (secs(125), secs(125)));
    assert!(longer.guards.iter().all(|g| g.clear_for == secs(125)));

    let words = "[governor]\ncooldown = \"45s\"\nclear_for = \"50s\"\nhold_max = \"2m\"\nmax_backoffs = 2\nbackoff_window = \"5m\"\nno_data_abort = \"20s\"\npreflight_max = \"1m\"\naftercare = \"70s\"\ndrain_timeout = \"7s\"\nstep_hold = \"17s\"\nprobe_rate = \"3/s\"\nstep = \"5%\"\n";
    let said = made(&format!("{seen}{words}"), 1000, LeadIn::Auto);
    assert_eq!((said.cooldown, said.hold_max, said.backoff_window), (secs(45), secs(120), secs(300)));
    assert_eq!((said.max_backoffs, said.no_data_abort, said.preflight_max), (2, secs(20), secs(60)));
    assert_eq!((said.probe_max, said.aftercare, said.drain_timeout), (secs(60), secs(70), secs(7)));
    assert_eq!((said.step_hold, share(said.probe_share), share(said.step)), (secs(17), 0.003, 0.05));
    assert!(said.guards.iter().all(|g| g.clear_for == secs(50)));
    // 20 steps of 17 s, four times over, and two preflights.
    assert_eq!(said.lead_in_max, secs(20 * 17 * 4 + 120));
    assert_eq!(quick.lead_in_max, Duration::from_millis(10 * 1200 * 4) + secs(600));
    let short = made("[governor]\npreflight_max = \"1m\"\n", 1000, LeadIn::Auto);
    assert_eq!(short.lead_in_max, secs(600), "never below ten minutes");
}

#[test]
fn aftercare_is_as_long_as_the_guards_are_late_where_users_may_be() {
    // The lints of a production policy are another test's matter: only the allow-list is changed.
    let aftercare = |guard: &str| {
        let mut policy = policy(&format!("{PROMETHEUS}{guard}"));
        policy.allow = super::super::target::AllowList::parse(["203.0.113.0/28"]).unwrap();
        govern(&policy, rps(100), LeadIn::Auto).aftercare
    };
    assert_eq!(aftercare(GUARD), secs(300));
    assert_eq!(aftercare(&GUARD.replace("[10s]", "[400s]")), secs(405));
}

#[test]
fn the_first_requests_are_few() {
    let probe = |peak: u64, words: &str| {
        let s = made(words, peak, LeadIn::Auto);
        (share(s.probe_share), share(s.floor))
    };
    // One per cent, at least 1/s, at most 10/s; the floor is half of it and at most half a per cent.
    assert_eq!(probe(500, ""), (0.01, 0.005));
    assert_eq!(probe(50, ""), (0.02, 0.005));
    assert_eq!(probe(10_000, "[rate]\nmax_rps = 20000\n"), (0.001, 0.0005));
    // At most one step, whatever is asked for.
    assert_eq!(probe(2, ""), (0.1, 0.005));
    assert_eq!(probe(100, "[governor]\nprobe_rate = \"50/s\"\n"), (0.1, 0.005));
    assert_eq!(probe(100, "[governor]\nprobe_rate = \"50/s\"\nstep = \"2%\"\n"), (0.02, 0.005));
}

#[test]
fn the_share_may_reach_what_the_policy_allows_and_no_peak_is_a_peak_of_almost_nothing() {
    let half = made("[rate]\nmax_rps = 50\n", 100, LeadIn::Auto);
    assert_eq!((share(half.share_max), half.target), (0.5, rps(100)));
    let nothing = govern(&policy(""), Rate { mrps: 0 }, LeadIn::Auto);
    assert_eq!(nothing.target, Rate { mrps: 1 });
    assert_eq!((share(nothing.probe_share), nothing.lead_in), (0.1, true));
}

#[test]
fn a_flag_slows_the_climb_and_never_hastens_it() {
    let hold = |lead_in, words: &str| made(words, 1000, lead_in).step_hold;
    let lag = Duration::from_millis(1200);
    assert_eq!(hold(LeadIn::For(secs(110)), ""), secs(10), "ten steps and the probe");
    assert_eq!(hold(LeadIn::For(secs(1)), ""), lag);
    assert_eq!(hold(LeadIn::For(secs(110)), "[governor]\nstep_hold = \"15s\"\n"), secs(15));
    assert_eq!(hold(LeadIn::For(secs(330)), "[governor]\nstep_hold = \"15s\"\n"), secs(30));
    assert_eq!(hold(LeadIn::None, ""), lag);
    let led = |lead_in| made("", 1000, lead_in).lead_in;
    assert_eq!((led(LeadIn::Auto), led(LeadIn::For(secs(1))), led(LeadIn::None)), (true, true, false));
}

#[test]
fn time_to_full_counts_each_step_from_the_probe() {
    let full = |lead_in| time_to_full(&made("[rate]\nmax_rps = 1000\n", 1000, lead_in));
    // 0.3 s clean, the lag at the probe, then from 1 % in tens: ten steps.
    assert_eq!(full(LeadIn::Auto), Duration::from_millis(300 + 1200 + 10 * 1200));
    assert_eq!(full(LeadIn::For(secs(110))), Duration::from_millis(300 + 1200) + secs(100));
    assert_eq!(full(LeadIn::None), Duration::from_millis(300));
    let half = time_to_full(&made("[rate]\nmax_rps = 500\n", 1000, LeadIn::Auto));
    assert_eq!(half, Duration::from_millis(300 + 1200 + 5 * 1200));
}
