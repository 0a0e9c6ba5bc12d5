//! CPU time of a generator in a steady window, over what the server says it answered.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{pinned, root};

/// nginx with one worker on core 0.
#[derive(Debug)]
pub struct Server {
    process: Child,
    port: u16,
    status: u16,
}

/// What a run cost.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    pub rps: f64,
    pub us_per_request: f64,
    pub memory_mb: f64,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    /// Starts it; `None` where it is not installed.
    pub fn start(dir: &Path) -> Option<Self> {
        let program = root().join("target/servers/bin/nginx");
        if !program.exists() {
            return None;
        }
        let (port, status) = (free_port(), free_port());
        let d = dir.display();
        let temps: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|n| format!("{n}_temp_path {d}/{n};"))
            .concat();
        let conf = format!(
            "daemon off; master_process off; pid {d}/nginx.pid; error_log {d}/error.log; worker_rlimit_nofile 65536;\n\
             events {{ worker_connections 8192; }}\nhttp {{ {temps} access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s;\n\
             server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ return 200 \"ok\"; }} }}\n\
             server {{ listen 127.0.0.1:{status}; location = /s {{ stub_status; }} }} }}\n"
        );
        fs::write(dir.join("nginx.conf"), conf).unwrap();
        let mut command = pinned(0, &program);
        command.args(["-e", &format!("{d}/error.log"), "-p"]).arg(dir).arg("-c").arg(dir.join("nginx.conf"));
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let me = Self { process, port, status };
        let deadline = Instant::now() + Duration::from_secs(10);
        while me.requests().is_none() {
            assert!(Instant::now() < deadline, "nginx does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(me)
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    /// Requests answered since the start, by its own count.
    fn requests(&self) -> Option<u64> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.status)).ok()?;
        stream.write_all(b"GET /s HTTP/1.0\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let line = text.lines().skip_while(|l| !l.starts_with("server accepts")).nth(1)?;
        line.split_whitespace().nth(2)?.parse().ok()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Processes of a group.
fn group(id: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        after.split_whitespace().nth(2).and_then(|g| g.parse().ok()) == Some(id)
    })
    .collect()
}

/// Microseconds on a core, all threads together, ended ones among them (proc(5): utime and stime; their sum is what the
/// scheduler counted, in hundredths of a second).
fn run_time(pids: &[u32]) -> u64 {
    let of = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, rest) = stat.rsplit_once(") ")?;
        let field = |n: usize| rest.split_whitespace().nth(n)?.parse::<u64>().ok();
        Some((field(11)? + field(12)?) * 10_000)
    };
    pids.iter().filter_map(of).sum()
}

fn memory_mb(pids: &[u32]) -> f64 {
    let of = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line =
            status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?.split_whitespace().next()?.to_owned();
        line.parse::<f64>().ok()
    };
    pids.iter().filter_map(of).sum::<f64>() / 1024.0
}

/// Runs a generator and takes its steady window: from 1.2 s after its first requests to half a second before its end.
pub fn cost(mut command: Command, server: &Server, lasting: Duration) -> Option<Cost> {
    let mut child = command.process_group(0).spawn().unwrap();
    let cost = window(&mut child, server, lasting);
    if cost.is_none() {
        drop(child.kill());
    }
    drop(child.wait());
    cost
}

fn window(child: &mut Child, server: &Server, lasting: Duration) -> Option<Cost> {
    let (before, deadline) = (server.requests()?, Instant::now() + Duration::from_secs(20));
    while server.requests()?.saturating_sub(before) < 200 {
        if Instant::now() > deadline || !matches!(child.try_wait(), Ok(None)) {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let began = Instant::now();
    std::thread::sleep(Duration::from_millis(1_200));
    let pids = group(child.id());
    let (cpu, requests, at) = (run_time(&pids), server.requests()?, Instant::now());
    std::thread::sleep(lasting.saturating_sub(began.elapsed() + Duration::from_millis(500)));
    let (cpu, took) = (run_time(&pids).checked_sub(cpu)?, at.elapsed());
    let requests = server.requests()?.saturating_sub(requests);
    Some(Cost {
        rps: requests as f64 / took.as_secs_f64(),
        us_per_request: cpu as f64 / requests.max(1) as f64,
        memory_mb: memory_mb(&pids),
    })
}
