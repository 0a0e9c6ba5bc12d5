//! What a request costs, and how true it is to its time, beside other load generators in the same run.
//!
//! `make bench-engine`. Server and generator are pinned to a core each; a generator runs with all its threads on one.
//! CPU is the run time of the process group in a steady window over the server's own count of
//! requests. Absolute figures drift with the machine: read the ratios. Nothing is asserted.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods
)]
#![allow(missing_docs, unreachable_pub)]

mod contender;
mod sampler;
mod sink;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use contender::{Contender, Job};
use sampler::{Cost, Server};

/// Runs of each contender; medians are told.
const RUNS: usize = 5;

/// Seconds of one run.
const SECONDS: u64 = 5;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() {
    let quick = std::env::args().any(|a| a == "--quick");
    let runs = if quick { 1 } else { RUNS };
    let work = tempfile::tempdir().unwrap();
    let Some(server) = Server::start(work.path()) else {
        println!("nginx is missing: run `make servers`");
        return;
    };
    let traces = contender::traces(work.path(), SECONDS + 3);
    println!(
        "medians of {runs} runs of {SECONDS} s; generator on core 1, nginx (1 worker) on core 0; us of CPU per request\n"
    );
    for connections in [64, 512] {
        let job = Job { connections, rate: 0, seconds: SECONDS };
        costs(&server, &traces, &job, runs);
    }
    for rate in [1_000, 10_000, 30_000] {
        let job = Job { connections: 64, rate, seconds: SECONDS };
        costs(&server, &traces, &job, runs);
    }
    for rate in [1_000, 10_000] {
        truth(&traces, rate, runs.min(3));
    }
    drop(server);
}

fn costs(server: &Server, traces: &contender::Traces, job: &Job, runs: usize) {
    let contenders: Vec<Contender> = Contender::all(job).into_iter().filter(Contender::is_here).collect();
    let mut found: Vec<Vec<Cost>> = contenders.iter().map(|_| Vec::new()).collect();
    // Interleaved, so that a drift of the machine meets all of them.
    for _ in 0..runs {
        for (contender, costs) in contenders.iter().zip(&mut found) {
            let command = contender.command(job, traces, &server.url());
            costs.extend(sampler::cost(command, server, Duration::from_secs(job.seconds)));
        }
    }
    let what = if job.rate == 0 { "as fast as it goes".to_owned() } else { format!("{}/s", job.rate) };
    println!("{what}, {} connections", job.connections);
    println!("| generator | requests/s | us/request | x the first | memory MB |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    let mut first = None;
    for (contender, costs) in contenders.iter().zip(found) {
        if costs.is_empty() {
            println!("| {} | failed | | | |", contender.name());
            continue;
        }
        let of = |f: fn(&Cost) -> f64| median(costs.iter().map(f).collect());
        let us = of(|c| c.us_per_request);
        let base = *first.get_or_insert(us);
        println!(
            "| {} | {:.0} | {us:.2} | {:.2} | {:.0} |",
            contender.name(),
            of(|c| c.rps),
            us / base,
            of(|c| c.memory_mb)
        );
    }
    println!();
}

/// Send times at a sink against an even schedule.
fn truth(traces: &contender::Traces, rate: u64, runs: usize) {
    let job = Job { connections: 64, rate, seconds: SECONDS };
    println!("send times at {rate}/s against the even schedule (sink on core 0), us");
    println!("| generator | rate error % | p50 | p99 |");
    println!("| --- | ---: | ---: | ---: |");
    for contender in Contender::all(&job).into_iter().filter(Contender::is_here) {
        let mut found: Vec<sink::Truth> = Vec::new();
        for _ in 0..runs {
            let sink = sink::Sink::start();
            let mut command = contender.command(&job, traces, &sink.url());
            let ended = command.status().is_ok();
            found.extend(sink.finish(rate).filter(|_| ended));
        }
        if found.is_empty() {
            println!("| {} | failed | | |", contender.name());
            continue;
        }
        let of = |f: fn(&sink::Truth) -> f64| median(found.iter().map(f).collect());
        println!(
            "| {} | {:+.3} | {:.0} | {:.0} |",
            contender.name(),
            of(|t| t.rate_error_percent),
            of(|t| t.p50_us),
            of(|t| t.p99_us)
        );
    }
    println!();
}

/// A program, pinned to a core.
fn pinned(core: u32, program: &std::path::Path) -> Command {
    let mut command = Command::new("taskset");
    command.arg("-c").arg(core.to_string()).arg(program);
    command
}
