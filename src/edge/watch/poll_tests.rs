//! What each kind of guard asks, and what it takes from each answer: never health where there is none.

use std::collections::BTreeMap;

use super::super::scripted::{Reply, Scripted};
use super::*;
use crate::govern::reading::Answer::{Fault as Faulty, NoData as Nothing};
use crate::policy::check::parse;
use crate::policy::guards::Reduce;

fn context(server: &Scripted) -> PollContext {
    PollContext {
        exported: false,
        board: Board::new(3),
        clock: Clock::start(),
        prometheus: Some(Prometheus {
            url: server.url.clone(),
            scrape_interval: Duration::from_secs(1),
            expect_min: None,
            token_file: None,
        }),
        tls: None,
        token: None,
        ours: Arc::default(),
        questions: Arc::default(),
        run: "r1".to_owned(),
        target: "t:80".to_owned(),
    }
}

/// A guard as a policy makes it.
fn guards(words: &str) -> Vec<QueryGuard> {
    let text = format!(
        "version = 1\nname = \"p\"\n[target]\nallow = [\"127.0.0.0/8\"]\n[prometheus]\nurl = \"http://127.0.0.1:9\"\nscrape_interval = \"1s\"\n{words}\n"
    );
    parse(&text, "p").unwrap_or_else(|e| panic!("{words}: {e}")).guards
}

fn guard(words: &str) -> QueryGuard {
    guards(&format!("[[guard]]\nname = \"g\"\n{words}")).remove(0)
}

fn asked(c: &PollContext, guard: &QueryGuard) -> Answer {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(ask(c, 1, guard, &mut None, c.clock.now()))
}

fn answer(rules: &[(&str, Reply)], guard: &QueryGuard) -> Answer {
    asked(&context(&Scripted::start(rules)), guard)
}

fn all(value: f64) -> Answer {
    Answer::Value { value, samples: u64::MAX }
}

const PLAIN: &str = "expr = 'sum(rate(x_total[10s]))'\nback_off_above = 5";

#[test]
fn a_value_counts_only_with_the_freshness_behind_it() {
    let g = guard(PLAIN);
    let (age, sum) = ("time() - max(timestamp(", "sum(rate(x_total");
    let table: Vec<(Vec<(&str, Reply)>, Answer)> = vec![
        (vec![(age, Reply::Value(2.0)), (sum, Reply::Value(3.0))], all(3.0)),
        // Two scrapes and five seconds.
        (vec![(age, Reply::Value(7.0)), (sum, Reply::Value(3.0))], all(3.0)),
        (vec![(age, Reply::Value(7.1)), (sum, Reply::Value(3.0))], Nothing(NoData::Stale)),
        (vec![(age, Reply::Empty), (sum, Reply::Value(3.0))], Nothing(NoData::Stale)),
        (vec![(age, Reply::Value(1.0)), (sum, Reply::Empty)], Nothing(NoData::Empty)),
        (vec![(age, Reply::Value(1.0)), (sum, Reply::Status(503))], Nothing(NoData::Http(503))),
        (vec![(age, Reply::Value(1.0)), (sum, Reply::Status(401))], Faulty(Fault::Auth)),
        (vec![(age, Reply::Value(1.0)), (sum, Reply::ToSomebodyElse(3.0))], Nothing(NoData::Superseded)),
        (vec![(age, Reply::ToSomebodyElse(1.0)), (sum, Reply::Value(3.0))], Nothing(NoData::Stale)),
        (vec![(age, Reply::Value(1.0)), (sum, Reply::Body("not json".into()))], Nothing(NoData::BadJson)),
    ];
    for (rules, want) in table {
        assert_eq!(answer(&rules, &g), want, "{rules:?}");
    }
    let nobody = PollContext { prometheus: None, ..context(&Scripted::start(&[])) };
    assert_eq!(asked(&nobody, &g), Nothing(NoData::Unreachable));
    let gone = PollContext {
        prometheus: Some(Prometheus {
            url: "http://127.0.0.1:1".into(),
            ..context(&Scripted::start(&[])).prometheus.unwrap()
        }),
        ..nobody
    };
    assert_eq!(asked(&gone, &g), Nothing(NoData::Unreachable));
}

#[test]
fn each_question_has_a_number_and_the_difference_of_clocks_is_noted() {
    let server = Scripted::start(&[("time()", Reply::Value(1.0)), ("sum", Reply::Ahead(3.0, 40.0))]);
    let c = context(&server);
    assert_eq!(c.board.skew_ms(), 0);
    let _ = (asked(&c, &guard(PLAIN)), asked(&c, &guard(PLAIN)));
    let skews = c.board.0.lock().unwrap().iter().map(|s| s.skew_ms).collect::<Vec<_>>();
    assert_eq!((skews[0], skews[2]), (0, 0), "noted for the guard that asked: {skews:?}");
    let numbers: Vec<String> = server
        .queries()
        .iter()
        .map(|q| q.split("\"replay_question\", \"").nth(1).unwrap()[..1].to_owned())
        .collect();
    assert_eq!(numbers, ["0", "1", "2", "3"]);
    let only = Scripted::start(&[("sum", Reply::Ahead(3.0, 40.0)), ("time()", Reply::Ahead(1.0, 40.0))]);
    let c = context(&only);
    let _ = asked(&c, &guard(PLAIN));
    assert!((39_000..=41_000).contains(&c.board.skew_ms()), "{}", c.board.skew_ms());
}

#[test]
fn a_token_is_shown_to_prometheus_alone() {
    let server = Scripted::start(&[("/metrics", Reply::Body("queue 4\n".into())), ("", Reply::Value(1.0))]);
    let c = PollContext { token: Some("s3cret".into()), ..context(&server) };
    let _ = asked(&c, &guard(PLAIN));
    let page = format!("scrape = \"{}/metrics\"\nmetric = \"queue\"\nback_off_above = 5", server.url);
    assert_eq!(asked(&c, &guard(&page)), all(4.0));
    let tokens: Vec<Option<String>> = server.asked.lock().unwrap().iter().map(|(.., t)| t.clone()).collect();
    assert_eq!(tokens, [Some("bearer s3cret".to_owned()), Some("bearer s3cret".to_owned()), None]);
}

#[test]
fn too_few_samples_are_looked_at_first() {
    let g = guard(&format!("{PLAIN}\nmin_samples = 20\nsamples = 'sum(increase(y_total[10s]))'"));
    let (age, count, sum) = ("time() - max(timestamp(", "increase(y_total", "sum(rate(x_total");
    let with = |n: Reply, v: Reply, a: f64| answer(&[(age, Reply::Value(a)), (count, n), (sum, v)], &g);
    let value = |value, samples| Answer::Value { value, samples };
    assert_eq!(with(Reply::Value(20.0), Reply::Value(3.0), 1.0), value(3.0, 20));
    assert_eq!(
        with(Reply::Value(19.9), Reply::Value(3.0), 1.0),
        value(0.0, 19),
        "neutral, and the value is not asked for"
    );
    assert_eq!(with(Reply::Empty, Reply::Value(3.0), 1.0), value(0.0, 0));
    assert_eq!(with(Reply::Body("x".into()), Reply::Value(3.0), 1.0), Nothing(NoData::BadJson));
    assert_eq!(with(Reply::Value(20.0), Reply::Empty, 1.0), Nothing(NoData::Empty));
    assert_eq!(
        with(Reply::Value(5.0), Reply::Value(3.0), 60.0),
        Nothing(NoData::Stale),
        "silence is no idle night"
    );
    assert_eq!(with(Reply::Value(-1.0), Reply::Value(3.0), 1.0), value(0.0, 0));
}

#[test]
fn alerts_are_health_only_while_alerting_is_alive() {
    let g = guard("alerts = 'severity=\"page\"'\nliveness = 'ALERTS{alertname=\"Watchdog\"}'");
    let with = |firing: Reply, pending: Reply, alive: Reply| {
        answer(
            &[("alertstate=\"firing\"", firing), ("alertstate=\"pending\"", pending), ("Watchdog", alive)],
            &g,
        )
    };
    let (yes, no) = (Reply::Value(1.0), Reply::Value(0.0));
    assert_eq!(with(yes.clone(), no.clone(), yes.clone()), all(FIRING));
    assert_eq!(with(no.clone(), yes.clone(), yes.clone()), all(PENDING));
    assert_eq!(with(no.clone(), no.clone(), yes.clone()), all(0.0));
    assert_eq!(with(no.clone(), no.clone(), no.clone()), Nothing(NoData::Stale));
    assert_eq!(with(no.clone(), no.clone(), Reply::Empty), Nothing(NoData::Stale));
    assert_eq!(with(no.clone(), no.clone(), Reply::Status(500)), Nothing(NoData::Http(500)));
    assert_eq!(with(Reply::Status(500), yes.clone(), yes.clone()), Nothing(NoData::Http(500)));
    assert_eq!(with(no.clone(), Reply::Empty, yes.clone()), Nothing(NoData::Empty));
    let blind = guard("alerts = 'severity=\"page\"'\nrequired = false");
    assert_eq!(answer(&[("firing", no.clone()), ("pending", no)], &blind), Nothing(NoData::Stale));
    assert_eq!(answer(&[("firing", yes)], &blind), all(FIRING));
}

#[test]
fn another_run_is_seen_and_our_own_must_be() {
    let others = guards("").remove(0);
    assert!(matches!(others.query, GuardQuery::OtherRuns));
    let (mine, theirs) = ("run=\"r1\"", "run!=\"r1\"");
    let with = |exported: bool, own: Reply, other: Reply| {
        let server = Scripted::start(&[(mine, own), (theirs, other)]);
        let answer = asked(&PollContext { exported, ..context(&server) }, &others);
        (answer, server.queries().len())
    };
    assert_eq!(with(false, Reply::Empty, Reply::Value(0.0)), (all(0.0), 1));
    assert_eq!(with(false, Reply::Empty, Reply::Value(2.0)), (all(2.0), 1));
    assert_eq!(with(true, Reply::Value(1.0), Reply::Value(0.0)), (all(0.0), 2));
    assert_eq!(with(true, Reply::Empty, Reply::Value(0.0)), (Nothing(NoData::Stale), 1), "we are not seen");
    assert_eq!(with(true, Reply::Status(500), Reply::Value(0.0)), (Nothing(NoData::Http(500)), 1));
    assert_eq!(quoted("a\"b\\c\nd"), "\"a\\\"b\\\\c\\nd\"");
}

#[test]
fn the_expected_prometheus_is_known_by_its_labels() {
    let expect = "expect_labels = { cluster = \"a\", zone = \"z\" }";
    let labels = guards(expect).into_iter().find(|g| matches!(g.query, GuardQuery::Labels(_))).unwrap();
    let config = |labels: &str| {
        let yaml = format!("global:\\n  scrape_interval: 1s\\n  external_labels:\\n{labels}");
        Reply::Body(format!("{{\"status\":\"success\",\"data\":{{\"yaml\":\"{yaml}\"}}}}"))
    };
    let with = |config: Reply, up: Reply| answer(&[("status/config", config), ("count(up{", up)], &labels);
    let good = config("    cluster: a\\n    zone: z\\n");
    assert_eq!(with(good, Reply::Value(0.0)), all(0.0));
    let half = config("    cluster: a\\n    zone: other\\n");
    assert_eq!(with(half.clone(), Reply::Value(0.0)), Faulty(Fault::WrongSource));
    assert_eq!(with(half.clone(), Reply::Value(3.0)), all(0.0), "what it scrapes has them");
    assert_eq!(with(half, Reply::Status(500)), Nothing(NoData::Http(500)));
    assert_eq!(with(Reply::Status(404), Reply::Value(0.0)), Faulty(Fault::WrongSource));
    let gone = BTreeMap::from([("cluster".to_owned(), "a".to_owned())]);
    let unreachable = PollContext {
        prometheus: Some(Prometheus {
            url: "http://127.0.0.1:1".into(),
            ..context(&Scripted::start(&[])).prometheus.unwrap()
        }),
        ..context(&Scripted::start(&[]))
    };
    let wrong = QueryGuard { query: GuardQuery::Labels(gone), ..labels };
    assert_eq!(asked(&unreachable, &wrong), Nothing(NoData::Unreachable));
}

#[test]
fn ours_is_subtracted_from_users() {
    let words = "errors = 'sum(rate(e_total[10s])) or vector(0)'\nrequests = 'sum(rate(x_total[10s]))'\nunit = \"ratio\"\nback_off_above = \"1%\"\nmin_samples = 50";
    let g = guard(words);
    let with = |errors: Reply, requests: Reply, age: Reply| {
        answer(&[("time()", age), ("rate(e_total", errors), ("rate(x_total", requests)], &g)
    };
    let v = Reply::Value;
    // Nothing of ours was sent: all are users, 100/s for 10 s.
    assert_eq!(with(v(5.0), v(100.0), v(1.0)), Answer::Value { value: 0.05, samples: 1_000 });
    assert_eq!(with(v(5.0), v(100.0), v(60.0)), Nothing(NoData::Stale));
    assert_eq!(with(Reply::Empty, v(100.0), v(1.0)), Nothing(NoData::Empty));
    assert_eq!(with(v(5.0), Reply::Empty, v(1.0)), Nothing(NoData::Empty));
    assert_eq!(
        with(Reply::Status(403), Reply::Empty, v(1.0)),
        Faulty(Fault::Auth),
        "a fault is told before a gap"
    );
    assert_eq!(with(Reply::Empty, Reply::Status(403), v(1.0)), Faulty(Fault::Auth));
    let sent = |c: &PollContext| {
        let mut ours = c.ours.lock().unwrap();
        for tick in 0..400u64 {
            ours.push(RunTime::from_millis(tick * 100), tick * 4, tick);
        }
    };
    let at = |c: &PollContext, g: &QueryGuard| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(ask(c, 1, g, &mut None, RunTime::from_millis(40_000)))
    };
    // 40/s of ours, 10/s of them failing: what is left are 60 users, 2 of them failing.
    let server =
        Scripted::start(&[("time()", v(1.0)), ("rate(e_total", v(12.0)), ("rate(x_total", v(100.0))]);
    let c = context(&server);
    sent(&c);
    let Answer::Value { value, samples } = at(&c, &g) else { panic!() };
    assert!((value - 2.0 / 60.0).abs() < 0.02 && (590..=610).contains(&samples), "{value} {samples}");
    let seen = "[visibility]\nrequests = 'sum(rate(x_total[10s]))'\n[rate]\nhold_total = \"2x\"";
    let organic = |words: &str| {
        guards(words).into_iter().find(|g| matches!(g.query, GuardQuery::Organic { .. })).unwrap()
    };
    let Answer::Value { value, .. } = at(&c, &organic(seen)) else { panic!() };
    assert!((value - 60.0).abs() < 1.0, "{value}");
    let alone = seen.replace("[rate]", "organic = 'sum(rate(x_total{replay=\"\"}[10s]))'\n[rate]");
    assert_eq!(at(&c, &organic(&alone)), all(100.0), "users by their own query");
    let few = Scripted::start(&[("time()", v(1.0)), ("rate(x_total", v(5.0))]);
    let c = context(&few);
    sent(&c);
    assert_eq!(at(&c, &organic(seen)), all(0.0), "never below none");
    let old = Scripted::start(&[("time()", v(60.0)), ("rate(x_total", v(5.0))]);
    assert_eq!(at(&context(&old), &organic(seen)), Nothing(NoData::Stale));
    let visible = guards(seen).into_iter().find(|g| matches!(g.query, GuardQuery::Visibility(_))).unwrap();
    assert_eq!(at(&context(&old), &visible), Nothing(NoData::Stale));
    assert_eq!(at(&context(&few), &visible), all(5.0));
}

#[test]
fn a_kill_switch_query_is_asked_as_it_is() {
    let stop = guards("[stop]\nquery = 'max(stop)'")
        .into_iter()
        .find(|g| matches!(g.query, GuardQuery::StopQuery(_)))
        .unwrap();
    assert_eq!(answer(&[("sum(max(stop)) or vector(0)", Reply::Value(1.0))], &stop), all(1.0));
    assert_eq!(answer(&[("max(stop)", Reply::Status(500))], &stop), Nothing(NoData::Http(500)));
}

#[test]
fn pages_give_values_fractions_and_growth() {
    let page = Scripted::start(&[
        ("/one", Reply::Body("queue 4\nall 8\nnone 0\n".into())),
        ("/gone", Reply::Status(404)),
    ]);
    let c = PollContext { prometheus: None, ..context(&page) };
    let query = |path: &str, metric: &str, per: Option<&str>, read| ScrapeQuery {
        url: format!("{}{path}", page.url),
        metric: metric.to_owned(),
        per: per.map(str::to_owned),
        read,
        reduce: Reduce::Sum,
    };
    let scraped = |q: &ScrapeQuery, before: &mut Option<Scraped>, ms: u64| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(scrape(&c, q, before, RunTime::from_millis(ms)))
    };
    let once = |q: &ScrapeQuery| scraped(q, &mut None, 0);
    assert_eq!(once(&query("/one", "queue", None, ScrapeRead::Value)), all(4.0));
    assert_eq!(once(&query("/one", "queue", Some("all"), ScrapeRead::Value)), all(0.5));
    assert_eq!(once(&query("/gone", "queue", None, ScrapeRead::Value)), Nothing(NoData::Http(404)));
    assert!(matches!(once(&query("/one", "other", None, ScrapeRead::Value)), Nothing(_)));
    assert!(matches!(once(&query("/one", "queue", Some("other"), ScrapeRead::Value)), Nothing(_)));
    let growth = query("/one", "queue", None, ScrapeRead::Rate);
    let mut before = None;
    assert_eq!(scraped(&growth, &mut before, 1_000), Nothing(NoData::NotYet));
    assert_eq!(scraped(&growth, &mut before, 3_000), all(0.0));
    let at =
        |s: u64, metric: f64, per: Option<f64>| Scraped { at: RunTime::from_millis(s * 1000), metric, per };
    let table = [
        (Some(at(1, 10.0, None)), at(3, 16.0, None), all(3.0)),
        (Some(at(1, 10.0, Some(100.0))), at(3, 16.0, Some(112.0)), all(0.5)),
        (Some(at(1, 10.0, None)), at(3, 9.0, None), Nothing(NoData::Stale)),
        (Some(at(1, 10.0, Some(100.0))), at(3, 16.0, Some(99.0)), Nothing(NoData::Stale)),
        (Some(at(3, 10.0, None)), at(3, 16.0, None), Nothing(NoData::Stale)),
        (Some(at(1, 10.0, Some(1.0))), at(3, 16.0, None), Nothing(NoData::NotYet)),
        (None, at(3, 16.0, None), Nothing(NoData::NotYet)),
    ];
    for (last, this, want) in table {
        assert_eq!(rate(last, this), want, "{last:?} {this:?}");
    }
    // Nothing over nothing is no number.
    assert!(matches!(rate(Some(at(1, 10.0, Some(5.0))), at(3, 10.0, Some(5.0))), Nothing(_)));
}

#[test]
fn the_board_holds_the_newest_and_a_question_without_an_answer_times_out() {
    let board = Board::new(2);
    assert_eq!(board.read(), [None, None]);
    let sample = Sample { seq: 1, requested_at: RunTime::START, answer: all(1.0) };
    board.write(1, sample);
    board.write(7, sample);
    assert_eq!(board.read(), [None, Some(sample)]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Scripted::start(&[("time()", Reply::Value(1.0)), ("", Reply::Value(3.0))]);
    let mut c = context(&server);
    let quick =
        QueryGuard { poll: Duration::from_millis(50), timeout: Duration::from_millis(500), ..guard(PLAIN) };
    let watched = |c: &PollContext, until: u64| {
        let board = c.board.clone();
        runtime.block_on(async {
            let task = tokio::spawn(poll(c.clone(), 0, quick.clone()));
            while board.read()[0].is_none_or(|s| s.seq < until) {
                tokio::task::yield_now().await;
            }
            task.abort();
        });
        board.read()[0].unwrap()
    };
    let second = watched(&c, 2);
    assert!(second.answer == all(3.0) && second.requested_at > RunTime::START);
    c.board = Board::new(1);
    if let Some(p) = &mut c.prometheus {
        p.url = format!("http://{}", silent.local_addr().unwrap());
    }
    assert_eq!(watched(&c, 1).answer, Nothing(NoData::Timeout));
}
