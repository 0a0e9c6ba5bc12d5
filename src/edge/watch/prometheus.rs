//! One guard's question to Prometheus, and what its answer means.
//!
//! Our own small client on hyper and serde_json: the public client crate documents that it ignores
//! warnings, which a safety guard may not. The timestamp of an instant answer is the time of evaluation,
//! never of the data, so freshness is asked separately.

use serde::Deserialize;
use serde_json::Value;

use super::get::Got;
use crate::govern::reading::{Answer, Fault, NoData};
use crate::limits::{SERIES_MAX, SKEW_NO_DATA};
use crate::units::{NANOS_PER_SEC, WallTime};

/// The URL of an instant query. No `time`: the server's own clock is used.
#[must_use]
pub fn query_url(base: &str, query: &str) -> String {
    let mut url =
        format!("{base}/api/v1/query?timeout=2s&partial_response=false&max_source_resolution=0&query=");
    for byte in query.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            url.push(char::from(byte));
        } else {
            url.push_str(&format!("%{byte:02X}"));
        }
    }
    url
}

/// The freshness question for a selector: age of its newest sample in seconds.
#[must_use]
pub fn freshness_query(selector: &str) -> String {
    format!("time() - max(timestamp({selector}))")
}

#[derive(Debug, Deserialize)]
struct Reply {
    status: String,
    data: Option<Data>,
    #[serde(default)]
    warnings: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    result_type: String,
    result: Value,
}

/// What an answer says.
#[must_use]
pub fn read(got: &Got, now: WallTime) -> Answer {
    match got.status {
        200 => read_body(&got.body, now),
        400 | 422 => Answer::Fault(Fault::BadQuery),
        401 | 403 => Answer::Fault(Fault::Auth),
        other => Answer::NoData(NoData::Http(other)),
    }
}

fn read_body(body: &[u8], now: WallTime) -> Answer {
    let Ok(reply) = serde_json::from_slice::<Reply>(body) else { return Answer::NoData(NoData::BadJson) };
    if reply.status != "success" {
        return Answer::NoData(NoData::BadJson);
    }
    if !reply.warnings.is_empty() {
        return Answer::NoData(NoData::Partial);
    }
    let Some(data) = reply.data else { return Answer::NoData(NoData::BadJson) };
    let sample = match (data.result_type.as_str(), &data.result) {
        ("scalar", point) => point,
        ("vector", Value::Array(series)) => match series.as_slice() {
            [] => return Answer::NoData(NoData::Empty),
            [one] => &one["value"],
            [..] if series.len() > SERIES_MAX => return Answer::NoData(NoData::Multi),
            [..] => return Answer::NoData(NoData::Multi),
        },
        _ => return Answer::NoData(NoData::WrongType),
    };
    point(sample, now)
}

/// `[ <unix seconds>, "<value>" ]`.
fn point(sample: &Value, now: WallTime) -> Answer {
    let (Some(at), Some(text)) = (sample[0].as_f64(), sample[1].as_str()) else {
        return Answer::NoData(NoData::BadJson);
    };
    let ours = now.0 as f64 / NANOS_PER_SEC as f64;
    if !at.is_finite() || (at - ours).abs() > SKEW_NO_DATA.as_secs_f64() {
        return Answer::NoData(NoData::Skew);
    }
    // `f64::from_str` takes "nan" and "inf" too, which `number` turns into no data.
    text.parse().map_or(Answer::NoData(NoData::BadValue), Answer::number)
}

/// Applies the answers of the freshness questions: anything but a young age makes the value stale.
#[must_use]
pub fn with_freshness(value: Answer, ages: &[Answer], age_max_s: f64) -> Answer {
    let young = |a: &Answer| matches!(a, Answer::Value { value, .. } if *value <= age_max_s);
    let fault = ages.iter().find(|a| matches!(a, Answer::Fault(_)));
    match (value, fault) {
        (Answer::Value { .. }, Some(fault)) => *fault,
        (Answer::Value { .. }, None) if !ages.iter().all(young) => Answer::NoData(NoData::Stale),
        (value, _) => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: WallTime = WallTime(1_700_000_000_000_000_000);

    fn answer(status: u16, body: &str) -> Answer {
        read(&Got { status, body: body.as_bytes().to_vec().into() }, NOW)
    }

    fn vector(result: &str) -> String {
        format!(r#"{{"status":"success","data":{{"resultType":"vector","result":{result}}}}}"#)
    }

    /// The fail-open table of docs/GOVERNOR.md: nothing but one finite number is a number.
    #[test]
    fn only_one_finite_number_is_a_number() {
        use NoData as N;
        let one = |v: &str| vector(&format!(r#"[{{"metric":{{}},"value":[1700000000.5,"{v}"]}}]"#));
        let none = |why| Answer::NoData(why);
        #[rustfmt::skip]
        let table = [
            (200, one("0.25"), Answer::Value { value: 0.25, samples: u64::MAX }),
            (200, one("NaN"), none(N::NaN)), (200, one("+Inf"), none(N::Inf)), (200, one("-Inf"), none(N::Inf)),
            (200, one(""), none(N::BadValue)), (200, one("1,5"), none(N::BadValue)), (200, one("0x1"), none(N::BadValue)),
            (200, vector("[]"), none(N::Empty)),
            (200, vector(r#"[{"value":[1700000000,"1"]},{"value":[1700000000,"2"]}]"#), none(N::Multi)),
            (200, vector(r#"[{"value":[1699999900,"1"]}]"#), none(N::Skew)),
            (200, vector(r#"[{"value":["x","1"]}]"#), none(N::BadJson)),
            (200, vector(r#"[{"value":[1700000000,1]}]"#), none(N::BadJson)),
            (200, r#"{"status":"success","data":{"resultType":"scalar","result":[1700000000,"3"]}}"#.into(), Answer::Value { value: 3.0, samples: u64::MAX }),
            (200, r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#.into(), none(N::WrongType)),
            (200, r#"{"status":"success","data":{"resultType":"string","result":[1700000000,"x"]}}"#.into(), none(N::WrongType)),
            (200, vector(r#"[{"value":[1700000000,"1"]}]"#).replace("\"data\"", "\"warnings\":[\"store down\"],\"data\""), none(N::Partial)),
            (200, r#"{"status":"error","errorType":"timeout"}"#.into(), none(N::BadJson)),
            (200, "<html>".into(), none(N::BadJson)), (200, one("1")[..40].to_owned(), none(N::BadJson)), (200, String::new(), none(N::BadJson)),
            (302, String::new(), none(N::Http(302))), (429, String::new(), none(N::Http(429))), (503, String::new(), none(N::Http(503))),
            (400, String::new(), Answer::Fault(Fault::BadQuery)), (422, String::new(), Answer::Fault(Fault::BadQuery)),
            (401, String::new(), Answer::Fault(Fault::Auth)), (403, String::new(), Answer::Fault(Fault::Auth)),
        ];
        for (status, body, want) in table {
            assert_eq!(answer(status, &body), want, "{status} {body}");
        }
    }

    #[test]
    fn only_young_data_is_fresh() {
        let value = Answer::number(1.0);
        let age = Answer::number;
        assert_eq!(with_freshness(value, &[age(3.0), age(5.0)], 9.0), value);
        for stale in [age(9.1), age(f64::NAN), Answer::NoData(NoData::Empty), Answer::NoData(NoData::Timeout)]
        {
            assert_eq!(with_freshness(value, &[age(1.0), stale], 9.0), Answer::NoData(NoData::Stale));
        }
        let empty = Answer::NoData(NoData::Empty);
        assert_eq!(with_freshness(empty, &[age(1.0)], 9.0), empty);
    }

    #[test]
    fn queries_are_escaped() {
        let url = query_url("http://p:9090", "sum(rate(x{a=\"b c\"}[1m])) & 1");
        assert!(url.ends_with("query=sum%28rate%28x%7Ba%3D%22b%20c%22%7D%5B1m%5D%29%29%20%26%201"), "{url}");
    }
}
