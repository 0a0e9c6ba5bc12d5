//! What can be said of a guard's query without asking Prometheus: grammar, traps, range, freshness.
//!
//! Parsed by `promql-parser` (the grammar of Prometheus). The traps are those of `docs/GOVERNOR.md`: forms
//! in which no data would read as health.

use std::time::Duration;

use promql_parser::label::MatchOp;
use promql_parser::parser::token::{T_DIV, T_LAND, T_LOR, T_LUNLESS};
use promql_parser::parser::value::ValueType;
use promql_parser::parser::{BinaryExpr, Expr, LabelModifier, VectorSelector};

/// One selector of a query, as far as `check` looks at it on a real Prometheus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// Name of the metric.
    pub metric: String,
    /// As written, without `offset` and `@`.
    pub text: String,
    /// Labels that must equal something.
    pub labels: Vec<String>,
}

/// A query that may be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// As written.
    pub text: String,
    /// Longest range in it, zero without one.
    pub range: Duration,
    /// Selectors whose newest sample tells how fresh the answer is.
    pub freshness: Vec<String>,
    /// Requests behind the number, where the query is a fraction over rates: `(denominator) * range`.
    pub samples: Option<String>,
    /// Every selector leaves marked traffic out by an empty label, such as `replay=""`.
    pub unmarked: bool,
    /// An `offset` or `@` stands in it.
    pub shifted: bool,
    /// It may give several series.
    pub many: bool,
    /// Names of its metrics.
    pub metrics: Vec<String>,
    /// Its selectors of a named metric, each once.
    pub selectors: Vec<Selector>,
    /// It is, or holds, a quantile of a histogram.
    pub quantile: bool,
    /// Traps that do not make it unusable: lint id and what is wrong.
    pub warnings: Vec<(&'static str, String)>,
}

/// Why a query was refused: the lint's id and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{id}: {why}")]
pub struct BadQuery {
    /// Lint id (`docs/GOVERNOR.md`).
    pub id: &'static str,
    /// What is wrong and what to write instead.
    pub why: String,
}

fn bad(id: &'static str, why: impl Into<String>) -> BadQuery {
    BadQuery { id, why: why.into() }
}

/// Checks a query.
///
/// # Errors
/// [`BadQuery`].
pub fn check(text: &str) -> Result<Query, BadQuery> {
    let expr =
        promql_parser::parser::parse(text).map_err(|e| bad("G001", format!("not a PromQL query: {e}")))?;
    if !matches!(expr.value_type(), ValueType::Scalar | ValueType::Vector) {
        return Err(bad("G002", "the query gives a range or a string; a guard needs one number"));
    }
    check_top(&expr)?;
    let mut walk = Walk::default();
    walk.visit(&expr)?;
    walk.freshness.sort();
    walk.freshness.dedup();
    if walk.freshness.is_empty() {
        return Err(bad("G005", "no series stands behind this query, so its freshness cannot be checked"));
    }
    walk.metrics.sort();
    walk.metrics.dedup();
    if walk.selectors > 0 && walk.marked == walk.selectors {
        let why = "looks at marked traffic alone, which is ours; nobody looks at users then";
        walk.warnings.push(("G015", why.to_owned()));
    }
    Ok(Query {
        text: text.trim().to_owned(),
        range: walk.range,
        freshness: walk.freshness,
        samples: samples(&expr),
        unmarked: walk.selectors > 0 && walk.unmarked == walk.selectors,
        shifted: walk.shifted,
        many: may_be_many(&expr),
        metrics: walk.metrics,
        selectors: walk.named,
        quantile: walk.quantile,
        warnings: walk.warnings,
    })
}

/// Checks a query of failing requests, which may be absent on a healthy day: `... or vector(0)` is allowed around
/// all of it. Its freshness is that of `requests`, and its own where it comes from another metric.
///
/// # Errors
/// [`BadQuery`].
pub fn check_errors(text: &str, requests: &mut Query) -> Result<Query, BadQuery> {
    let parsed = promql_parser::parser::parse(text);
    let whole = match parsed.as_ref().map(inner) {
        Ok(Expr::Binary(b)) if b.op.id() == T_LOR && is_vector_literal(&b.rhs) => b.lhs.to_string(),
        _ => text.to_owned(),
    };
    let mut query = check(&whole)?;
    query.text = text.trim().to_owned();
    for name in &query.metrics {
        if !requests.metrics.iter().any(|m| base_name(m) == base_name(name)) {
            requests.freshness.push(name.clone());
        }
    }
    Ok(query)
}

/// The denominator of the fraction that the query is, as a number of requests.
fn samples(expr: &Expr) -> Option<String> {
    let Expr::Binary(b) = inner(expr) else { return None };
    if b.op.id() != T_DIV {
        // `1 - good / all`: the fraction is on one side.
        return samples(&b.rhs).or_else(|| samples(&b.lhs));
    }
    let mut walk = Walk::default();
    walk.visit(&b.rhs).ok()?;
    let rates = b.rhs.to_string().contains("rate(");
    (rates && !walk.range.is_zero()).then(|| format!("({}) * {}", b.rhs, walk.range.as_secs_f64()))
}

/// Whether more than one series may come out: nothing at the top folds them into one.
fn may_be_many(expr: &Expr) -> bool {
    match inner(expr) {
        Expr::Aggregate(a) => match &a.modifier {
            None => false,
            Some(LabelModifier::Include(labels)) => !labels.labels.is_empty(),
            Some(LabelModifier::Exclude(_)) => true,
        },
        Expr::Binary(b) => may_be_many(&b.lhs) || may_be_many(&b.rhs),
        Expr::Unary(u) => may_be_many(&u.expr),
        Expr::Call(c) if c.func.name == "histogram_quantile" => {
            c.args.args.get(1).is_some_and(|a| by_labels(a).is_none_or(|by| by != ["le"]))
        }
        Expr::Call(c) if matches!(c.func.name, "vector" | "time" | "scalar") => false,
        Expr::Call(c) => c.args.args.iter().any(|a| may_be_many(a)),
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) => false,
        _ => true,
    }
}

/// The labels of `by (...)`; empty for a whole aggregate, none without one.
fn by_labels(expr: &Expr) -> Option<Vec<String>> {
    let Expr::Aggregate(a) = inner(expr) else { return None };
    match &a.modifier {
        None => Some(Vec::new()),
        Some(LabelModifier::Include(labels)) => Some(labels.labels.clone()),
        Some(LabelModifier::Exclude(labels)) if labels.labels.iter().any(|l| l == "le") => Some(Vec::new()),
        Some(LabelModifier::Exclude(_)) => Some(vec!["le".to_owned()]),
    }
}

fn inner(expr: &Expr) -> &Expr {
    match expr {
        Expr::Paren(p) => inner(&p.expr),
        other => other,
    }
}

fn is_vector_literal(expr: &Expr) -> bool {
    matches!(inner(expr), Expr::Call(c) if c.func.name == "vector")
}

fn check_top(expr: &Expr) -> Result<(), BadQuery> {
    let Expr::Binary(b) = inner(expr) else { return Ok(()) };
    let filters = b.op.is_comparison_operator() && !b.modifier.as_ref().is_some_and(|m| m.return_bool);
    if filters || b.op.id() == T_LAND || b.op.id() == T_LUNLESS {
        let why = "a comparison, `and` or `unless` at the top filters: no result would read as healthy; give the number and put the limit into back_off_above";
        return Err(bad("G003", why));
    }
    if b.op.id() == T_LOR {
        return Err(bad(
            "G004",
            "`or` at the top hides missing data; write `or vector(0)` inside the numerator only",
        ));
    }
    Ok(())
}

/// Gathers ranges and freshness selectors, and meets the traps below the top.
#[derive(Default)]
struct Walk {
    range: Duration,
    freshness: Vec<String>,
    /// Inside a part that may be absent on a healthy day.
    optional: bool,
    /// Inside `(... or vector(0))`.
    filled: bool,
    /// Left of a division.
    numerator: bool,
    /// Right of a division.
    under: bool,
    /// Metrics whose freshness was not asked for, because they may be a subset of another.
    skipped: Vec<String>,
    selectors: usize,
    unmarked: usize,
    marked: usize,
    shifted: bool,
    quantile: bool,
    metrics: Vec<String>,
    named: Vec<Selector>,
    warnings: Vec<(&'static str, String)>,
}

impl Walk {
    fn visit(&mut self, expr: &Expr) -> Result<(), BadQuery> {
        match expr {
            Expr::Binary(b) => self.binary(b),
            Expr::Paren(p) => self.visit(&p.expr),
            Expr::Unary(u) => self.visit(&u.expr),
            Expr::Aggregate(a) => self.visit(&a.expr),
            Expr::Subquery(s) => {
                self.range = self.range.max(s.range);
                self.visit(&s.expr)
            }
            Expr::VectorSelector(v) => self.selector(v),
            Expr::MatrixSelector(m) => {
                self.range = self.range.max(m.range);
                self.selector(&m.vs)
            }
            Expr::Call(c) => self.call(c),
            Expr::NumberLiteral(_) | Expr::StringLiteral(_) | Expr::Extension(_) => Ok(()),
        }
    }

    fn call(&mut self, c: &promql_parser::parser::Call) -> Result<(), BadQuery> {
        let name = c.func.name;
        if name == "absent" || name == "absent_over_time" || name == "scalar" {
            return Err(bad(
                "G004",
                format!("{name}() hides missing data; a guard must see that there is none"),
            ));
        }
        let rate = matches!(name, "rate" | "increase" | "irate" | "delta" | "idelta" | "deriv");
        let of_subquery = c.args.args.iter().any(|a| matches!(inner(a), Expr::Subquery(_)));
        if rate && of_subquery {
            return Err(bad(
                "G008",
                format!("{name}() of a subquery breaks at counter resets; take the rate first, then sum"),
            ));
        }
        if rate && c.args.args.first().is_some_and(|a| is_gauge_name(inner(a))) {
            return Err(bad(
                "G008",
                format!(
                    "{name}() of something that is no counter by its name; counters end in _total, _count, _sum or _bucket"
                ),
            ));
        }
        if name == "irate" {
            let why = "irate() looks at two samples only: one late scrape swings it; use rate()";
            self.warnings.push(("G008", why.to_owned()));
        }
        if name == "histogram_quantile" {
            histogram(c)?;
            self.quantile = true;
        }
        c.args.args.iter().try_for_each(|a| self.visit(a))
    }

    fn binary(&mut self, b: &BinaryExpr) -> Result<(), BadQuery> {
        let before = self.optional;
        if b.op.id() == T_LOR && self.under {
            return Err(bad("G004", "`or` under the fraction hides missing data"));
        }
        if b.op.id() == T_LOR && is_vector_literal(&b.rhs) {
            // `(errors or vector(0))`: the error series may be absent on a healthy day.
            let filled = std::mem::replace(&mut self.filled, true);
            self.optional = true;
            let result = self.visit(&b.lhs);
            (self.optional, self.filled) = (before, filled);
            return result;
        }
        if b.op.id() == T_DIV {
            // A subset over the whole: only the whole must be there and fresh.
            let numerator = std::mem::replace(&mut self.numerator, true);
            self.optional = true;
            let left = self.visit(&b.lhs);
            (self.optional, self.numerator) = (before, numerator);
            left?;
            let above = std::mem::take(&mut self.skipped);
            let names = self.metrics.len();
            let under = std::mem::replace(&mut self.under, true);
            let right = self.visit(&b.rhs);
            self.under = under;
            right?;
            // A subset of what is below is as fresh as that. Another metric is another exporter: it must be fresh itself.
            let below: Vec<String> =
                self.metrics.iter().skip(names).map(|n| base_name(n).to_owned()).collect();
            for name in above {
                if !below.iter().any(|b| b == base_name(&name)) {
                    self.freshness.push(name);
                }
            }
            return Ok(());
        }
        self.visit(&b.lhs)?;
        self.visit(&b.rhs)
    }

    fn selector(&mut self, v: &VectorSelector) -> Result<(), BadQuery> {
        self.selectors += 1;
        // An empty label of another kind (pod="") says nothing about marked traffic.
        let empty = |m: &promql_parser::label::Matcher| {
            m.op == MatchOp::Equal && m.value.is_empty() && m.name.contains("replay")
        };
        self.unmarked += usize::from(v.matchers.matchers.iter().any(empty));
        let ours = |m: &promql_parser::label::Matcher| {
            let asks_for = matches!(m.op, MatchOp::Equal | MatchOp::Re(_));
            m.name.contains("replay") && asks_for != m.value.is_empty()
        };
        self.marked += usize::from(v.matchers.matchers.iter().any(ours));
        self.name(v);
        self.shifted |= v.offset.is_some() || v.at.is_some();
        self.metrics.extend(v.name.clone());
        for m in &v.matchers.matchers {
            let all = matches!(&m.op, MatchOp::Re(_)) && matches!(m.value.as_str(), ".*" | ".+" | "");
            if all && m.name != "__name__" {
                let why = format!("{}=~{:?} chooses nothing: it matches whatever is there", m.name, m.value);
                self.warnings.push(("G022", why));
            }
            let errors =
                matches!(m.value.as_str(), "5.." | "5xx" | "5" | "500") || m.value.starts_with("5..");
            if errors && self.numerator && !self.filled {
                let why = "the error series may not exist on a healthy day, which reads as no data; write `(sum(rate(...)) or vector(0))` in the numerator";
                self.warnings.push(("G005", why.to_owned()));
            }
        }
        if self.optional {
            self.skipped.extend(v.name.clone());
        } else {
            let plain = VectorSelector { offset: None, at: None, ..v.clone() };
            self.freshness.push(plain.to_string());
        }
        Ok(())
    }
}

impl Walk {
    fn name(&mut self, v: &VectorSelector) {
        let Some(metric) = v.name.clone() else { return };
        let equal = |m: &&promql_parser::label::Matcher| m.op == MatchOp::Equal && !m.value.is_empty();
        let labels = v.matchers.matchers.iter().filter(equal).map(|m| m.name.clone()).collect();
        let text = VectorSelector { offset: None, at: None, ..v.clone() }.to_string();
        if !self.named.iter().any(|s| s.text == text) {
            self.named.push(Selector { metric, text, labels });
        }
    }
}

/// A histogram's name without the part that says which of its series it is.
fn base_name(name: &str) -> &str {
    ["_bucket", "_count", "_sum"].iter().find_map(|s| name.strip_suffix(s)).unwrap_or(name)
}

/// Whether the selector inside names something that is no counter.
fn is_gauge_name(expr: &Expr) -> bool {
    let Expr::MatrixSelector(m) = expr else { return false };
    let gauges = ["_ratio", "_percent", "_depth", "_size", "_usage", "_in_flight", "_celsius", "_info"];
    m.vs.name.as_ref().is_some_and(|n| gauges.iter().any(|g| n.ends_with(g)))
}

/// A classic histogram must keep `le` through its aggregate.
fn histogram(c: &promql_parser::parser::Call) -> Result<(), BadQuery> {
    let Some(buckets) = c.args.args.get(1) else { return Ok(()) };
    let classic = buckets.to_string().contains("_bucket");
    if classic && by_labels(buckets).is_some_and(|by| !by.iter().any(|l| l == "le")) {
        return Err(bad(
            "G009",
            "histogram_quantile() over an aggregate without `le`: write `sum by (le) (...)`",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traps_are_named() {
        #[rustfmt::skip]
        let table = [
            ("sum(rate(x[1m]", "G001"), ("x[1m]", "G002"), ("\"text\"", "G002"),
            ("sum(rate(x[1m])) > 5", "G003"), ("up and on() x", "G003"), ("x unless y", "G003"),
            ("sum(rate(x[1m])) or vector(0)", "G004"), ("a / (b or vector(1))", "G004"), ("a / sum(b or vector(1))", "G004"), ("a / (1 + (b or c))", "G004"), ("absent(x)", "G004"),
            ("scalar(x)", "G004"), ("rate(queue_depth[1m])", "G008"),
            ("histogram_quantile(0.9, sum(rate(d_bucket[1m])))", "G009"), ("histogram_quantile(0.9, sum without (le) (rate(d_bucket[1m])))", "G009"),
            ("histogram_quantile(0.9, sum by (job) (rate(d_bucket[1m])))", "G009"), ("rate(sum(x)[1m:5s])", "G008"), ("vector(1)", "G005"), ("1", "G005"),
        ];
        for (text, id) in table {
            assert_eq!(check(text).unwrap_err().id, id, "{text}");
        }
        assert!(check("sum(rate(x[1m])) > bool 5").is_ok());
    }

    #[test]
    fn several_series_are_foreseen() {
        let table = [
            ("sum(x)", false),
            ("sum by () (x)", false),
            ("sum by (job) (x)", true),
            ("sum without (job) (x)", true),
            ("x", true),
            ("-sum(x)", false),
            ("-x", true),
            ("sum(x) * 2", false),
            ("2 * x", true),
            ("sum(x) + vector(1)", false),
            ("sum(x) - time()", false),
            ("abs(sum(x))", false),
            ("abs(x)", true),
            ("clamp_min(sum(x), 1)", false),
            ("histogram_quantile(0.9, sum by (le) (rate(d_bucket[1m])))", false),
            ("histogram_quantile(0.9, sum by (le, job) (rate(d_bucket[1m])))", true),
            ("histogram_quantile(0.9, rate(d_bucket[1m]))", true),
            ("histogram_quantile(0.9, sum without (pod) (rate(d_bucket[1m])))", false),
        ];
        for (text, want) in table {
            assert_eq!(check(text).unwrap_or_else(|e| panic!("{text}: {e}")).many, want, "{text}");
        }
    }

    #[test]
    fn marked_and_unmarked_selectors_are_told_apart() {
        let ids =
            |text: &str| -> Vec<&str> { check(text).unwrap().warnings.iter().map(|(id, _)| *id).collect() };
        let none: [&str; 0] = [];
        assert_eq!(ids("sum(x{replay=\"1\"})"), ["G015"]);
        assert_eq!(ids("sum(x{replay=~\"run.*\"})"), ["G015"]);
        assert_eq!(ids("sum(x{replay!=\"\"})"), ["G015"]);
        for fine in [
            "sum(x{replay=\"\"})",
            "sum(x{replay!=\"1\"})",
            "sum(x{pod=\"\"})",
            "sum(x{replay=\"1\"}) + sum(x)",
            "vector(1) + sum(x)",
        ] {
            assert_eq!(ids(fine), none, "{fine}");
        }
        assert_eq!(ids("sum(x{job=~\".+\"})"), ["G022"]);
        assert_eq!(ids("sum({__name__=~\".+\",job=\"a\"})"), none);
        let unmarked = |text: &str| check(text).unwrap().unmarked;
        assert!(unmarked("sum(x{replay=\"\"})") && unmarked("sum(x{replay_run=\"\"}) / sum(y{replay=\"\"})"));
        for not in [
            "sum(x)",
            "sum(x{pod=\"\"})",
            "sum(x{replay=\"\"}) / sum(y)",
            "sum(x{replay!=\"\"})",
            "sum(x{replay=\"1\"})",
        ] {
            assert!(!unmarked(not), "{not}");
        }
    }

    #[test]
    fn selectors_are_told_once_without_their_shifts() {
        let q = check("sum(rate(x{job=\"a\",code=~\"5..\",pod=\"\"}[1m] offset 5m)) + sum(rate(x{job=\"a\",code=~\"5..\",pod=\"\"}[1m])) + sum(y @ 5)").unwrap();
        let told: Vec<(&str, &[String])> =
            q.selectors.iter().map(|s| (s.metric.as_str(), s.labels.as_slice())).collect();
        assert_eq!(told, [("x", &["job".to_owned()][..]), ("y", &[][..])], "labels that a value is asked of");
        assert!(
            q.selectors.iter().all(|s| !s.text.contains("offset") && !s.text.contains('@')),
            "{:?}",
            q.selectors
        );
        assert!(q.freshness.iter().all(|f| !f.contains("offset") && !f.contains('@')), "{:?}", q.freshness);
        assert!(q.shifted);
    }

    #[test]
    fn samples_are_the_whole_of_a_fraction_of_rates() {
        let samples = |text: &str| check(text).unwrap().samples;
        assert_eq!(
            samples("sum(rate(e[1m])) / sum(rate(x[2m]))").as_deref(),
            Some("(sum(rate(x[2m]))) * 120")
        );
        assert_eq!(
            samples("1 - sum(rate(e[1m])) / sum(rate(x[1m]))").as_deref(),
            Some("(sum(rate(x[1m]))) * 60")
        );
        assert_eq!(samples("sum(rate(e[1m])) / sum(x)"), None, "no rate below");
        assert_eq!(samples("sum(rate(e[1m])) / sum(avg_over_time(x[1m]))"), None, "no rate below");
        assert_eq!(samples("sum(rate(x[1m]))"), None);
    }

    #[test]
    fn freshness_comes_from_the_denominator() {
        let q = check(r#"(sum(rate(req{code=~"5.."}[1m])) or vector(0)) / sum(rate(req[2m] offset 1m))"#)
            .unwrap();
        assert_eq!((q.range, q.freshness), (Duration::from_secs(120), vec!["req".to_owned()]));
        let q = check(r#"1 - sum(rate(d_bucket{le="0.5"}[1m])) / sum(rate(d_count{job="x"}[1m]))"#).unwrap();
        assert_eq!(q.freshness, [r#"d_count{job="x"}"#]);
        let q = check("(sum(rate(app_errors_total[1m])) or vector(0)) / sum(rate(edge_requests_total[1m]))")
            .unwrap();
        assert_eq!(
            q.freshness,
            ["app_errors_total", "edge_requests_total"],
            "two exporters, two that may die"
        );
        let q = check("histogram_quantile(0.95, sum by (le) (rate(b[1m])))").unwrap();
        assert_eq!(q.freshness, ["b"]);
    }

    #[test]
    fn failing_requests_may_be_absent() {
        let mut requests = check("sum(rate(r_total[1m]))").unwrap();
        let errors =
            check_errors("(sum(rate(r_total{code=~\"5..\"}[1m])) or vector(0))", &mut requests).unwrap();
        assert!(errors.text.contains("or vector(0)") && errors.range == Duration::from_secs(60));
        assert_eq!(requests.freshness, ["r_total"]);
        check_errors("sum(rate(failures_total[1m])) or vector(0)", &mut requests).unwrap();
        assert_eq!(requests.freshness, ["r_total", "failures_total"], "another metric may die alone");
        assert_eq!(
            check_errors("sum(rate(x_total[1m])) > 5 or vector(0)", &mut requests).unwrap_err().id,
            "G003"
        );
        assert_eq!(check_errors("a or b", &mut requests).unwrap_err().id, "G004");
    }

    #[test]
    fn what_can_be_told_from_the_tree() {
        let q = |text: &str| check(text).unwrap();
        let ratio =
            q(r#"(sum(rate(r{code=~"5..",replay=""}[1m])) or vector(0)) / sum(rate(r{replay=""}[2m]))"#);
        assert_eq!(ratio.samples.as_deref(), Some(r#"(sum(rate(r{replay=""}[2m]))) * 120"#));
        assert!(ratio.unmarked && !ratio.many && !ratio.shifted && ratio.warnings.is_empty(), "{ratio:?}");
        let slow = q(r#"1 - sum(rate(b{le="0.5"}[1m])) / sum(rate(c[1m]))"#);
        assert_eq!(slow.samples.as_deref(), Some("(sum(rate(c[1m]))) * 60"));
        assert!(!slow.unmarked, "only some or none of the selectors leave marked traffic out");
        assert_eq!(q("max(queue)").samples, None);
        for (text, many) in [
            ("x", true),
            ("sum by (a) (x)", true),
            ("sum(x)", false),
            ("sum(x) / y", true),
            ("histogram_quantile(0.9, sum by (le) (rate(x_bucket[1m])))", false),
            ("histogram_quantile(0.9, rate(x_bucket[1m]))", true),
        ] {
            assert_eq!(q(text).many, many, "{text}");
        }
        assert!(q("sum(x offset 1w)").shifted);
        let seen =
            q(r#"histogram_quantile(0.9, sum by (le) (rate(d_bucket{job="a",pod=~"b.*"}[1m] offset 1w)))"#);
        let expected = Selector {
            metric: "d_bucket".to_owned(),
            text: r#"d_bucket{job="a",pod=~"b.*"}"#.to_owned(),
            labels: vec!["job".to_owned()],
        };
        assert!(seen.quantile && seen.selectors == [expected], "{seen:?}");
        assert!(!q("sum(rate(r[1m]))").quantile);
        for (text, id) in [
            (r#"sum(rate(r{code=~"5.."}[1m])) / sum(rate(r[1m]))"#, "G005"),
            ("sum(irate(r[1m]))", "G008"),
            (r#"sum(r{job=~".*"})"#, "G022"),
            (r#"sum(rate(r{replay="yes"}[1m]))"#, "G015"),
            (r#"sum(rate(r{x_replay_run!=""}[1m]))"#, "G015"),
        ] {
            assert_eq!(q(text).warnings.first().map(|w| w.0), Some(id), "{text}");
        }
    }
}
