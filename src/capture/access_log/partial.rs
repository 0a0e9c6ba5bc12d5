//! Lines that a container runtime cut into parts, put together again.
//!
//! Kubernetes' container runtime interface writes a line of more than 16 KiB as several, each with a stamp and the name of
//! its stream before it, and says of each whether it is a part (`P`) or the last one (`F`). Source: Kubernetes, "Container
//! runtime interface (CRI): logging", and its implementation in containerd. Parts of the two streams may alternate.
//! What it refuses to do: hold more than a line may have. What is longer is told as such once, where it ends.

use std::borrow::Cow;

use crate::limits::LOG_LINE_BYTES_MAX;

/// Bytes of a stamp, at most: `2016-10-06T00:17:09.669794202+00:00`.
const STAMP_BYTES_MAX: usize = 35;

/// The parts so far, by stream.
#[derive(Debug, Clone, Default)]
pub struct Partial([Vec<u8>; 2]);

/// A line as a container runtime writes it.
pub(super) struct Cri<'l> {
    stream: usize,
    is_part: bool,
    /// What was written.
    pub(super) content: &'l [u8],
}

impl<'l> Cri<'l> {
    /// `None` where it is none.
    pub(super) fn of(line: &'l [u8]) -> Option<Self> {
        // Nearly all lines are told by this.
        if line.get(10) != Some(&b'T') || !line[0].is_ascii_digit() {
            return None;
        }
        let blank = memchr::memchr(b' ', &line[..line.len().min(STAMP_BYTES_MAX + 1)])?;
        let rest = &line[blank + 1..];
        let streams = [&b"stdout "[..], b"stderr "];
        let stream = streams.iter().position(|s| rest.starts_with(s))?;
        let rest = &rest[streams[stream].len()..];
        let end = memchr::memchr(b' ', &rest[..rest.len().min(32)])?;
        // Other tags may stand behind this one.
        let is_part = match rest[..end].split(|b| *b == b':').next()? {
            b"P" => true,
            b"F" => false,
            _ => return None,
        };
        Some(Self { stream, is_part, content: &rest[end + 1..] })
    }
}

/// The lines of a text, joined, without their ends and the blanks around them; empty ones are left out. Parts whose end is
/// not there come last, bare.
#[must_use]
pub fn joined(text: &[u8]) -> Vec<Cow<'_, [u8]>> {
    let mut partial = Partial::default();
    let lines = text.split(|b| *b == b'\n').filter_map(|line| partial.join(line));
    let trimmed = lines.map(|line| match line {
        Cow::Borrowed(line) => Cow::Borrowed(line.trim_ascii()),
        Cow::Owned(line) => Cow::Owned(line.trim_ascii().to_vec()),
    });
    let mut all: Vec<_> = trimmed.filter(|line| !line.is_empty()).collect();
    // The text may end before the line does.
    all.extend(partial.0.into_iter().filter(|parts| !parts.is_empty()).map(Cow::Owned));
    all
}

impl Partial {
    /// Whether no part waits for its end.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Vec::is_empty)
    }

    /// Forgets the parts: their end will not come, or not behind them. Says whether there were any.
    pub fn give_up(&mut self) -> bool {
        !std::mem::take(&mut self.0).iter().all(Vec::is_empty)
    }

    /// A line without its end: itself, or all of which it is the last part; `None` where it is a part of which more follows.
    pub fn join<'l>(&mut self, line: &'l [u8]) -> Option<Cow<'l, [u8]>> {
        let Some(cri) = Cri::of(line) else { return Some(Cow::Borrowed(line)) };
        let parts = &mut self.0[cri.stream];
        if !cri.is_part && parts.is_empty() {
            return Some(Cow::Borrowed(line));
        }
        // One byte more than may be tells that it is too long.
        let room = (LOG_LINE_BYTES_MAX + 1).saturating_sub(parts.len());
        parts.extend_from_slice(&cri.content[..cri.content.len().min(room)]);
        if cri.is_part {
            return None;
        }
        let head = &line[..line.len() - cri.content.len()];
        let whole = [head, parts].concat();
        *parts = Vec::new();
        Some(Cow::Owned(whole))
    }

    /// Takes whole lines that are read elsewhere: what is left of them are parts whose end is still to come.
    pub fn pass(&mut self, lines: &[u8]) {
        let has = |stream: &str| memchr::memmem::find(lines, stream.as_bytes()).is_some();
        if self.is_empty() && !has(" stdout P") && !has(" stderr P") {
            return;
        }
        for line in lines.split(|b| *b == b'\n') {
            drop(self.join(line));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: &str = "2016-10-06T00:17:09.669794202Z";

    fn join(lines: &[String]) -> Vec<String> {
        let mut partial = Partial::default();
        let joined = lines.iter().filter_map(|l| Some(partial.join(l.as_bytes())?.into_owned()));
        joined.map(|l| String::from_utf8(l).unwrap()).collect()
    }

    #[test]
    fn parts_become_one_line_and_others_stay_as_they_are() {
        let cri = |words: &str| format!("{STAMP} {words}");
        #[rustfmt::skip]
        let table: [(&[String], &[String]); 6] = [
            (&[cri("stdout F a b"), cri("stdout F c")], &[cri("stdout F a b"), cri("stdout F c")]),
            (&[cri("stdout P a "), cri("stdout P b"), cri("stdout F  c"), cri("stdout F d")], &[cri("stdout F a b c"), cri("stdout F d")]),
            (&[cri("stdout P a"), cri("stderr F x"), cri("stderr P y"), cri("stdout F b"), cri("stderr F z")],
             &[cri("stderr F x"), cri("stdout F ab"), cri("stderr F yz")]),
            (&[cri("stdout P:tag a"), cri("stdout F:tag b")], &[cri("stdout F:tag ab")]),
            // Neither is one of a container runtime.
            (&[cri("stdlog P a"), cri("stdout X b")], &[cri("stdlog P a"), cri("stdout X b")]),
            (&["1.2.3.4 - - [x] stdout P y".into(), String::new()], &["1.2.3.4 - - [x] stdout P y".into(), String::new()]),
        ];
        for (lines, want) in table {
            assert_eq!(join(lines), want);
        }
    }

    /// Lines whose first part was lost, and parts whose end was: whoever comes behind them is not glued to them.
    #[test]
    fn what_has_no_end_or_no_beginning_is_left_alone() {
        let mut partial = Partial::default();
        partial.pass(format!("half a line\n\n{STAMP} stdout P a\n").as_bytes());
        assert!(!partial.is_empty(), "whatever the first line is");
        assert!(partial.give_up() && !partial.give_up());
        let end = format!("{STAMP} stdout F b");
        assert_eq!(partial.join(end.as_bytes()).as_deref(), Some(end.as_bytes()));
        // One that is too long is told at its end, and nothing of another stream or form with it.
        let lines = format!(
            "{STAMP} stderr P a\n{STAMP} stdout P {}\n{}\n",
            "x".repeat(100_000),
            "y".repeat(100_000)
        );
        partial.pass(lines.as_bytes());
        assert!(partial.join(end.as_bytes()).is_some_and(|l| l.len() > LOG_LINE_BYTES_MAX));
        assert!(partial.join(format!("{STAMP} stderr F b").as_bytes()).is_some_and(|l| l.ends_with(b"F ab")));
        assert_eq!(joined(format!(" \n{STAMP} stdout P GET /\n x ").as_bytes()), [&b"x"[..], b"GET /"]);
    }

    #[test]
    fn what_is_held_is_bounded_and_told_at_its_end() {
        let mut partial = Partial::default();
        let part = format!("{STAMP} stdout P {}", "x".repeat(16_384));
        for _ in 0..100 {
            assert!(partial.join(part.as_bytes()).is_none() && partial.0[0].len() <= LOG_LINE_BYTES_MAX + 1);
        }
        let whole = partial.join(b"2016-10-06T00:17:09Z stdout F x").unwrap();
        assert!(whole.len() > LOG_LINE_BYTES_MAX && partial.is_empty());
    }

    /// Read here or passed over: what is left is the same.
    #[test]
    fn what_is_passed_leaves_what_reading_leaves() {
        let lines =
            format!("{STAMP} stdout F a\n{STAMP} stdout P b\n{STAMP} stderr P c\n{STAMP} stderr F d\n");
        let (mut read, mut passed) = (Partial::default(), Partial::default());
        lines.lines().for_each(|l| drop(read.join(l.as_bytes())));
        passed.pass(lines.as_bytes());
        assert_eq!((&read.0, &read.0[0][..]), (&passed.0, &b"b"[..]));
        passed.pass(format!("{STAMP} stdout F end\n").as_bytes());
        assert!(passed.is_empty());
    }
}
