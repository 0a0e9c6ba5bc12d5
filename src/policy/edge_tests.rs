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
