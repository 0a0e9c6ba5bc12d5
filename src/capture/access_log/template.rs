//! A line format as literal text and fields in turn, compiled once and matched without allocating.
//!
//! nginx's `log_format`, Apache's `LogFormat` and every preset of a text format become one of these. A field ends where
//! the literal behind it begins. What stands behind the last field that is used is not looked at, so that columns which
//! an operator added do no harm.

use super::escape::Escape;
use super::row::{Field, LineError, Row};

/// Which moment of a request the stamp is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// It was received.
    Start,
    /// It was over: nginx and most that log when they are done.
    End,
}

/// One step through a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// This text stands here.
    Literal(Vec<u8>),
    /// A value stands here.
    Field(Field),
    /// The line may end here, or go on in another way.
    MayEnd,
    /// `key=value`, durations and addresses as people append them to the combined format.
    Tail,
}

/// A compiled format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    steps: Vec<Step>,
    /// How values are escaped.
    pub escape: Escape,
    /// What the stamp is of.
    pub mark: Mark,
}

/// Why a directive cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadDirective {
    /// Two values with nothing between.
    #[error("nothing stands between {0} and the variable behind it, so nobody can tell where it ends")]
    Touching(String),
    /// A directive that is not one.
    #[error("{0}")]
    Syntax(String),
    /// What every replay needs is not in the format.
    #[error("the format has no {what}; add {add}")]
    Lacks {
        /// What.
        what: &'static str,
        /// The variables that have it.
        add: &'static str,
    },
}

/// A part of a format in nginx's notation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'f> {
    /// Text as it stands.
    Text(&'f str),
    /// The name of a variable, `$name` or `${name}`; empty behind a `$` that names none.
    Variable(&'f str),
}

/// The parts of a format in nginx's notation.
#[must_use]
pub fn parts(format: &str) -> Vec<Part<'_>> {
    let (mut out, mut rest) = (Vec::new(), format);
    while !rest.is_empty() {
        let dollar = rest.find('$').unwrap_or(rest.len());
        if dollar > 0 {
            out.push(Part::Text(&rest[..dollar]));
        }
        let Some(behind) = rest.get(dollar + 1..) else { break };
        let (name, used) = match behind.strip_prefix('{').and_then(|b| b.split_once('}')) {
            Some((name, _)) => (name, name.len() + 2),
            None => {
                let n = behind.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
                (&behind[..n], n)
            }
        };
        out.push(Part::Variable(name));
        rest = &behind[used..];
    }
    out
}

impl Template {
    /// Checks that the steps can be matched and that a request can come of them. `names` are those of the fields, for errors.
    ///
    /// # Errors
    /// [`BadDirective`].
    pub fn new(
        mut steps: Vec<Step>,
        escape: Escape,
        mark: Mark,
        names: &[String],
    ) -> Result<Self, BadDirective> {
        // A query that follows its path at once begins with its own `?`.
        let target = |pair: &[Step]| pair == [Step::Field(Field::Path), Step::Field(Field::Query)];
        while let Some(i) = steps.windows(2).position(target) {
            steps.splice(i..i + 2, [Step::Field(Field::Target)]);
        }
        let mut named = 0;
        for pair in steps.windows(2) {
            if let Step::Field(_) = pair[0] {
                if matches!(pair[1], Step::Field(_)) {
                    return Err(BadDirective::Touching(names.get(named).cloned().unwrap_or_default()));
                }
                named += 1;
            }
        }
        let has =
            |want: &dyn Fn(&Field) -> bool| steps.iter().any(|s| matches!(s, Step::Field(f) if want(f)));
        if !has(&|f| matches!(f, Field::Time(_) | Field::StartTime(_))) {
            let add = "$msec or $time_iso8601 (nginx), %t (Apache)";
            return Err(BadDirective::Lacks { what: "time", add });
        }
        let line = has(&|f| *f == Field::RequestLine);
        if !line && !has(&|f| *f == Field::Method) {
            return Err(BadDirective::Lacks { what: "method", add: "$request (nginx), %r (Apache)" });
        }
        if !line && !has(&|f| matches!(f, Field::Target | Field::Path)) {
            return Err(BadDirective::Lacks { what: "target", add: "$request (nginx), %r (Apache)" });
        }
        let used = |s: &Step| {
            !matches!(s, Step::Literal(_) | Step::MayEnd | Step::Field(Field::Skip | Field::SkipList))
        };
        let last = steps.iter().rposition(used).map_or(0, |i| i + 1);
        // The literal behind the last field tells where it ends.
        steps.truncate(if matches!(steps.get(last), Some(Step::Literal(_))) { last + 1 } else { last });
        Ok(Self { steps, escape, mark })
    }

    /// Reads one line.
    ///
    /// # Errors
    /// [`LineError`].
    pub fn parse<'a>(&self, line: &'a [u8]) -> Result<Row<'a>, LineError> {
        let (mut row, mut at) = (Row::default(), 0usize);
        let (mut steps, mut optional) = (self.steps.iter().peekable(), false);
        while let Some(step) = steps.next() {
            let rest = line.get(at..).unwrap_or_default();
            match step {
                Step::MayEnd => optional = true,
                Step::Tail => tail(&mut row, rest),
                Step::Literal(text) => {
                    if rest.starts_with(text) {
                        at += text.len();
                    } else if optional || steps.peek().is_none() {
                        break;
                    } else {
                        return Err(form(at, "another text is expected"));
                    }
                }
                Step::Field(field) => {
                    let end = match steps.peek() {
                        Some(Step::Literal(text)) => self.end_of(field, rest, text),
                        Some(Step::MayEnd) => Some(memchr::memchr(b' ', rest).unwrap_or(rest.len())),
                        _ => Some(rest.len()),
                    };
                    let last = steps.len() <= 1;
                    let end = match end {
                        Some(end) => end,
                        // A line that was cut while it was written has said enough.
                        None if (optional || last) && matches!(field, Field::UserAgent | Field::Referer) => {
                            rest.len()
                        }
                        None => return Err(form(at, "a value and its end are expected")),
                    };
                    row.set(field, &rest[..end], self.escape)?;
                    at += end;
                }
            }
        }
        row.check()
    }

    /// Where a value ends: at the text behind it, outside of escapes.
    fn end_of(&self, field: &Field, rest: &[u8], text: &[u8]) -> Option<usize> {
        let quoted = text.first() == Some(&b'"') && matches!(self.escape, Escape::Backslash | Escape::Json);
        let mut from = 0;
        loop {
            let end = from + find(rest.get(from..)?, text)?;
            let inside_list = *field == Field::SkipList
                && (rest[..end].ends_with(b",")
                    || rest[..end].ends_with(b" :")
                    || rest[end..].starts_with(b" : "));
            // A quote behind an odd number of backslashes belongs to the value.
            let escaped = quoted && rest[..end].iter().rev().take_while(|b| **b == b'\\').count() % 2 == 1;
            if !inside_list && !escaped {
                return Some(end);
            }
            from = end + 1;
        }
    }
}

fn form(at: usize, want: &'static str) -> LineError {
    LineError::Form { at: u32::try_from(at).unwrap_or(u32::MAX), want }
}

/// The first place of `text`, by its first byte.
fn find(rest: &[u8], text: &[u8]) -> Option<usize> {
    let first = *text.first()?;
    if text.len() == 1 {
        return memchr::memchr(first, rest);
    }
    memchr::memchr_iter(first, rest).find(|i| rest[*i..].starts_with(text))
}

/// What people append to the combined format: a quoted list of addresses, `$request_time`, `rt=`, `NNms`.
fn tail<'a>(row: &mut Row<'a>, rest: &'a [u8]) {
    for word in rest.split(|b| *b == b' ').filter(|w| !w.is_empty()).take(16) {
        let bare = word.strip_prefix(b"\"").and_then(|w| w.strip_suffix(b"\"")).unwrap_or(word);
        let bare = bare.strip_prefix(b"rt=").or_else(|| bare.strip_prefix(b"request_time=")).unwrap_or(bare);
        if row.duration_ns.is_none() && is_seconds(bare) {
            row.duration_ns = super::clock::decimal(bare, 9);
        } else if row.forwarded.is_empty()
            && is_addresses(bare.strip_suffix(b",").unwrap_or(bare))
            && word.first() == Some(&b'"')
        {
            row.forwarded = std::borrow::Cow::Borrowed(bare);
        }
    }
}

/// `$request_time`: seconds with exactly three decimals.
fn is_seconds(word: &[u8]) -> bool {
    let Some(dot) = word.iter().position(|b| *b == b'.') else { return false };
    dot > 0 && word.len() == dot + 4 && word.iter().enumerate().all(|(i, b)| i == dot || b.is_ascii_digit())
}

/// Looks like addresses: digits and what stands between them.
fn is_addresses(word: &[u8]) -> bool {
    let of_address = |b: &u8| b.is_ascii_hexdigit() || b".:,".contains(b);
    word.len() > 2 && word.iter().all(of_address) && word.iter().any(|b| b".:".contains(b))
}
