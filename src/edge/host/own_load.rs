//! How busy our own threads and this machine are, from `/proc` (proc(5): `schedstat`, `stat`).
//!
//! What cannot be read is left out, never taken as idle: [`crate::measure::saturation`] then goes by lateness alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::measure::saturation::{OwnLoad, ThreadLoad};
use crate::units::RunTime;

/// Threads that send or decide; others may wait as long as they like.
const OURS: [&str; 3] = ["worker-", "feeder", "governor"];

/// Time on a CPU and time waiting for one, nanoseconds since the thread began.
type Spent = (u64, u64);

/// Looks at the threads of this process again and again.
#[derive(Debug, Default)]
pub struct OwnLoadMeter {
    threads: BTreeMap<u64, (String, Spent)>,
    steal: Option<(u64, u64)>,
    at: Option<RunTime>,
}

impl OwnLoadMeter {
    /// What happened since the last look.
    pub fn look(&mut self, now: RunTime) -> OwnLoad {
        let threads = threads(Path::new("/proc/self/task"));
        let steal = fs::read_to_string("/proc/stat").ok().and_then(|text| steal_of(&text));
        self.since(now, threads, steal)
    }

    fn since(
        &mut self,
        now: RunTime,
        threads: BTreeMap<u64, (String, Spent)>,
        steal: Option<(u64, u64)>,
    ) -> OwnLoad {
        let passed = self.at.map_or(0, |at| now.since(at).as_nanos() as u64);
        let mut load = OwnLoad::default();
        if passed > 0 {
            let share = |now: u64, then: u64| now.saturating_sub(then) as f64 / passed as f64;
            for (id, (name, (ran, waited))) in &threads {
                if let Some((_, (ran_then, waited_then))) = self.threads.get(id) {
                    let (ran, waited) = (share(*ran, *ran_then), share(*waited, *waited_then));
                    load.threads.push(ThreadLoad { name: name.clone(), ran, waited });
                }
            }
            if let (Some((stolen, all)), Some((stolen_then, all_then))) = (steal, self.steal) {
                let (stolen, all) = (stolen.saturating_sub(stolen_then), all.saturating_sub(all_then));
                load.steal = (all > 0).then(|| stolen as f64 / all as f64);
            }
        }
        (self.threads, self.steal, self.at) = (threads, steal, Some(now));
        load
    }
}

fn threads(folder: &Path) -> BTreeMap<u64, (String, Spent)> {
    let Ok(entries) = fs::read_dir(folder) else { return BTreeMap::new() };
    let one = |entry: fs::DirEntry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        let name = fs::read_to_string(entry.path().join("comm")).ok()?.trim().to_owned();
        if !OURS.iter().any(|ours| name.starts_with(ours)) {
            return None;
        }
        let text = fs::read_to_string(entry.path().join("schedstat")).ok()?;
        Some((id, (name, spent_of(&text)?)))
    };
    entries.filter_map(|e| one(e.ok()?)).collect()
}

/// `schedstat`: time on the CPU, time on the run queue, slices.
fn spent_of(text: &str) -> Option<Spent> {
    let mut numbers = text.split_ascii_whitespace().map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// `stat`: stolen ticks and all ticks of all CPUs together.
fn steal_of(text: &str) -> Option<(u64, u64)> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    // user nice system idle iowait irq softirq steal; guest time is within user.
    Some((*ticks.get(7)?, ticks.iter().take(8).sum()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_the_time_between_two_looks() {
        let seen = |ran, waited| BTreeMap::from([(7, ("worker-0".to_owned(), (ran, waited)))]);
        let at = RunTime::from_millis;
        let mut meter = OwnLoadMeter::default();
        assert_eq!(meter.since(at(0), seen(5_000_000_000, 0), Some((10, 1_000))), OwnLoad::default());
        let load = meter.since(at(2_000), seen(6_000_000_000, 500_000_000), Some((30, 1_200)));
        let want = ThreadLoad { name: "worker-0".into(), ran: 0.5, waited: 0.25 };
        assert_eq!(load, OwnLoad { threads: vec![want], steal: Some(0.1) });
        // What is not there any more, or not yet, is left out.
        let load = meter.since(at(3_000), BTreeMap::new(), None);
        assert_eq!(load, OwnLoad::default());
        assert_eq!(meter.since(at(4_000), seen(1, 1), Some((30, 1_200))), OwnLoad::default());
    }

    #[test]
    fn lines_of_proc() {
        assert_eq!(spent_of("123 45 6\n"), Some((123, 45)));
        assert_eq!((spent_of("x"), spent_of("1")), (None, None));
        assert_eq!(steal_of("cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1"), Some((8, 36)));
        assert_eq!((steal_of("cpu  1 2 3"), steal_of(""), steal_of("intr 1")), (None, None, None));
    }

    #[test]
    fn a_busy_thread_of_ours_is_seen() {
        let (tell, told) = std::sync::mpsc::channel();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let busy = std::thread::Builder::new().name("worker-busy".to_owned()).spawn(move || {
            tell.send(()).unwrap();
            while matches!(stopped.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty)) {}
        });
        told.recv().unwrap();
        let mut meter = OwnLoadMeter::default();
        let clock = crate::edge::clock::Clock::start();
        meter.look(clock.now());
        let spent = loop {
            crate::edge::clock::wait(std::time::Duration::from_millis(20));
            let load = meter.look(clock.now());
            let mine = load.threads.into_iter().find(|t| t.name == "worker-busy").unwrap();
            // On a loaded machine it may wait instead of run, but it wants all of its time.
            if mine.ran > 0.0 {
                break mine.ran + mine.waited;
            }
        };
        assert!(spent > 0.5, "{spent}");
        drop(stop);
        busy.unwrap().join().unwrap();
    }
}
