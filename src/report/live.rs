//! The line of live progress.

use crate::measure::timeline::Row;

/// One line: rate now and allowed, p95, errors, state.
#[must_use]
pub fn line(second: f64, row: &Row, allowed_rps: f64, planned_s: Option<f64>) -> String {
    let p95 = row.p95_ms.map_or_else(|| "-".to_owned(), |p| format!("{p:.1} ms"));
    let of = planned_s.map_or_else(String::new, |s| format!(" of ~{s:.0}"));
    format!(
        "{second:6.1}{of} s  {:<9} {:>6}/s of {allowed_rps:.0}/s allowed  share {:>5.1} %  p95 {p95}  in flight {}  bad {}",
        row.state,
        row.sent,
        row.share * 100.0,
        row.in_flight,
        row.bad
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_fits_and_says_the_state() {
        let row =
            Row { state: "measure".into(), share: 0.5, sent: 250, p95_ms: Some(12.34), ..Row::default() };
        let text = line(12.0, &row, 500.0, Some(60.0));
        assert!(text.contains("measure") && text.contains("250/s of 500/s") && text.len() < 120, "{text}");
    }
}
