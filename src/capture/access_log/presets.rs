//! Text formats by name: what servers and load balancers write when nobody has changed it.
//!
//! Each is one or more [`Template`]s in nginx's notation with names of our own for what nginx has none for. Order
//! matters: of two that fit a line, the first says more. Sources are named beside each.

use super::clock::TimeForm;
use super::escape::Escape;
use super::row::{Field, Unit};
use super::template::{Mark, Part, Step, Template, parts};

/// A named text format.
#[derive(Debug, Clone, Copy)]
pub struct Preset {
    /// Name for `--format`, and in traces.
    pub name: &'static str,
    /// What the stamp is of.
    pub mark: Mark,
    escape: Escape,
    templates: &'static [&'static str],
}

/// Apache and nginx agree on these but for the moment of the stamp, which an explicit directive settles.
pub const PRESETS: [Preset; 12] = [
    // Traefik, CLFLog: combined, then requests so far, router, URL, duration. The stamp is the start.
    Preset {
        name: "traefik",
        mark: Mark::Start,
        escape: Escape::Backslash,
        templates: &[
            r#"$client - $user [$clf] "$line" $status $len "$referer" "$agent" $skip "$skip" "$skip" ${millis}ms"#,
        ],
    },
    // ingress-nginx, `upstreaminfo`.
    Preset {
        name: "ingress-nginx",
        mark: Mark::End,
        escape: Escape::Backslash,
        templates: &[
            r#"$client - $user [$clf] "$line" $status $len "$referer" "$agent" $skip $seconds [$skip] ["#,
        ],
    },
    // Apache's and nginx's combined format, its vhost variants, and the common log format; then what people append.
    Preset {
        name: "combined",
        mark: Mark::End,
        escape: Escape::Backslash,
        templates: &[
            r#"$server $addr $skip $user [$clf] "$line" $status $len$mayend "$referer" "$agent"$tail"#,
            r#"$client $skip $user [$clf] "$line" $status $len$mayend "$referer" "$agent"$tail"#,
            r#"$client $skip [$clf] "$line" $status $len$mayend "$referer" "$agent"$tail"#,
            r#"$client $skip $user [$clf] $skip "$line" $status $len$mayend "$referer" "$agent"$tail"#,
            r#"$client $skip $user [$clf] ($skip) "$line" $status $len$mayend "$referer" "$agent"$tail"#,
        ],
    },
    // Nginx Proxy Manager: proxy and standard.
    Preset {
        name: "nginx-proxy-manager",
        mark: Mark::End,
        escape: Escape::Backslash,
        templates: &[
            r#"[$clf] $cache $skip $status - $method $scheme $host "$target" [Client $client] [Length $len] [Gzip $skip] [Sent-to $skip] "$agent" "$referer""#,
            r#"[$clf] $status - $method $scheme $host "$target" [Client $client] [Length $len] [Gzip $skip] "$agent" "$referer""#,
            // Its fallback host logs in nginx's own format, often into the same file.
            r#"$client $skip $user [$clf] "$line" $status $len "$referer" "$agent""#,
        ],
    },
    // HAProxy, `option httplog` (configuration manual 8.2.3), with none, one or two groups of captured headers.
    Preset {
        name: "haproxy",
        mark: Mark::Start,
        escape: Escape::Hash,
        templates: &[
            r#"$clientport [$clf] $skip $skip/$skip $skip/$skip/$skip/$skip/$millis $status $skip $skip $skip $skip $skip/$skip/$skip/$skip/$skip $skip/$skip {$agent} {$skip} "$line""#,
            r#"$clientport [$clf] $skip $skip/$skip $skip/$skip/$skip/$skip/$millis $status $skip $skip $skip $skip $skip/$skip/$skip/$skip/$skip $skip/$skip {$skip} "$line""#,
            r#"$clientport [$clf] $skip $skip/$skip $skip/$skip/$skip/$skip/$millis $status $skip $skip $skip $skip $skip/$skip/$skip/$skip/$skip $skip/$skip "$line""#,
        ],
    },
    // AWS, access logs of Application Load Balancers: the creation time is the start.
    Preset {
        name: "aws-alb",
        mark: Mark::End,
        escape: Escape::Backslash,
        templates: &[
            r#"$scheme $iso $skip $clientport $skip $partsec $partsec $partsec $status $skip $skip $skip "$line" "$agent" $skip $skip $skip "$skip" "$skip" "$skip" $skip $startiso "#,
        ],
    },
    // AWS, access logs of Classic Load Balancers: stamped when the request came.
    Preset {
        name: "aws-clb",
        mark: Mark::Start,
        escape: Escape::Backslash,
        templates: &[
            r#"$iso $skip $clientport $skip $partsec $partsec $partsec $status $skip $skip $skip "$line" "$agent" "#,
        ],
    },
    // AWS S3 server access logs.
    Preset {
        name: "aws-s3",
        mark: Mark::Start,
        escape: Escape::Backslash,
        templates: &[
            r#"$skip $skip [$clf] $client $user $skip $skip $skip "$line" $status $skip $len $skip $millis $skip "$referer" "$agent" "#,
        ],
    },
    // Envoy's default text format; Istio's, which puts details between flags and bytes.
    Preset {
        name: "envoy",
        mark: Mark::Start,
        escape: Escape::None,
        templates: &[
            r#"[$iso] "$method $target $protocol" $status $skip $body $len $millis $skip "$forwarded" "$agent" "$skip" "$host" "$skip""#,
        ],
    },
    Preset {
        name: "istio",
        mark: Mark::Start,
        escape: Escape::None,
        templates: &[
            r#"[$iso] "$method $target $protocol" $status $skip $skip $skip "$skip" $body $len $millis $skip "$forwarded" "$agent" "$skip" "$host" "$skip" $skip $skip $skip $clientport "#,
        ],
    },
    // uWSGI's own request log.
    Preset {
        name: "uwsgi",
        mark: Mark::Start,
        escape: Escape::None,
        templates: &[
            r#"[pid: $skip|app: $skip|req: $skip] $client ($user) {$skip} [$asctime] $method $target => generated $len bytes in $millis msecs ($protocol $status)"#,
            r#"[pid: $skip|app: $skip|req: $skip] $client ($user) {$skip} [$asctime] $method $target => generated $len bytes in $micros micros ($protocol $status)"#,
        ],
    },
    // Labelled tab-separated values (ltsv.org) with the keys people use; others are skipped by the reader of lines.
    Preset {
        name: "morgan",
        mark: Mark::End,
        escape: Escape::Backslash,
        templates: &[r#"$client - $user [$clf] "$line" $status $len$mayend "$referer" "$agent"$tail"#],
    },
];

impl Preset {
    /// Its templates. A preset that does not compile is a mistake of ours, found by a test; such a one is left out.
    #[must_use]
    pub fn templates(&self) -> Vec<Template> {
        self.templates.iter().filter_map(|t| compile(t, self.escape, self.mark)).collect()
    }
}

fn compile(text: &str, escape: Escape, mark: Mark) -> Option<Template> {
    let one = |part: Part<'_>| match part {
        Part::Text(text) => Some(Step::Literal(text.as_bytes().to_vec())),
        Part::Variable(name) => step(name),
    };
    let steps = parts(text).into_iter().map(one).collect::<Option<Vec<_>>>()?;
    Template::new(steps, escape, mark, &[]).ok()
}

fn step(name: &str) -> Option<Step> {
    Some(Step::Field(match name {
        "mayend" => return Some(Step::MayEnd),
        "tail" => return Some(Step::Tail),
        "skip" => Field::Skip,
        "client" => Field::Client,
        "addr" => Field::Address,
        "clientport" => Field::ClientAndPort,
        "user" => Field::User,
        "host" => Field::Host,
        "server" => Field::ServerName,
        "scheme" => Field::Scheme,
        "method" => Field::Method,
        "target" => Field::Target,
        "protocol" => Field::Protocol,
        "line" => Field::RequestLine,
        "status" => Field::Status,
        "len" => Field::ResponseLen,
        "body" => Field::RequestBody,
        "referer" => Field::Referer,
        "agent" => Field::UserAgent,
        "forwarded" => Field::Forwarded,
        "cache" => Field::Cache,
        "clf" => Field::Time(TimeForm::Clf),
        "iso" => Field::Time(TimeForm::Iso),
        "asctime" => Field::Time(TimeForm::Asctime),
        "startiso" => Field::StartTime(TimeForm::Iso),
        "seconds" => Field::Duration(Unit::Seconds),
        "micros" => Field::Duration(Unit::Micros),
        "millis" => Field::Duration(Unit::Millis),
        "partsec" => Field::PartDuration(Unit::Seconds),
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_compiles() {
        for preset in PRESETS {
            assert_eq!(preset.templates().len(), preset.templates.len(), "{}", preset.name);
        }
    }
}
