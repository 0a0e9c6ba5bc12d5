//! Where words stop being allowed: each limit of a policy with the value on either side.

use super::GuardQuery;
use super::check::parse;
use super::sources;

const PROMETHEUS: &str = "[prometheus]\nurl = \"http://127.0.0.1:9\"\nscrape_interval = \"1s\"\n";

fn accepted(tail: &str) -> bool {
    let text = format!("version = 1\nname = \"e\"\n[target]\nallow = [\"127.0.0.0/8\"]\n{tail}");
    parse(&text, "e").is_ok()
}

fn guard(words: &str) -> String {
    format!(
        "{PROMETHEUS}[[guard]]\nname = \"g\"\nexpr = 'sum(rate(x_total[10s]))'\nback_off_above = 5\n{words}\n"
    )
}

#[test]
fn every_limit_has_two_sides() {
    let window =
        |d: &str| format!("[window]\ntimezone = \"UTC\"\nstart = \"Sun 00:00\"\nduration = \"{d}\"\n");
    let seen = format!("{PROMETHEUS}[visibility]\nrequests = 'sum(rate(x_total[10s]))'\n");
    let rate = |key: &str, v: &str| format!("{seen}[rate]\n{key} = \"{v}\"\n");
    let budget = |words: &str| format!("[budget]\nrequests = 1000\n{words}\n");
    let table = [
        (window("12h"), window("12h1s")),
        (window("1s"), window("0s")),
        (rate("hold_total", "1/s"), rate("hold_total", "0/s")),
        (budget("failed_requests = 10"), budget("failed_requests = 11")),
        (budget("period = \"1m\""), budget("period = \"59s\"")),
        (budget("connections = 1"), budget("connections = 0")),
        (guard("poll = \"200ms\""), guard("poll = \"199ms\"")),
        (guard("poll = \"1m\"\nconfirm = \"1 of 1\""), guard("poll = \"1m1s\"\nconfirm = \"1 of 1\"")),
        (guard("timeout = \"2s\""), guard("timeout = \"2001ms\"")),
        (guard("timeout = \"1ms\""), guard("timeout = \"0s\"")),
        (guard("poll = \"1s\"\nconfirm = \"10 of 10\""), guard("poll = \"1s\"\nconfirm = \"11 of 11\"")),
        (guard("confirm = \"1 of 1\""), guard("confirm = \"0 of 1\"")),
        (guard("confirm = \"2 of 2\""), guard("confirm = \"3 of 2\"")),
        (guard("poll = \"30s\"\nconfirm = \"2 of 2\""), guard("poll = \"31s\"\nconfirm = \"2 of 2\"")),
    ];
    for (good, bad) in table {
        assert!(accepted(&good), "{good}");
        assert!(!accepted(&bad), "{bad}");
    }
}

#[test]
fn own_guards_are_there_when_they_are_needed() {
    let names = |tail: &str| {
        let text = format!("version = 1\nname = \"e\"\n[target]\nallow = [\"127.0.0.0/8\"]\n{tail}");
        let policy = parse(&text, "e").unwrap_or_else(|e| panic!("{tail}: {e}"));
        let organic = policy.guards.iter().any(|g| matches!(g.query, GuardQuery::Organic { .. }));
        let labels = policy.guards.iter().any(|g| matches!(g.query, GuardQuery::Labels(_)));
        let visible = policy.guards.iter().any(|g| g.spec.name == sources::VISIBILITY);
        (organic, labels, visible)
    };
    let requests = "[visibility]\nrequests = 'sum(rate(x_total[10s]))'\n";
    let seen = format!("{PROMETHEUS}{requests}");
    assert_eq!(names(PROMETHEUS), (false, false, false));
    assert_eq!(names(&seen), (false, false, true));
    assert_eq!(
        names(&format!("{seen}organic = 'sum(rate(x_total{{replay=\"\"}}[10s]))'\n")),
        (true, false, true)
    );
    assert_eq!(names(&format!("{seen}[rate]\nhold_total = \"5/s\"\n")), (true, false, true));
    let window = "[window]\ntimezone = \"UTC\"\nstart = \"Sun 03:00\"\nduration = \"1h\"\n";
    assert_eq!(names(&format!("{seen}{window}")), (false, false, true));
    assert_eq!(names(&format!("{seen}{window}expect_organic_below = \"5/s\"\n")), (true, false, true));
    assert_eq!(names(&format!("{PROMETHEUS}expect_labels = {{ cluster = \"a\" }}\n")), (false, true, false));
    assert_eq!(names(&format!("{PROMETHEUS}expect_labels = {{}}\n")), (false, false, false));
}

fn quantile(q: &str, samples: u64) -> String {
    format!(
        "{PROMETHEUS}[[guard]]\nname = \"g\"\nexpr = 'histogram_quantile({q}, sum by (le) (rate(d_bucket[10s])))'\nunit = \"seconds\"\n\
         back_off_above = \"1s\"\nmin_samples = {samples}\nsamples = 'sum(increase(d_count[10s]))'\n"
    )
}

fn subtract(errors: &str, requests: &str) -> String {
    format!(
        "{PROMETHEUS}[[guard]]\nname = \"g\"\nerrors = '{errors}'\nrequests = '{requests}'\nunit = \"ratio\"\nback_off_above = \"1%\"\nmin_samples = 50\n"
    )
}

fn limited(limits: &str) -> String {
    format!("{PROMETHEUS}[[guard]]\nname = \"g\"\nexpr = 'sum(rate(x_total[10s]))'\n{limits}\n")
}

fn relative(words: &str) -> String {
    limited(&format!("back_off_above = {{ {words} }}\n[metrics]\nlisten = \"127.0.0.1:9\""))
}

#[test]
fn guards_are_exact_about_samples_ranges_and_limits() {
    let (e, r) = ("sum(rate(e_total[10s])) or vector(0)", "sum(rate(x_total[10s]))");
    let samples = |n: i64| format!("min_samples = {n}\nsamples = 'sum(increase(x_total[10s]))'");
    let table = [
        (quantile("0.9", 50), quantile("0.9", 49)),
        (quantile("0.99", 500), quantile("0.99", 499)),
        (guard(&samples(1)), guard(&samples(0))),
        (guard(&samples(10_000_000)), guard(&samples(10_000_001))),
        (guard(""), guard("need_traffic = true")),
        (guard(""), guard("samples = 'sum(increase(x_total[10s]))'")),
        (guard(&samples(5)), guard("min_samples = 5")),
        (subtract(e, r), subtract(e, "job:requests:rate10s")),
        (subtract(e, r), subtract("job:errors:rate10s", r)),
        (guard("reduce = \"max\""), guard("reduce = \"median\"")),
        (limited("back_off_above = 5"), limited("back_off_above = inf")),
        (limited("back_off_above = 5.5"), limited("back_off_above = nan")),
        (
            relative("baseline = \"before\", ratio = 1.1, floor = 1, cap = 1"),
            relative("baseline = \"before\", ratio = 1.0, floor = 1, cap = 1"),
        ),
        (
            relative("baseline = \"offset 1w\", ratio = 100.0, floor = 1, cap = 2"),
            relative("baseline = \"offset 1w\", ratio = 100.1, floor = 1, cap = 2"),
        ),
        (
            relative("baseline = \"offset 2w\", ratio = 2.0, floor = 1, cap = 2"),
            relative("baseline = \"offset 4w\", ratio = 2.0, floor = 1, cap = 2"),
        ),
        (
            relative("baseline = \"offset 3w\", ratio = 2.0, floor = 1, cap = 2"),
            relative("baseline = \"offset 3w\", ratio = 2.0, floor = 2.1, cap = 2"),
        ),
        (
            relative("baseline = \"offset 1w\", ratio = 2.0, floor = 1, cap = 2, abnormal_ratio = 1.1"),
            relative("baseline = \"offset 1w\", ratio = 2.0, floor = 1, cap = 2, abnormal_ratio = 1.0"),
        ),
        (
            relative("baseline = \"before\", ratio = 2.0, floor = 1, cap = 2"),
            relative("baseline = \"before\", ratio = 2.0, floor = 1, cap = 2, abnormal_ratio = 2.0"),
        ),
    ];
    for (good, bad) in table {
        assert!(accepted(&good), "{good}");
        assert!(!accepted(&bad), "{bad}");
    }
}

#[test]
fn several_series_and_long_ranges_are_warned_of_and_lags_are_sums() {
    let warned = |guard: &str| {
        let text = format!(
            "version = 1\nname = \"e\"\n[target]\nallow = [\"127.0.0.0/8\"]\n{PROMETHEUS}[[guard]]\nname = \"g\"\nback_off_above = 5\n{guard}\n"
        );
        let policy = parse(&text, "e").unwrap_or_else(|e| panic!("{guard}: {e}"));
        let ids: Vec<&str> =
            policy.warnings.iter().map(|w| w.id).filter(|id| ["G006", "G014"].contains(id)).collect();
        let g = policy.guards[0].clone();
        (ids, g)
    };
    assert_eq!(warned("expr = 'rate(x_total[10s])'").0, ["G014"]);
    let (ids, max) = warned("expr = 'rate(x_total[10s])'\nreduce = \"max\"");
    assert!(ids.is_empty());
    let GuardQuery::Prometheus(q) = &max.query else { panic!() };
    assert_eq!(q.text, "max(rate(x_total[10s]))");
    assert_eq!(warned("expr = 'rate(x_total[10s])'\nreduce = \"avg\"").0, ["G014"]);
    assert!(warned("expr = 'sum(rate(x_total[5m]))'").0.is_empty());
    assert_eq!(warned("expr = 'sum(rate(x_total[301s]))'").0, ["G006"]);
    // Scrape 1 s, range 10 s, poll 1 s, time-out 2 s.
    assert_eq!(max.spec.lag.as_secs(), 14);
    let text = subtract("sum(rate(e_total[20s])) or vector(0)", "sum(rate(x_total[10s]))");
    let text = format!("version = 1\nname = \"e\"\n[target]\nallow = [\"127.0.0.0/8\"]\n{text}");
    let both = parse(&text, "e").unwrap_or_else(|e| panic!("{e}"));
    let g = &both.guards[0];
    assert_eq!(g.spec.lag.as_secs(), 24, "the longer range");
    assert!(g.organic && g.spec.harm && g.spec.required && g.spec.min_samples == 50);
}
