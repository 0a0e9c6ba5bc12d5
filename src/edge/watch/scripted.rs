//! A Prometheus of a few lines for tests: it answers each query by the first rule whose words stand in it.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// How a question is answered.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// One series with this value, as old as now.
    Value(f64),
    /// The same, but from a clock that is so many seconds ahead.
    Ahead(f64, f64),
    /// The same, to another question.
    ToSomebodyElse(f64),
    /// No series.
    Empty,
    /// A status without a body worth reading.
    Status(u16),
    /// This body.
    Body(String),
    /// Values of a range, at the times from its start on, by its step.
    Range(Vec<f64>),
}

/// Questions as they came: path, query decoded, the `Authorization` line.
pub(crate) type Asked = Arc<Mutex<Vec<(String, String, Option<String>)>>>;

/// The server; its thread ends with the test's process.
pub(crate) struct Scripted {
    pub(crate) url: String,
    pub(crate) asked: Asked,
}

fn decoded(text: &str) -> String {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, more)) = rest.split_first() {
        let hex = std::str::from_utf8(more.get(..2).unwrap_or_default()).ok();
        match (first, hex.and_then(|h| u8::from_str_radix(h, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                rest = &more[2..];
            }
            (b'+', _) => {
                out.push(b' ');
                rest = more;
            }
            (other, _) => {
                out.push(*other);
                rest = more;
            }
        }
    }
    String::from_utf8(out).unwrap()
}

fn param(query: &str, name: &str) -> String {
    let pair = query.split('&').filter_map(|p| p.split_once('=')).find(|(n, _)| *n == name);
    decoded(pair.map_or("", |(_, v)| v))
}

fn now_s() -> f64 {
    crate::edge::clock::wall().0 as f64 / 1e9
}

impl Scripted {
    pub(crate) fn start(rules: &[(&str, Reply)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let rules: Vec<(String, Reply)> = rules.iter().map(|(w, r)| ((*w).to_owned(), r.clone())).collect();
        let asked = Asked::default();
        let seen = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                drop(serve(&stream, &rules, &seen));
            }
        });
        Self { url, asked }
    }

    /// Queries as they came.
    pub(crate) fn queries(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|(_, q, _)| q.clone()).collect()
    }
}

fn serve(mut stream: &TcpStream, rules: &[(String, Reply)], seen: &Asked) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().unwrap_or(Ok(String::new()))?;
    let mut token = None;
    for line in lines.by_ref() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("authorization: ") {
            token = Some(value.to_owned());
        }
    }
    let target = first.split(' ').nth(1).unwrap_or_default();
    let (path, params) = target.split_once('?').unwrap_or((target, ""));
    let query = param(params, "query");
    let range: Vec<f64> =
        ["start", "end", "step"].iter().filter_map(|n| param(params, n).parse().ok()).collect();
    let noted = if range.is_empty() { query.clone() } else { format!("{query} {range:?}") };
    seen.lock().unwrap().push((path.to_owned(), noted, token));
    let words = if query.is_empty() { path } else { &query };
    let rule = rules.iter().find(|(w, _)| words.contains(w.as_str())).map(|(_, r)| r);
    let question = query.split("\"replay_question\", \"").nth(1).and_then(|q| q.split('"').next());
    let (status, body) = said(rule.unwrap_or(&Reply::Empty), question.unwrap_or(""), &range);
    let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes())
}

fn said(reply: &Reply, question: &str, range: &[f64]) -> (u16, String) {
    let vector = |question: &str, at: f64, v: f64| {
        format!(
            "{{\"status\":\"success\",\"data\":{{\"resultType\":\"vector\",\"result\":[{{\"metric\":{{\"replay_question\":\"{question}\"}},\"value\":[{at},\"{v}\"]}}]}}}}"
        )
    };
    match reply {
        Reply::Value(v) => (200, vector(question, now_s(), *v)),
        Reply::Ahead(v, s) => (200, vector(question, now_s() + s, *v)),
        Reply::ToSomebodyElse(v) => (200, vector("77777", now_s(), *v)),
        Reply::Empty => {
            let kind = if range.is_empty() { "vector" } else { "matrix" };
            (200, format!("{{\"status\":\"success\",\"data\":{{\"resultType\":\"{kind}\",\"result\":[]}}}}"))
        }
        Reply::Status(status) => (*status, "no".to_owned()),
        Reply::Body(body) => (200, body.clone()),
        Reply::Range(values) => {
            let (start, step) = (range.first().unwrap_or(&0.0), range.get(2).unwrap_or(&1.0));
            let points: Vec<String> = values
                .iter()
                .enumerate()
                .map(|(i, v)| format!("[{},\"{v}\"]", start + step * i as f64))
                .collect();
            (
                200,
                format!(
                    "{{\"status\":\"success\",\"data\":{{\"resultType\":\"matrix\",\"result\":[{{\"metric\":{{}},\"values\":[{}]}}]}}}}",
                    points.join(",")
                ),
            )
        }
    }
}
