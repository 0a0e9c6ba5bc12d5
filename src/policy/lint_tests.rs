//! Every lint of a whole policy, with the value on either side of it: a bad policy is told of, a good one is not.

use super::super::Finding;
use super::super::check::parse;

const EXAMPLE: &str = include_str!("../../policies/production-example.toml");
const PROMETHEUS: &str = "[prometheus]\nurl = \"http://127.0.0.1:9\"\nscrape_interval = \"4s\"\n";
const EXPR: &str = "expr = 'sum(rate(x_total[1m]))'\nback_off_above = 1\n";

fn found(text: &str) -> Vec<Finding> {
    match parse(text, "t") {
        Ok(policy) => policy.warnings,
        Err(refused) => refused.0,
    }
}

/// Ids and keys of what is found, without repeats.
fn told(text: &str) -> Vec<String> {
    let mut all: Vec<String> = found(text).iter().map(|f| format!("{} {}", f.id, f.key)).collect();
    all.sort();
    all.dedup();
    all
}

fn local(tail: &str) -> String {
    format!("version = 1\nname = \"t\"\n[target]\nallow = [\"127.0.0.0/8\"]\n{tail}")
}

fn guard(name: &str, words: &str) -> String {
    format!("[[guard]]\nname = \"{name}\"\n{words}\n")
}

fn one(words: &str) -> String {
    local(&format!("{PROMETHEUS}{}", guard("g", words)))
}

/// The production example with some of its text replaced.
fn example(changes: &[(&str, &str)]) -> String {
    let mut text = EXAMPLE.to_owned();
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    text
}

/// The example without what stands from one mark up to another.
fn without(from: &str, to: &str) -> String {
    let (before, rest) = EXAMPLE.split_once(from).unwrap_or_else(|| panic!("{from}"));
    let (_, after) = rest.split_once(to).unwrap_or_else(|| panic!("{to}"));
    format!("{before}{to}{after}")
}

#[test]
fn a_bad_policy_is_told_of_and_a_good_one_is_not() {
    let seconds = |limit: &str, timeout: &str| {
        one(&format!(
            "expr = 'sum(rate(duration_seconds_sum[1m]))'\nunit = \"seconds\"\nback_off_above = \"{limit}\""
        )) + &format!("[rate]\nrequest_timeout = \"{timeout}\"\n")
    };
    let ratio = |optional: &str| {
        let words = "expr = 'sum(rate(x_total[1m]))'\nunit = \"ratio\"\nback_off_above = \"1%\"\n";
        local(&format!("{PROMETHEUS}{}{optional}", guard("g", &format!("{words}required = false"))))
    };
    let other = |unit: &str, required: bool| {
        let words = format!(
            "expr = 'sum(rate(y_total[1m]))'\nunit = \"{unit}\"\nback_off_above = {}\nrequired = {required}",
            if unit == "ratio" { "\"1%\"" } else { "1" }
        );
        guard("h", &words)
    };
    let alerts = "alerts = 'severity=\"page\"'\nliveness = 'up'";
    let governed = |words: &str| one(EXPR) + &format!("[governor]\n{words}\n");
    let window = |d: &str, words: &str| {
        local(&format!(
            "[rate]\nmax_rps = 1000\n[window]\ntimezone = \"UTC\"\nstart = \"Sun 03:00\"\nduration = \"{d}\"\n[governor]\n{words}\n"
        ))
    };
    let relative = "back_off_above = { baseline = \"before\", ratio = 2.0, floor = 1, cap = 9 }";
    let listen = "[metrics]\nlisten = \"127.0.0.1:9\"\n";
    let shifted = |offset: &str, words: &str| {
        one(&format!("expr = 'sum(rate(x_total[1m]{offset}))'\n{words}")) + listen
    };
    #[rustfmt::skip]
    let table: Vec<(&str, String, String)> = vec![
        ("G013 g: expr", shifted(" offset 1w", relative), shifted("", relative)),
        ("G013 g: expr", shifted(" offset 1w", relative), shifted(" offset 1w", "back_off_above = 1")),
        ("G010 g: unit", one("expr = 'sum(rate(d_milliseconds[1m]))'\nunit = \"seconds\"\nback_off_above = \"1s\""), one("expr = 'sum(rate(d_milliseconds[1m]))'\nunit = \"ms\"\nback_off_above = 1")),
        ("G015 g: expr", one("expr = 'max(replay_in_flight)'\nback_off_above = 1"), one("expr = 'max(replay_in_flight) + sum(x)'\nback_off_above = 1")),
        ("G010 g: limits", seconds("5s", "5s"), seconds("4999ms", "5s")),
        ("G010 g: limits", seconds("6s", "5s"), seconds("5s", "6s")),
        ("G021 g", ratio(""), ratio(&other("ratio", true))),
        ("G021 g", ratio(&other("ratio", false)), ratio(&other("ratio", true))),
        ("G021 g", ratio(&other("things", true)), ratio(&other("ratio", true))),
        ("G025 guard", one(alerts), one(alerts) + &guard("h", "expr = 'sum(rate(x_total[1m]))'\nabort_above = 1")),
        ("G025 guard", one(alerts) + &guard("h", EXPR), local("")),
        ("G025 guard", one(alerts) + "[stop]\nquery = 'max(stop)'\n", one(EXPR) + "[stop]\nquery = 'max(stop)'\n"),
        // L = scrape 4 s + range 60 s + poll 4 s + time-out 2 s.
        ("G007 governor.step_hold", governed("step_hold = \"69999ms\""), governed("step_hold = \"70s\"")),
        ("G007 governor.cooldown", governed("cooldown = \"69s\""), governed("cooldown = \"70s\"")),
        ("G007 governor.clear_for", governed("clear_for = \"69s\""), governed("clear_for = \"70s\"")),
        ("G007 governor.preflight_max", governed("preflight_max = \"69s\""), governed("preflight_max = \"70s\"")),
        ("G007 g: clear_for", one(&format!("{EXPR}clear_for = \"69s\"")), one(&format!("{EXPR}clear_for = \"70s\""))),
        ("G016 g: poll", one(&format!("{EXPR}poll = \"999ms\"")), one(&format!("{EXPR}poll = \"1s\""))),
        ("G010 drill.max_age", local("[drill]\nmax_age = \"0s\"\n"), local("[drill]\nmax_age = \"1s\"\n")),
        ("G015 metrics.listen", one(&format!("expr = 'sum(rate(x_total[1m]))'\n{relative}")), one(&format!("expr = 'sum(rate(x_total[1m]))'\n{relative}")) + listen),
        ("G015 metrics.listen", one(&format!("expr = 'sum(rate(x_total[1m]))'\n{relative}")), one(EXPR)),
        ("G010 local.p99", local("[rate]\nrequest_timeout = \"2s\"\n[local]\np99 = { back_off_above = \"2s\" }\n"), local("[rate]\nrequest_timeout = \"2s\"\n[local]\np99 = { back_off_above = \"1999ms\" }\n")),
        ("G017 rate.max_in_flight", local("[rate]\nmax_rps = 10\nrequest_timeout = \"2s\"\nmax_in_flight = 20\n"), local("[rate]\nmax_rps = 10\nrequest_timeout = \"2s\"\nmax_in_flight = 19\n")),
        ("G019 governor.probe_rate", local("[rate]\nmax_rps = 5\n[governor]\nprobe_rate = \"5/s\"\n"), local("[rate]\nmax_rps = 5\n[governor]\nprobe_rate = \"4/s\"\n")),
        // 0.3 s clean, 1.2 s at the probe, 10 steps of 60 s from 1 %.
        ("G018 governor.step", window("601s", "step_hold = \"60s\""), window("602s", "step_hold = \"60s\"")),
        ("G018 governor.step", window("10s", "step = \"10%\""), window("10s", "")),
        ("G029 routes.allow", local("[routes]\nallow = [\"GET /export\"]\n"), local("[routes]\nallow = [\"GET /x\"]\n")),
    ];
    for (what, bad, good) in &table {
        assert!(told(bad).iter().any(|t| t == what), "{what} is not told of:\n{bad}\n{:?}", told(bad));
        assert!(!told(good).iter().any(|t| t == what), "{what} is told of:\n{good}\n{:?}", told(good));
    }
}

#[test]
fn questions_are_counted_with_those_on_freshness_and_samples() {
    let (p, poll) =
        ("expr = 'sum(rate(x_total[1m]))'\nback_off_above = 1\n", "poll = \"200ms\"\nconfirm = \"1 of 1\"\n");
    let many = |words: &str, n: usize| {
        let all: String = (0..n).map(|i| guard(&format!("g{i}"), &format!("{words}{poll}"))).collect();
        // The guard on other runs asks once each 4 s beside them.
        told(&local(&format!("{PROMETHEUS}{all}"))).iter().any(|t| t == "G033 guard")
    };
    // One on the value, one on its freshness, five times a second: 10 a second.
    assert!(many(p, 1));
    let slow = |ms: u64, words: &str, n: usize| {
        let poll = format!("poll = \"{ms}ms\"\nconfirm = \"1 of 1\"\n");
        let all: String = (0..n).map(|i| guard(&format!("g{i}"), &format!("{words}{poll}"))).collect();
        told(&local(&format!("{PROMETHEUS}{all}"))).iter().any(|t| t == "G033 guard")
    };
    // 2 x 2 a second and a quarter; 2 x 2.5 and a quarter.
    assert!(!slow(500, p, 1) && !slow(422, p, 1) && slow(421, p, 1));
    let sampled = "expr = 'sum(rate(x_total[1m]))'\nback_off_above = 1\nmin_samples = 5\nsamples = 'sum(increase(x_total[1m]))'\n";
    assert!(!slow(632, sampled, 1) && slow(631, sampled, 1), "three each");
    let subtract = "errors = 'sum(rate(e_total[1m])) or vector(0)'\nrequests = 'sum(rate(x_total[1m]))'\nunit = \"ratio\"\nback_off_above = \"1%\"\nmin_samples = 50\n";
    let four = |ms| slow(ms, subtract, 1);
    assert!(!four(843) && four(842), "two values and the freshness of both");
    let alerts = "alerts = 'severity=\"page\"'\nliveness = 'up'\n";
    assert!(!slow(632, alerts, 1) && slow(631, alerts, 1), "firing, pending, alive");
    let page = "scrape = \"http://127.0.0.1:9/metrics\"\nmetric = \"queue\"\nback_off_above = 1\n";
    assert!(!slow(200, page, 1), "a page is not Prometheus");
}

#[test]
fn the_example_passes_and_nothing_of_it_may_be_left_out() {
    assert_eq!(told(EXAMPLE), Vec::<String>::new());
    #[rustfmt::skip]
    let table: Vec<(&str, String)> = vec![
        ("G012 guard", example(&[("abort_above = \"5%\"", ""), ("abort_above = \"20%\"", ""), ("alerts = ", "expr = 'sum(a)'\nback_off_above = 1\n# "), ("liveness = ", "# ")])),
        ("G012 guard", example(&[("errors seen by users\"\n", "errors seen by users\"\nuser_harm = false\n"), ("over 500 ms)\"\n", "over 500 ms)\"\nuser_harm = false\n")])),
        ("G012 guard", without("[[guard]]\nname = \"slow", "[[guard]]\nname = \"checkouts")),
        ("G012 local", without("error_ratio =", "\n[governor]")),
        ("G012 visibility.requests", example(&[("[visibility]", "[[guard]]\nname = \"x\"\nexpr = 'sum(rate(a_total[1m]))'\nback_off_above = 1\n#"), ("requests = 'sum", "#"), ("organic = 'sum", "#"), ("hold_total = \"2x\"", ""), ("expect_organic_below = \"120/s\"", "")])),
        ("G012 metrics.listen", example(&[("[metrics]", ""), ("listen = \"127.0.0.1:9464\"", "")])),
        ("G012 stop.kill_file", example(&[("kill_file = \"/run/replay/STOP\"", "")])),
        ("G012 owner", example(&[("owner = \"sre-checkout@example.com\"", "")])),
        ("G026 budget.failed_requests", example(&[("failed_requests = 2_000", "")])),
        ("G027 guard", example(&[(",replay=\"\"}", "}")])),
        ("G029 routes.allow", example(&[("allow = [\"GET /api/**\", \"GET /search\", \"HEAD /**\"]", "")])),
        ("G019 governor.no_data_abort", example(&[("no_data_abort = \"30s\"", "no_data_abort = \"121s\"")])),
        ("G019 governor.hold_max", example(&[("hold_max = \"5m\"", "hold_max = \"901s\"")])),
        ("G019 governor.backoff_window", example(&[("backoff_window = \"10m\"", "backoff_window = \"59s\"")])),
        ("G007 governor.aftercare", example(&[("aftercare = \"5m\"", "aftercare = \"1m\"")])),
        ("G027 guard", without("[[guard]]\nname = \"checkouts", "[[guard]]\nname = \"pages")),
        (" target.allow", example(&[(", \"203.0.113.0/28\"]   #", "]   #")])),
        ("G020 window", example(&[("[window]", ""), ("timezone = \"Europe/Amsterdam\"", ""), ("start = \"Sun 03:00\"", ""), ("duration = \"90m\"", ""), ("expect_organic_below = \"120/s\"", "")])),
        ("G018 governor.probe_rate", example(&[("probe_rate = \"auto\"", "probe_rate = \"10.1/s\"")])),
        ("G024 prometheus.token_file", example(&[("https://prometheus.internal", "http://prometheus.internal"), ("# token_file", "token_file")])),
    ];
    for (what, bad) in &table {
        assert!(told(bad).iter().any(|t| t == what), "{what}: {:?}\n{bad}", told(bad));
    }
    let fine = [
        ("no_data_abort = \"30s\"", "no_data_abort = \"2m\""),
        ("hold_max = \"5m\"", "hold_max = \"15m\""),
        ("backoff_window = \"10m\"", "backoff_window = \"1m\""),
        ("probe_rate = \"auto\"", "probe_rate = \"10/s\""),
        ("# token_file", "token_file"),
    ];
    for change in fine {
        assert_eq!(told(&example(&[change])), Vec::<String>::new(), "{change:?}");
    }
}
