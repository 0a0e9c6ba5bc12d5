//! One guard's question to Prometheus, and what its answer means.
//!
//! Our own small client on hyper and serde_json: the public client crate documents that it ignores
//! warnings, which a safety guard may not. The timestamp of an instant answer is the time of evaluation,
//! never of the data, so freshness is asked separately.

use promql_parser::parser::value::ValueType;
use serde::Deserialize;
use serde_json::Value;

use super::get::Got;
use crate::govern::reading::{Answer, Fault, NoData};
use crate::limits::SKEW_NO_DATA;
use crate::units::{NANOS_PER_SEC, WallTime};

/// The URL of an instant query. No `time`: the server's own clock is used.
#[must_use]
pub fn query_url(base: &str, query: &str) -> String {
    let mut url =
        format!("{base}/api/v1/query?timeout=2s&partial_response=false&max_source_resolution=0&query=");
    escape(&mut url, query);
    url
}

fn escape(url: &mut String, query: &str) {
    for byte in query.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            url.push(char::from(byte));
        } else {
            url.push_str(&format!("%{byte:02X}"));
        }
    }
}

/// The URL of a range query; times are Unix seconds. Only the past is asked with a time of ours.
#[must_use]
pub fn range_url(base: &str, query: &str, from_s: f64, to_s: f64, step_s: f64) -> String {
    let mut url = format!(
        "{base}/api/v1/query_range?timeout=30s&partial_response=false&start={from_s:.3}&end={to_s:.3}&step={step_s:.3}&query="
    );
    escape(&mut url, query);
    url
}

/// Points of a range answer. No series is no points; several are an error.
///
/// # Errors
/// Why there are none.
pub fn read_range(got: &Got) -> Result<Vec<(f64, f64)>, NoData> {
    if got.status != 200 {
        return Err(NoData::Http(got.status));
    }
    let reply: Reply = serde_json::from_slice(&got.body).map_err(|_| NoData::BadJson)?;
    if reply.status != "success" {
        return Err(NoData::BadJson);
    }
    if reply.warnings.iter().any(|w| !is_harmless(w)) {
        return Err(NoData::Partial);
    }
    let data = reply.data.ok_or(NoData::BadJson)?;
    let (Value::Array(series), "matrix") = (&data.result, data.result_type.as_str()) else {
        return Err(NoData::WrongType);
    };
    let values = match series.as_slice() {
        [] => return Ok(Vec::new()),
        [one] => one["values"].as_array().ok_or(NoData::BadJson)?,
        _ => return Err(NoData::Multi),
    };
    let point = |p: &Value| Some((p[0].as_f64()?, p[1].as_str()?.parse().ok()?));
    values.iter().map(|p| point(p).ok_or(NoData::BadValue)).collect()
}

/// Names in a list answer, such as that of `/api/v1/label/__name__/values`.
///
/// # Errors
/// Why there are none.
pub fn read_names(got: &Got) -> Result<Vec<String>, NoData> {
    #[derive(Deserialize)]
    struct Names {
        data: Vec<String>,
    }
    if got.status != 200 {
        return Err(NoData::Http(got.status));
    }
    serde_json::from_slice::<Names>(&got.body).map(|n| n.data).map_err(|_| NoData::BadJson)
}

/// The values of one label in an instant answer, one per series; an empty text where a series has none. With an
/// empty label the series themselves are counted.
#[must_use]
pub fn read_labels(got: &Got, label: &str) -> Vec<String> {
    let Ok(reply) = serde_json::from_slice::<Reply>(&got.body) else { return Vec::new() };
    let Some(Data { result: Value::Array(series), .. }) = reply.data.filter(|_| got.status == 200) else {
        return Vec::new();
    };
    series.iter().map(|s| s["metric"][label].as_str().unwrap_or_default().to_owned()).collect()
}

/// The global scrape interval out of the YAML that `/api/v1/status/config` holds.
#[must_use]
pub fn scrape_interval(got: &Got) -> Option<std::time::Duration> {
    let reply: Value = serde_json::from_slice(&got.body).ok().filter(|_| got.status == 200)?;
    let yaml = reply["data"]["yaml"].as_str()?;
    let text = yaml.lines().find_map(|l| l.trim().strip_prefix("scrape_interval:"))?;
    crate::units::parse_duration(text.trim()).ok()
}

/// A remark of the engine on the query itself, not on missing data (it begins so since Prometheus 3).
fn is_harmless(warning: &str) -> bool {
    warning.starts_with("PromQL info:")
}

/// External labels out of the YAML that `/api/v1/status/config` holds; `None` when it is no such answer.
#[must_use]
pub fn external_labels(got: &Got) -> Option<Vec<(String, String)>> {
    let reply: Value = serde_json::from_slice(&got.body).ok().filter(|_| got.status == 200)?;
    let yaml = reply["data"]["yaml"].as_str()?;
    let indent = |l: &str| l.len() - l.trim_start().len();
    let mut lines = yaml.lines().skip_while(|l| l.trim() != "external_labels:");
    let Some(head) = lines.next() else { return Some(Vec::new()) };
    let inside = lines.take_while(|l| indent(l) > indent(head) && !l.trim().is_empty());
    let pair = |l: &str| {
        let (k, v) = l.trim().split_once(':')?;
        Some((k.trim().to_owned(), v.trim().trim_matches(['"', '\'']).to_owned()))
    };
    Some(inside.filter_map(pair).collect())
}

/// Server's clock against ours at the middle of the question, milliseconds; `None` without a stamp.
#[must_use]
pub fn skew_ms(got: &Got, asked: WallTime, answered: WallTime) -> Option<u64> {
    let reply: Reply = serde_json::from_slice(&got.body).ok()?;
    let data = reply.data?;
    let at = match data.result_type.as_str() {
        "scalar" => data.result[0].as_f64()?,
        "vector" => data.result[0]["value"][0].as_f64()?,
        _ => return None,
    };
    let middle = (asked.0 as f64 + answered.0 as f64) / 2.0 / NANOS_PER_SEC as f64;
    let skew = ((at - middle).abs() * 1e3).round();
    skew.is_finite().then_some(skew as u64)
}

/// The label by which an answer is known to belong to its question.
const QUESTION: &str = "replay_question";

/// `query` with a label on its result that names this very question. An answer without it is somebody else's: a
/// cache on the way, an answer that came late, two that were swapped.
#[must_use]
pub fn tagged(query: &str, number: u64) -> String {
    let scalar = matches!(promql_parser::parser::parse(query).map(|e| e.value_type()), Ok(ValueType::Scalar));
    let vector = if scalar { format!("vector({query})") } else { query.to_owned() };
    format!("label_replace({vector}, \"{QUESTION}\", \"{number}\", \"\", \"\")")
}

/// Whether the answer belongs to question `number`. Only asked of answers that hold a value.
#[must_use]
pub fn is_answer_to(got: &Got, number: u64) -> bool {
    let Ok(reply) = serde_json::from_slice::<Reply>(&got.body) else { return false };
    reply.data.is_some_and(|d| d.result[0]["metric"][QUESTION].as_str() == Some(number.to_string().as_str()))
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
    if reply.warnings.iter().any(|w| !is_harmless(w)) {
        return Answer::NoData(NoData::Partial);
    }
    let Some(data) = reply.data else { return Answer::NoData(NoData::BadJson) };
    let sample = match (data.result_type.as_str(), &data.result) {
        ("scalar", point) => point,
        ("vector", Value::Array(series)) => match series.as_slice() {
            [] => return Answer::NoData(NoData::Empty),
            [one] => &one["value"],
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
            (200, vector(r#"[{"value":[1700000000,"1"]}]"#).replace("\"data\"", "\"warnings\":[\"PromQL info: metric might not be a counter\"],\"data\""), Answer::Value { value: 1.0, samples: u64::MAX }),
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
    fn an_answer_names_its_question() {
        assert_eq!(tagged("sum(x)", 7), r#"label_replace(sum(x), "replay_question", "7", "", "")"#);
        assert_eq!(tagged("1 + 1", 7), r#"label_replace(vector(1 + 1), "replay_question", "7", "", "")"#);
        let got = |metric: &str| Got {
            status: 200,
            body: vector(&format!(r#"[{{"metric":{metric},"value":[1,"1"]}}]"#)).into_bytes().into(),
        };
        assert!(is_answer_to(&got(r#"{"replay_question":"7"}"#), 7));
        assert!(!is_answer_to(&got(r#"{"replay_question":"6"}"#), 7) && !is_answer_to(&got("{}"), 7));
    }

    #[test]
    fn queries_are_escaped() {
        let url = query_url("http://p:9090", "sum(rate(x{a=\"b c\"}[1m])) & 1");
        assert!(url.ends_with("query=sum%28rate%28x%7Ba%3D%22b%20c%22%7D%5B1m%5D%29%29%20%26%201"), "{url}");
    }

    #[test]
    fn ranges_labels_and_skew_are_read_or_refused() {
        let got = |status, body: &str| Got { status, body: body.as_bytes().to_vec().into() };
        let matrix = r#"{"status":"success","data":{"resultType":"matrix","result":[{"values":[[1,"0.5"],[2,"NaN"]]}]}}"#;
        let points = read_range(&got(200, matrix)).unwrap();
        assert!(points[0] == (1.0, 0.5) && points[1].1.is_nan());
        assert_eq!(read_range(&got(503, "")), Err(NoData::Http(503)));
        assert_eq!(read_range(&got(200, "{}")), Err(NoData::BadJson));
        assert_eq!(read_range(&got(200, &vector("[]"))), Err(NoData::WrongType));
        let yaml = "{\"data\":{\"yaml\":\"global:\\n  scrape_interval: 15s\\n  external_labels:\\n    cluster: prod-eu1\\n    replica: \\\"a\\\"\\nscrape_configs:\\n- job_name: x\\n\"}}";
        let labels = external_labels(&got(200, yaml)).unwrap();
        assert_eq!(
            labels,
            [("cluster".to_owned(), "prod-eu1".to_owned()), ("replica".to_owned(), "a".to_owned())]
        );
        assert_eq!(external_labels(&got(404, "")), None);
        assert_eq!(external_labels(&got(200, "{\"data\":{\"yaml\":\"global:\\n\"}}")), Some(Vec::new()));
        assert_eq!(scrape_interval(&got(200, yaml)), Some(std::time::Duration::from_secs(15)));
        assert_eq!(scrape_interval(&got(500, yaml)), None);
        let warned = matrix.replace("\"data\"", "\"warnings\":[\"store down\"],\"data\"");
        assert_eq!(read_range(&got(200, &warned)), Err(NoData::Partial), "half of the past is no past");
        let harmless = matrix.replace("\"data\"", "\"warnings\":[\"PromQL info: x\"],\"data\"");
        assert_eq!(read_range(&got(200, &harmless)).map(|p| p.len()), Ok(2));
        let failed = matrix.replace("success", "error");
        assert_eq!(read_range(&got(200, &failed)), Err(NoData::BadJson));
        assert_eq!(read_names(&got(200, r#"{"data":["a","b"]}"#)), Ok(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(read_names(&got(404, r#"{"data":["a"]}"#)), Err(NoData::Http(404)));
        let two = vector(r#"[{"metric":{"le":"1"},"value":[1,"1"]},{"metric":{},"value":[1,"1"]}]"#);
        assert_eq!(read_labels(&got(200, &two), "le"), ["1", ""]);
        assert!(read_labels(&got(500, &two), "le").is_empty());
        assert_eq!(freshness_query("x{a=\"b\"}"), "time() - max(timestamp(x{a=\"b\"}))");
        let url = range_url("http://p", "x y", 1.0, 2.5, 15.0);
        assert!(
            url.starts_with("http://p/api/v1/query_range?")
                && url.ends_with("start=1.000&end=2.500&step=15.000&query=x%20y"),
            "{url}"
        );
        let stamped = vector(r#"[{"value":[1700000003.5,"1"]}]"#);
        let (a, b) = (NOW, WallTime(NOW.0 + 1_000_000_000));
        assert_eq!(skew_ms(&got(200, &stamped), a, b), Some(3_000));
        assert_eq!(skew_ms(&got(200, "x"), a, b), None);
    }
}
