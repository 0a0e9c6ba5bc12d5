//! Rules on requests: what they write, what they supply, and what they refuse.

use std::sync::{Arc, OnceLock};

use super::*;
use crate::plan::PlannedRequest;
use crate::plan::cookies::Now;
use crate::plan::prepared::{Body, Marking, NoValue, Prepared};
use crate::plan::session::{AccountPool, Accounts, SessionState};
use crate::plan::take::{Answer, Place};
use crate::trace::shape::{Credentials, Header, Scheme};
use crate::units::RunTime;
use crate::wire::head::Version;

const MARKS: &str = "X-Replay-Run: 7\r\ntraceparent: ";

fn kept(name: &str, value: &str) -> Header {
    Header { name: name.into(), value: HeaderValue::Kept(value.into()) }
}

fn gone(name: &str) -> Header {
    Header { name: name.into(), value: HeaderValue::Redacted { len: 9, hash: None } }
}

fn shape(method: &str, target: &str, headers: Vec<Header>) -> RequestShape {
    let has = |n: &str| headers.iter().any(|h| h.name.eq_ignore_ascii_case(n.as_bytes()));
    let token =
        headers.iter().any(|h| TOKEN_HEADERS.iter().any(|t| h.name.eq_ignore_ascii_case(t.as_bytes())));
    RequestShape {
        method: method.as_bytes().into(),
        scheme: Scheme::Http,
        authority: None,
        target: target.as_bytes().into(),
        version: Version::Http11,
        credentials: Credentials { authorization: has("authorization"), cookie: has("cookie"), token },
        headers: headers.into(),
        target_redacted: false,
    }
}

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text).unwrap()
}

fn marking(rewrite: Rewrite) -> Marking {
    Marking {
        authority: "target".into(),
        agent_suffix: "replay".into(),
        run_id: "7".into(),
        trace_seed: 1,
        https: false,
        rewrite: Arc::new(rewrite),
    }
}

/// What is written, without the first three lines of every request and without the marks.
fn written(
    m: &Marking,
    shape: &RequestShape,
    body_len: Option<u64>,
    s: &SessionState,
) -> Result<String, NoValue> {
    let planned = PlannedRequest {
        shape: Arc::new(shape.clone()),
        body_len,
        expected: None,
        route: 0,
        cap: None,
        prepared: OnceLock::new(),
    };
    let (prepared, mut out) = (Prepared::of(&planned, m).unwrap(), Vec::new());
    prepared.write(m, 3, s, RunTime::START, &mut out)?;
    if let Body::Filler(filler) = prepared.body {
        out.extend_from_slice(format!("<{} bytes made up>", filler.len()).as_bytes());
    }
    let text = String::from_utf8(out).unwrap();
    let (head, rest) = text.split_once(MARKS).unwrap();
    let (_, body) = rest.split_once("\r\n\r\n").unwrap();
    let head = head.replace("Host: target\r\n", "").replace("User-Agent: - replay\r\n", "");
    Ok(format!("{}|{body}", head.replace("\r\n", "|").trim_end_matches('|')))
}

/// A session with these values, as an account gives them.
fn with(values: &[&str]) -> SessionState {
    let row = values.iter().map(|v| Secret::new(v.as_bytes()).unwrap()).collect();
    let accounts = Accounts { columns: vec![String::new(); values.len()], rows: vec![row] };
    let mut s = SessionState::default();
    assert!(AccountPool::new(Arc::new(accounts), 0, 1).lend(&mut s));
    s
}

fn template(text: &str, names: &[&str], encode: Encode) -> Result<Template, BadTemplate> {
    Template::parse(text, &names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>(), encode)
}

#[test]
fn templates_are_read_or_refused() {
    let text = |t: &str| Part::Text(t.into());
    let table = [
        ("plain", Ok(vec![text("plain")])),
        ("", Ok(vec![])),
        ("a{x}b", Ok(vec![text("a"), Part::Value(0, Encode::Raw), text("b")])),
        ("{x:url}{y:json}", Ok(vec![Part::Value(0, Encode::Url), Part::Value(1, Encode::Json)])),
        ("{x:raw}", Ok(vec![Part::Value(0, Encode::Raw)])),
        ("{{\"a\":\"{x}\"}}", Ok(vec![text("{\"a\":\""), Part::Value(0, Encode::Raw), text("\"}")])),
        ("{unique}", Ok(vec![Part::Value(UNIQUE_VALUE, Encode::Raw)])),
        ("{z}", Err(BadTemplate::Unknown("z".into()))),
        ("{x:hex}", Err(BadTemplate::Encoding("hex".into()))),
        ("{x", Err(BadTemplate::Brace)),
        ("x}", Err(BadTemplate::Brace)),
        ("{}", Err(BadTemplate::Unknown(String::new()))),
    ];
    for (words, want) in table {
        assert_eq!(template(words, &["x", "y"], Encode::Raw).map(|t| t.0), want, "{words:?}");
    }
}

#[test]
fn headers_are_set_in_their_place_and_taken_out() {
    let set = |on: Option<&str>, name: &str, value: &str| SetHeader {
        on: on.map(pattern),
        name: name.into(),
        value: Secret::new(value.as_bytes()).unwrap(),
    };
    let rules = Rewrite {
        set: vec![
            set(Some("GET /api/**"), "Authorization", "Bearer s3cret"),
            set(None, "Authorization", "Basic everywhere"),
            set(None, "X-Tenant", "load"),
        ],
        remove: vec!["x-debug".into()],
        ..Rewrite::default()
    };
    let m = marking(rules);
    let s = SessionState::default();
    let api = shape(
        "GET",
        "/api/x",
        vec![kept("Accept", "*/*"), gone("authorization"), kept("X-DEBUG", "1"), kept("x-z", "2")],
    );
    assert_eq!(
        written(&m, &api, None, &s).unwrap(),
        "GET /api/x HTTP/1.1|Accept: */*|authorization: Bearer s3cret|x-z: 2|X-Tenant: load|"
    );
    let other = shape("GET", "/", vec![kept("x-tenant", "theirs"), kept("X-Tenant", "twice")]);
    assert_eq!(
        written(&m, &other, None, &s).unwrap(),
        "GET / HTTP/1.1|x-tenant: load|Authorization: Basic everywhere|",
        "one line, in the recorded place"
    );
    assert!(!format!("{m:?}").contains("s3cret"), "a secret does not print");
}

#[test]
fn values_are_written_where_they_are_put_or_nothing_is_sent() {
    let names = ["user", "id"];
    let put = Put {
        into: pattern("POST /orders/*"),
        target: Some(template("/orders/{id}?u={user}", &names, Encode::Url).unwrap()),
        headers: vec![("X-Csrf-Token".into(), template("t-{user}", &names, Encode::Raw).unwrap())],
        body: Some(template("{{\"user\":\"{user:json}\"}}", &names, Encode::Raw).unwrap()),
    };
    let names = names.map(str::to_owned).to_vec();
    let rules = Rewrite { names, puts: vec![put], routes: Routes::default(), ..Rewrite::default() };
    let order = shape(
        "POST",
        "/orders/1",
        vec![kept("Content-Type", "application/json"), kept("Content-Length", "99")],
    );
    let m = marking(rules.clone());
    assert_eq!(
        written(&m, &order, Some(99), &with(&["a\"n", "5/6"])).unwrap(),
        "POST /orders/5%2F6?u=a%22n HTTP/1.1|Content-Type: application/json|Content-Length: 15|X-Csrf-Token: t-a\"n||{\"user\":\"a\\\"n\"}"
            .replace("||", "|")
    );
    assert_eq!(written(&m, &order, Some(99), &SessionState::default()), Err(NoValue));
    for bad in ["..", ".", "delete", "LogOut"] {
        assert_eq!(
            written(&m, &order, Some(99), &with(&["ann", bad])),
            Err(NoValue),
            "{bad}: where would it lead?"
        );
    }
    let fixed = Put { target: Some(template("/admin", &[], Encode::Url).unwrap()), ..rules.puts[0].clone() };
    let orders = Routes { allow: vec![pattern("POST /orders/*")], ..Routes::default() };
    let m = marking(Rewrite { puts: vec![fixed], routes: orders, ..rules.clone() });
    assert_eq!(
        written(&m, &order, Some(99), &with(&["ann", "1"])),
        Err(NoValue),
        "a fixed target is judged, too"
    );
    let narrow = Routes { allow: vec![pattern("POST /orders/1")], ..Routes::default() };
    let m = marking(Rewrite { routes: narrow, ..rules });
    assert!(written(&m, &order, Some(99), &with(&["ann", "1"])).is_ok());
    assert_eq!(
        written(&m, &order, Some(99), &with(&["ann", "2"])),
        Err(NoValue),
        "not allowed by the policy"
    );
}

#[test]
fn a_request_line_cannot_be_read_in_two_ways() {
    let names = ["id"];
    for encode in [Encode::Raw, Encode::Json] {
        let target = Some(template("/items/{id}", &names, encode).unwrap());
        let put = Put { into: pattern("GET /items/*"), target, headers: vec![], body: None };
        let routes = Routes { allow: vec![pattern("GET /items/*")], ..Routes::default() };
        let m = marking(Rewrite { names: vec!["id".into()], puts: vec![put], routes, ..Rewrite::default() });
        let item = shape("GET", "/items/1", vec![]);
        assert!(written(&m, &item, None, &with(&["7"])).is_ok());
        for bad in ["1 /../../admin", "1 HTTP/1.0", "1#/admin", " ", "1 "] {
            assert_eq!(written(&m, &item, None, &with(&[bad])), Err(NoValue), "{encode:?} {bad:?}");
        }
    }
}

#[test]
fn a_cookie_line_that_is_taken_out_stays_out() {
    let rules =
        Rewrite { remove: vec!["cookie".into()], cookies: RecordedCookies::Optional, ..Rewrite::default() };
    let mut s = SessionState::default();
    let set: [(&str, &[u8]); 1] = [("Set-Cookie", b"sid=9; Path=/")];
    let now = Now { run: RunTime::START, unix_s: 0 };
    s.heed(&rules, &[], 200, b"/", &Answer { headers: &set, body: None }, now);
    for headers in [vec![gone("cookie")], vec![]] {
        let text = written(&marking(rules.clone()), &shape("GET", "/", headers), None, &s).unwrap();
        assert_eq!(text, "GET / HTTP/1.1|");
    }
}

#[test]
fn the_unique_value_is_another_in_each_request() {
    let put = Put {
        into: pattern("/**"),
        target: None,
        headers: vec![("Idempotency-Key".into(), template("{unique}", &[], Encode::Raw).unwrap())],
        body: None,
    };
    let m = marking(Rewrite { puts: vec![put], ..Rewrite::default() });
    let planned = PlannedRequest {
        shape: Arc::new(shape("GET", "/", vec![gone("idempotency-key")])),
        body_len: None,
        expected: None,
        route: 0,
        cap: None,
        prepared: OnceLock::new(),
    };
    let prepared = Prepared::of(&planned, &m).unwrap();
    let key = |n: u64| {
        let mut out = Vec::new();
        prepared.write(&m, n, &SessionState::default(), RunTime::START, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        text.split_once("idempotency-key: ").unwrap().1.split("\r\n").next().unwrap().to_owned()
    };
    assert!(key(1).len() == 32 && key(1) != key(2) && key(1) == key(1));
}

#[test]
fn bodies_have_one_length_line_where_the_recording_had_one() {
    let m = marking(Rewrite::default());
    let s = SessionState::default();
    let post = |headers| shape("POST", "/", headers);
    let table = [
        (vec![kept("content-LENGTH", "5"), kept("X", "1")], "content-LENGTH: 5|X: 1|"),
        (vec![kept("Transfer-Encoding", "chunked"), kept("X", "1")], "Content-Length: 5|X: 1|"),
        (vec![kept("X", "1")], "X: 1|Content-Length: 5|"),
        (vec![kept("Content-Length", "5"), kept("Content-Length", "7")], "Content-Length: 5|"),
    ];
    for (headers, want) in table {
        let want = format!("POST / HTTP/1.1|{want}<5 bytes made up>");
        assert_eq!(written(&m, &post(headers), Some(5), &s).unwrap(), want);
    }
}

#[test]
fn cookies_of_the_session_stand_where_the_recorded_ones_stood() {
    let mut s = SessionState::default();
    let set: [(&str, &[u8]); 1] = [("Set-Cookie", b"sid=9; Path=/a")];
    let now = Now { run: RunTime::START, unix_s: 0 };
    let m = |cookies| marking(Rewrite { cookies, ..Rewrite::default() });
    let had = |path: &str| shape("GET", path, vec![gone("cookie"), kept("X", "1")]);
    let plain = m(RecordedCookies::Optional);
    assert_eq!(written(&plain, &had("/a"), None, &s).unwrap(), "GET /a HTTP/1.1|X: 1|");
    assert_eq!(written(&m(RecordedCookies::FromAnswers), &had("/a"), None, &s), Err(NoValue));
    s.heed(&Rewrite::default(), &[], 200, b"/", &Answer { headers: &set, body: None }, now);
    assert_eq!(written(&plain, &had("/a/b?c"), None, &s).unwrap(), "GET /a/b?c HTTP/1.1|Cookie: sid=9|X: 1|");
    assert_eq!(written(&plain, &had("/other"), None, &s).unwrap(), "GET /other HTTP/1.1|X: 1|");
    assert_eq!(written(&m(RecordedCookies::FromAnswers), &had("/other"), None, &s), Err(NoValue));
    let without = shape("GET", "/a", vec![kept("X", "1")]);
    assert_eq!(
        written(&m(RecordedCookies::Drop), &without, None, &s).unwrap(),
        "GET /a HTTP/1.1|X: 1|Cookie: sid=9|",
        "the session's own cookies go whatever was recorded"
    );
}

#[test]
fn every_credential_needs_a_rule_of_its_own() {
    let supplied = |rules: &Rewrite, headers| rules.supplies_credentials(&shape("GET", "/a", headers));
    let none = Rewrite::default();
    assert!(supplied(&none, vec![]));
    for name in ["Authorization", "Cookie", "X-Api-Key"] {
        assert!(!supplied(&none, vec![gone(name)]), "{name}");
    }
    let set = |name: &str| {
        let set = SetHeader { on: None, name: name.into(), value: Secret::new(b"x").unwrap() };
        Rewrite { set: vec![set], ..Rewrite::default() }
    };
    assert!(supplied(&set("authorization"), vec![gone("Authorization")]));
    assert!(!supplied(&set("authorization"), vec![gone("Authorization"), gone("X-Api-Key")]));
    assert!(!supplied(&set("authorization"), vec![gone("X-Api-Key")]));
    assert!(supplied(&set("x-api-key"), vec![gone("X-Api-Key")]));
    assert!(!supplied(&set("x-api-key"), vec![gone("X-Api-Key"), gone("X-Csrf-Token")]));
    assert!(!supplied(&set("cookie"), vec![gone("Cookie")]), "cookies come from answers");
    let log = RequestShape {
        credentials: Credentials { token: true, ..Credentials::default() },
        ..shape("GET", "/", vec![])
    };
    assert!(!set("x-api-key").supplies_credentials(&log), "a log does not say which token it was");
    let elsewhere = SetHeader {
        on: Some(pattern("/b")),
        name: "authorization".into(),
        value: Secret::new(b"x").unwrap(),
    };
    let elsewhere = Rewrite { set: vec![elsewhere], ..Rewrite::default() };
    assert!(!supplied(&elsewhere, vec![gone("Authorization")]));
}

#[test]
fn a_log_in_that_is_the_same_for_everybody_is_found() {
    let put = |into: &str, body: &str| {
        let names = ["csrf", "user"];
        let take =
            Take { name: "csrf".into(), from: pattern("GET /login"), place: Place::Header("x".into()) };
        let put = Put {
            into: pattern(into),
            target: None,
            headers: vec![],
            body: Some(template(body, &names, Encode::Raw).unwrap()),
        };
        let names = names.map(str::to_owned).to_vec();
        Rewrite { names, takes: vec![take], puts: vec![put], ..Rewrite::default() }.shared_log_in().is_some()
    };
    assert!(put("POST /login", "user=ann&csrf={csrf}"));
    assert!(put("POST /api/v1/Sessions", "{{}}{unique}"));
    assert!(!put("POST /login", "user={user}&csrf={csrf}"));
    assert!(!put("POST /orders", "csrf={csrf}"));
}

#[test]
fn nobodys_headers_are_forged() {
    for name in ["Host", "x-forwarded-for", "Content-Length", "X-Replay-Run", "User-Agent", "a b", "", "A:b"]
    {
        assert!(!may_set(name), "{name}");
    }
    assert!(may_set("Authorization") && may_set("X-Tenant"));
    for bad in [&b""[..], b"a\r\nb", b"a\0"] {
        assert!(Secret::new(bad).is_none());
    }
}
