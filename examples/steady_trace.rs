//! Writes a trace for benches: `steady_trace RATE SECONDS SESSIONS FILE`, requests for `/` evenly spaced, dealt to the
//! sessions in turn, each session one connection.
#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs)]

#[path = "../tests/support/steady_trace.rs"]
mod steady_trace;

fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let [_, rate, seconds, sessions, file] = args.as_slice() else {
        eprintln!("usage: steady_trace RATE SECONDS SESSIONS FILE");
        return std::process::ExitCode::from(2);
    };
    let number = |s: &String| s.parse::<u64>().unwrap();
    let (rate, seconds, sessions) = (number(rate), number(seconds), number(sessions));
    steady_trace::write(std::path::Path::new(file), rate, seconds, sessions);
    std::process::ExitCode::SUCCESS
}
