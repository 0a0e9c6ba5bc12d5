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

fn policy(head: &str, tail: &str) -> Result<super::Policy, String> {
    parse(&format!("version = 1\nname = \"e\"\n{head}\n{tail}"), "e").map_err(|e| e.to_string())
}

const LOOPBACK: &str = "[target]\nallow = [\"127.0.0.0/8\"]";

#[test]
fn recorded_hosts_are_those_of_the_target_unless_the_policy_says_otherwise() {
    let hosts = |target: &str| {
        let policy =
            policy(&format!("[target]\nallow = [\"127.0.0.0/8\", \"localhost:80\"]\n{target}"), "").unwrap();
        policy.hosts.map(|h| h.into_iter().map(|b| String::from_utf8(b).unwrap()).collect::<Vec<_>>())
    };
    assert_eq!(hosts(""), None, "no target, so every host stands for it");
    assert_eq!(hosts("url = \"http://LocalHost\""), Some(vec!["localhost".to_owned()]));
    assert_eq!(
        hosts("hosts = [\"A.example\", \"b.example\"]"),
        Some(vec!["a.example".to_owned(), "b.example".into()])
    );
    assert_eq!(hosts("hosts = []"), Some(Vec::new()), "none stands for it");
    assert_eq!(hosts("url = \"http://localhost\"\nhosts = [\"x\", \"*\"]"), None);
}

#[test]
fn whole_words_have_two_sides_too() {
    let many = |n: usize| {
        let one = |i: usize| format!("\"/r{i}\"");
        (0..n).map(one).collect::<Vec<_>>().join(", ")
    };
    let routes = |allow: usize, deny: usize, caps: usize| {
        let caps: String = (0..caps).map(|i| format!("\"/c{i}\" = 1\n")).collect();
        format!("[routes]\nallow = [{}]\ndeny = [{}]\n[routes.max_rps]\n{caps}", many(allow), many(deny))
    };
    let most = crate::limits::ROUTES_MAX;
    let guards = |n: usize| {
        let one = |i: usize| {
            format!(
                "[[guard]]\nname = \"g{i}\"\nscrape = \"http://127.0.0.1:9/\"\nmetric = \"m\"\nback_off_above = 1\n"
            )
        };
        (0..n).map(one).collect::<String>()
    };
    let seen = "[visibility]\nrequests = 'sum(rate(x_total[10s]))'\n";
    let expect = "[prometheus]\nurl = \"http://127.0.0.1:9\"\nscrape_interval = \"1s\"\nexpect_min_rps = 5\n";
    let token = |url: &str| format!("[prometheus]\nurl = \"{url}\"\ntoken_file = \"/x\"\n");
    let governor = |words: &str| format!("[governor]\n{words}\n");
    let rate = |words: &str| format!("[rate]\n{words}\n");
    let table = [
        (routes(most - 2, 1, 1), routes(most - 2, 2, 1)),
        (routes(1, most - 2, 1), routes(1, most - 2, 2)),
        (guards(crate::limits::GUARDS_MAX), guards(crate::limits::GUARDS_MAX + 1)),
        ("[routes]\nmethods = [\"M-SEARCH\"]\n".into(), "[routes]\nmethods = [\"M_SEARCH\"]\n".into()),
        ("[routes]\nmethods = [\"GET\"]\n".into(), "[routes]\nmethods = [\"\"]\n".into()),
        ("[routes]\nmethods = [\"GET\"]\n".into(), "[routes]\nmethods = [\"get\"]\n".into()),
        (format!("{expect}{seen}"), expect.to_owned()),
        (token("http://127.0.0.1:9"), token("http://10.0.0.1:9")),
        (token("https://10.0.0.1:9"), token("http://10.0.0.1:9")),
        (governor("max_backoffs = 10"), governor("max_backoffs = 11")),
        (governor("max_backoffs = 0"), governor("max_backoffs = -1")),
        (governor("probe_rate = \"0.001/s\""), governor("probe_rate = \"0/s\"")),
        (governor("probe_rate = \"11/s\""), governor("probe_rate = \"11/m\"")),
        (governor("step = \"25%\""), governor("step = \"25.1%\"")),
        (governor("step = \"0.1%\""), governor("step = \"0%\"")),
        (rate("max_scale = 1000.0"), rate("max_scale = 1000.1")),
        ("[trace]\nmin_completeness = 1.0\n".into(), "[trace]\nmin_completeness = 1.01\n".into()),
        ("[trace]\nmin_completeness = 0.001\n".into(), "[trace]\nmin_completeness = 0.0\n".into()),
        (rate("max_in_flight = \"auto\""), rate("max_in_flight = \"many\"")),
        (rate("max_in_flight = 1"), rate("max_in_flight = 0")),
        (rate("max_mbit_per_s = 1000000.0"), rate("max_mbit_per_s = 1000001.0")),
    ];
    for (good, bad) in table {
        assert!(policy(LOOPBACK, &good).is_ok(), "{good}\n{:?}", policy(LOOPBACK, &good).err());
        assert!(policy(LOOPBACK, &bad).is_err(), "{bad}");
    }
    let scaled = policy(LOOPBACK, &rate("max_scale = 2.5")).unwrap();
    assert_eq!(scaled.rate.max_scale_milli, 2_500);
    assert_eq!(policy(LOOPBACK, "").unwrap().rate.max_in_flight, None);
    let least = policy(LOOPBACK, &format!("{expect}{seen}")).unwrap().prometheus.unwrap().expect_min;
    assert_eq!(least, Some(crate::units::Rate::per_sec(5)));
    // Outside this machine the probe is at most 10/s, whatever else is wrong.
    let outside = |probe: &str| {
        let said = policy(
            "[target]\nallow = [\"127.0.0.0/8\", \"10.0.0.0/8\"]",
            &governor(&format!("probe_rate = \"{probe}\"")),
        );
        said.unwrap_err().contains("G018: line 6: governor.probe_rate")
    };
    assert!(outside("10.001/s") && !outside("10/s"));
}

#[test]
fn keys_of_other_versions_are_refused_wherever_they_stand() {
    for (words, line) in [
        ("[target]\n[notify]\nx = 1", "line 4: notify"),
        ("[[guard]]\nfreshness = 'x'", "line 4: guard.freshness"),
        ("[governor]\nrecover_cap = 1", "line 4: governor.recover_cap"),
    ] {
        let said = policy(words, "").unwrap_err();
        assert!(said.contains("error G032") && said.contains(line), "{said}");
    }
}

#[test]
fn findings_and_hashes_are_for_people() {
    let finding =
        |severity, id, line| super::Finding { severity, id, line, key: "k".into(), why: "w".into() };
    assert_eq!(finding(super::Severity::Error, "G001", Some(3)).to_string(), "error G001: line 3: k: w");
    assert_eq!(finding(super::Severity::Warning, "", None).to_string(), "warning: k: w");
    // CRC-32C of "123456789" (RFC 3720, appendix B.4).
    assert_eq!(super::hash_of("123456789"), "e3069283");
}

#[test]
fn limits_of_alerts_lie_between_what_they_say() {
    use crate::govern::reading::Reading;
    let limits = sources::alert_limits();
    assert_eq!(limits.classify(0.0), Reading::Good(0.0));
    assert_eq!(limits.classify(sources::PENDING), Reading::Hold(sources::PENDING));
    assert_eq!(limits.classify(sources::FIRING), Reading::Abort(sources::FIRING));
    assert_eq!((limits.hold, limits.abort), (Some(0.5), Some(1.5)));
}

#[test]
fn guards_of_our_own_are_clean_well_before_they_speak() {
    let seen = "[visibility]\nrequests = 'sum(rate(x_total[10s]))'\n[prometheus]\nurl = \"http://127.0.0.1:9\"\nscrape_interval = \"2s\"\nexpect_labels = { cluster = \"a\" }\n";
    let policy = policy(LOOPBACK, seen).unwrap();
    let labels = policy.guards.iter().find(|g| matches!(g.query, GuardQuery::Labels(_))).unwrap();
    assert_eq!((labels.spec.thresholds.abort, labels.spec.thresholds.clear), (Some(0.5), 0.4));
    // Two polls and a time-out.
    assert_eq!(labels.spec.max_age.as_secs(), 6);
    let visible = policy.guards.iter().find(|g| g.spec.name == sources::VISIBILITY).unwrap();
    // Scrape 2 s, range 10 s, poll 2 s, time-out 2 s.
    assert_eq!(visible.spec.lag.as_secs(), 16);
}

#[test]
fn limits_below_fall_to_a_part_of_the_baseline() {
    let below = |words: &str| {
        limited(&format!(
            "back_off_below = {{ {words}, floor = 1, cap = 2 }}\n[metrics]\nlisten = \"127.0.0.1:9\""
        ))
    };
    let table = [
        (below("baseline = \"before\", ratio = 0.99"), below("baseline = \"before\", ratio = 1.0")),
        (below("baseline = \"before\", ratio = 0.01"), below("baseline = \"before\", ratio = 0.0")),
        (below("baseline = \"before\", ratio = 0.5"), below("baseline = \"before\", ratio = -0.5")),
        (below("baseline = \"before\", ratio = 0.5"), below("baseline = \"before\", ratio = 2.0")),
    ];
    for (good, bad) in table {
        assert!(accepted(&good), "{good}");
        assert!(!accepted(&bad), "{bad}");
    }
    // The loosest value that a relative limit can become: the floor below, the cap above.
    let loosest = |words: &str| {
        let text = format!("version = 1\nname = \"e\"\n[target]\nallow = [\"127.0.0.0/8\"]\n{words}");
        parse(&text, "e").unwrap_or_else(|e| panic!("{e}")).guards[0].spec.thresholds.back_off
    };
    assert_eq!(loosest(&below("baseline = \"before\", ratio = 0.5")), Some(1.0));
    assert_eq!(loosest(&relative("baseline = \"before\", ratio = 2.0, floor = 1, cap = 2")), Some(2.0));
}

#[test]
fn the_way_to_the_target_is_read_or_refused() {
    let of = |words: &str| policy(&format!("{LOOPBACK}\n{words}"), "");
    let some = of("resolvers = [\"10.0.0.53:53\", \"[::1]:5353\"]").unwrap().resolvers;
    assert_eq!(some.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.53:53", "[::1]:5353"]);
    assert!(of("resolvers = [\"10.0.0.53\"]").unwrap_err().contains("line 5: target.resolvers"));
    assert!(of("http2 = \"h2\"").unwrap_err().contains("line 5: target.http2"));
    use super::Http2;
    for (word, want) in
        [("as_recorded", Http2::AsRecorded), ("never", Http2::Never), ("always", Http2::Always)]
    {
        assert_eq!(of(&format!("http2 = \"{word}\"")).unwrap().http2, want);
    }
    assert_eq!(of("").unwrap().http2, Http2::AsRecorded);
    let tries = |h: Http2| {
        [(false, false), (false, true), (true, false), (true, true)].map(|(r, tls)| h.tries(r, tls))
    };
    assert_eq!(tries(Http2::AsRecorded), [false, false, false, true], "recorded, and over TLS");
    assert_eq!((tries(Http2::Never), tries(Http2::Always)), ([false; 4], [true; 4]));
}
