//! What can be said of a guard's query without asking Prometheus: grammar, traps, range, freshness.
//!
//! Parsed by `promql-parser` (the grammar of Prometheus). The traps are those of `docs/GOVERNOR.md`: forms
//! in which no data would read as health.

use std::time::Duration;

use promql_parser::parser::token::{T_DIV, T_LAND, T_LOR, T_LUNLESS};
use promql_parser::parser::value::ValueType;
use promql_parser::parser::{BinaryExpr, Expr, VectorSelector};

/// A query that may be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// As written.
    pub text: String,
    /// Longest range in it, zero without one.
    pub range: Duration,
    /// Selectors whose newest sample tells how fresh the answer is.
    pub freshness: Vec<String>,
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
    Ok(Query { text: text.trim().to_owned(), range: walk.range, freshness: walk.freshness })
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
        c.args.args.iter().try_for_each(|a| self.visit(a))
    }

    fn binary(&mut self, b: &BinaryExpr) -> Result<(), BadQuery> {
        let before = self.optional;
        if b.op.id() == T_LOR && is_vector_literal(&b.rhs) {
            // `(errors or vector(0))`: the error series may be absent on a healthy day.
            self.optional = true;
            let result = self.visit(&b.lhs);
            self.optional = before;
            return result;
        }
        if b.op.id() == T_DIV {
            if let Expr::Binary(under) = inner(&b.rhs)
                && under.op.id() == T_LOR
            {
                return Err(bad("G004", "`or` under the fraction hides missing data"));
            }
            // A subset over the whole: only the whole must be there and fresh.
            self.optional = true;
            let left = self.visit(&b.lhs);
            self.optional = before;
            left?;
            return self.visit(&b.rhs);
        }
        self.visit(&b.lhs)?;
        self.visit(&b.rhs)
    }

    fn selector(&mut self, v: &VectorSelector) -> Result<(), BadQuery> {
        if !self.optional {
            let plain = VectorSelector { offset: None, at: None, ..v.clone() };
            self.freshness.push(plain.to_string());
        }
        Ok(())
    }
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
            ("sum(rate(x[1m])) or vector(0)", "G004"), ("a / (b or vector(1))", "G004"), ("absent(x)", "G004"),
            ("scalar(x)", "G004"), ("rate(sum(x)[1m:5s])", "G008"), ("vector(1)", "G005"), ("1", "G005"),
        ];
        for (text, id) in table {
            assert_eq!(check(text).unwrap_err().id, id, "{text}");
        }
        assert!(check("sum(rate(x[1m])) > bool 5").is_ok());
    }

    #[test]
    fn freshness_comes_from_the_denominator() {
        let q = check(r#"(sum(rate(req{code=~"5.."}[1m])) or vector(0)) / sum(rate(req[2m] offset 1m))"#)
            .unwrap();
        assert_eq!((q.range, q.freshness), (Duration::from_secs(120), vec!["req".to_owned()]));
        let q = check(r#"1 - sum(rate(b{le="0.5"}[1m])) / sum(rate(c{job="x"}[1m]))"#).unwrap();
        assert_eq!(q.freshness, [r#"c{job="x"}"#]);
        let q = check("histogram_quantile(0.95, sum by (le) (rate(b[1m])))").unwrap();
        assert_eq!(q.freshness, ["b"]);
    }
}
