//! The source read as data: the import table, purity, headers, no path of a machine.
//!
//! The table is the one in docs/ARCHITECTURE.md. A rule that no test enforces is a wish.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]

use std::fs;
use std::path::{Path, PathBuf};

const PURE: [&str; 9] =
    ["wire", "trace", "capture", "plan", "govern", "policy", "measure", "report", "simulate"];

/// What each module may import of ours.
fn allowed(module: &str) -> Vec<&'static str> {
    let base = vec!["units", "limits", "lookup"];
    let with = |more: &[&'static str]| [base.clone(), more.to_vec()].concat();
    match module {
        "units" | "limits" | "lookup" => vec!["limits"],
        "wire" => with(&[]),
        "trace" => with(&["wire"]),
        "capture" | "plan" => with(&["trace", "wire"]),
        "govern" => with(&[]),
        // `measure` names the gate's reasons: there is one list of them, and it is the gate's.
        "measure" => with(&["trace", "wire", "govern"]),
        "policy" => with(&["govern", "plan"]),
        "report" => with(&["policy", "govern", "measure", "plan", "trace"]),
        "simulate" => with(&["govern", "plan"]),
        "edge" => [with(&PURE), vec!["edge"]].concat(),
        "engine" => [with(&PURE), vec!["edge"]].concat(),
        "demo" | "cli" => [with(&PURE), vec!["edge", "engine", "demo"]].concat(),
        "daemon" => [with(&PURE), vec!["edge", "engine"]].concat(),
        other => panic!("module {other} is not in the table"),
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files(dir: &Path, ext: &str, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, ext, out);
        } else if path.extension().is_some_and(|e| e == ext) {
            out.push(path);
        }
    }
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut paths = Vec::new();
    files(&root().join("src"), "rs", &mut paths);
    paths.sort();
    assert!(paths.len() > 50, "the sources were not found");
    paths
        .into_iter()
        .map(|p| (p.strip_prefix(root().join("src")).unwrap().to_owned(), fs::read_to_string(&p).unwrap()))
        .collect()
}

/// The module of a file: its first path component without `.rs`.
fn module(path: &Path) -> String {
    let first = path.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// The text without its tests: tests may look anywhere.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap()
}

fn is_test_file(path: &Path) -> bool {
    path.file_name().is_some_and(|n| n.to_string_lossy().contains("tests.rs"))
}

#[test]
fn imports_follow_the_table() {
    for (path, text) in sources() {
        let module = module(&path);
        if module == "lib" || module == "bin" || is_test_file(&path) {
            continue;
        }
        let may = allowed(&module);
        for (n, line) in without_tests(&text).lines().enumerate() {
            for (i, _) in line.match_indices("crate::") {
                let rest = &line[i + "crate::".len()..];
                let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let own = name == module || name.is_empty();
                assert!(
                    own || may.contains(&name.as_str()),
                    "{}:{}: {module} may not import {name}",
                    path.display(),
                    n + 1
                );
            }
        }
    }
}

#[test]
fn siblings_of_the_edge_never_import_each_other() {
    const SIBLINGS: [&str; 4] = ["intake", "send", "watch", "host"];
    for (path, text) in sources() {
        let Ok(inside) = path.strip_prefix("edge") else { continue };
        let me = module(inside);
        for other in SIBLINGS.iter().filter(|s| **s != me && SIBLINGS.contains(&me.as_str())) {
            assert!(!text.contains(&format!("edge::{other}")), "{}: imports edge::{other}", path.display());
        }
    }
}

#[test]
fn pure_modules_touch_nothing() {
    const BANNED: [&str; 9] = [
        "std::fs",
        "std::net",
        "std::thread",
        "time::Instant",
        "SystemTime",
        "rand::",
        "RandomState",
        "tokio",
        "HashMap",
    ];
    for (path, text) in sources() {
        if !PURE.contains(&module(&path).as_str()) || is_test_file(&path) {
            continue;
        }
        for (n, line) in
            without_tests(&text).lines().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//"))
        {
            for banned in BANNED {
                assert!(!line.contains(banned), "{}:{}: {banned} in a pure module", path.display(), n + 1);
            }
        }
    }
}

#[test]
fn bincode_is_named_in_one_file_only() {
    for (path, text) in sources() {
        let named = text.lines().any(|l| !l.trim_start().starts_with("//") && l.contains("bincode"));
        assert!(!named || path == Path::new("trace/codec.rs"), "{} names bincode", path.display());
    }
}

#[test]
fn every_file_says_what_it_is() {
    for (path, text) in sources() {
        assert!(text.starts_with("//! "), "{} has no header", path.display());
    }
}

#[test]
fn binaries_are_thin() {
    for (path, text) in sources() {
        if path.starts_with("bin") {
            assert!(text.lines().count() <= 60, "{}", path.display());
        }
    }
}

#[test]
fn no_path_of_a_machine_is_tracked() {
    let mut paths = Vec::new();
    for (dir, ext) in [
        ("src", "rs"),
        ("tests", "rs"),
        ("docs", "md"),
        ("captures", "md"),
        ("policies", "toml"),
        ("tests", "sh"),
    ] {
        files(&root().join(dir), ext, &mut paths);
    }
    paths.extend(["README.md", "CHANGELOG.md", "Makefile", "Cargo.toml"].map(|f| root().join(f)));
    // Spelled apart, so that this file does not name what it looks for.
    let banned = [["/ro", "ot/"].concat(), ["/ho", "me/"].concat(), ["/wo", "rk/"].concat()];
    for path in paths {
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        for bad in &banned {
            assert!(!text.contains(bad.as_str()), "{} names {bad}", path.display());
        }
    }
}
