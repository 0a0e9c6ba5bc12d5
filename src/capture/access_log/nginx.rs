//! nginx's own `log_format` directive as a [`Template`].
//!
//! Source: `ngx_http_log_module` and the index of variables in nginx's documentation. A variable that is not known here is
//! skipped; one that would be needed and is missing is named.

use super::clock::TimeForm;
use super::escape::Escape;
use super::row::{Field, Unit};
use super::template::{BadDirective, Mark, Part, Step, Template, parts};

/// Compiles `log_format name '...' '...';`, or only the format itself.
///
/// # Errors
/// [`BadDirective`].
pub fn template(directive: &str) -> Result<Template, BadDirective> {
    let (format, escape) = unwrap(directive.trim())?;
    let (mut steps, mut names) = (Vec::new(), Vec::new());
    for part in parts(&format) {
        match part {
            Part::Text(text) => steps.push(Step::Literal(text.as_bytes().to_vec())),
            Part::Variable("") => {
                return Err(BadDirective::Syntax("a $ without the name of a variable".to_owned()));
            }
            // The `?` between path and query comes with the query.
            Part::Variable("is_args") => {}
            Part::Variable(name) => {
                steps.push(Step::Field(field(name)));
                names.push(format!("${name}"));
            }
        }
    }
    Template::new(steps, escape, Mark::End, &names)
}

/// The format without the directive around it: its quoted strings joined, and its `escape=`.
fn unwrap(text: &str) -> Result<(String, Escape), BadDirective> {
    let Some(inner) = text.strip_prefix("log_format") else {
        return Ok((text.to_owned(), Escape::Backslash));
    };
    let mut inner = inner.trim_start();
    let end = inner.find(char::is_whitespace).unwrap_or(inner.len());
    inner = inner[end..].trim_start();
    let mut escape = Escape::Backslash;
    if let Some(rest) = inner.strip_prefix("escape=") {
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        escape = match &rest[..end] {
            "default" => Escape::Backslash,
            "json" => Escape::Json,
            "none" => Escape::None,
            other => {
                return Err(BadDirective::Syntax(format!("escape={other} is not default, json or none")));
            }
        };
        inner = rest[end..].trim_start();
    }
    let mut out = String::new();
    loop {
        inner = inner.trim_start();
        let Some(quote) = inner.chars().next().filter(|c| matches!(c, '\'' | '"')) else { break };
        let mut escaped = false;
        let mut end = None;
        for (i, c) in inner.char_indices().skip(1) {
            match c {
                _ if escaped => {
                    if c != quote && c != '\\' {
                        out.push('\\');
                    }
                    out.push(c);
                    escaped = false;
                }
                '\\' => escaped = true,
                c if c == quote => {
                    end = Some(i + 1);
                    break;
                }
                c => out.push(c),
            }
        }
        let Some(end) = end else { return Err(BadDirective::Syntax("a quote is not closed".to_owned())) };
        inner = &inner[end..];
    }
    match inner {
        "" | ";" if !out.is_empty() => Ok((out, escape)),
        _ => Err(BadDirective::Syntax(
            "log_format NAME 'FORMAT'; is expected, with the format in quotes".to_owned(),
        )),
    }
}

fn field(name: &str) -> Field {
    match name {
        "remote_addr" | "binary_remote_addr" => Field::Client,
        "remote_port" => Field::ClientPort,
        "remote_user" => Field::User,
        "host" | "http_host" => Field::Host,
        "server_name" => Field::ServerName,
        "scheme" => Field::Scheme,
        "request" => Field::RequestLine,
        "request_method" => Field::Method,
        "request_uri" => Field::Target,
        "uri" | "document_uri" => Field::Path,
        "args" | "query_string" => Field::Query,
        "server_protocol" => Field::Protocol,
        "status" => Field::Status,
        "body_bytes_sent" => Field::ResponseLen,
        "content_length" | "http_content_length" => Field::RequestBody,
        "http_referer" => Field::Referer,
        "http_user_agent" => Field::UserAgent,
        "http_x_forwarded_for" | "proxy_add_x_forwarded_for" => Field::Forwarded,
        "http_cookie" => Field::Cookie,
        "http_authorization" => Field::Authorization,
        "time_local" => Field::Time(TimeForm::Clf),
        "time_iso8601" => Field::Time(TimeForm::Iso),
        "msec" => Field::Time(TimeForm::EpochSeconds),
        "request_time" => Field::Duration(Unit::Seconds),
        "connection" => Field::Connection,
        "upstream_cache_status" => Field::Cache,
        upstream if upstream.starts_with("upstream_") => Field::SkipList,
        header => match header.strip_prefix("http_") {
            Some(name) => Field::Header(title(name)),
            None => Field::Skip,
        },
    }
}

/// `accept_language` as `Accept-Language`: the case that was sent is not in the log.
pub(super) fn title(name: &str) -> Vec<u8> {
    let word = |w: &str| {
        let mut chars = w.chars();
        chars.next().map(|c| c.to_ascii_uppercase()).into_iter().chain(chars).collect::<String>()
    };
    name.split(['_', '-']).filter(|w| !w.is_empty()).map(word).collect::<Vec<_>>().join("-").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIN: &str = r#"log_format main escape=default '$remote_addr - $remote_user [$time_local] "$request" '
                      '$status $body_bytes_sent "$http_referer" '
                      "\"$http_user_agent\" \"$http_x_forwarded_for\" rt=$request_time uct=\"$upstream_connect_time\" "
                      'ua="$upstream_addr" us=$upstream_status $upstream_response_time c=$connection:$connection_requests $msec';"#;

    #[test]
    fn a_directive_as_people_write_it() {
        let t = template(MAIN).unwrap();
        let line = br#"10.0.0.7 - alice [10/Oct/2000:13:55:36 -0700] "GET /\xC3\xA9?q=\x22 HTTP/1.1" 200 5 "-" "curl \x22x\x22" "203.0.113.9, 10.1.1.1" rt=0.250 uct="0.001, 0.002" ua="10.0.0.1:80, 10.0.0.2:80 : 10.0.0.3:80" us=502, 200 0.100, 0.050 : 0.010 c=4711:2 971211336.250"#;
        let row = t.parse(line).unwrap();
        assert_eq!(
            (&row.client[..], row.user, &row.target[..]),
            (&b"10.0.0.7"[..], true, "/é?q=\"".as_bytes())
        );
        assert_eq!((&row.user_agent[..], &row.connection[..]), (&br#"curl "x""#[..], &b"4711"[..]));
        assert_eq!((row.duration_ns, &row.forwarded[..]), (Some(250_000_000), &b"203.0.113.9, 10.1.1.1"[..]));
        let stamp = row.stamp.unwrap();
        assert_eq!(
            (stamp.at.0, stamp.resolution_ns),
            (971_211_336_250_000_000, 1_000_000),
            "the finest stamp counts"
        );
    }

    #[test]
    fn json_and_split_requests() {
        let t = template(r#"log_format j escape=json '{"t":"$time_iso8601","m":"$request_method","u":"$request_uri","h":"$http_host","a":"$http_accept_language"}'"#).unwrap();
        let row = t
            .parse(br#"{"t":"2000-10-10T13:55:36-07:00","m":"PUT","u":"/a\"b","h":"shop","a":"de"}"#)
            .unwrap();
        assert_eq!(
            (&row.method[..], &row.target[..], &row.host[..]),
            (&b"PUT"[..], &br#"/a"b"#[..], &b"shop"[..])
        );
        assert_eq!(row.headers, [(b"Accept-Language".to_vec(), b"de"[..].into())]);
        let t = template("$msec $request_method $uri$is_args$args $status").unwrap();
        assert_eq!(&t.parse(b"971211336.250 GET /a?b=1 200").unwrap().target[..], b"/a?b=1");
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        #[rustfmt::skip]
        let table = [
            ("$remote_addr$time_local $request", "nothing stands between $remote_addr"),
            ("$remote_addr \"$request\"", "has no time"),
            ("[$time_local] $status", "has no method"),
            ("[$time_local] $request_method", "has no target"),
            ("log_format x escape=yes '$msec';", "escape=yes"),
            ("log_format x '$msec", "not closed"),
            ("log_format x $msec;", "in quotes"),
            ("$ $msec", "without the name"), ("${http_é} $status", "has no time"),
        ];
        for (directive, want) in table {
            let error = template(directive).unwrap_err().to_string();
            assert!(error.contains(want), "{directive}: {error}");
        }
    }
}
