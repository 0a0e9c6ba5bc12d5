//! Captures and access logs at speed, beside tshark and mawk on the same generated files in the same run.
//!
//! `cargo bench --bench capture`. Everything runs on one core (`taskset -c 0`), except where it says two. The inputs are made
//! here: 2,000 connections of ten requests with answers of 10 KiB in full segments, and a million combined lines over
//! 8,192 targets by eight browsers. Absolute figures drift with the machine: read the ratios. Nothing is asserted.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods, missing_docs)]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const CONNECTIONS: u32 = 2_000;
const REQUESTS: u32 = 10;
const LINES: u64 = 1_000_000;

fn main() -> std::io::Result<()> {
    let dir = tempfile::tempdir()?;
    let (pcap, log, trace) =
        (dir.path().join("b.pcap"), dir.path().join("b.log"), dir.path().join("b.trace"));
    write_pcap(&pcap)?;
    write_log(&log)?;
    let replay = env!("CARGO_BIN_EXE_replay");
    let capture = |input: &Path, cores: &str| {
        let args = ["-c", cores, replay, "capture", &text(input), "-o", &text(&trace)];
        best(|| run("taskset", &args))
    };
    let ours = capture(&pcap, "0");
    show("packets: replay, one core", &pcap, ours, None)?;
    let tools = std::env::var("REPLAY_SERVERS").unwrap_or_else(|_| "target/servers".to_owned());
    let tshark = format!("{tools}/bin/tshark");
    if Path::new(&tshark).exists() {
        let args = [
            "-c",
            "0",
            &tshark,
            "-r",
            &text(&pcap),
            "-Y",
            "http.request",
            "-T",
            "fields",
            "-e",
            "http.request.uri",
        ];
        show("packets: tshark, one core", &pcap, run("taskset", &args), ours)?;
    } else {
        println!("packets: tshark is not in {tools}; `make servers` fetches it");
    }
    let ours = capture(&log, "0");
    show("log: replay, one core", &log, ours, None)?;
    show("log: replay, two cores", &log, capture(&log, "0,1"), ours)?;
    let count = "{ n[$9]++ } END { for (k in n) print k, n[k] }";
    let args = ["-c", "0", "mawk", count, &text(&log)];
    show("log: mawk, one column, one core", &log, best(|| run("taskset", &args)), ours)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Wall time of a program that ends well; none where it cannot run.
fn run(program: &str, args: &[&str]) -> Option<Duration> {
    let start = Instant::now();
    let status =
        Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status().ok()?;
    status.success().then(|| start.elapsed())
}

fn best(mut once: impl FnMut() -> Option<Duration>) -> Option<Duration> {
    (0..3).filter_map(|_| once()).min()
}

fn show(what: &str, input: &Path, took: Option<Duration>, ours: Option<Duration>) -> std::io::Result<()> {
    let bytes = input.metadata()?.len() as f64;
    let Some(took) = took else {
        println!("{what}: could not be run");
        return Ok(());
    };
    let seconds = took.as_secs_f64();
    let ratio = ours
        .map_or_else(String::new, |o| format!(", {:.2} x our time on one core", seconds / o.as_secs_f64()));
    println!("{what}: {seconds:.2} s, {:.0} MB/s{ratio}", bytes / 1e6 / seconds);
    Ok(())
}

/// One packet record: Ethernet, IPv4, TCP.
struct Packet<'p> {
    from: [u8; 4],
    to: [u8; 4],
    ports: (u16, u16),
    seq: u32,
    ack: u32,
    flags: u8,
    payload: &'p [u8],
}

fn record(out: &mut impl Write, at_us: u64, p: &Packet<'_>) -> std::io::Result<()> {
    let total = (40 + p.payload.len()) as u16;
    let frame_len = u32::from(total) + 14;
    for n in [(at_us / 1_000_000) as u32, (at_us % 1_000_000) as u32, frame_len, frame_len] {
        out.write_all(&n.to_le_bytes())?;
    }
    out.write_all(&[2, 2, 2, 2, 2, 2, 4, 4, 4, 4, 4, 4, 8, 0, 0x45, 0])?;
    out.write_all(&total.to_be_bytes())?;
    out.write_all(&[0, 0, 0x40, 0, 64, 6, 0, 0])?;
    out.write_all(&p.from)?;
    out.write_all(&p.to)?;
    out.write_all(&p.ports.0.to_be_bytes())?;
    out.write_all(&p.ports.1.to_be_bytes())?;
    out.write_all(&p.seq.to_be_bytes())?;
    out.write_all(&p.ack.to_be_bytes())?;
    out.write_all(&[0x50, p.flags, 0xff, 0xff, 0, 0, 0, 0])?;
    out.write_all(p.payload)
}

fn write_pcap(path: &Path) -> std::io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 262_144, 1] {
        out.write_all(&word.to_le_bytes())?;
    }
    let (body, mut at) = (vec![b'x'; 1448], 1_700_000_000_000_000u64);
    for c in 0..CONNECTIONS {
        let (client, server) = ([10, 1, (c >> 8) as u8, c as u8], [10, 0, 0, 2]);
        let (mut seq, mut ack) = (c * 7, c * 11);
        let mut send = |up: bool, seq: &mut u32, ack: &mut u32, flags: u8, payload: &[u8]| {
            at += 20;
            let (from, to, ports) =
                if up { (client, server, (40_000, 80)) } else { (server, client, (80, 40_000)) };
            let (s, a) = if up { (*seq, *ack) } else { (*ack, *seq) };
            let moved = payload.len() as u32 + u32::from(flags & 3 != 0);
            *(if up { seq } else { ack }) += moved;
            record(&mut out, at, &Packet { from, to, ports, seq: s, ack: a, flags, payload })
        };
        send(true, &mut seq, &mut ack, 0x02, b"")?;
        send(false, &mut seq, &mut ack, 0x12, b"")?;
        for r in 0..REQUESTS {
            let head = format!(
                "GET /api/items/{}?page={} HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\r\nAccept: */*\r\nAccept-Encoding: gzip\r\nCookie: sid=0123456789abcdef\r\n\r\n",
                (c * 31 + r) % 5_000,
                r % 7
            );
            send(true, &mut seq, &mut ack, 0x18, head.as_bytes())?;
            send(
                false,
                &mut seq,
                &mut ack,
                0x18,
                b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 10136\r\n\r\n",
            )?;
            for _ in 0..7 {
                send(false, &mut seq, &mut ack, 0x10, &body)?;
            }
            send(true, &mut seq, &mut ack, 0x10, b"")?;
        }
        send(true, &mut seq, &mut ack, 0x11, b"")?;
        send(false, &mut seq, &mut ack, 0x11, b"")?;
    }
    out.flush()
}

fn write_log(path: &Path) -> std::io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    for n in 0..LINES {
        let (second, mixed) = (n / 200, replay::capture::mix64(n));
        writeln!(
            out,
            "10.{}.{}.{} - - [10/Oct/2000:{:02}:{:02}:{:02} +0000] \"GET /shop/items/{}?page={} HTTP/1.1\" 200 {} \"https://shop.example/list/{}\" \"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{}.0 Safari/537.36\"",
            mixed >> 8 & 7,
            mixed >> 16 & 255,
            mixed >> 24 & 255,
            second / 3600 % 24,
            second / 60 % 60,
            second % 60,
            mixed >> 32 & 4_095,
            mixed >> 48 & 1,
            mixed & 65_535,
            mixed >> 40 & 1,
            90 + (mixed >> 8 & 7),
        )?;
    }
    out.flush()
}
