//! Apache's own `LogFormat` directive as a [`Template`].
//!
//! Source: `mod_log_config` and `mod_logio`. `%t` is the time at which the request was received.

use super::clock::TimeForm;
use super::escape::Escape;
use super::row::{Field, Unit};
use super::template::{BadDirective, Mark, Step, Template};

/// Compiles `LogFormat "..." nickname`, or only the format itself.
///
/// # Errors
/// [`BadDirective`].
pub fn template(directive: &str) -> Result<Template, BadDirective> {
    let format = unwrap(directive.trim())?;
    let (mut steps, mut names, mut literal) = (Vec::new(), Vec::new(), Vec::new());
    let (mut rest, mut mark) = (format.as_str(), Mark::Start);
    while let Some(c) = rest.chars().next() {
        if c != '%' {
            literal.extend(c.encode_utf8(&mut [0; 4]).as_bytes());
            rest = &rest[c.len_utf8()..];
            continue;
        }
        let directive = Directive::read(&rest[1..])?;
        let whole = &rest[..=directive.used];
        rest = &rest[1 + directive.used..];
        if directive.letter == '%' {
            literal.push(b'%');
            continue;
        }
        // `%t` brings its own brackets: as literals they tell where a user's name with blanks ends.
        let bracketed = directive.letter == 't' && directive.argument.is_empty();
        if bracketed {
            literal.push(b'[');
        }
        if !literal.is_empty() {
            steps.push(Step::Literal(std::mem::take(&mut literal)));
        }
        if bracketed {
            literal.push(b']');
        }
        let field = directive.field()?;
        if directive.letter == 't' && directive.argument.starts_with("end:") {
            mark = Mark::End;
        }
        steps.push(Step::Field(field));
        names.push(whole.to_owned());
    }
    if !literal.is_empty() {
        steps.push(Step::Literal(literal));
    }
    Template::new(steps, Escape::Backslash, mark, &names)
}

/// The format without the directive around it.
fn unwrap(text: &str) -> Result<String, BadDirective> {
    let Some(inner) = text.strip_prefix("LogFormat") else { return Ok(text.to_owned()) };
    let inner = inner.trim_start();
    let Some(inner) = inner.strip_prefix('"') else {
        return Err(BadDirective::Syntax(
            "LogFormat \"FORMAT\" NAME is expected, with the format in quotes".to_owned(),
        ));
    };
    let (mut out, mut escaped) = (String::new(), false);
    for c in inner.chars() {
        match c {
            'n' if escaped => out.push('\n'),
            't' if escaped => out.push('\t'),
            c if escaped => out.push(c),
            '\\' => {
                escaped = true;
                continue;
            }
            '"' => return Ok(out),
            c => out.push(c),
        }
        escaped = false;
    }
    Err(BadDirective::Syntax("the quote of LogFormat is not closed".to_owned()))
}

/// One `%!200,304{argument}X`.
struct Directive<'a> {
    argument: &'a str,
    letter: char,
    /// Characters behind the `%`.
    used: usize,
}

impl<'a> Directive<'a> {
    fn read(text: &'a str) -> Result<Self, BadDirective> {
        let bad = || {
            BadDirective::Syntax(format!("%{} is not a directive", text.chars().take(12).collect::<String>()))
        };
        let modifiers = text.bytes().take_while(|b| b.is_ascii_digit() || b"!,<>".contains(b)).count();
        let mut rest = &text[modifiers..];
        let mut argument = "";
        if let Some(inner) = rest.strip_prefix('{') {
            (argument, rest) = inner.split_once('}').ok_or_else(bad)?;
        }
        let letter = if rest.starts_with("^t") { rest.chars().nth(2) } else { rest.chars().next() };
        let letter = letter.ok_or_else(bad)?;
        let name = if rest.starts_with("^t") { 3 } else { letter.len_utf8() };
        Ok(Self { argument, letter, used: text.len() - rest.len() + name })
    }

    fn field(&self) -> Result<Field, BadDirective> {
        Ok(match (self.letter, self.argument) {
            ('h' | 'a', "" | "c") => Field::Client,
            ('p', "remote") => Field::ClientPort,
            ('u', _) => Field::User,
            ('v' | 'V', _) => Field::ServerName,
            ('t', argument) => self.time(argument)?,
            ('r', _) => Field::RequestLine,
            ('m', _) => Field::Method,
            ('U', _) => Field::Path,
            ('q', _) => Field::Query,
            ('H', _) => Field::Protocol,
            ('s', _) => Field::Status,
            ('b' | 'B', _) => Field::ResponseLen,
            ('D', _) => Field::Duration(Unit::Micros),
            ('T', "" | "s") => Field::Duration(Unit::Seconds),
            ('T', "ms") => Field::Duration(Unit::Millis),
            ('T', "us") => Field::Duration(Unit::Micros),
            ('i', name) => request_header(name),
            ('o', name) if name.eq_ignore_ascii_case("x-cache") => Field::Cache,
            _ => Field::Skip,
        })
    }

    fn time(&self, argument: &str) -> Result<Field, BadDirective> {
        let form =
            argument.strip_prefix("begin:").or_else(|| argument.strip_prefix("end:")).unwrap_or(argument);
        let form = match form {
            ""
            | "%d/%b/%Y:%H:%M:%S %z"
            | "%d/%b/%Y:%T %z"
            | "%d/%b/%Y:%H:%M:%S"
            | "%d/%b/%Y:%T"
            | "[%d/%b/%Y:%H:%M:%S %z]"
            | "[%d/%b/%Y:%T %z]" => TimeForm::Clf,
            "sec" | "%s" => TimeForm::EpochSeconds,
            "msec" => TimeForm::EpochMillis,
            "usec" => TimeForm::EpochMicros,
            "msec_frac" => TimeForm::FractionMillis,
            "usec_frac" => TimeForm::FractionMicros,
            "%Y-%m-%dT%H:%M:%S%z"
            | "%FT%T%z"
            | "%Y-%m-%d %H:%M:%S"
            | "%F %T"
            | "%Y-%m-%dT%H:%M:%S"
            | "%FT%T"
            | "%Y-%m-%d %H:%M:%S %z"
            | "%F %T %z" => TimeForm::Iso,
            "%z" => {
                return Err(BadDirective::Syntax(
                    "%{%z}t: a zone apart from its time is not read; use %{msec}t".to_owned(),
                ));
            }
            other => {
                let allowed =
                    "%t, %{sec}t, %{msec}t, %{usec}t, %{msec_frac}t, %d/%b/%Y:%T %z and %FT%T%z are read";
                return Err(BadDirective::Syntax(format!(
                    "%{{{other}}}t is not a time that is read; {allowed}"
                )));
            }
        };
        Ok(Field::Time(form))
    }
}

fn request_header(name: &str) -> Field {
    match name.to_ascii_lowercase().as_str() {
        "referer" => Field::Referer,
        "user-agent" => Field::UserAgent,
        "host" => Field::Host,
        "x-forwarded-for" => Field::Forwarded,
        "cookie" => Field::Cookie,
        "authorization" => Field::Authorization,
        "content-length" => Field::RequestBody,
        "x-forwarded-proto" => Field::Scheme,
        _ => Field::Header(name.as_bytes().to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directive_as_people_write_it() {
        let t = template(r#"LogFormat "%v:%p %a:%{remote}p %l %u %t \"%r\" %>s %O %b \"%{Referer}i\" \"%{User-Agent}i\" %D %{Accept-Language}i %X" full"#).unwrap();
        let line = br#"shop.example:443 10.0.0.7:4711 - "a b" [10/Oct/2000:13:55:36 -0700] "POST /x\"y HTTP/1.1" 201 733 - "http://r/" "say \"hi\" \\" 1500 de,en +"#;
        let row = t.parse(line).unwrap();
        assert_eq!(
            (&row.method[..], &row.target[..], row.status),
            (&b"POST"[..], &br#"/x"y"#[..], Some(201))
        );
        assert_eq!(
            (&row.host[..], &row.client[..], &row.port[..], row.user),
            (&b"shop.example"[..], &b"10.0.0.7"[..], &b"4711"[..], true)
        );
        assert_eq!((row.duration_ns, row.response_len, t.mark), (Some(1_500_000), Some(0), Mark::Start));
        assert_eq!(&row.user_agent[..], br#"say "hi" \"#);
        assert_eq!(row.headers, [(b"Accept-Language".to_vec(), b"de,en"[..].into())]);
    }

    #[test]
    fn times_in_many_forms() {
        let at = |format: &str, line: &str| {
            template(format).unwrap().parse(line.as_bytes()).unwrap().stamp.unwrap().at.0
        };
        assert_eq!(at("%{msec}t %m %U%q x", "971211336250 GET /a?b x"), 971_211_336_250_000_000);
        assert_eq!(
            at("[%{%d/%b/%Y:%T}t.%{msec_frac}t] %m %U", "[10/Oct/2000:20:55:36.250] GET /a"),
            971_211_336_250_000_000
        );
        assert_eq!(at("%{end:usec}t %r", "971211336000001 GET / HTTP/1.1"), 971_211_336_000_001_000);
        assert_eq!(template("%{end:usec}t %r").unwrap().mark, Mark::End);
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        #[rustfmt::skip]
        let table = [
            ("%h%s %t %r", "nothing stands between %h"), ("%h %r", "has no time"), ("%t %s", "has no method"), ("%{%c}t %r", "%{%c}t"),
            ("LogFormat common", "in quotes"), ("LogFormat \"%h", "not closed"), ("%{x", "not a directive"), ("%", "not a directive"),
        ];
        for (directive, want) in table {
            let error = template(directive).unwrap_err().to_string();
            assert!(error.contains(want), "{directive}: {error}");
        }
    }
}
