//! Logs that grow, are renamed, cut, compressed and left, as tables.

use std::fs::{self, OpenOptions};
use std::io::Write;

use super::*;

struct Rig {
    dir: tempfile::TempDir,
    now: RunTime,
}

impl Rig {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), now: RunTime::from_millis(0) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn append(&self, name: &str, text: &str) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.path(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    fn pack(&self, from: &str, to: &str) {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&fs::read(self.path(from)).unwrap()).unwrap();
        fs::write(self.path(to), gz.finish().unwrap()).unwrap();
        fs::remove_file(self.path(from)).unwrap();
    }

    /// Rotations lie further apart than a test. Packing keeps the time of the last change, which is behind that of any position.
    fn age(&self, name: &str, age_s: u64) {
        if let Ok(file) = File::options().write(true).open(self.path(name)) {
            file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(4_000_000_000 - age_s)).unwrap();
        }
    }

    fn open(&self, left: Option<&Position>) -> (Followed, bool) {
        Followed::open(&self.path("log"), left).unwrap()
    }

    /// All that comes while files that are not written to any more are left for the next ones.
    fn poll_long(&mut self, log: &mut Followed) -> Vec<String> {
        (0..6).flat_map(|_| self.poll(log, 6)).collect()
    }

    /// All that comes until nothing does, `seconds` later.
    fn poll(&mut self, log: &mut Followed, seconds: u64) -> Vec<String> {
        self.now = self.now.plus(Duration::from_secs(seconds));
        let mut out = Vec::new();
        loop {
            let more = log.poll(self.now, |came| {
                out.push(match came {
                    Came::Line(line) if line.len() > 99 => format!("{} bytes", line.len()),
                    Came::Line(line) => String::from_utf8_lossy(line).into_owned(),
                    Came::Cut => "CUT".to_owned(),
                });
                Ok(())
            });
            if !more.unwrap() {
                return out;
            }
        }
    }
}

#[test]
fn lines_come_whole_and_once() {
    let mut rig = Rig::new();
    let (mut log, cut) = rig.open(None);
    assert!(!cut && log.position().is_none());
    assert_eq!(rig.poll(&mut log, 1), Vec::<String>::new(), "it is waited for");
    rig.append("log", "a\nb\nc");
    assert_eq!(rig.poll(&mut log, 1), ["a", "b"]);
    rig.append("log", "c\n");
    assert_eq!(rig.poll(&mut log, 1), ["cc"]);
    rig.append("log", &format!("{}\nd\n", "x".repeat(2 * LOG_LINE_BYTES_MAX)));
    let came = rig.poll(&mut log, 1);
    assert!(came.len() == 2 && came[0].ends_with(" bytes") && came[1] == "d", "{came:?}");
}

#[test]
fn a_renamed_log_is_read_to_its_end_before_the_next_one() {
    let mut rig = Rig::new();
    rig.append("log", "a\n");
    let (mut log, _) = rig.open(None);
    assert_eq!(rig.poll(&mut log, 1), ["a"]);
    rig.rename("log", "log.1");
    rig.append("log", "d\n");
    // The server still writes to the old one.
    rig.append("log.1", "b\n");
    assert_eq!(rig.poll(&mut log, 1), ["b"]);
    rig.append("log.1", "c");
    assert_eq!(rig.poll(&mut log, 4), Vec::<String>::new());
    assert_eq!(rig.poll(&mut log, 2), ["c", "d"]);
}

#[test]
fn a_cut_log_is_told_and_read_from_its_beginning() {
    let mut rig = Rig::new();
    rig.append("log", "a\nb\n");
    let (mut log, _) = rig.open(None);
    assert_eq!(rig.poll(&mut log, 1), ["a", "b"]);
    fs::write(rig.path("log"), "").unwrap();
    rig.append("log", "c\n");
    assert_eq!(rig.poll(&mut log, 1), ["CUT", "c"]);
    // Cut, and longer than before by the time it is looked at.
    fs::write(rig.path("log"), "d\ne\nf\n").unwrap();
    assert_eq!(rig.poll(&mut log, 1), ["CUT", "d", "e", "f"]);
}

#[test]
fn a_restart_neither_loses_nor_repeats_lines() {
    // What happens to the files while nobody follows, and what comes then.
    type Change = fn(&Rig);
    let table: [(&str, Change, &[&str], bool); 9] = [
        ("nothing", |_| {}, &["cc"], false),
        ("it grew", |r| r.append("log", "c\nd\n"), &["cc", "d"], false),
        (
            "it was renamed",
            |r| {
                r.append("log", "c\n");
                r.rename("log", "log.1");
                r.append("log", "d\n");
            },
            &["cc", "d"],
            false,
        ),
        (
            "twice",
            |r| {
                r.append("log", "c\n");
                r.rename("log", "log.2");
                r.append("log.1", "d\n");
                r.append("log", "e\n");
            },
            &["cc", "d", "e"],
            false,
        ),
        (
            "the second was compressed",
            |r| {
                r.append("log", "c\n");
                r.rename("log", "log.2");
                r.append("next", "d\n");
                r.pack("next", "log.1.gz");
                r.append("log", "e\n");
            },
            &["cc", "d", "e"],
            false,
        ),
        (
            "it was packed",
            |r| {
                r.append("log", "c\nd\n");
                r.pack("log", "log.1.gz");
                r.append("log", "e\n");
            },
            &["cc", "d", "e"],
            false,
        ),
        (
            "it was packed, and so was the one behind it, and one before it",
            |r| {
                r.append("older", "0\n");
                r.pack("older", "log.3.gz");
                r.append("log", "c\n");
                r.pack("log", "log.2.gz");
                r.append("next", "d\ne");
                r.pack("next", "log.1.gz");
                r.append("log", "f\n");
            },
            &["cc", "d", "e", "f"],
            false,
        ),
        (
            "it is gone",
            |r| {
                fs::remove_file(r.path("log")).unwrap();
                r.append("log", "x\n");
            },
            &["x"],
            true,
        ),
        ("it was cut", |r| fs::write(r.path("log"), "x\ny\nz\nz\n").unwrap(), &["x", "y", "z", "z"], true),
    ];
    for (what, change, want, cut) in table {
        let mut rig = Rig::new();
        rig.append("log", "a\nb\nc");
        let (mut log, _) = rig.open(None);
        assert_eq!(rig.poll(&mut log, 1), ["a", "b"]);
        let left = log.position().unwrap();
        // As it lies on the disk.
        let left: Position = serde_json::from_str(&serde_json::to_string(&left).unwrap()).unwrap();
        drop(log);
        change(&rig);
        // Rotations lie further apart than a test.
        for (name, age_s) in
            [("log.3.gz", 30), ("log.2.gz", 20), ("log.2", 20), ("log.1", 10), ("log.1.gz", 10)]
        {
            rig.age(name, age_s);
        }
        let (mut log, was_cut) = rig.open(Some(&left));
        assert_eq!(was_cut, cut, "{what}");
        let mut came = rig.poll(&mut log, 1);
        came.extend(rig.poll(&mut log, 6));
        came.extend(rig.poll(&mut log, 6));
        if what == "nothing" {
            rig.append("log", "c\n");
            came.extend(rig.poll(&mut log, 1));
        }
        assert_eq!(came, want, "{what}");
        rig.append("log", "last\n");
        assert_eq!(rig.poll(&mut log, 6), ["last"], "{what}");
        let (mut log, cut) = rig.open(log.position().as_ref());
        assert!(!cut && rig.poll(&mut log, 6).is_empty(), "{what}");
    }
}

#[test]
fn rotated_logs_are_told_by_their_names() {
    for end in ["", ".1", ".12.gz", "-20261126", "-20261126T030000.zst", ".2026-11-26"] {
        assert!(is_rotated(end), "{end}");
    }
    for end in [".position", ".old", "s", ".1.bak", "-api", ".", "-", ".gz.1"] {
        assert!(!is_rotated(end), "{end}");
    }
}

#[test]
fn two_rotations_between_two_looks_lose_nothing() {
    let mut rig = Rig::new();
    rig.append("log", "a\n");
    let (mut log, _) = rig.open(None);
    assert_eq!(rig.poll(&mut log, 1), ["a"]);
    rig.append("log", "b\n");
    rig.rename("log", "log.2");
    rig.append("log.1", "c\n");
    for (name, age_s) in [("log.2", 20), ("log.1", 10)] {
        let file = File::options().write(true).open(rig.path(name)).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000 - age_s)).unwrap();
    }
    // No log is there for a moment: the place in the old one is kept.
    assert_eq!(rig.poll(&mut log, 1), ["b", "c"]);
    assert!(log.position().is_some());
    rig.append("log", "d\n");
    assert_eq!(rig.poll(&mut log, 6), ["d"]);
    // Removed: what was read is gone, and that nothing came in between cannot be known.
    fs::remove_file(rig.path("log")).unwrap();
    rig.append("log", "e\n");
    let came = [rig.poll(&mut log, 1), rig.poll(&mut log, 6)].concat();
    assert_eq!(came, ["CUT", "e"]);
}

/// Packed while it is followed: known again by what it holds, whatever came behind it is read, and a restart finds its place.
#[test]
fn a_log_that_is_packed_while_it_is_followed_loses_nothing() {
    let mut rig = Rig::new();
    rig.append("log", "a\n");
    let (mut log, _) = rig.open(None);
    assert_eq!(rig.poll(&mut log, 1), ["a"]);
    rig.append("log", "b\nc");
    rig.pack("log", "log.2.gz");
    rig.append("log.1", "d\n");
    rig.pack("log.1", "log.1.gz");
    rig.append("log", "e\n");
    for (name, age_s) in [("log.2.gz", 20), ("log.1.gz", 10)] {
        rig.age(name, age_s);
    }
    let came = rig.poll_long(&mut log);
    assert_eq!(came, ["b", "c", "d", "e"]);
    let (mut log, cut) = rig.open(log.position().as_ref());
    assert!(!cut && rig.poll(&mut log, 6).is_empty());
    // Left in a log that is then packed, and asked where it is before anything was read: the same place.
    rig.append("log", "f\n");
    let left = log.position().unwrap();
    rig.pack("log", "log.0.gz");
    let (mut log, cut) = rig.open(Some(&left));
    assert!(!cut && log.position().as_ref() == Some(&left));
    assert_eq!(rig.poll(&mut log, 1), ["f"]);
}

/// Damaged behind the place where it was left, or replaced by another archive before it was read.
#[test]
fn an_archive_that_is_damaged_or_renamed_is_told_and_ends_nothing() {
    let mut rig = Rig::new();
    let lines = |from: u32, to: u32| {
        (from..to).map(|n| format!("line {n} {}\n", n.wrapping_mul(0x9e37_79b9))).collect::<String>()
    };
    rig.append("log", &lines(0, 10));
    let (mut log, _) = rig.open(None);
    rig.poll(&mut log, 1);
    let left = log.position().unwrap();
    rig.append("log", &lines(10, 20_000));
    rig.pack("log", "log.1.gz");
    rig.append("log", "e\n");
    let (mut log, cut) = rig.open(Some(&left));
    assert!(!cut);
    // By its name it is another one now; it goes on all the same.
    rig.rename("log.1.gz", "log.2.gz");
    rig.append("next", "d\n");
    rig.pack("next", "log.1.gz");
    rig.age("log.2.gz", 20);
    rig.age("log.1.gz", 10);
    let came = rig.poll_long(&mut log);
    assert_eq!((came.len(), &came[came.len() - 2..]), (19_992, &["d".to_owned(), "e".to_owned()][..]));
    let whole = fs::read(rig.path("log.2.gz")).unwrap();
    fs::write(rig.path("log.2.gz"), &whole[..whole.len() / 2]).unwrap();
    let (mut log, cut) = rig.open(Some(&left));
    assert!(!cut, "the lines before the place are there");
    rig.age("log.2.gz", 20);
    rig.age("log.1.gz", 10);
    let came = rig.poll_long(&mut log);
    assert!((100..19_900).contains(&came.len()), "{}", came.len());
    assert_eq!(came[came.len() - 3..], ["CUT", "d", "e"]);
    let all = lines(10, 20_000);
    let all: std::collections::BTreeSet<&str> = all.lines().collect();
    assert!(came[..came.len() - 3].iter().all(|l| all.contains(l.as_str())), "whole lines");
    // The one behind it is no archive at all.
    fs::write(rig.path("log.2.gz"), whole).unwrap();
    fs::write(rig.path("log.1.gz"), b"\x1f\x8b\x08\x00 not deflated at all").unwrap();
    let (mut log, _) = rig.open(Some(&left));
    rig.age("log.2.gz", 20);
    rig.age("log.1.gz", 10);
    let came = rig.poll_long(&mut log);
    assert_eq!((came.len(), &came[came.len() - 2..]), (19_992, &["CUT".to_owned(), "e".to_owned()][..]));
}
