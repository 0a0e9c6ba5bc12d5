//! Real servers on loopback, a sink that remembers when requests came, and the program itself.
//!
//! Every process started here is ended by its own id when its handle is dropped. Waiting is for an
//! observable condition with a deadline, never for a fixed time.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses a part")]
#![allow(clippy::disallowed_methods, reason = "tests measure real time against real servers")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

pub const REPLAY: &str = env!("CARGO_BIN_EXE_replay");
pub const REPLAYD: &str = env!("CARGO_BIN_EXE_replayd");

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A test server, or `None` with a loud word. `make test` fetches them; CI must have them.
pub fn tool(name: &str) -> Option<PathBuf> {
    let dir = std::env::var_os("REPLAY_SERVERS").map_or_else(|| root().join("target/servers"), PathBuf::from);
    let path = dir.join("bin").join(name);
    if path.exists() {
        return Some(path);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "{name} is missing in {}: run tests/servers/setup.sh",
        dir.display()
    );
    eprintln!("SKIPPED: {name} is not in {}; run `make servers`", dir.display());
    None
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits until `f` is true; panics with `what` after `limit`.
pub fn wait_until(what: &str, limit: Duration, mut f: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !f() {
        assert!(Instant::now() < deadline, "{what} did not happen within {limit:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A process that ends with its handle.
pub struct Process(pub Child);

impl Process {
    pub fn start(program: &Path, args: &[&str], log: &Path) -> Self {
        let out = fs::File::create(log).unwrap();
        let err = out.try_clone().unwrap();
        let mut command = Command::new(program);
        command.env("REPLAY_STATE_DIR", state_dir());
        let child = command.args(args).stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        Self(child.unwrap_or_else(|e| panic!("{}: {e}", program.display())))
    }

    pub fn signal(&self, name: &str) {
        signal(self.0.id(), name);
    }
}

pub fn signal(pid: u32, name: &str) {
    let done = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().unwrap();
    assert!(done.success(), "kill -{name} {pid}");
}

impl Drop for Process {
    fn drop(&mut self) {
        // A stopped process does not see SIGTERM.
        drop(Command::new("kill").args(["-CONT", &self.0.id().to_string()]).stderr(Stdio::null()).status());
        drop(Command::new("kill").args(["-TERM", &self.0.id().to_string()]).stderr(Stdio::null()).status());
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if matches!(self.0.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

pub fn wait_for_port(port: u16) {
    wait_until(&format!("a server on port {port}"), Duration::from_secs(15), || {
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
}

/// nginx that answers everything with 200 and logs each request as a line.
pub struct Nginx {
    pub process: Process,
    pub port: u16,
    log: PathBuf,
}

impl Nginx {
    pub fn start(dir: &Path) -> Option<Self> {
        Self::start_with(dir, |port| {
            format!(
                "server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ return 200 \"ok\\n\"; }} }}"
            )
        })
    }

    /// With other servers, made for the port that is waited for.
    pub fn start_with(dir: &Path, servers: impl FnOnce(u16) -> String) -> Option<Self> {
        let program = tool("nginx")?;
        let (d, port) = (dir.display(), free_port());
        let servers = servers(port);
        fs::create_dir_all(dir.join("tmp")).unwrap();
        let temps: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|n| format!("{n}_temp_path {d}/tmp/{n};\n"))
            .collect();
        let conf = format!(
            "user root;\ndaemon off;\npid {d}/nginx.pid;\nerror_log {d}/error.log;\nworker_processes 1;\n\
             events {{ worker_connections 4096; }}\nhttp {{\n{temps}access_log {d}/access.log;\nkeepalive_requests 1000000;\n\
             keepalive_timeout 300s;\n{servers}\n}}\n"
        );
        let path = dir.join("nginx.conf");
        fs::write(&path, conf).unwrap();
        let error = format!("{d}/error.log");
        let args = ["-e", &error, "-p", &d.to_string(), "-c", &path.display().to_string()];
        let process = Process::start(&program, &args, &dir.join("nginx.out"));
        wait_for_port(port);
        Some(Self { process, port, log: dir.join("access.log") })
    }

    /// Lines of the access log.
    pub fn logged(&self) -> u64 {
        fs::read_to_string(&self.log).unwrap_or_default().lines().count() as u64
    }

    pub fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// HAProxy in front of a port.
pub struct Haproxy {
    _process: Process,
    pub port: u16,
}

impl Haproxy {
    pub fn start(dir: &Path, backend: u16) -> Option<Self> {
        let (program, port) = (tool("haproxy")?, free_port());
        let conf = format!(
            "global\n  maxconn 8000\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 5m\n  timeout server 5m\n\
             frontend f\n  bind 127.0.0.1:{port}\n  default_backend b\nbackend b\n  server s 127.0.0.1:{backend}\n"
        );
        let path = dir.join("haproxy.cfg");
        fs::write(&path, conf).unwrap();
        let args = ["-db", "-f", &path.display().to_string()];
        let process = Process::start(&program, &args, &dir.join("haproxy.out"));
        wait_for_port(port);
        Some(Self { _process: process, port })
    }
}

/// Prometheus that scrapes one port every two seconds.
pub struct Prometheus {
    pub process: Process,
    pub port: u16,
}

impl Prometheus {
    pub fn start(dir: &Path, target: u16) -> Option<Self> {
        Self::start_with(dir, &[target], "2s", "")
    }

    /// Scrapes `targets` every `scrape`, with `rules` (groups of a rule file, or nothing). External label: cluster =
    /// "test".
    pub fn start_with(dir: &Path, targets: &[u16], scrape: &str, rules: &str) -> Option<Self> {
        let (program, port) = (tool("prometheus")?, free_port());
        let targets: Vec<String> = targets.iter().map(|t| format!("'127.0.0.1:{t}'")).collect();
        fs::write(dir.join("rules.yml"), if rules.is_empty() { "groups: []\n" } else { rules }).unwrap();
        let conf = format!(
            "global:\n  scrape_interval: {scrape}\n  scrape_timeout: {scrape}\n  evaluation_interval: 1s\n  external_labels:\n    cluster: test\n\
             rule_files: [rules.yml]\nscrape_configs:\n  - job_name: shop\n    static_configs:\n      - targets: [{}]\n",
            targets.join(", ")
        );
        let path = dir.join("prometheus.yml");
        fs::write(&path, conf).unwrap();
        let args = [
            format!("--config.file={}", path.display()),
            format!("--storage.tsdb.path={}", dir.join("tsdb").display()),
            "--storage.tsdb.retention.time=100d".to_owned(),
            format!("--web.listen-address=127.0.0.1:{port}"),
        ];
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let process = Process::start(&program, &args, &dir.join("prometheus.out"));
        wait_for_port(port);
        let me = Self { process, port };
        wait_until("the first scrape", Duration::from_secs(30), || me.query("up").contains("\"value\""));
        Some(me)
    }

    pub fn query(&self, q: &str) -> String {
        get(self.port, &format!("/api/v1/query?query={q}")).unwrap_or_default()
    }
}

/// A plain GET; the whole answer as text.
pub fn get(port: u16, path: &str) -> std::io::Result<String> {
    let mut s = TcpStream::connect(("127.0.0.1", port))?;
    s.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(s, "GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    s.read_to_string(&mut text)?;
    Ok(text)
}

/// What the sink answers to the n-th request (from 0).
type Answer = dyn Fn(u64) -> String + Send + Sync;

#[derive(Default)]
struct Seen {
    times: Vec<Instant>,
    heads: Vec<String>,
}

/// A server that remembers when each request came.
pub struct Sink {
    pub addr: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

pub const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

impl Sink {
    pub fn start(answer: impl Fn(u64) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let (inside, answer): (_, Arc<Answer>) = (Arc::clone(&seen), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, answer) = (Arc::clone(&inside), Arc::clone(&answer));
                std::thread::spawn(move || serve(stream, &seen, &*answer));
            }
        });
        Self { addr, seen }
    }

    pub fn ok() -> Self {
        Self::start(|_| OK.to_owned())
    }

    pub fn count(&self) -> usize {
        self.seen.lock().unwrap().times.len()
    }

    pub fn times(&self) -> Vec<Instant> {
        self.seen.lock().unwrap().times.clone()
    }

    pub fn heads(&self) -> Vec<String> {
        self.seen.lock().unwrap().heads.clone()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

fn serve(stream: TcpStream, seen: &Mutex<Seen>, answer: &Answer) {
    stream.set_nodelay(true).unwrap();
    let Ok(mut out) = stream.try_clone() else { return };
    let mut input = BufReader::new(stream);
    loop {
        let mut head = String::new();
        loop {
            let before = head.len();
            if input.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
            if head[before..].trim().is_empty() {
                break;
            }
        }
        let number = {
            let mut seen = seen.lock().unwrap();
            seen.times.push(Instant::now());
            seen.heads.push(head);
            seen.times.len() as u64 - 1
        };
        if out.write_all(answer(number).as_bytes()).is_err() {
            return;
        }
    }
}

/// Where the program keeps what outlives a run: apart from the user's own, and one for each test process.
pub fn state_dir() -> PathBuf {
    let dir = root().join("target/test-state").join(std::process::id().to_string());
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// Runs the program to its end.
pub fn replay(args: &[&str]) -> Output {
    replay_with(args, &[])
}

/// Runs the program to its end with more variables in its environment.
pub fn replay_with(args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(REPLAY);
    command.env("REPLAY_STATE_DIR", state_dir()).envs(env.iter().copied());
    command.args(args).current_dir(root()).stdin(Stdio::null()).output().unwrap()
}

pub fn code(out: &Output) -> i32 {
    out.status.code().unwrap_or(-1)
}

pub fn text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

/// Starts the program; its output goes to files in `dir`.
pub fn start_replay(dir: &Path, args: &[&str]) -> Process {
    Process::start(Path::new(REPLAY), args, &dir.join("replay.out"))
}

/// Captures one of our own captures into a trace.
pub fn trace_of(dir: &Path, capture: &str) -> String {
    let path = dir.join(format!("{capture}.trace")).display().to_string();
    let input = root().join("captures").join(capture).display().to_string();
    let out = replay(&["capture", &input, "-o", &path]);
    assert_eq!(code(&out), 0, "{}", text(&out));
    path
}

pub fn report(dir: &Path) -> Value {
    let path = dir.join("report.json");
    serde_json::from_str(&fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
        .unwrap()
}

/// Waits for a started program to end and returns its exit code.
pub fn wait_for_end(process: &mut Process, limit: Duration) -> i32 {
    let mut code = None;
    wait_until("the end of the run", limit, || {
        code = process.0.try_wait().unwrap();
        code.is_some()
    });
    code.and_then(|s| s.code()).unwrap_or(-1)
}

pub fn sum(map: &Value) -> u64 {
    map.as_object().map_or(0, |m| m.values().filter_map(Value::as_u64).sum())
}

/// The three identities, recomputed from the report's numbers.
pub fn assert_identities(r: &Value) {
    let n = |c: &Value, k: &str| c[k].as_u64().unwrap_or_else(|| panic!("{k} in {c}"));
    let c = &r["counts"];
    assert_eq!(n(c, "recorded"), r["coverage"]["planned"].as_u64().unwrap() + sum(&c["dropped"]), "{c}");
    assert!(r["phases"]["lead_in"]["recorded"].is_null(), "absent is not zero");
    for c in [c, &r["phases"]["lead_in"], &r["phases"]["measure"]] {
        assert_eq!(n(c, "due"), n(c, "sent") + sum(&c["shed"]), "{c}");
        assert_eq!(n(c, "sent"), n(c, "written") + n(c, "failed_before_write"), "{c}");
        let ended =
            n(c, "ok") + sum(&c["unexpected"]) + sum(&c["error"]) + n(c, "timeout") + n(c, "cancelled");
        assert_eq!(n(c, "written"), ended, "{c}");
    }
    assert!(r["identities"].as_object().unwrap().values().all(|v| v == true), "{}", r["identities"]);
}
