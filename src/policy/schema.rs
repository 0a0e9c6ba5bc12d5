//! The JSON Schema of a policy file, from one table of its keys.
//!
//! The keys themselves live in `file`; a test asks the parser which keys it knows and holds this table to them.

use serde_json::{Map, Value, json};

/// What a key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Texts,
    Duration,
    Ratio,
    Rate,
    Bytes,
    Number,
    Whole,
    Flag,
    /// Text or number.
    Limit,
    /// A limit, or a table relative to a baseline.
    Relative,
    /// Text to text.
    Labels,
    /// Text to number.
    Rates,
    /// Tables of `[rewrite]`.
    Accounts,
    Auths,
    Takes,
    Puts,
    Shifts,
    Ids,
}

type Keys = &'static [(&'static str, Kind, &'static str)];

use Kind::{
    Accounts, Auths, Bytes, Duration, Flag, Ids, Labels, Limit, Number, Puts, Rate, Rates, Ratio, Relative,
    Shifts, Takes, Text, Texts, Whole,
};

const TARGET: Keys = &[
    ("url", Text, "URL of the load balancer, without path"),
    ("allow", Texts, "host:port and networks that a run may hit"),
    ("hosts", Texts, "recorded hosts that stand for the target; \"*\" is every host"),
    (
        "http2",
        Text,
        "\"as_recorded\" (where the server offers it over TLS), \"never\" or \"always\" (also without TLS)",
    ),
    ("resolvers", Texts, "name servers asked instead of the machine's own, such as 10.0.0.53:53"),
];
const TLS: Keys = &[
    ("ca_file", Text, "PEM file of the authorities trusted instead of the platform's"),
    ("cert_file", Text, "PEM file of our certificate chain"),
    ("key_file", Text, "PEM file of its key"),
    ("server_name", Text, "name in the handshake, and that the certificate must have"),
    ("min_version", Text, "\"1.2\" or \"1.3\""),
    ("resumption", Text, "\"per_session\" (as clients do) or \"none\""),
];
const ROUTES: Keys = &[
    ("methods", Texts, "methods that may be sent"),
    ("allow", Texts, "only these routes, such as \"GET /api/**\""),
    ("deny", Texts, "never these routes"),
    ("max_rps", Rates, "requests per second per route"),
];
const REWRITE: Keys = &[
    ("set", Labels, "headers set on every request"),
    ("remove", Texts, "headers taken out"),
    ("recorded_cookies", Text, "requests that had a cookie: \"drop\", \"from_answers\" or \"optional\""),
    ("bodies", Text, "requests that had a body: \"drop\" or \"synthesise\""),
    ("accounts", Accounts, "accounts that sessions log in with"),
    ("auth", Auths, "credentials from files or the environment"),
    ("take", Takes, "values taken from answers"),
    ("put", Puts, "values put into requests"),
    ("clone_keys", Text, "ids of clones: \"same\" as their original's, or \"shift\" by the rules with ids"),
    ("shift", Shifts, "ids and dates in recorded targets"),
];
const ACCOUNTS: Keys =
    &[("file", Text, "CSV with a header line, or JSON lines"), ("columns", Texts, "columns that are used")];
const AUTH: Keys = &[
    ("on", Text, "only on these routes"),
    ("header", Text, "header, Authorization by default"),
    ("prefix", Text, "what stands before the secret, such as \"Bearer \""),
    ("file", Text, "file with the secret"),
    ("env", Text, "variable with the secret"),
];
const TAKE: Keys = &[
    ("name", Text, "name of the value"),
    ("from", Text, "route whose answers give it"),
    ("header", Text, "header that is the value"),
    ("cookie", Text, "cookie that is the value"),
    ("json", Text, "JSON pointer to the value"),
    ("regex", Text, "regular expression whose group is the value"),
];
const PUT: Keys = &[
    ("into", Text, "route whose requests get it"),
    ("target", Text, "path and query, with {values}"),
    ("headers", Labels, "headers, with {values}"),
    ("body", Text, "body, with {values}"),
];
const SHIFT: Keys = &[
    ("on", Text, "route whose requests are changed"),
    ("segment", Whole, "segment of the path, from 1"),
    ("query", Text, "key of the query"),
    ("ids", Ids, "ids of clones: by is added for each, around within min and max"),
    ("days", Flag, "the days since the recording are added to a date"),
];
const IDS: Keys = &[
    ("by", Whole, "distance between clones"),
    ("min", Whole, "smallest id there is"),
    ("max", Whole, "largest id there is"),
];
const RATE: Keys = &[
    ("max_scale", Number, "highest --scale"),
    ("max_rps", Number, "highest request rate, per second"),
    ("max_new_connections_per_s", Number, "highest rate of new connections"),
    ("max_in_flight", Limit, "most requests in flight, or \"auto\""),
    ("request_timeout", Duration, "longest time of one request"),
    ("connect_timeout", Duration, "longest time to connect"),
    ("session_blocked_max", Duration, "longest wait for the previous answer on a connection"),
    ("max_mbit_per_s", Number, "most Mbit/s of answers received"),
    ("hold_total", Text, "users and ours together: \"2x\" of the recorded peak, or a rate"),
];
const WINDOW: Keys = &[
    ("timezone", Text, "IANA name of the zone"),
    ("start", Text, "\"Sun 03:00\", \"daily 03:00\" or \"2026-11-29 03:00\""),
    ("duration", Duration, "length of the window"),
    ("expect_organic_below", Rate, "more users than this at the start refuse the run"),
];
const BUDGET: Keys = &[
    ("requests", Whole, "most requests in a period; then the run ends in good order"),
    ("failed_requests", Whole, "most failed requests; then the run is aborted"),
    ("bytes_received", Bytes, "most bytes of answers"),
    ("connections", Whole, "most connections"),
    ("period", Duration, "time after which the count begins again, without a window"),
];
const VISIBILITY: Keys = &[
    ("requests", Text, "PromQL: the target's own rate of all requests"),
    ("organic", Text, "PromQL: the rate of unmarked requests"),
];
const METRICS: Keys = &[("listen", Text, "address of our own metrics page")];
const TRACE: Keys =
    &[("min_completeness", Number, "share of the requests its capture saw that a trace must hold")];
const DRILL: Keys = &[("max_age", Duration, "a passed drill must not be older")];
const STOP: Keys = &[
    ("kill_file", Text, "while this file exists nothing is sent"),
    ("query", Text, "PromQL: any value above zero stops the run"),
];
const PROMETHEUS: Keys = &[
    ("url", Text, "base URL"),
    ("scrape_interval", Duration, "interval of its scrapes"),
    ("expect_labels", Labels, "external labels of the right Prometheus"),
    ("expect_min_rps", Number, "least rate of the visibility query before the start"),
    ("token_file", Text, "file with a bearer token"),
];
const GUARD: Keys = &[
    ("name", Text, "name in reports"),
    ("expr", Text, "PromQL, one number"),
    ("scrape", Text, "URL of a metrics page"),
    ("metric", Text, "series on that page"),
    ("per", Text, "series to divide by"),
    ("errors", Text, "PromQL: rate of failing requests, ours among them"),
    ("requests", Text, "PromQL: rate of all requests, ours among them"),
    ("alerts", Text, "label matchers of alerts that stop a run"),
    ("liveness", Text, "PromQL that is above zero as long as alerting works"),
    ("min_samples", Whole, "requests behind the number below which it says nothing"),
    ("samples", Text, "PromQL: requests behind the number"),
    ("need_traffic", Flag, "too few samples are no data"),
    ("organic", Flag, "it looks at users alone"),
    ("read", Text, "\"value\" or \"rate\""),
    ("reduce", Text, "\"sum\", \"max\", \"min\" or \"avg\""),
    ("unit", Text, "\"ratio\", \"seconds\", or any word for plain numbers"),
    ("hold_above", Relative, "stop growing above"),
    ("back_off_above", Relative, "halve above"),
    ("abort_above", Limit, "stop for good above"),
    ("hold_below", Relative, "stop growing below"),
    ("back_off_below", Relative, "halve below"),
    ("abort_below", Limit, "stop for good below"),
    ("clear", Limit, "clean again on the good side of this"),
    ("confirm", Text, "\"2 of 3\""),
    ("poll", Duration, "time between questions"),
    ("timeout", Duration, "deadline of one question"),
    ("clear_for", Duration, "good for this long before it is clean"),
    ("required", Flag, "the run needs this guard"),
    ("user_harm", Flag, "blindness is treated like harm"),
];
const LOCAL: Keys = &[
    ("hold_above", Limit, "stop growing above"),
    ("back_off_above", Limit, "halve above"),
    ("abort_above", Limit, "stop for good above"),
];
const GOVERNOR: Keys = &[
    ("probe_rate", Rate, "rate of the probe, or \"auto\""),
    ("step", Ratio, "growth per step"),
    ("step_hold", Duration, "shortest time between steps"),
    ("cooldown", Duration, "shortest time in back-off"),
    ("clear_for", Duration, "health needed before a guard is clean"),
    ("hold_max", Duration, "longest hold"),
    ("max_backoffs", Whole, "back-offs allowed"),
    ("backoff_window", Duration, "two back-offs within this end the run"),
    ("no_data_abort", Duration, "longest blindness"),
    ("preflight_max", Duration, "longest preflight"),
    ("drain_timeout", Duration, "time for answers after the last request"),
    ("aftercare", Duration, "how long the guards are watched after the load"),
];

const TABLES: &[(&str, Keys)] = &[
    ("target", TARGET),
    ("routes", ROUTES),
    ("tls", TLS),
    ("rewrite", REWRITE),
    ("rate", RATE),
    ("window", WINDOW),
    ("budget", BUDGET),
    ("visibility", VISIBILITY),
    ("metrics", METRICS),
    ("drill", DRILL),
    ("trace", TRACE),
    ("stop", STOP),
    ("prometheus", PROMETHEUS),
    ("governor", GOVERNOR),
];

fn value(kind: Kind, about: &str) -> Value {
    let mut v = match kind {
        Text => json!({"type": "string"}),
        Texts => json!({"type": "array", "items": {"type": "string"}}),
        Duration => json!({"type": "string", "pattern": "^(auto|([0-9]+(ms|s|m|h|d))+)$"}),
        Ratio => json!({"type": "string", "pattern": "^(auto|[0-9.]+%?)$"}),
        Rate => json!({"type": "string", "pattern": "^(auto|[0-9.]+(/s)?)$"}),
        Bytes => json!({"type": "string", "pattern": "^[0-9]+(KiB|MiB|GiB|TiB)$"}),
        Number => json!({"type": "number", "exclusiveMinimum": 0}),
        Whole => json!({"type": "integer", "minimum": 0}),
        Flag => json!({"type": "boolean"}),
        Limit => json!({"type": ["string", "number"]}),
        Relative => json!({"anyOf": [{"type": ["string", "number"]}, {"$ref": "#/$defs/relative"}]}),
        Labels => json!({"type": "object", "additionalProperties": {"type": "string"}}),
        Rates => json!({"type": "object", "additionalProperties": {"type": "number"}}),
        Accounts => table(ACCOUNTS),
        Auths => json!({"type": "array", "items": table(AUTH)}),
        Takes => json!({"type": "array", "items": table(TAKE)}),
        Puts => json!({"type": "array", "items": table(PUT)}),
        Shifts => json!({"type": "array", "items": table(SHIFT)}),
        Ids => table(IDS),
    };
    if let Value::Object(map) = &mut v {
        map.insert("description".to_owned(), json!(about));
    }
    v
}

fn table(keys: Keys) -> Value {
    let properties: Map<String, Value> =
        keys.iter().map(|(key, kind, about)| ((*key).to_owned(), value(*kind, about))).collect();
    json!({"type": "object", "additionalProperties": false, "properties": properties})
}

/// The schema.
#[must_use]
pub fn schema() -> Value {
    let mut properties: Map<String, Value> =
        TABLES.iter().map(|(name, keys)| ((*name).to_owned(), table(keys))).collect();
    let text = |about: &str| json!({"type": "string", "description": about});
    properties.insert("version".to_owned(), json!({"const": 1}));
    properties.insert("name".to_owned(), text("name in every report"));
    properties.insert("owner".to_owned(), text("who answers for it; in the User-Agent suffix"));
    properties.insert("runbook".to_owned(), text("run-book URL; in the User-Agent suffix"));
    properties.insert("guard".to_owned(), json!({"type": "array", "items": table(GUARD)}));
    properties.insert("local".to_owned(), json!({"type": "object", "additionalProperties": table(LOCAL)}));
    let relative = json!({
        "type": "object", "additionalProperties": false, "required": ["baseline", "ratio", "floor", "cap"],
        "properties": {
            "baseline": {"enum": ["before", "offset 1w", "offset 2w", "offset 3w"]},
            "ratio": {"type": "number"}, "floor": {"type": ["string", "number"]},
            "cap": {"type": ["string", "number"]}, "abnormal_ratio": {"type": "number"}
        }
    });
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Policy of replay",
        "type": "object",
        "required": ["version", "name"],
        "additionalProperties": false,
        "properties": properties,
        "$defs": {"relative": relative}
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::policy::file::PolicyFile;

    /// The keys that the parser says it would take in the table that `text` opens.
    fn known(text: &str) -> BTreeSet<String> {
        let error =
            toml::from_str::<PolicyFile>(&format!("version = 1\nname = \"t\"\n{text}zzz = 1\n")).unwrap_err();
        let message = error.message().to_owned();
        let (_, list) = message.split_once("expected ").unwrap_or_else(|| panic!("{message}"));
        list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    fn keys(keys: Keys) -> BTreeSet<String> {
        keys.iter().map(|(k, ..)| (*k).to_owned()).collect()
    }

    #[test]
    fn the_table_holds_the_keys_of_the_parser() {
        for (name, table) in TABLES {
            assert_eq!(keys(table), known(&format!("[{name}]\n")), "{name}");
        }
        assert_eq!(keys(GUARD), known("[[guard]]\n"));
        assert_eq!(keys(LOCAL), known("[local.p99]\n"));
        assert_eq!(keys(ACCOUNTS), known("[rewrite.accounts]\n"));
        assert_eq!(keys(AUTH), known("[[rewrite.auth]]\n"));
        assert_eq!(keys(TAKE), known("[[rewrite.take]]\n"));
        assert_eq!(keys(PUT), known("[[rewrite.put]]\n"));
        assert_eq!(keys(SHIFT), known("[[rewrite.shift]]\n"));
        assert_eq!(keys(IDS), known("[[rewrite.shift]]\non = \"/a\"\n[rewrite.shift.ids]\n"));
        let top: BTreeSet<String> = schema()["properties"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(top, known(""));
    }

    #[test]
    fn the_committed_schema_is_this_one() {
        let committed: Value =
            serde_json::from_str(include_str!("../../policies/policy.schema.json")).unwrap();
        assert!(
            committed == schema(),
            "policies/policy.schema.json is not of this version: run `make schema`"
        );
    }
}
