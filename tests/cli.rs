//! The command line: refusals, policies, the README, the unit file, the schema.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]
#![allow(clippy::disallowed_methods, reason = "tests measure real time against real servers")]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use support::*;

fn policy(dir: &Path, tail: &str) -> String {
    let path = dir.join("policy.toml");
    fs::write(&path, format!("version = 1\nname = \"t\"\n[target]\nallow = [\"127.0.0.0/8\"]\n{tail}"))
        .unwrap();
    path.display().to_string()
}

#[test]
fn a_wrong_policy_names_line_and_key() {
    let dir = tempfile::tempdir().unwrap();
    #[rustfmt::skip]
    let table = [
        ("[rate]\nmax_rsp = 5\n", "line 6: max_rsp", "unknown field"),
        ("[rate]\nrequest_timeout = \"5 secs\"\n", "line 6: rate.request_timeout", "not a duration"),
        ("[prometheus]\nurl = \"http://127.0.0.1:9\"\n[[guard]]\nname = \"g\"\nexpr = 'sum(rate(x[1m]))'\n", "line 7: g", "without a threshold"),
        ("[notify]\nslack = \"#sre\"\n", "line 5: notify", "not enforced by this version"),
    ];
    let trace = trace_of(dir.path(), "demo.pcap");
    for (tail, place, why) in table {
        let path = policy(dir.path(), tail);
        for args in [
            vec!["check", path.as_str()],
            vec!["--trace", &trace, "--target", "http://127.0.0.1:9", "--policy", &path],
        ] {
            let out = replay(&args);
            assert_eq!(code(&out), 2, "{}", text(&out));
            assert!(text(&out).contains(place) && text(&out).contains(why), "{}", text(&out));
        }
    }
}

#[test]
fn what_is_not_allowed_is_refused_before_the_first_request() {
    let dir = tempfile::tempdir().unwrap();
    let trace = trace_of(dir.path(), "demo.pcap");
    let local = policy(dir.path(), "[rate]\nmax_scale = 1\n");
    let kill = dir.path().join("STOP");
    fs::write(&kill, "").unwrap();
    let killed = dir.path().join("killed.toml");
    let tail = format!(
        "version = 1\nname = \"t\"\n[target]\nallow = [\"127.0.0.0/8\"]\n[stop]\nkill_file = {:?}\n",
        kill.display().to_string()
    );
    fs::write(&killed, tail).unwrap();
    let killed = killed.display().to_string();
    let (sink, out) = (Sink::ok(), dir.path().join("run").display().to_string());
    let url = sink.url();
    #[rustfmt::skip]
    let table: [(Vec<&str>, i32, &str); 9] = [
        (vec!["--target", "http://192.0.2.1:80"], 3, "policies/production-example.toml"),
        (vec!["--target", &url, "--connect-to", "192.0.2.1:80"], 3, "must list it"),
        (vec!["--target", &url, "--policy", &local, "--scale", "2x"], 3, "max_scale"),
        (vec!["--target", &url, "--policy", &local, "--speed", "2x"], 3, "max_scale"),
        (vec!["--target", &url, "--policy", &killed], 3, "kill file"),
        (vec!["--target", &url, "--rate", "10/s", "--scale", "2x"], 2, "cannot be used with"),
        (vec!["--target", &url, "--scale", "0x"], 2, "a scale such as"),
        (vec!["--target", "nonsense"], 2, "not a target URL"),
        (vec![], 2, "no target"),
    ];
    for (more, want, why) in table {
        let args = [vec!["--trace", &trace, "--out", &out], more].concat();
        let done = replay(&args);
        assert_eq!(code(&done), want, "{args:?}: {}", text(&done));
        assert!(text(&done).contains(why), "{args:?}: {}", text(&done));
    }
    assert_eq!(sink.count(), 0, "nothing was sent");
    let absent = replay(&["--trace", "no-such.trace", "--target", &url]);
    assert_eq!(code(&absent), 2);
    assert!(text(&absent).contains("no-such.trace"), "{}", text(&absent));
}

#[test]
fn a_production_target_needs_confirmation() {
    let dir = tempfile::tempdir().unwrap();
    let trace = trace_of(dir.path(), "demo.pcap");
    let text_of = fs::read_to_string(root().join("policies/production-example.toml")).unwrap();
    let path = dir.path().join("p.toml");
    let kill = dir.path().join("STOP").display().to_string();
    let hosts = "hosts = [\"*\"]";
    let mine = text_of
        .replace("/run/replay/STOP", &kill)
        .replace("hosts = [\"api.example.com\", \"www.example.com\"]", hosts);
    // Any hour will do here: the window itself has tests of its own.
    let (before, window) = mine.split_once("[window]").unwrap();
    let (_, after) = window.split_once("\n\n").unwrap();
    let mine = format!("{before}{after}");
    fs::write(&path, mine.replace("\"GET /api/**\", ", "\"GET /**\", ")).unwrap();
    let args = ["--trace", &trace, "--policy", &path.display().to_string(), "--quiet"];
    let done = replay(&args);
    assert_eq!(code(&done), 3, "{}", text(&done));
    assert!(text(&done).contains("--confirm api.example.com"), "{}", text(&done));
    let none = replay(&[&args[..], &["--lead-in", "none", "--confirm", "api.example.com"]].concat());
    assert_eq!(code(&none), 3);
    assert!(text(&none).contains("loopback targets only"), "{}", text(&none));
}

#[test]
fn a_dry_run_tells_and_sends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (sink, trace) = (Sink::ok(), trace_of(dir.path(), "shop-edge.pcap"));
    let out = replay(&["--trace", &trace, "--target", &sink.url(), "--scale", "2.5x", "--dry-run"]);
    assert_eq!(code(&out), 0, "{}", text(&out));
    for word in [
        "peak second",
        "mean",
        "connections at once",
        "dropped",
        "needs_credentials",
        "coverage",
        "would shed",
        "full scale from minute",
        "█",
    ] {
        assert!(text(&out).contains(word), "{word} not in\n{}", text(&out));
    }
    assert_eq!(sink.count(), 0);
}

/// Every command of the README's tour, as a person would type it.
#[test]
fn the_readme_is_true() {
    let dir = tempfile::tempdir().unwrap();
    for folder in ["captures", "policies", "policies/scenarios"] {
        let from = root().join(folder);
        fs::create_dir(dir.path().join(folder)).unwrap();
        for entry in fs::read_dir(&from).unwrap().flatten().filter(|e| e.path().is_file()) {
            fs::copy(entry.path(), dir.path().join(folder).join(entry.file_name())).unwrap();
        }
    }
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let blocks: Vec<&str> = readme.split("```sh\n").skip(1).map(|b| b.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 5, "{}", blocks.len());
    // The shop's port may be taken on the machine of the test.
    let port = free_port().to_string();
    let script = format!("set -e\n{}kill $!\n", blocks.concat().replace("8900", &port));
    let bin = Path::new(REPLAY).parent().unwrap().display().to_string();
    let path = format!("{bin}:{}", std::env::var("PATH").unwrap());
    let run = Command::new("sh")
        .args(["-c", &script])
        .current_dir(dir.path())
        .env("PATH", path)
        .env("REPLAY_STATE_DIR", state_dir())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", text(&run));
    for word in ["come out the same", "failed requests of users"] {
        assert!(text(&run).contains(word), "{word} not in {}", text(&run));
    }
    for made in ["shop.trace", "log.trace", "first/report.json", "first/journal.jsonl", "steady/report.json"]
    {
        assert!(dir.path().join(made).exists(), "{made}");
    }
    assert_identities(&report(&dir.path().join("first")));
    for target in ["demo", "test", "help", "lint", "bench"] {
        assert!(
            fs::read_to_string(root().join("Makefile")).unwrap().contains(&format!("\n{target}:")),
            "{target}"
        );
    }
}

/// The demo shows what it says, in less than a minute.
#[test]
fn the_demo_shows_what_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let out = replay(&["demo", "--quiet", "--out", &dir.path().display().to_string()]);
    assert_eq!(code(&out), 0, "{}", text(&out));
    for word in ["Take away", "share cut", "recover", "report.json"] {
        assert!(text(&out).contains(word), "{word}: {}", text(&out));
    }
    let r = report(&dir.path().join("hot"));
    assert_identities(&r);
    let length = r["run"]["duration_s"].as_f64().unwrap()
        + report(&dir.path().join("calm"))["run"]["duration_s"].as_f64().unwrap();
    assert!(length < 60.0, "{length} s");
}

#[test]
fn the_schema_is_the_generated_one_and_a_report_has_its_fields() {
    let out = replay(&["schema"]);
    let committed = fs::read_to_string(root().join("docs/report.schema.json")).unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), committed, "run `make schema`");
}

#[test]
fn replayd_checks_says_ready_and_stops_on_a_signal() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("replayd.toml");
    fs::copy(root().join("systemd/replayd.toml"), &config).unwrap();
    let config_arg = config.display().to_string();
    let checked = Command::new(REPLAYD).args(["--check", "--config", &config_arg]).output().unwrap();
    assert_eq!(code(&checked), 0, "{}", text(&checked));
    fs::write(dir.path().join("bad.toml"), "version = 1\nunknown = 2\n").unwrap();
    let bad = Command::new(REPLAYD)
        .args(["--check", "--config", &dir.path().join("bad.toml").display().to_string()])
        .output()
        .unwrap();
    assert_eq!(code(&bad), 2);
    assert!(text(&bad).contains("unknown field"), "{}", text(&bad));

    // Two policies that would both run against one target at the same hour.
    let night = |name: &str, start: &str| {
        let text = format!(
            "version = 1\nname = \"{name}\"\n[target]\nurl = \"http://127.0.0.1:8080\"\nallow = [\"127.0.0.0/8\"]\n\
             [window]\ntimezone = \"Europe/Amsterdam\"\nstart = \"{start}\"\nduration = \"1h\"\n"
        );
        fs::write(dir.path().join(format!("{name}.toml")), text).unwrap();
    };
    for (start, accepted) in [("Sun 03:59", false), ("Sun 04:00", true)] {
        night("one", "daily 03:00");
        night("two", start);
        let names = ["one", "two"].map(|n| dir.path().join(format!("{n}.toml")));
        let both = dir.path().join("both.toml");
        fs::write(&both, format!("version = 1\npolicies = {names:?}\n")).unwrap();
        let said = Command::new(REPLAYD).args(["--check", "--config"]).arg(&both).output().unwrap();
        assert_eq!(code(&said) == 0, accepted, "{start}: {}", text(&said));
        assert_eq!(text(&said).contains("G020"), !accepted, "{start}: {}", text(&said));
    }

    night("one", "daily 03:00");
    let always = fs::read_to_string(dir.path().join("two.toml")).unwrap();
    fs::write(dir.path().join("two.toml"), always.split("[window]").next().unwrap()).unwrap();
    let said = Command::new(REPLAYD)
        .args(["--check", "--config"])
        .arg(dir.path().join("both.toml"))
        .output()
        .unwrap();
    assert!(code(&said) != 0 && text(&said).contains("has no window"), "{}", text(&said));

    let socket = dir.path().join("notify");
    let listener = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    listener.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let child = Command::new(REPLAYD)
        .args(["--config", &config_arg])
        .env("NOTIFY_SOCKET", &socket)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut process = Process(child);
    let mut buffer = [0u8; 256];
    let n = listener.recv(&mut buffer).unwrap();
    assert!(String::from_utf8_lossy(&buffer[..n]).starts_with("READY=1"));
    process.signal("TERM");
    assert_eq!(wait_for_end(&mut process, Duration::from_secs(5)), 0);
    let n = listener.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..n], b"STOPPING=1");
}

#[test]
fn systemd_accepts_the_unit() {
    let dir = tempfile::tempdir().unwrap();
    let unit = fs::read_to_string(root().join("systemd/replayd.service")).unwrap();
    let path = dir.path().join("replayd.service");
    // systemd looks for the program, which is not installed here.
    fs::write(&path, unit.replace("/usr/bin/replayd", REPLAYD)).unwrap();
    let Ok(out) = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output() else {
        eprintln!("SKIPPED: systemd-analyze is not on this machine");
        return;
    };
    assert!(out.status.success() && !text(&out).contains("replayd.service:"), "{}", text(&out));
}

/// TLS with the platform's roots, and an address other than the name's.
#[test]
fn tls_is_verified_against_the_platforms_roots() {
    let dir = tempfile::tempdir().unwrap();
    let Some(program) = tool("nginx") else { return };
    let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert_path, key_path) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    fs::write(&cert_path, key.cert.pem()).unwrap();
    fs::write(&key_path, key.signing_key.serialize_pem()).unwrap();
    let (d, port) = (dir.path().display().to_string(), free_port());
    fs::create_dir_all(dir.path().join("tmp")).unwrap();
    let temps: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|n| format!("{n}_temp_path {d}/tmp/{n};"))
        .collect();
    let conf = format!(
        "user root;\ndaemon off;\npid {d}/n.pid;\nerror_log {d}/e.log;\nevents {{}}\nhttp {{ {temps} access_log {d}/a.log;\n\
         server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {}; ssl_certificate_key {}; location / {{ return 200 ok; }} }} }}\n",
        cert_path.display(),
        key_path.display()
    );
    fs::write(dir.path().join("nginx.conf"), conf).unwrap();
    let _nginx = Process::start(
        &program,
        &["-e", &format!("{d}/e.log"), "-p", &d, "-c", &format!("{d}/nginx.conf")],
        &dir.path().join("n.out"),
    );
    wait_for_port(port);
    let trace = trace_of(dir.path(), "demo.pcap");
    let run = |trusted: bool, out: &str| {
        let mut command = Command::new(REPLAY);
        command.args([
            "--trace",
            &trace,
            "--target",
            &format!("https://localhost:{port}"),
            "--connect-to",
            &format!("127.0.0.1:{port}"),
        ]);
        command.args([
            "--lead-in",
            "none",
            "--quiet",
            "--for",
            "3s",
            "--out",
            &dir.path().join(out).display().to_string(),
        ]);
        if trusted {
            command.env("SSL_CERT_FILE", &cert_path);
        }
        command.stdin(Stdio::null()).output().unwrap()
    };
    let good = run(true, "good");
    assert_eq!(code(&good), 0, "{}", text(&good));
    let r = report(&dir.path().join("good"));
    assert_identities(&r);
    assert!(r["latency"]["tls"]["count"].as_u64().unwrap() > 10, "{}", r["latency"]["tls"]);
    let logged = fs::read_to_string(dir.path().join("a.log")).unwrap().lines().count() as u64;
    assert_eq!(logged, r["counts"]["written"].as_u64().unwrap());
    let bad = run(false, "bad");
    assert_ne!(code(&bad), 0, "{}", text(&bad));
    // Without any root on the machine the run does not start, and writes no report.
    if dir.path().join("bad/report.json").exists() {
        assert_eq!(report(&dir.path().join("bad"))["counts"]["written"], 0, "a stranger got a request");
    }
}
