//! The governor wedged, a worker silent: nobody is left to say no, and nothing is sent.
//!
//! The real governor's thread runs over a real gate; what wedges it is a lock of its own that the test holds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]
#![allow(clippy::disallowed_methods, reason = "tests measure real time")]

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use replay::edge::clock::Clock;
use replay::edge::host::control::Orders;
use replay::edge::host::metrics_page::Metrics;
use replay::edge::host::notify::Watchdog;
use replay::edge::send::book::Beat;
use replay::edge::watch::baseline::Baselines;
use replay::edge::watch::poll::Board;
use replay::engine::governor::{Governor, GovernorEnd, Snapshot};
use replay::engine::journal::Journal;
use replay::engine::shared::Shared;
use replay::engine::sight::Sight;
use replay::govern::gate::{Gate, GateLimits};
use replay::govern::latch::Latch;
use replay::govern::record::Line;
use replay::govern::state::{Cause, Terminal};
use replay::policy::check;
use replay::policy::settings::{LeadIn, govern, local_guards};
use replay::units::{Rate, RunTime, WallTime};

struct Scene {
    shared: Arc<Shared>,
    snapshot: Arc<Mutex<Snapshot>>,
    governor: Option<JoinHandle<GovernorEnd>>,
    _dir: tempfile::TempDir,
}

fn scene() -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let policy =
        check::parse("version = 1\nname = \"t\"\n[target]\nallow = [\"127.0.0.0/8\"]\n", "t").unwrap();
    let settings = govern(&policy, Rate::per_sec(500), LeadIn::None);
    let latch = Latch::new();
    let limits = GateLimits::of_rate(Rate::per_sec(1_000), Rate::per_sec(50), 100_000);
    let shared = Shared::new(Clock::start(), Gate::new(latch.clone(), limits), 1);
    let first = Line::Start {
        run: "t".to_owned(),
        target: "t:1".to_owned(),
        at: WallTime(0),
        settings: settings.clone(),
    };
    let journal = Journal::start(&dir.path().join("journal.jsonl"), &first, latch).unwrap();
    let snapshot = Arc::<Mutex<Snapshot>>::default();
    let governor = Governor {
        shared: Arc::clone(&shared),
        settings,
        local: local_guards(&policy).into_iter().map(|(m, _)| m).collect(),
        board: Board::new(0),
        kill_file: None,
        connects: Rate::per_sec(50),
        journal,
        snapshot: Arc::clone(&snapshot),
        sight: Sight::new(&policy, Baselines::new(&[]), Arc::default()),
        spending: None,
        orders: Orders::default(),
        metrics: Metrics::new("t:1", "t").unwrap(),
        handle: None,
        watchdog: Watchdog::default(),
        spins: false,
    };
    shared.ports[0].put(shared.clock.now(), Beat::default());
    let governor = Some(std::thread::spawn(move || governor.run()));
    Scene { shared, snapshot, governor, _dir: dir }
}

impl Scene {
    fn beat(&self) {
        self.shared.ports[0].put(self.shared.clock.now(), Beat::default());
    }

    /// Takes and spends permits as fast as they are given for `length`, beating if `beating`. Returns when the last was
    /// spent, if one was.
    fn send_for(&self, length: Duration, beating: bool) -> Option<Instant> {
        let (began, mut last) = (Instant::now(), None);
        while began.elapsed() < length {
            if beating {
                self.beat();
            }
            let now = self.shared.clock.now();
            if self.shared.gate.permit(now).is_ok_and(|p| p.spend(now).is_ok()) {
                last = Some(Instant::now());
            }
            std::thread::sleep(Duration::from_micros(500)); // the pace of a worker
        }
        last
    }

    fn wait_for_grant(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.send_for(Duration::from_millis(20), true).is_none() {
            assert!(Instant::now() < deadline, "nothing was granted");
        }
    }

    fn end(mut self) -> GovernorEnd {
        self.governor.take().unwrap().join().unwrap()
    }
}

#[test]
fn a_wedged_governor_stops_everything_within_its_lease() {
    let s = scene();
    s.wait_for_grant();
    let lock = s.snapshot.lock().unwrap();
    let wedged = Instant::now();
    let last = s.send_for(Duration::from_millis(2_600), true).unwrap();
    let took = last.duration_since(wedged);
    eprintln!("wedged governor: the last permit was spent {took:?} later");
    // The lease of 500 ms from the last grant, and that grant may come from a tick that was on its way: 100 ms, and what
    // a busy machine adds to them.
    assert!(took <= Duration::from_millis(800), "{took:?}");
    drop(lock);
    s.send_for(Duration::from_millis(300), true);
    let end = s.end();
    assert_eq!(end.terminal, Terminal::Aborted(Cause::TickLate), "nobody was watching, so it is over");
}

#[test]
fn a_silent_worker_ends_the_run() {
    let s = scene();
    s.wait_for_grant();
    let silent = Instant::now();
    let shared = Arc::clone(&s.shared);
    let end = s.end();
    let took = silent.elapsed();
    eprintln!("silent worker: aborted {took:?} after its last beat");
    assert_eq!(end.terminal, Terminal::Aborted(Cause::WorkerSilent));
    assert!(took >= Duration::from_secs(2) && took < Duration::from_millis(2_500), "{took:?}");
    let now = shared.clock.now();
    assert!(
        shared.gate.permit(now).is_err() && shared.gate.permit(now.plus(Duration::from_secs(9))).is_err()
    );
    assert!(now > RunTime::START);
}
