//! Who is measured, and how each is told to do the same job.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{pinned, root};

/// One job.
#[derive(Debug, Clone, Copy)]
pub struct Job {
    pub connections: u64,
    /// Requests a second; 0 is as fast as it goes.
    pub rate: u64,
    pub seconds: u64,
}

/// For "as fast as it goes" we are given a rate near what one nginx worker carries: an open loop has no other way.
const FULL_RATE: u64 = 110_000;

/// Traces by rate and connections.
#[derive(Debug)]
pub struct Traces {
    dir: PathBuf,
}

/// Makes the traces that the jobs need.
pub fn traces(dir: &Path, seconds: u64) -> Traces {
    let traces = Traces { dir: dir.to_owned() };
    std::fs::write(
        dir.join("policy.toml"),
        "version = 1\nname = \"bench\"\n[target]\nallow = [\"127.0.0.0/8\"]\nhosts = [\"*\"]\n[rate]\nmax_rps = 900000\n\
         max_new_connections_per_s = 5000\nmax_in_flight = 40000\n",
    )
    .unwrap();
    for (rate, sessions) in [(FULL_RATE, 64), (FULL_RATE, 512), (1_000, 64), (10_000, 64), (30_000, 64)] {
        let done = Command::new(built("examples/steady_trace"))
            .args([rate.to_string(), seconds.to_string(), sessions.to_string()])
            .arg(traces.path(rate, sessions))
            .status();
        assert!(done.unwrap().success(), "steady_trace");
    }
    traces
}

impl Traces {
    fn path(&self, rate: u64, sessions: u64) -> PathBuf {
        self.dir.join(format!("{rate}-{sessions}.trace"))
    }
}

fn built(name: &str) -> PathBuf {
    root().join("target/release").join(name)
}

fn tool(name: &str) -> Option<PathBuf> {
    let unpacked = root().join("target/servers/bin").join(name);
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(unpacked).chain(std::env::split_paths(&path).map(|d| d.join(name))).find(|p| p.exists())
}

/// A generator and its setting.
#[derive(Debug, Clone, Copy)]
pub enum Contender {
    Wrk,
    Wrk2,
    H2load,
    Oha,
    Vegeta,
    Replay(&'static str),
}

impl Contender {
    /// All that can do the job. The first is the one that the others are compared with.
    pub fn all(job: &Job) -> Vec<Self> {
        use Contender::{H2load, Oha, Replay, Vegeta, Wrk, Wrk2};
        if job.rate == 0 {
            return vec![Wrk, Wrk2, H2load, Oha, Replay("1ms")];
        }
        vec![
            Wrk2,
            H2load,
            Oha,
            Vegeta,
            Replay("1ms"),
            Replay("100us"),
            Replay("exact"),
            Replay("auto"),
            Replay("spin"),
        ]
    }

    pub fn name(&self) -> String {
        match self {
            Self::Wrk => "wrk".to_owned(),
            Self::Wrk2 => "wrk2".to_owned(),
            Self::H2load => "h2load --h1".to_owned(),
            Self::Oha => "oha".to_owned(),
            Self::Vegeta => "vegeta".to_owned(),
            Self::Replay(pacing) => format!("replay --pacing {pacing}"),
        }
    }

    fn program(&self) -> Option<PathBuf> {
        match self {
            Self::Wrk => tool("wrk"),
            Self::Wrk2 => tool("wrk2"),
            Self::H2load => tool("h2load"),
            Self::Oha => tool("oha"),
            Self::Vegeta => tool("vegeta"),
            Self::Replay(_) => Some(built("replay")).filter(|p| p.exists()),
        }
    }

    /// Whether it is installed; those that are not are left out.
    pub fn is_here(&self) -> bool {
        self.program().is_some()
    }

    /// The command, all its threads on core 1, in silence.
    pub fn command(&self, job: &Job, traces: &Traces, url: &str) -> Command {
        let (c, d, r) = (job.connections, job.seconds, if job.rate == 0 { 2_000_000 } else { job.rate });
        let program = self.program().expect("asked before");
        let mut command = match self {
            Self::Vegeta => pinned(1, Path::new("sh")),
            _ => pinned(1, &program),
        };
        let words = match self {
            Self::Wrk => format!("-t1 -c{c} -d{d}s {url}"),
            Self::Wrk2 => format!("-t1 -c{c} -d{d}s -R{r} {url}"),
            Self::H2load if job.rate == 0 => format!("--h1 -t1 -c{c} -D{d} {url}"),
            Self::H2load => format!("--h1 -t1 -c{c} -D{d} --rps={} {url}", job.rate as f64 / c as f64),
            Self::Oha if job.rate == 0 => format!("-z {d}s -c {c} --no-tui {url}"),
            Self::Oha => format!("-z {d}s -c {c} -q {r} --latency-correction --no-tui {url}"),
            Self::Vegeta => String::new(),
            Self::Replay(pacing) => {
                let rate = if job.rate == 0 { FULL_RATE } else { job.rate };
                let out = traces.dir.join("run");
                drop(std::fs::remove_dir_all(&out));
                command.env("REPLAY_STATE_DIR", traces.dir.join("state"));
                command
                    .arg("--trace")
                    .arg(traces.path(rate, c))
                    .arg("--policy")
                    .arg(traces.dir.join("policy.toml"));
                command.arg("--out").arg(out);
                format!("--target {url} --lead-in none --pacing {pacing} --for {d}s --quiet")
            }
        };
        if matches!(self, Self::Vegeta) {
            let vegeta = program.display();
            let line = format!(
                "echo 'GET {url}' | {vegeta} attack -duration={d}s -rate={r} -connections={c} -max-workers={c} > /dev/null"
            );
            command.arg("-c").arg(line);
        }
        command.args(words.split_whitespace());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }
}
