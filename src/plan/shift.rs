//! Recorded targets changed before they are judged: ids that clones of a session do not share, and dates that have moved
//! on since the recording.
//!
//! Without it every clone asks for what its original asked for, and caches are warmer than users would make them; and
//! what was "next week" when it was recorded is last month now. Pure arithmetic on one segment of a path or one value of
//! a query. What does not look like an id or a date there is left as it was recorded.

use super::routes::Pattern;
use crate::trace::shape::RequestShape;

/// Which part of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// A segment of the path, from 1.
    Segment(usize),
    /// The first value of this key in the query.
    Query(Vec<u8>),
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Another id for each clone: `by` is added for each, around within `min..=max`.
    Ids {
        /// Distance between clones.
        by: u64,
        /// Smallest id there is.
        min: u64,
        /// Largest id there is.
        max: u64,
    },
    /// The days that have passed since the recording are added: `2026-11-26` and what begins so, seconds or milliseconds
    /// since 1970.
    Days,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shift {
    /// Requests that it is for.
    pub on: Pattern,
    /// Where.
    pub part: Part,
    /// How.
    pub how: How,
}

/// The target as a clone sends it, `days` after the recording; none where nothing changes.
#[must_use]
pub fn target(rules: &[Shift], shape: &RequestShape, clone: u64, days: i64) -> Option<Vec<u8>> {
    let mut out: Option<Vec<u8>> = None;
    for rule in rules.iter().filter(|r| r.on.matches(&shape.method, shape.path())) {
        let now = out.as_deref().unwrap_or(&shape.target);
        let Some(range) = find(now, &rule.part) else { continue };
        let Some(value) = changed(&now[range.clone()], rule.how, clone, days) else { continue };
        out = Some([&now[..range.start], &value, &now[range.end..]].concat());
    }
    out
}

/// Where a part stands.
fn find(target: &[u8], part: &Part) -> Option<core::ops::Range<usize>> {
    let query = target.iter().position(|b| *b == b'?').unwrap_or(target.len());
    match part {
        Part::Segment(n) => {
            let mut at = 0;
            for (i, segment) in target[..query].split(|b| *b == b'/').enumerate() {
                if i == *n {
                    return Some(at..at + segment.len());
                }
                at += segment.len() + 1;
            }
            None
        }
        Part::Query(key) => {
            let mut at = (query + 1).min(target.len());
            for pair in target[at..].split(|b| *b == b'&') {
                let value = pair.strip_prefix(&key[..]).and_then(|rest| rest.strip_prefix(b"="));
                if let Some(value) = value {
                    return Some(at + pair.len() - value.len()..at + pair.len());
                }
                at += pair.len() + 1;
            }
            None
        }
    }
}

fn changed(value: &[u8], how: How, clone: u64, days: i64) -> Option<Vec<u8>> {
    match how {
        How::Ids { by, min, max } => ids(value, by.checked_mul(clone)?, min, max),
        How::Days => dates(value, days),
    }
    .filter(|new| new != value)
}

fn number(digits: &[u8]) -> Option<u64> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| plain)?.parse().ok()
}

/// As many digits as before, at least.
fn ids(value: &[u8], add: u64, min: u64, max: u64) -> Option<Vec<u8>> {
    let id = number(value).filter(|id| (min..=max).contains(id))?;
    let room = u128::from(max - min) + 1;
    let new = u128::from(min) + (u128::from(id - min) + u128::from(add)) % room;
    Some(format!("{new:0width$}", width = value.len()).into_bytes())
}

const SECONDS_A_DAY: i64 = 86_400;

fn dates(value: &[u8], days: i64) -> Option<Vec<u8>> {
    if let Some(stamp) = number(value) {
        let unit = match value.len() {
            10 => 1,
            13 => 1_000,
            _ => return None,
        };
        let add = days.checked_mul(SECONDS_A_DAY * unit)?;
        return Some(i64::try_from(stamp).ok()?.checked_add(add)?.to_string().into_bytes());
    }
    let (date, rest) = value.split_at_checked(10)?;
    let ends = rest.first().is_none_or(|b| !b.is_ascii_digit());
    let date: jiff::civil::Date = std::str::from_utf8(date).ok()?.parse().ok()?;
    let moved = date.checked_add(jiff::Span::new().try_days(days).ok()?).ok()?;
    ends.then(|| [moved.to_string().as_bytes(), rest].concat())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::stream::tests::shape;

    fn rule(on: &str, part: Part, how: How) -> Shift {
        Shift { on: Pattern::parse(on).unwrap(), part, how }
    }

    #[test]
    fn targets_of_clones_and_of_later_days() {
        let ids = How::Ids { by: 1_000, min: 1, max: 50_000 };
        let query = |key: &str| Part::Query(key.as_bytes().to_vec());
        type Row = (Part, How, &'static str, u64, i64, Option<&'static str>);
        #[rustfmt::skip]
        let table: [Row; 24] = [
            (Part::Segment(2), ids, "/product/17", 0, 9, None),
            (Part::Segment(2), ids, "/product/17", 1, 0, Some("/product/1017")),
            (Part::Segment(2), ids, "/product/17/reviews?x=17", 2, 0, Some("/product/2017/reviews?x=17")),
            (Part::Segment(2), ids, "/product/00017", 1, 0, Some("/product/01017")),
            (Part::Segment(2), ids, "/product/49999", 1, 0, Some("/product/00999")),
            (Part::Segment(2), ids, "/product/50001", 1, 0, None), // no id that is known
            (Part::Segment(2), ids, "/product/shoes", 1, 0, None),
            (Part::Segment(2), ids, "/product/", 1, 0, None),
            (Part::Segment(3), ids, "/product/17", 1, 0, None),
            (Part::Segment(2), ids, "/other/17", 1, 0, None),
            (query("id"), ids, "/product?uid=3&id=4&id=5", 1, 0, Some("/product?uid=3&id=1004&id=5")),
            (query("id"), ids, "/product?id=4", u64::MAX, 0, None), // too far to say
            (query("id"), ids, "/product?ID=4", 1, 0, None),
            (query("id"), ids, "/product", 1, 0, None),
            (query("id"), ids, "/product?", 1, 0, None),
            (query("d"), How::Days, "/product?d=2026-02-27&e=1", 0, 2, Some("/product?d=2026-03-01&e=1")),
            (query("d"), How::Days, "/product?d=2026-11-26T10:00Z", 5, -365, Some("/product?d=2025-11-26T10:00Z")),
            (query("d"), How::Days, "/product?d=2026-11-261", 0, 2, None),
            (query("d"), How::Days, "/product?d=2026-13-26", 0, 2, None),
            (query("d"), How::Days, "/product?d=1700000000", 0, 1, Some("/product?d=1700086400")),
            (query("d"), How::Days, "/product?d=1700000000123", 0, 1, Some("/product?d=1700086400123")),
            (query("d"), How::Days, "/product?d=170000000", 0, 1, None),
            (query("d"), How::Days, "/product?d=tomorrow", 0, 1, None),
            (Part::Segment(2), How::Days, "/product/2026-11-26", 0, 30, Some("/product/2026-12-26")),
        ];
        for (part, how, from, clone, days, want) in table {
            let rules = [rule("GET /product/**", part.clone(), how), rule("GET /product", part, how)];
            let got = target(&rules, &shape("GET", from, false), clone, days);
            assert_eq!(got.map(|t| String::from_utf8(t).unwrap()).as_deref(), want, "{from} {clone} {days}");
        }
    }

    #[test]
    fn several_rules_change_one_target() {
        let rules = [
            rule("GET /a/**", Part::Segment(2), How::Ids { by: 1, min: 0, max: 9 }),
            rule("GET /a/**", Part::Query(b"d".to_vec()), How::Days),
        ];
        let got = target(&rules, &shape("GET", "/a/9?d=2026-01-01", false), 1, 1).unwrap();
        assert_eq!(String::from_utf8(got).unwrap(), "/a/0?d=2026-01-02");
    }

    proptest! {
        /// Ids stay among those there are, and different ids stay different.
        #[test]
        fn ids_are_a_permutation(min in 0u64..50, len in 1u64..60, by in 0u64..1_000, clone in 0u64..1_000) {
            let max = min + len - 1;
            let seen: std::collections::BTreeSet<u64> = (min..=max)
                .map(|id| number(&ids(id.to_string().as_bytes(), by * clone, min, max).unwrap()).unwrap())
                .collect();
            prop_assert_eq!(seen.into_iter().collect::<Vec<_>>(), (min..=max).collect::<Vec<_>>());
        }

        #[test]
        fn any_target_is_taken_or_left(bytes in prop::collection::vec(any::<u8>(), 0..60), clone in 0u64..5, days in -40_000_000i64..40_000_000) {
            let mut s = shape("GET", "/", false);
            s.target = bytes.into();
            let rules = [
                rule("GET /**", Part::Segment(1), How::Days),
                rule("GET /**", Part::Query(b"a".to_vec()), How::Ids { by: 7, min: 0, max: u64::MAX }),
            ];
            let long = s.target.len() + 30;
            prop_assert!(target(&rules, &s, clone, days).is_none_or(|t| t.len() <= long));
        }
    }
}
