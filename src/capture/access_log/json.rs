//! JSON logs, one object a line: presets for what servers write, and a map of one's own.
//!
//! The preset is chosen by keys that only it has. For everything else (nginx `escape=json`, pino, home-made) common keys
//! are tried, and `--field method=path.to.key` says the rest. A log without a method is refused by the name of what is
//! missing: GET is never assumed.

use std::borrow::Cow;

use serde_json::Value;

use super::clock::TimeForm;
use super::escape::Escape;
use super::row::{Field, LineError, Row, Unit};
use super::template::Mark;

/// Which keys hold what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonMap {
    /// Name for `--format`, and in traces.
    pub name: String,
    /// What the stamp is of.
    pub mark: Mark,
    /// Field and path, keys joined by `.`; a key may itself have dots.
    fields: Vec<(Field, String)>,
}

/// Names for `--field`.
pub const FIELD_NAMES: [&str; 23] = [
    "time",
    "start_time",
    "method",
    "target",
    "path",
    "query",
    "protocol",
    "request",
    "host",
    "scheme",
    "status",
    "response_bytes",
    "request_bytes",
    "client",
    "client_port",
    "user",
    "referer",
    "user_agent",
    "forwarded",
    "connection",
    "cache",
    "duration_s",
    "duration_ms",
];

fn named(name: &str) -> Option<Field> {
    Some(match name {
        "time" => Field::Time(TimeForm::Any),
        "start_time" => Field::StartTime(TimeForm::Any),
        "method" => Field::Method,
        "target" => Field::Target,
        "path" => Field::Path,
        "query" => Field::Query,
        "protocol" => Field::Protocol,
        "request" => Field::RequestLine,
        "host" => Field::Host,
        "scheme" => Field::Scheme,
        "status" => Field::Status,
        "response_bytes" => Field::ResponseLen,
        "request_bytes" => Field::RequestBody,
        "client" => Field::ClientAndPort,
        "client_port" => Field::ClientPort,
        "user" => Field::User,
        "referer" => Field::Referer,
        "user_agent" => Field::UserAgent,
        "forwarded" => Field::Forwarded,
        "connection" => Field::Connection,
        "cache" => Field::Cache,
        "cache_hit" => Field::CacheHit,
        "duration_s" => Field::Duration(Unit::Seconds),
        "duration_ms" => Field::Duration(Unit::Millis),
        "duration_ns" => Field::Duration(Unit::Nanos),
        _ => return None,
    })
}

/// Name, a key that only this one has, the moment of the stamp, and the map as `name=path`.
type Preset = (&'static str, &'static str, Mark, &'static [(&'static str, &'static str)]);

const PRESETS: [Preset; 9] = [
    // HTTP archive (HAR 1.2), an entry at a time; headers are a list of names and values.
    (
        "har",
        "startedDateTime",
        Mark::Start,
        &[
            ("time", "startedDateTime"),
            ("duration_ms", "time"),
            ("method", "request.method"),
            ("target", "request.url"),
            ("protocol", "request.httpVersion"),
            ("request_bytes", "request.bodySize"),
            ("status", "response.status"),
            ("response_bytes", "response.bodySize"),
            ("connection", "connection"),
        ],
    ),
    // Caddy 2, `log` directive.
    (
        "caddy",
        "request.remote_ip",
        Mark::End,
        &[
            ("time", "ts"),
            ("client", "request.remote_ip"),
            ("client_port", "request.remote_port"),
            ("protocol", "request.proto"),
            ("method", "request.method"),
            ("host", "request.host"),
            ("target", "request.uri"),
            ("user", "user_id"),
            ("user_agent", "request.headers.User-Agent"),
            ("referer", "request.headers.Referer"),
            ("forwarded", "request.headers.X-Forwarded-For"),
            ("status", "status"),
            ("response_bytes", "size"),
            ("request_bytes", "bytes_read"),
            ("duration_s", "duration"),
        ],
    ),
    // Caddy 2 before 2.5: the address with its port in one.
    (
        "caddy",
        "request.remote_addr",
        Mark::End,
        &[
            ("time", "ts"),
            ("client", "request.remote_addr"),
            ("protocol", "request.proto"),
            ("method", "request.method"),
            ("host", "request.host"),
            ("target", "request.uri"),
            ("user_agent", "request.headers.User-Agent"),
            ("referer", "request.headers.Referer"),
            ("forwarded", "request.headers.X-Forwarded-For"),
            ("status", "status"),
            ("response_bytes", "size"),
            ("duration_s", "duration"),
        ],
    ),
    // Traefik, access log in JSON.
    (
        "traefik",
        "RequestPath",
        Mark::Start,
        &[
            ("time", "time"),
            ("time", "StartUTC"),
            ("client", "ClientAddr"),
            ("method", "RequestMethod"),
            ("target", "RequestPath"),
            ("protocol", "RequestProtocol"),
            ("host", "RequestHost"),
            ("scheme", "RequestScheme"),
            ("status", "DownstreamStatus"),
            ("response_bytes", "DownstreamContentSize"),
            ("request_bytes", "RequestContentSize"),
            ("duration_ns", "Duration"),
            ("user", "ClientUsername"),
            ("user_agent", "request_User-Agent"),
            ("referer", "request_Referer"),
            ("forwarded", "request_X-Forwarded-For"),
        ],
    ),
    // Envoy and Istio: the operator chooses the keys; all that are seen in the field.
    (
        "envoy",
        "start_time",
        Mark::Start,
        &[
            ("time", "start_time"),
            ("method", "method"),
            ("method", ":method"),
            ("target", "path"),
            ("target", "x-envoy-original-path"),
            ("target", "x-envoy-origin-path"),
            ("target", "x_envoy_original_path"),
            ("protocol", "protocol"),
            ("host", "authority"),
            ("host", ":authority"),
            ("status", "response_code"),
            ("response_bytes", "bytes_sent"),
            ("request_bytes", "bytes_received"),
            ("duration_ms", "duration"),
            ("client", "downstream_remote_address"),
            ("user_agent", "user_agent"),
            ("user_agent", "user-agent"),
            ("forwarded", "x_forwarded_for"),
            ("forwarded", "x-forwarded-for"),
            ("referer", "referer"),
        ],
    ),
    // Google Cloud load balancing, LogEntry.
    (
        "gcp-lb",
        "httpRequest",
        Mark::Start,
        &[
            ("time", "timestamp"),
            ("method", "httpRequest.requestMethod"),
            ("target", "httpRequest.requestUrl"),
            ("status", "httpRequest.status"),
            ("client", "httpRequest.remoteIp"),
            ("protocol", "httpRequest.protocol"),
            ("user_agent", "httpRequest.userAgent"),
            ("referer", "httpRequest.referer"),
            ("duration_s", "httpRequest.latency"),
            ("cache_hit", "httpRequest.cacheHit"),
        ],
    ),
    // Cloudflare Logpush, http_requests.
    (
        "cloudflare",
        "EdgeStartTimestamp",
        Mark::Start,
        &[
            ("time", "EdgeStartTimestamp"),
            ("client", "ClientIP"),
            ("client_port", "ClientSrcPort"),
            ("method", "ClientRequestMethod"),
            ("target", "ClientRequestURI"),
            ("host", "ClientRequestHost"),
            ("protocol", "ClientRequestProtocol"),
            ("scheme", "ClientRequestScheme"),
            ("status", "EdgeResponseStatus"),
            ("response_bytes", "EdgeResponseBodyBytes"),
            ("user_agent", "ClientRequestUserAgent"),
            ("referer", "ClientRequestReferer"),
            ("cache", "CacheCacheStatus"),
            ("duration_ms", "EdgeTimeToFirstByteMs"),
        ],
    ),
    // pino-http and bunyan.
    (
        "pino",
        "req.method",
        Mark::End,
        &[
            ("time", "time"),
            ("method", "req.method"),
            ("target", "req.url"),
            ("client", "req.remoteAddress"),
            ("client_port", "req.remotePort"),
            ("host", "req.headers.host"),
            ("user_agent", "req.headers.user-agent"),
            ("referer", "req.headers.referer"),
            ("forwarded", "req.headers.x-forwarded-for"),
            ("status", "res.statusCode"),
            ("duration_ms", "responseTime"),
        ],
    ),
    // Everything else: nginx variables as keys, and what people call them.
    (
        "json",
        "",
        Mark::End,
        &[
            ("time", "time"),
            ("time", "@timestamp"),
            ("time", "timestamp"),
            ("time", "time_local"),
            ("time", "time_iso8601"),
            ("time", "ts"),
            ("time", "date"),
            ("time", "msec"),
            ("request", "request"),
            ("method", "method"),
            ("method", "request_method"),
            ("method", "http_method"),
            ("method", "verb"),
            ("path", "uri"),
            ("path", "url"),
            ("path", "path"),
            ("target", "request_uri"),
            ("query", "args"),
            ("query", "query_string"),
            ("protocol", "server_protocol"),
            ("protocol", "protocol"),
            ("protocol", "request_protocol"),
            ("host", "http_host"),
            ("host", "host"),
            ("host", "vhost"),
            ("scheme", "scheme"),
            ("status", "status"),
            ("status", "response_status"),
            ("status", "status_code"),
            ("response_bytes", "body_bytes_sent"),
            ("response_bytes", "response_body_size"),
            ("response_bytes", "bytes_sent"),
            ("client", "remote_addr"),
            ("client", "client_ip"),
            ("client", "ip"),
            ("client", "remote_ip"),
            ("client_port", "remote_port"),
            ("user", "remote_user"),
            ("referer", "http_referer"),
            ("referer", "http_referrer"),
            ("referer", "request_referer"),
            ("referer", "referer"),
            ("user_agent", "http_user_agent"),
            ("user_agent", "request_user_agent"),
            ("user_agent", "user_agent"),
            ("user_agent", "agent"),
            ("forwarded", "http_x_forwarded_for"),
            ("forwarded", "x_forwarded_for"),
            ("connection", "connection"),
            ("cache", "upstream_cache_status"),
            ("cache", "response_state"),
            ("duration_s", "request_time"),
            ("duration_ms", "duration_ms"),
        ],
    ),
];

/// Finds `path` in `value`: whole keys first, then keys one below the other, then the first of a list.
fn at<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    let found = match value.get(path) {
        Some(found) => found,
        None => {
            let (first, rest) = path.split_once('.')?;
            at(value.get(first)?, rest)?
        }
    };
    match found {
        Value::Array(list) => list.first(),
        Value::Null => None,
        other => Some(other),
    }
}

fn text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(s) => Some(Cow::Borrowed(s)),
        Value::Number(n) => Some(Cow::Owned(n.to_string())),
        Value::Bool(b) => Some(Cow::Borrowed(if *b { "true" } else { "false" })),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

impl JsonMap {
    /// The preset for an object like this one, with the fields of `own` (`name=path`) instead of its own.
    #[must_use]
    pub fn for_line(line: &[u8], own: &[(Field, String)]) -> Option<Self> {
        let value: Value = serde_json::from_slice(line).ok().filter(Value::is_object)?;
        let (name, _, mark, _) =
            PRESETS.iter().find(|(_, key, ..)| key.is_empty() || at(&value, key).is_some())?;
        Self::preset(name, Some(*mark), own)
    }

    /// A preset by name.
    #[must_use]
    pub fn preset(name: &str, mark: Option<Mark>, own: &[(Field, String)]) -> Option<Self> {
        let all: Vec<&Preset> = PRESETS.iter().filter(|(n, ..)| *n == name).collect();
        let first = all.first()?;
        let fields = all.iter().flat_map(|(.., fields)| fields.iter());
        let mut fields: Vec<(Field, String)> =
            fields.filter_map(|(n, path)| Some((named(n)?, (*path).to_owned()))).collect();
        fields.retain(|(field, _)| {
            !own.iter().any(|(o, _)| std::mem::discriminant(o) == std::mem::discriminant(field))
        });
        fields.extend(own.iter().cloned());
        Some(Self { name: name.to_owned(), mark: mark.unwrap_or(first.2), fields })
    }

    /// Names of all presets.
    pub fn names() -> impl Iterator<Item = &'static str> {
        PRESETS.iter().map(|p| p.0)
    }

    /// Reads `--field name=path`.
    ///
    /// # Errors
    /// What is allowed.
    pub fn own_field(text: &str) -> Result<(Field, String), String> {
        let (name, path) = text
            .split_once('=')
            .ok_or_else(|| format!("{text:?} is not NAME=PATH, such as method=req.verb"))?;
        let field = named(name)
            .ok_or_else(|| format!("{name:?} is no field; allowed are {}", FIELD_NAMES.join(", ")))?;
        Ok((field, path.to_owned()))
    }

    /// Reads one line.
    ///
    /// # Errors
    /// [`LineError`].
    pub fn parse(&self, line: &[u8]) -> Result<Row<'static>, LineError> {
        let value: Value = serde_json::from_slice(line)
            .map_err(|_| LineError::Form { at: 0, want: "one JSON object a line is expected" })?;
        self.parse_value(&value)
    }

    /// Reads one object.
    ///
    /// # Errors
    /// [`LineError`].
    pub fn parse_value(&self, value: &Value) -> Result<Row<'static>, LineError> {
        if !value.is_object() {
            return Err(LineError::Form { at: 0, want: "one JSON object a line is expected" });
        }
        let mut row = Row::default();
        for (field, path) in &self.fields {
            let Some(word) = at(value, path).and_then(text) else { continue };
            // Google writes durations as "0.12s".
            let word = if matches!(field, Field::Duration(_)) { word.trim_end_matches('s') } else { &word };
            take(&mut row, field, word.as_bytes())?;
        }
        if self.name == "har" {
            headers(&mut row, value);
        }
        if row.method.is_empty() && !row.not_a_request {
            // Programs log about themselves in the same file.
            let access = row.status.is_some() || !row.target.is_empty();
            return Err(if access { LineError::Missing("method") } else { LineError::Other });
        }
        if &row.method[..] == b"-" {
            return Err(LineError::Request);
        }
        absolute(&mut row);
        row.check()
    }
}

/// The headers of an entry of an HTTP archive. Of credentials only the fact is taken.
fn headers(row: &mut Row<'static>, entry: &Value) {
    let list = at(entry, "request").and_then(|r| r.get("headers")).and_then(Value::as_array);
    for header in list.into_iter().flatten() {
        let word = |key: &str| header.get(key).and_then(Value::as_str).unwrap_or_default();
        let (name, value) = (word("name"), word("value"));
        let owned = || Cow::Owned(value.as_bytes().to_vec());
        match name.to_ascii_lowercase().as_str() {
            "" => {}
            "host" | ":authority" => row.host = owned(),
            "user-agent" => row.user_agent = owned(),
            "referer" => row.referer = owned(),
            "cookie" => row.cookie = true,
            "authorization" | "proxy-authorization" => row.authorization = true,
            pseudo if pseudo.starts_with(':') => {}
            _ => row.headers.push((name.as_bytes().to_vec(), owned())),
        }
    }
}

/// Fills a row with a value that does not live as long as the row may.
fn take(row: &mut Row<'static>, field: &Field, value: &[u8]) -> Result<(), LineError> {
    let mut small = Row::default();
    (small.stamp, small.start_stamp) = (row.stamp, row.start_stamp);
    small.set(field, value, Escape::None)?;
    let own = |t: &mut Cow<'static, [u8]>, s: Cow<'_, [u8]>| {
        if !s.is_empty() && t.is_empty() {
            *t = Cow::Owned(s.into_owned());
        }
    };
    own(&mut row.client, small.client);
    own(&mut row.port, small.port);
    own(&mut row.connection, small.connection);
    own(&mut row.host, small.host);
    own(&mut row.method, small.method);
    own(&mut row.query, small.query);
    own(&mut row.referer, small.referer);
    own(&mut row.user_agent, small.user_agent);
    own(&mut row.forwarded, small.forwarded);
    // A whole target says more than a path.
    if !small.target.is_empty() && (row.target.is_empty() || *field == Field::Target) {
        if *field == Field::Target {
            row.query = Cow::Borrowed(b"");
        }
        row.target = Cow::Owned(small.target.into_owned());
    }
    row.user |= small.user;
    row.not_a_request |= small.not_a_request;
    row.scheme = row.scheme.or(small.scheme);
    row.version = small.version.or(row.version);
    row.status = row.status.or(small.status);
    row.response_len = row.response_len.or(small.response_len);
    row.request_body = row.request_body.or(small.request_body);
    row.cache = row.cache.or(small.cache);
    row.duration_ns = row.duration_ns.or(small.duration_ns);
    (row.stamp, row.start_stamp) = (small.stamp, small.start_stamp);
    Ok(())
}

/// A target that came whole needs no query of its own.
fn absolute(row: &mut Row<'_>) {
    if row.target.contains(&b'?') {
        row.query = Cow::Borrowed(b"");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Row<'static>, LineError> {
        JsonMap::for_line(line.as_bytes(), &[]).unwrap().parse(line.as_bytes())
    }

    #[test]
    fn presets_are_told_by_their_keys() {
        let caddy = r#"{"ts":1700000000.5,"request":{"remote_ip":"1.2.3.4","remote_port":"99","proto":"HTTP/2.0","method":"GET","host":"h","uri":"/a?b","headers":{"User-Agent":["ua"]}},"bytes_read":7,"size":5,"status":200,"duration":0.25}"#;
        let row = parse(caddy).unwrap();
        assert_eq!(
            (&row.target[..], &row.user_agent[..], &row.port[..]),
            (&b"/a?b"[..], &b"ua"[..], &b"99"[..])
        );
        assert_eq!(
            (row.request_body, row.response_len, row.duration_ns),
            (Some(7), Some(5), Some(250_000_000))
        );
        let own = r#"{"@timestamp":"2023-01-01T00:00:00Z","request":"POST /x HTTP/1.1","status":201,"request_time":0.1}"#;
        let row = parse(own).unwrap();
        assert_eq!(
            (&row.method[..], row.status, row.duration_ns),
            (&b"POST"[..], Some(201), Some(100_000_000))
        );
    }

    #[test]
    fn a_missing_method_is_named_and_can_be_given() {
        let line = r#"{"date":"2023-01-01T00:00:00Z","path":"/x","status":200,"verb_used":"PUT"}"#;
        assert_eq!(parse(line), Err(LineError::Missing("method")));
        let own = [JsonMap::own_field("method=verb_used").unwrap()];
        let map = JsonMap::for_line(line.as_bytes(), &own).unwrap();
        assert_eq!(&map.parse(line.as_bytes()).unwrap().method[..], b"PUT");
        assert!(JsonMap::own_field("colour=x").unwrap_err().contains("allowed are time"));
        assert!(JsonMap::own_field("method").unwrap_err().contains("NAME=PATH"));
        assert_eq!(parse(r#"{"level":"info","msg":"started"}"#), Err(LineError::Other));
        for name in FIELD_NAMES {
            assert!(named(name).is_some(), "{name}");
        }
        for (name, _, _, fields) in PRESETS {
            assert!(fields.iter().all(|(f, _)| named(f).is_some()), "{name}");
        }
    }
}
