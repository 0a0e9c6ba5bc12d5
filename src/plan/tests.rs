//! Laws of planning.

use proptest::prelude::*;

use super::*;
use crate::plan::forecast::forecast;
use crate::plan::routes::{Pattern, Routes};
use crate::plan::stationary::{Sample, StationaryPlan};
use crate::trace::shape::{Credentials, RequestShape, Scheme};
use crate::trace::{ConnectionEvent, Fact, Provenance, SessionRef};
use crate::units::{Rate, TraceTime};
use crate::wire::head::Version;

/// Events in memory.
#[derive(Debug, Clone)]
pub(crate) struct Memory(pub(crate) Vec<TraceEvent>, pub(crate) usize);

impl EventSource for Memory {
    fn next_event(&mut self) -> anyhow::Result<Option<TraceEvent>> {
        self.1 += 1;
        Ok(self.0.get(self.1 - 1).cloned())
    }
    fn rewind(&mut self) -> anyhow::Result<()> {
        self.1 = 0;
        Ok(())
    }
}

pub(crate) fn shape(method: &str, target: &str, cookie: bool) -> RequestShape {
    RequestShape {
        method: method.as_bytes().into(),
        scheme: Scheme::Http,
        authority: Some(b"shop.example"[..].into()),
        target: target.as_bytes().into(),
        version: Version::Http11,
        headers: [].into(),
        credentials: Credentials { cookie, ..Credentials::default() },
        target_redacted: target.contains("REDACTED"),
    }
}

pub(crate) fn request(at_ms: u64, session: u64, shape: RequestShape) -> TraceEvent {
    let facts = RequestFacts {
        shape: Arc::new(shape),
        arrival: Provenance::Recorded,
        connection: Provenance::Recorded,
        body_len: Fact::recorded(0),
        status: Fact::recorded(200),
        response_len: Fact::recorded(1),
        duration_ns: Fact::recorded(1_000_000),
        cache: Fact::absent(),
    };
    let key = crate::plan::draw::hash64(session, Salt::Instance);
    let session = SessionRef { key, ordinal: session };
    TraceEvent { at: TraceTime(at_ms * 1_000_000), session, connection: 0, kind: EventKind::Request(facts) }
}

fn trace(rows: &[(u64, u64)]) -> Memory {
    let mut rows: Vec<_> = rows.to_vec();
    rows.sort_unstable();
    Memory(rows.into_iter().map(|(at, s)| request(at, s, shape("GET", "/a", false))).collect(), 0)
}

pub(crate) fn settings() -> PlanSettings {
    PlanSettings {
        scale: Scale::ONE,
        speed: Speed::ONE,
        from_ns: 0,
        to_ns: u64::MAX,
        repeat: false,
        for_ns: u64::MAX,
        seed: 7,
        shard: (0, 1),
        screen: Screen {
            methods: Screen::safe_methods(),
            routes: Routes::default(),
            hosts: None,
            rewrite: Arc::default(),
        },
    }
}

fn all(source: Memory, settings: &PlanSettings) -> (Vec<Departure>, PlanCounts) {
    let mut source = source;
    let duration = crate::plan::forecast::duration_ns(&mut source, settings.from_ns, settings.to_ns).unwrap();
    let mut stream = PlanStream::new(source, settings.clone(), duration);
    let mut out = Vec::new();
    while let Some(d) = stream.next_departure().unwrap() {
        out.push(d);
    }
    (out, stream.counts().clone())
}

fn key(d: &Departure) -> (u64, Instance, u16) {
    (d.due_ns, d.instance, d.connection)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Session counts under scale, order inside a session, the planning identity, and due times in order.
    #[test]
    fn laws_of_scale(rows in prop::collection::vec((0u64..60_000, 0u64..30), 1..200), milli in 1u64..4_500, speed in 100u64..10_000) {
        let s = PlanSettings { scale: Scale { milli }, speed: Speed { milli: speed }, ..settings() };
        let source = trace(&rows);
        let (out, counts) = all(source.clone(), &s);
        prop_assert!(counts.adds_up());
        prop_assert_eq!(counts.due, out.len() as u64);
        prop_assert!(out.is_sorted_by_key(|d| d.due_ns));
        let sessions: std::collections::BTreeSet<u64> = source.0.iter().map(|e| e.session.key).collect();
        let instances: std::collections::BTreeSet<_> = out.iter().map(|d| d.instance).collect();
        let want: u64 = sessions.iter().map(|k| s.clones(*k)).sum();
        prop_assert_eq!(instances.len() as u64, want);
        let (low, high) = (milli / 1000, milli.div_ceil(1000));
        prop_assert!(sessions.iter().all(|k| (low..=high).contains(&s.clones(*k))));
        // The original keeps its exact place on the axis.
        let originals: Vec<u64> = out.iter().filter(|d| sessions.contains(&d.instance.0)).map(|d| d.due_ns).collect();
        let exact: Vec<u64> = source.0.iter().filter(|e| s.clones(e.session.key) > 0).map(|e| s.speed.run_nanos(e.at.0)).collect();
        prop_assert_eq!(originals, exact);
    }

    #[test]
    fn the_same_seed_gives_the_same_plan(rows in prop::collection::vec((0u64..60_000, 0u64..30), 1..100), milli in 1u64..4_500) {
        let s = PlanSettings { scale: Scale { milli }, ..settings() };
        let one: Vec<_> = all(trace(&rows), &s).0.iter().map(key).collect();
        let two: Vec<_> = all(trace(&rows), &s).0.iter().map(key).collect();
        prop_assert_eq!(one, two);
    }

    /// D seconds of trace take D / speed, +- 1 %, whatever the speed from 0.1x to 10x.
    #[test]
    fn speed_divides_the_length(speed in 100u64..=10_000, seconds in 10u64..100) {
        let s = PlanSettings { speed: Speed { milli: speed }, ..settings() };
        let rows: Vec<_> = (0..=seconds * 10).map(|i| (i * 100, i % 7)).collect();
        let (out, _) = all(trace(&rows), &s);
        let took = out.last().unwrap().due_ns as f64 / 1e9;
        let want = seconds as f64 * 1000.0 / speed as f64;
        prop_assert!((took - want).abs() <= want * 0.01, "{took} s, wanted {want} s");
    }

    /// Shards part the plan: nothing twice, nothing missing.
    #[test]
    fn shards_part_the_plan(rows in prop::collection::vec((0u64..60_000, 0u64..30), 1..100), of in 1u64..5) {
        let mut parts: Vec<_> = (0..of)
            .flat_map(|mine| all(trace(&rows), &PlanSettings { shard: (mine, of), ..settings() }).0)
            .map(|d| key(&d)).collect();
        let mut whole: Vec<_> = all(trace(&rows), &settings()).0.iter().map(key).collect();
        parts.sort_unstable();
        whole.sort_unstable();
        prop_assert_eq!(parts, whole);
    }

    /// The stationary plan keeps its rate over any ten seconds, +- a few sessions.
    #[test]
    fn the_stationary_plan_is_steady_from_the_start(rps in 20u64..400, seed in any::<u64>()) {
        let rows: Vec<_> = (0..400u64).map(|i| (i * 37 % 20_000, i % 40)).collect();
        let mut source = trace(&rows);
        let sample = Arc::new(Sample::gather(&mut source, &settings().screen, 0, u64::MAX).unwrap());
        let plan = StationaryPlan::new(sample, Rate::per_sec(rps), seed).unwrap();
        let mut counts = [0u64; 6];
        let mut last = 0;
        for d in plan {
            prop_assert!(d.due_ns >= last);
            last = d.due_ns;
            let slot = (d.due_ns / 10_000_000_000) as usize;
            if slot >= counts.len() { break; }
            counts[slot] += u64::from(matches!(d.kind, DepartureKind::Request(..)));
        }
        for n in counts {
            let want = rps as f64 * 10.0;
            prop_assert!((n as f64 - want).abs() < want * 0.15 + 20.0, "{counts:?}, wanted {want}");
        }
    }
}

#[test]
fn each_reason_to_drop() {
    let mut s = settings();
    s.screen.hosts = Some([b"shop.example".to_vec()].into());
    s.screen.routes.max_rps = vec![(Pattern::parse("/capped").unwrap(), Rate::per_sec(2))];
    let mut other_host = shape("GET", "/a", false);
    other_host.authority = Some(b"Other.example:80"[..].into());
    let mut upgrade = shape("GET", "/ws", false);
    let line = crate::trace::Header {
        name: b"Upgrade".to_vec(),
        value: crate::trace::HeaderValue::Kept(b"websocket".to_vec()),
    };
    upgrade.headers = [line].into();
    let mut same_host = shape("GET", "/a", false);
    same_host.authority = Some(b"SHOP.example:8080"[..].into());
    #[rustfmt::skip]
    let events = vec![
        request(0, 0, shape("GET", "/a", false)), request(1, 0, same_host),
        request(2, 0, shape("POST", "/a", false)), request(3, 0, shape("GET", "/user/logout", false)),
        request(4, 0, other_host), request(5, 0, shape("GET", "/a", true)),
        request(6, 0, shape("GET", "/a?token=REDACTED", false)), request(7, 0, upgrade),
        request(8, 0, shape("GET", "/capped", false)), request(9, 0, shape("GET", "/capped", false)),
        request(10, 0, shape("GET", "/capped", false)), request(1_000, 0, shape("GET", "/capped", false)),
    ];
    let (out, counts) = all(Memory(events, 0), &s);
    assert_eq!(counts.dropped, DropReason::ALL.into_iter().map(|r| (r, 1)).collect());
    assert_eq!((counts.recorded, counts.due, out.len()), (12, 5, 5));
    assert!(counts.adds_up());
}

/// Each clone asks for ids of its own, judged as they are sent; the original keeps its own.
#[test]
fn clones_have_ids_of_their_own() {
    use crate::plan::rewrite::Rewrite;
    use crate::plan::shift::{How, Part, Shift};
    let mut s = PlanSettings { scale: Scale { milli: 3000 }, ..settings() };
    let on = Pattern::parse("/p/*").unwrap();
    let how = How::Ids { by: 10, min: 1, max: 99 };
    let shifts = vec![Shift { on, part: Part::Segment(2), how }];
    s.screen.rewrite = Arc::new(Rewrite { shifts, ..Rewrite::default() });
    s.screen.routes.deny = vec![Pattern::parse("/p/25").unwrap()];
    let events = vec![
        request(0, 1, shape("GET", "/p/5", false)),
        request(10, 1, shape("GET", "/p/5", false)),
        request(20, 1, shape("GET", "/other", false)),
    ];
    let (out, counts) = all(Memory(events, 0), &s);
    let mut sent: BTreeMap<Instance, Vec<String>> = BTreeMap::new();
    for d in &out {
        let DepartureKind::Request(r, _) = &d.kind else { panic!() };
        sent.entry(d.instance).or_default().push(String::from_utf8_lossy(&r.shape.target).into_owned());
    }
    let key = request(0, 1, shape("GET", "/", false)).session.key;
    assert_eq!(sent[&instance(key, 0, 0)], ["/p/5", "/p/5", "/other"]);
    assert_eq!(sent[&instance(key, 1, 0)], ["/p/15", "/p/15", "/other"]);
    assert_eq!(sent[&instance(key, 2, 0)], ["/other"], "/p/25 is denied");
    assert_eq!(counts.dropped, [(DropReason::Route, 2)].into());
    assert!(counts.adds_up());
}

/// A plan that is given up half-way adds up, too.
#[test]
fn the_planning_identity_holds_at_any_moment() {
    let rows: Vec<_> = (0..300u64).map(|i| (i * 20, i % 9)).collect();
    let s = PlanSettings { scale: Scale { milli: 2500 }, ..settings() };
    let mut source = trace(&rows);
    let duration = crate::plan::forecast::duration_ns(&mut source, 0, u64::MAX).unwrap();
    let mut stream = PlanStream::new(source, s, duration);
    let mut told = 0;
    loop {
        let counts = stream.counts_told();
        assert!(counts.adds_up(), "{counts:?}");
        assert_eq!(counts.due, told);
        if stream.next_departure().unwrap().is_none() {
            break;
        }
        told += 1;
    }
    assert_eq!(stream.counts_told(), *stream.counts());
}

/// Opens stay where they were recorded, but for those that come long before their first request: they are told two
/// seconds ahead of it, and what is never used is never opened.
#[test]
fn opens_wait_for_their_first_request() {
    let c = ConnectionEvent { arrival: Provenance::Recorded };
    let base = request(0, 1, shape("GET", "/a", false));
    let of = |session: u64, ms: u64, kind: EventKind| {
        let key = request(0, session, shape("GET", "/", false)).session;
        TraceEvent { at: TraceTime(ms * 1_000_000), session: key, kind, ..base.clone() }
    };
    let mut events = vec![
        of(1, 100, EventKind::Open(c)),
        request(300, 1, shape("GET", "/a", false)),
        of(2, 200, EventKind::Open(c)),
        request(9_000, 2, shape("GET", "/a", false)),
        of(3, 400, EventKind::Open(c)),
        of(3, 8_000, EventKind::Close(c)),
        of(1, 10_000, EventKind::Close(c)),
    ];
    events.sort_by_key(|e| e.at);
    let kind = |d: &Departure| match d.kind {
        DepartureKind::Open { .. } => 'o',
        DepartureKind::Request(..) => 'r',
        DepartureKind::Close => 'c',
    };
    let told = |s: &PlanSettings| -> Vec<(char, u64)> {
        all(Memory(events.clone(), 0), s).0.iter().map(|d| (kind(d), d.due_ns / 1_000_000)).collect()
    };
    let want = [('o', 100), ('r', 300), ('o', 7_000), ('r', 9_000), ('c', 10_000)];
    assert_eq!(told(&settings()), want);
    // Ten times as fast the same two seconds are twenty of the trace.
    let fast = PlanSettings { speed: Speed { milli: 10_000 }, ..settings() };
    assert_eq!(told(&fast), [('o', 10), ('o', 20), ('r', 30), ('r', 900), ('c', 1_000)]);
}

/// A target that the sender cannot build was once planned and then shed as if the target were slow.
#[test]
fn what_cannot_be_built_is_not_planned() {
    for (target, want) in [
        ("/a?q=x", true),
        ("/a?q=\"x\"", true),
        ("/a<b", true),
        ("/a b", false),
        ("/\u{7f}", false),
        ("a", false),
    ] {
        let counts = all(Memory(vec![request(0, 0, shape("GET", target, false))], 0), &settings()).1;
        assert_eq!(counts.due == 1, want, "{target}: {:?}", counts.dropped);
    }
}

#[test]
fn parts_and_loops() {
    let rows: Vec<_> = (0..10u64).map(|i| (i * 1000, i)).collect();
    let s = PlanSettings { from_ns: 2_000_000_000, to_ns: 5_000_000_000, ..settings() };
    let due: Vec<u64> = all(trace(&rows), &s).0.iter().map(|d| d.due_ns / 1_000_000).collect();
    assert_eq!(due, [0, 1000, 2000]);
    let s = PlanSettings { repeat: true, for_ns: 25_000_000_000, ..settings() };
    let (out, counts) = all(trace(&rows), &s);
    assert_eq!(out.last().unwrap().due_ns, 24_000_000_000);
    let instances: std::collections::BTreeSet<_> = out.iter().map(|d| d.instance).collect();
    assert_eq!(
        (out.len() as u64, instances.len()),
        (counts.due, out.len()),
        "every round has its own sessions"
    );
}

#[test]
fn a_forecast_sees_what_will_be_sent() {
    let rows: Vec<_> = (0..1_000u64).map(|i| (i * 10, i % 10)).collect();
    let s = PlanSettings { scale: Scale { milli: 2000 }, ..settings() };
    let mut seen = 0;
    let mut source = trace(&rows);
    let duration = crate::plan::forecast::duration_ns(&mut source, 0, u64::MAX).unwrap();
    let (f, _) = forecast(source, &s, duration, |_| seen += 1).unwrap();
    assert_eq!((seen, f.counts.due), (2_000, 2_000));
    assert!((190..=215).contains(&(f.peak.rps() as u64)), "{}", f.peak);
    assert_eq!((f.sessions, f.connections_peak), (20, 20));
    assert_eq!(f.curve.iter().map(|n| u64::from(*n)).sum::<u64>(), 2_000);
}

#[test]
fn opens_and_closes_follow_their_session() {
    let mut events = vec![request(5, 1, shape("GET", "/a", false))];
    let of = |kind, at| TraceEvent { at: TraceTime(at), kind, ..events[0].clone() };
    let c = ConnectionEvent { arrival: Provenance::Recorded };
    let (open, close) = (of(EventKind::Open(c), 0), of(EventKind::Close(c), 9_000_000));
    events.insert(0, open);
    events.push(close);
    let s = PlanSettings { scale: Scale { milli: 3000 }, ..settings() };
    let mut dropped = events.clone();
    dropped[1] = request(5, 1, shape("DELETE", "/a", false));
    assert_eq!(all(Memory(dropped, 0), &s).0.len(), 0, "nothing is opened for nothing");
    let (out, _) = all(Memory(events, 0), &s);
    assert_eq!(out.len(), 9);
    for instance in out.iter().map(|d| d.instance).collect::<std::collections::BTreeSet<_>>() {
        let kinds: Vec<_> =
            out.iter().filter(|d| d.instance == instance).map(|d| std::mem::discriminant(&d.kind)).collect();
        assert_eq!(kinds.len(), 3);
        assert_eq!(kinds[0], std::mem::discriminant(&DepartureKind::Open { http2: false }));
    }
}
