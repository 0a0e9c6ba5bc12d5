//! Reads one number from a metrics page in the Prometheus text format (version 0.0.4).
//!
//! Strict: a line of the wanted metric that cannot be read makes the whole reading unusable.

use promql_parser::label::{MatchOp, Matcher};
use promql_parser::parser::{Expr, VectorSelector};

use crate::govern::reading::{Answer, NoData};
use crate::limits::SERIES_MAX;
use crate::policy::guards::Reduce;

/// One series of a page: its labels and its value.
#[derive(Debug, PartialEq)]
struct Series {
    labels: Vec<(String, String)>,
    value: f64,
}

/// Splits `name{labels} value [timestamp]`; `None` when it cannot be read.
fn parse_line(line: &str) -> Option<(&str, Series)> {
    let name_end = line.find(['{', ' ', '\t'])?;
    let (name, rest) = line.split_at(name_end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inner) => parse_labels(inner)?,
        None => (Vec::new(), rest),
    };
    let mut fields = rest.split_ascii_whitespace();
    let value = fields.next()?.parse().ok()?;
    let timestamp_fits = fields.next().is_none_or(|t| t.parse::<i64>().is_ok());
    (timestamp_fits && fields.next().is_none()).then_some((name, Series { labels, value }))
}

type Labels = Vec<(String, String)>;

fn parse_labels(mut rest: &str) -> Option<(Labels, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', ',']);
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (name, after) = rest.split_once('=')?;
        let mut chars = after.trim_start().strip_prefix('"')?.char_indices();
        let body = after.trim_start().strip_prefix('"')?;
        let mut value = String::new();
        loop {
            match chars.next()? {
                (_, '\\') => value.push(match chars.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (i, '"') => {
                    rest = &body[i + 1..];
                    break;
                }
                (_, other) => value.push(other),
            }
        }
        labels.push((name.trim().to_owned(), value));
    }
}

fn matches(selector: &VectorSelector, labels: &[(String, String)]) -> bool {
    let one = |m: &Matcher| {
        let value = labels.iter().find(|(n, _)| *n == m.name).map_or("", |(_, v)| v.as_str());
        match &m.op {
            MatchOp::Equal => value == m.value,
            MatchOp::NotEqual => value != m.value,
            MatchOp::Re(re) => re.is_match(value),
            MatchOp::NotRe(re) => !re.is_match(value),
        }
    };
    selector.matchers.matchers.iter().filter(|m| m.name != "__name__").all(one)
}

/// The number that `selector` names on `page`.
#[must_use]
pub fn read(page: &[u8], selector: &str, reduce: Reduce) -> Answer {
    let Ok(Expr::VectorSelector(wanted)) = promql_parser::parser::parse(selector) else {
        return Answer::NoData(NoData::BadValue);
    };
    let Ok(text) = std::str::from_utf8(page) else { return Answer::NoData(NoData::BadValue) };
    let name = wanted.name.clone().unwrap_or_default();
    let mut values = Vec::new();
    for line in text.lines().map(str::trim_end).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let mine = line.strip_prefix(name.as_str()).is_some_and(|r| r.starts_with(['{', ' ', '\t']));
        if !mine {
            continue;
        }
        let Some((_, series)) = parse_line(line) else { return Answer::NoData(NoData::BadValue) };
        if matches(&wanted, &series.labels) {
            values.push(series.value);
        }
    }
    match (values.as_slice(), reduce) {
        ([], _) => Answer::NoData(NoData::Empty),
        ([one], _) => Answer::number(*one),
        (many, _) if many.len() > SERIES_MAX => Answer::NoData(NoData::Multi),
        (_, Reduce::One) => Answer::NoData(NoData::Multi),
        (many, Reduce::Sum) => Answer::number(many.iter().sum()),
        // `max` of floats ignores NaN, which would hide it.
        (many, Reduce::Max) if many.iter().any(|v| v.is_nan()) => Answer::NoData(NoData::NaN),
        (many, Reduce::Min) if many.iter().any(|v| v.is_nan()) => Answer::NoData(NoData::NaN),
        (many, Reduce::Min) => Answer::number(many.iter().copied().fold(f64::INFINITY, f64::min)),
        (many, Reduce::Avg) => Answer::number(many.iter().sum::<f64>() / many.len() as f64),
        (many, Reduce::Max) => Answer::number(many.iter().copied().fold(f64::NEG_INFINITY, f64::max)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_number_or_no_data() {
        let page = b"# HELP x y\n# TYPE x gauge\nx 3\nx_total{code=\"200\",path=\"a\\\"}b\"} 5 1700000000\n\
            x_total{code=\"500\"} 7\nbad{a=\"b\" 1\nbroken_number NaN\nmany{i=\"1\"} 1\nmany{i=\"2\"} NaN\n";
        use Reduce::{Avg, Max, Min, One, Sum};
        let none = |why| Answer::NoData(why);
        #[rustfmt::skip]
        let table = [
            ("x", One, Answer::number(3.0)), ("x_total{code=\"500\"}", One, Answer::number(7.0)),
            ("x_total{code=~\"5..\"}", One, Answer::number(7.0)), ("x_total", One, none(NoData::Multi)),
            ("x_total", Sum, Answer::number(12.0)), ("x_total", Max, Answer::number(7.0)),
            ("x_total{path!=\"\"}", One, Answer::number(5.0)), ("missing", One, none(NoData::Empty)),
            ("bad", One, none(NoData::BadValue)), ("broken_number", One, none(NoData::NaN)),
            ("many", Max, none(NoData::NaN)), ("many", Sum, none(NoData::NaN)),
        ];
        for (selector, reduce, want) in table {
            assert_eq!(read(page, selector, reduce), want, "{selector} {reduce:?}");
        }
        assert_eq!(read(page, "x_total", Avg), Answer::number(6.0));
        assert_eq!(read(page, "x_total", Min), Answer::number(5.0));
        assert_eq!(read(page, "many", Min), none(NoData::NaN));
        assert_eq!(read(page, "many", Avg), none(NoData::NaN));
        assert_eq!(read(page, "x_total{code!~\"5..\"}", One), Answer::number(5.0));
        assert_eq!(read(page, "sum(x)", One), none(NoData::BadValue), "a selector, not a query");
        assert_eq!(read(b"\xff\xfe", "x", One), none(NoData::BadValue));
        for line in ["x 1 2 3", "x 1 soon", "x 1 2.5", "x", "x{a=b} 1", "x{a=\"b\" 1"] {
            let want = if line == "x" { NoData::Empty } else { NoData::BadValue };
            assert_eq!(read(line.as_bytes(), "x", One), none(want), "{line}");
        }
        let many = |n: usize| (0..n).map(|i| format!("m{{i=\"{i}\"}} 1\n")).collect::<String>();
        assert_eq!(read(many(SERIES_MAX).as_bytes(), "m", Sum), Answer::number(SERIES_MAX as f64));
        assert_eq!(read(many(SERIES_MAX + 1).as_bytes(), "m", Sum), none(NoData::Multi));
        assert_eq!(read(b"<html>", "x", One), none(NoData::Empty));
        assert_eq!(read(b"x nonsense", "x", One), none(NoData::BadValue));
    }
}
