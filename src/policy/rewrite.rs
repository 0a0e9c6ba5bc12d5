//! `[rewrite]`: rules for headers, credentials, values and bodies, from words to checked rules.
//!
//! What needs a file or the environment is named here and read when a run is prepared; a policy can be checked without.

use toml::Spanned;

use super::check::Reader;
use super::file::{AuthTable, IdsTable, PolicyFile, PutTable, RewriteTable, ShiftTable, TakeTable, Word};
use super::target::Target;
use crate::limits::REWRITE_RULES_MAX;
use crate::plan::rewrite::{
    Bodies, Encode, Put, RecordedCookies, Rewrite, Secret, SetHeader, Template, UNIQUE, may_set,
};
use crate::plan::routes::Pattern;
use crate::plan::shift::{How, Part, Shift};
use crate::plan::take::{Place, Take};

/// Where a secret is read when a run is prepared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretFrom {
    /// A file; its text without the line end.
    File(String),
    /// A variable of the environment.
    Env(String),
}

impl std::fmt::Display for SecretFrom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(file) => write!(f, "the file {file}"),
            Self::Env(name) => write!(f, "the variable {name}"),
        }
    }
}

/// A credential that every request of some routes gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// Only on these routes; `None` is every route.
    pub on: Option<Pattern>,
    /// Header.
    pub header: String,
    /// What stands before the secret, such as `Bearer `.
    pub prefix: String,
    /// Where it comes from.
    pub from: SecretFrom,
}

/// `[rewrite]`, checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RewriteWords {
    /// The rules, without what files and environment give.
    pub rules: Rewrite,
    /// Credentials.
    pub auth: Vec<Auth>,
    /// File of accounts and the columns used of it.
    pub accounts: Option<(String, Vec<String>)>,
}

impl RewriteWords {
    /// Whether it lives on what belongs to one session: values of answers, cookies, an account.
    #[must_use]
    pub fn has_sessions(&self) -> bool {
        let cookies = self.rules.cookies != RecordedCookies::Drop;
        cookies || !self.rules.takes.is_empty() || self.accounts.is_some()
    }

    /// Whether a secret is sent.
    #[must_use]
    pub fn has_secrets(&self) -> bool {
        !self.auth.is_empty() || self.accounts.is_some()
    }

    /// Why a run against `target` would show a secret to anyone on the way, whichever target was chosen.
    #[must_use]
    pub fn objection(&self, target: &Target) -> Option<String> {
        let shown = self.has_secrets() && !target.https() && !target.is_loopback();
        shown.then(|| format!("G035: [rewrite] sends credentials, and {target} would carry them in the clear; use an https target"))
    }
}

/// Id of what is wrong with a rule.
const RULE: &str = "G034";

fn pattern(r: &mut Reader<'_>, key: &str, word: &Word) -> Option<Pattern> {
    let parsed = Pattern::parse(word.get_ref());
    parsed.map_err(|e| r.error(RULE, Some(word.span().start), key, e.to_string())).ok()
}

/// A header name that a rule may set.
fn header(r: &mut Reader<'_>, key: &str, at: usize, name: &str) -> Option<String> {
    if may_set(name) {
        return Some(name.to_owned());
    }
    let why = format!(
        "{name:?} may not be set: it is no header name, it belongs to the connection or to our marks, or it would forge a client"
    );
    r.error(RULE, Some(at), key, why);
    None
}

/// `[rewrite]`: `None` after an error.
pub(super) fn rewrite(r: &mut Reader<'_>, file: &PolicyFile) -> Option<RewriteWords> {
    let Some(t) = &file.rewrite else { return Some(RewriteWords::default()) };
    let rules = t.set.len() + t.remove.len() + t.auth.len() + t.take.len() + t.put.len() + t.shift.len();
    if rules > REWRITE_RULES_MAX {
        r.error(RULE, None, "rewrite", format!("more than {REWRITE_RULES_MAX} rules"));
        return None;
    }
    let cookies = choice(
        r,
        "rewrite.recorded_cookies",
        t.recorded_cookies.as_ref(),
        &[
            ("drop", RecordedCookies::Drop),
            ("from_answers", RecordedCookies::FromAnswers),
            ("optional", RecordedCookies::Optional),
        ],
    );
    let words = [("drop", Bodies::Drop), ("synthesise", Bodies::Synthesise)];
    let bodies = choice(r, "rewrite.bodies", t.bodies.as_ref(), &words);
    let set = all(&t.set, |(name, value)| set_header(r, name, value));
    let remove = all(&t.remove, |w| header(r, "rewrite.remove", w.span().start, w.get_ref()));
    let auth = all(&t.auth, |a| auth(r, a));
    let takes = all(&t.take, |w| take(r, w));
    let accounts = accounts(r, t);
    let (takes, accounts) = (takes?, accounts?);
    let names = names(r, &takes, accounts.as_ref().map(|(_, c)| c.as_slice()))?;
    let puts = all(&t.put, |w| put(r, w, &names));
    let shifts = shifts(r, t);
    let rules = Rewrite {
        shifts: shifts?,
        days: 0,
        set: set?,
        remove: remove?.into_iter().map(|n| n.to_ascii_lowercase()).collect(),
        cookies: cookies?,
        bodies: bodies?,
        names,
        takes,
        puts: puts?,
        routes: crate::plan::routes::Routes::default(),
    };
    Some(RewriteWords { rules, auth: auth?, accounts })
}

/// Every item checked; `None` if one of them is wrong, after all of them were looked at.
fn all<I: IntoIterator, T>(items: I, check: impl FnMut(I::Item) -> Option<T>) -> Option<Vec<T>> {
    let checked: Vec<Option<T>> = items.into_iter().map(check).collect();
    checked.into_iter().collect()
}

fn choice<T: Copy + Default>(
    r: &mut Reader<'_>,
    key: &str,
    word: Option<&Word>,
    words: &[(&str, T)],
) -> Option<T> {
    let Some(word) = word else { return Some(T::default()) };
    let found = words.iter().find(|(w, _)| w == word.get_ref()).map(|(_, t)| *t);
    if found.is_none() {
        let known: Vec<String> = words.iter().map(|(w, _)| format!("{w:?}")).collect();
        let why = format!("{:?} is none of {}", word.get_ref(), known.join(", "));
        r.error(RULE, Some(word.span().start), key, why);
    }
    found
}

fn set_header(r: &mut Reader<'_>, name: &Word, value: &str) -> Option<SetHeader> {
    let at = name.span().start;
    let name = header(r, "rewrite.set", at, name.get_ref())?;
    let secret = Secret::new(value.as_bytes());
    if secret.is_none() {
        r.error(
            RULE,
            Some(at),
            "rewrite.set",
            format!("the value of {name:?} is empty or has control bytes"),
        );
    }
    Some(SetHeader { on: None, name, value: secret? })
}

fn auth(r: &mut Reader<'_>, spanned: &Spanned<AuthTable>) -> Option<Auth> {
    let (t, at) = (spanned.get_ref(), spanned.span().start);
    let on = match &t.on {
        Some(w) => Some(pattern(r, "rewrite.auth: on", w)?),
        None => None,
    };
    let name = t.header.as_ref().map_or("Authorization", |w| w.get_ref().as_str());
    let header = header(r, "rewrite.auth: header", at, name)?;
    let from = match (&t.file, &t.env) {
        (Some(f), None) => SecretFrom::File(f.get_ref().clone()),
        (None, Some(e)) => SecretFrom::Env(e.get_ref().clone()),
        (None, None) | (Some(_), Some(_)) => {
            let why = "give exactly one of file and env: where the secret comes from";
            r.error(RULE, Some(at), "rewrite.auth", why);
            return None;
        }
    };
    Some(Auth { on, header, prefix: t.prefix.clone().unwrap_or_default(), from })
}

fn take(r: &mut Reader<'_>, spanned: &Spanned<TakeTable>) -> Option<Take> {
    let (t, at) = (spanned.get_ref(), spanned.span().start);
    let from = pattern(r, "rewrite.take: from", &t.from)?;
    let name = name(r, "rewrite.take: name", &t.name)?;
    let places = [
        t.header.as_ref().map(|w| Place::Header(w.get_ref().clone())),
        t.cookie.as_ref().map(|w| Place::Cookie(w.get_ref().clone())),
        t.json.as_ref().map(|w| Place::Json(w.get_ref().clone())),
    ];
    if let Some(w) = t.json.as_ref().filter(|w| !w.get_ref().starts_with('/')) {
        let why = format!("{:?} is not a JSON pointer such as \"/order/id\"", w.get_ref());
        r.error(RULE, Some(w.span().start), "rewrite.take: json", why);
        return None;
    }
    let regex = match &t.regex {
        Some(w) => Some(regex_place(r, w)?),
        None => None,
    };
    let mut given: Vec<Place> = places.into_iter().chain([regex]).flatten().collect();
    if given.len() != 1 {
        let why = "give exactly one of header, cookie, json and regex: where the value stands in the answer";
        r.error(RULE, Some(at), "rewrite.take", why);
        return None;
    }
    given.pop().map(|place| Take { name, from, place })
}

fn regex_place(r: &mut Reader<'_>, word: &Word) -> Option<Place> {
    let built = regex::bytes::RegexBuilder::new(word.get_ref()).size_limit(1 << 20).build();
    let why = match built {
        Ok(regex) if regex.captures_len() == 2 => return Some(Place::Regex(Box::new(regex))),
        Ok(_) => "must have exactly one group: the value".to_owned(),
        Err(e) => e.to_string(),
    };
    r.error(RULE, Some(word.span().start), "rewrite.take: regex", why);
    None
}

/// Name of a value: what stands between braces.
fn name(r: &mut Reader<'_>, key: &str, word: &Word) -> Option<String> {
    let text = word.get_ref();
    let fits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if fits && text != UNIQUE {
        return Some(text.clone());
    }
    let why = format!("{text:?} is no name of letters, digits and _ (or it is {UNIQUE:?}, which is ours)");
    r.error(RULE, Some(word.span().start), key, why);
    None
}

/// `accounts`: the outer `None` after an error.
fn accounts(r: &mut Reader<'_>, t: &RewriteTable) -> Option<Option<(String, Vec<String>)>> {
    let Some(accounts) = &t.accounts else { return Some(None) };
    let columns = all(&accounts.columns, |w| name(r, "rewrite.accounts: columns", w))?;
    if columns.is_empty() {
        let why = "name the columns that are used, such as columns = [\"user\", \"password\"]";
        r.error(RULE, Some(accounts.file.span().start), "rewrite.accounts", why);
        return None;
    }
    Some(Some((accounts.file.get_ref().clone(), columns)))
}

fn names(r: &mut Reader<'_>, takes: &[Take], columns: Option<&[String]>) -> Option<Vec<String>> {
    let all = takes.iter().map(|t| &t.name).chain(columns.unwrap_or_default());
    let mut names: Vec<String> = Vec::new();
    for name in all {
        if names.contains(name) {
            r.error(RULE, None, "rewrite", format!("two values are called {name:?}"));
            return None;
        }
        names.push(name.clone());
    }
    Some(names)
}

fn put(r: &mut Reader<'_>, spanned: &Spanned<PutTable>, names: &[String]) -> Option<Put> {
    let (t, at) = (spanned.get_ref(), spanned.span().start);
    let into = pattern(r, "rewrite.put: into", &t.into)?;
    let template = |r: &mut Reader<'_>, key: &str, at: usize, text: &str, encode| {
        let parsed = Template::parse(text, names, encode);
        parsed.map_err(|e| r.error(RULE, Some(at), key, e.to_string())).ok()
    };
    let target = match &t.target {
        Some(w) => {
            let (at, text) = (w.span().start, w.get_ref());
            if !text.starts_with('/') || text.bytes().any(|b| b <= b' ' || b == 0x7f) {
                r.error(
                    RULE,
                    Some(at),
                    "rewrite.put: target",
                    format!("{text:?} is no path such as \"/orders/{{id}}\""),
                );
                return None;
            }
            Some(template(r, "rewrite.put: target", at, text, Encode::Url)?)
        }
        None => None,
    };
    let headers = all(&t.headers, |(name, text)| {
        let at = name.span().start;
        let name = header(r, "rewrite.put: headers", at, name.get_ref())?;
        if text.bytes().any(|b| b < b' ' || b == 0x7f) {
            r.error(
                RULE,
                Some(at),
                "rewrite.put: headers",
                format!("the value of {name:?} has control bytes"),
            );
            return None;
        }
        Some((name, template(r, "rewrite.put: headers", at, text, Encode::Raw)?))
    });
    let body = match &t.body {
        Some(w) => Some(template(r, "rewrite.put: body", w.span().start, w.get_ref(), Encode::Raw)?),
        None => None,
    };
    let headers = headers?;
    if target.is_none() && headers.is_empty() && body.is_none() {
        r.error(RULE, Some(at), "rewrite.put", "puts nothing; give target, headers or body");
        return None;
    }
    Some(Put { into, target, headers, body })
}

/// `[[rewrite.shift]]`, and whether clones have ids of their own at all.
fn shifts(r: &mut Reader<'_>, t: &RewriteTable) -> Option<Vec<Shift>> {
    let words = [("same", false), ("shift", true)];
    let shift = choice(r, "rewrite.clone_keys", t.clone_keys.as_ref(), &words)?;
    let rules = all(&t.shift, |s| one_shift(r, s))?;
    let ids = rules.iter().any(|s| matches!(s.how, How::Ids { .. }));
    if ids != shift {
        let at = t.clone_keys.as_ref().map(|w| w.span().start);
        let why = "clone_keys = \"shift\" and [[rewrite.shift]] with ids belong together: the one says that clones have ids of their own, the other which";
        r.error(RULE, at, "rewrite.clone_keys", why);
        return None;
    }
    Some(rules)
}

fn one_shift(r: &mut Reader<'_>, spanned: &Spanned<ShiftTable>) -> Option<Shift> {
    let (t, at) = (spanned.get_ref(), spanned.span().start);
    let on = pattern(r, "rewrite.shift: on", &t.on)?;
    let part = match (&t.segment, &t.query) {
        (Some(n), None) if (1..=64).contains(n.get_ref()) => Part::Segment(*n.get_ref() as usize),
        (None, Some(key)) if !key.get_ref().is_empty() => Part::Query(key.get_ref().clone().into_bytes()),
        (Some(_) | None, _) => {
            let why = "give exactly one of segment (1 is the first of the path) and query (a key)";
            r.error(RULE, Some(at), "rewrite.shift", why);
            return None;
        }
    };
    let how = match (&t.ids, t.days.as_ref().map(Spanned::get_ref)) {
        (Some(ids), None) => {
            let IdsTable { by, min, max } = *ids.get_ref();
            if by == 0 || min >= max {
                let why = "by must be above 0, and max above min: the ids that there are";
                r.error(RULE, Some(ids.span().start), "rewrite.shift: ids", why);
                return None;
            }
            How::Ids { by, min, max }
        }
        (None, Some(true)) => How::Days,
        (None | Some(_), _) => {
            let why = "give exactly one of ids = { by, min, max } and days = true";
            r.error(RULE, Some(at), "rewrite.shift", why);
            return None;
        }
    };
    Some(Shift { on, part, how })
}

#[cfg(test)]
mod tests {
    use super::super::Policy;
    use super::super::check::parse;
    use super::*;

    fn policy(tail: &str) -> Result<Policy, String> {
        let text = format!("version = 1\nname = \"w\"\n[target]\nallow = [\"127.0.0.0/8\"]\n{tail}");
        parse(&text, "w").map_err(|e| e.to_string())
    }

    #[test]
    fn wrong_rules_are_named_with_their_line() {
        let take = |words: &str| format!("[[rewrite.take]]\nname = \"x\"\nfrom = \"GET /a\"\n{words}\n");
        let put = |words: &str| format!("[[rewrite.put]]\ninto = \"POST /a\"\n{words}\n");
        let shift = |words: &str| format!("[[rewrite.shift]]\non = \"GET /a/*\"\n{words}\n");
        let auth = |words: &str| format!("[[rewrite.auth]]\n{words}\n");
        #[rustfmt::skip]
        let table = [
            ("[rewrite]\nrecorded_cookies = \"keep\"\n".to_owned(), "line 6: rewrite.recorded_cookies", "none of \"drop\", \"from_answers\", \"optional\""),
            ("[rewrite]\nbodies = \"recorded\"\n".into(), "line 6: rewrite.bodies", "\"synthesise\""),
            ("[rewrite]\nset = { Host = \"x\" }\n".into(), "line 6: rewrite.set", "may not be set"),
            ("[rewrite]\nset = { X-Forwarded-For = \"x\" }\n".into(), "line 6: rewrite.set", "may not be set"),
            ("[rewrite]\nset = { X-A = \"\" }\n".into(), "line 6: rewrite.set", "empty"),
            ("[rewrite]\nset = { X-A = \"a\\nb\" }\n".into(), "line 6: rewrite.set", "control bytes"),
            ("[rewrite]\nremove = [\"X-Replay-Run\"]\n".into(), "line 6: rewrite.remove", "may not be set"),
            ("[rewrite]\naccounts = { file = \"x\" }\n".into(), "line 6: rewrite.accounts", "name the columns"),
            ("[rewrite]\naccounts = { file = \"x\", columns = [\"a b\"] }\n".into(), "line 6: rewrite.accounts: columns", "no name"),
            ("[rewrite]\naccounts = { file = \"x\", columns = [\"a\", \"a\"] }\n".into(), "rewrite", "two values are called \"a\""),
            (auth(""), "line 5: rewrite.auth", "exactly one of file and env"),
            (auth("file = \"a\"\nenv = \"B\""), "line 5: rewrite.auth", "exactly one of file and env"),
            (auth("env = \"B\"\nheader = \"Content-Length\""), "line 5: rewrite.auth: header", "may not be set"),
            (auth("env = \"B\"\non = \"nowhere\""), "line 7: rewrite.auth: on", "not a route"),
            (take(""), "line 5: rewrite.take", "exactly one of header, cookie, json and regex"),
            (take("header = \"a\"\ncookie = \"b\""), "line 5: rewrite.take", "exactly one"),
            (take("json = \"order.id\""), "line 8: rewrite.take: json", "JSON pointer"),
            (take("regex = \"(\""), "line 8: rewrite.take: regex", "unclosed"),
            (take("regex = \"abc\""), "line 8: rewrite.take: regex", "exactly one group"),
            (take("regex = \"(a)(b)\""), "line 8: rewrite.take: regex", "exactly one group"),
            (take("header = \"a\"").replace("\"x\"", "\"unique\""), "line 6: rewrite.take: name", "is ours"),
            (take("header = \"a\"").replace("GET /a", "a"), "line 7: rewrite.take: from", "not a route"),
            (put(""), "line 5: rewrite.put", "puts nothing"),
            (put("target = \"orders\""), "line 7: rewrite.put: target", "no path"),
            (put("target = \"/a b\""), "line 7: rewrite.put: target", "no path"),
            (put("body = \"{y}\""), "line 7: rewrite.put: body", "{y} is neither taken"),
            (put("body = \"{\""), "line 7: rewrite.put: body", "{{"),
            ("[rewrite]\nclone_keys = \"other\"\n".into(), "line 6: rewrite.clone_keys", "none of \"same\", \"shift\""),
            ("[rewrite]\nclone_keys = \"shift\"\n".into(), "line 6: rewrite.clone_keys", "belong together"),
            (shift("segment = 2\nids = { by = 1, min = 0, max = 9 }"), "rewrite.clone_keys", "belong together"),
            (shift("days = true"), "line 5: rewrite.shift", "exactly one of segment"),
            (shift("segment = 0\ndays = true"), "line 5: rewrite.shift", "exactly one of segment"),
            (shift("segment = 1\nquery = \"a\"\ndays = true"), "line 5: rewrite.shift", "exactly one of segment"),
            (shift("query = \"a\""), "line 5: rewrite.shift", "exactly one of ids"),
            (shift("query = \"a\"\ndays = false"), "line 5: rewrite.shift", "exactly one of ids"),
            (shift("query = \"a\"\nids = { by = 0, min = 0, max = 9 }"), "line 8: rewrite.shift: ids", "above 0"),
            (shift("query = \"a\"\nids = { by = 1, min = 9, max = 9 }"), "line 8: rewrite.shift: ids", "max above min"),
            (put("headers = { Forwarded = \"a\" }"), "line 7: rewrite.put: headers", "may not be set"),
            (put("headers = { X-A = \"a\\rb\" }"), "line 7: rewrite.put: headers", "control bytes"),
        ];
        for (words, place, why) in table {
            let said = policy(&words).unwrap_err();
            assert!(said.contains("G034") && said.contains(place) && said.contains(why), "{words}\n{said}");
        }
        let many = take("header = \"a\"").repeat(REWRITE_RULES_MAX + 1);
        assert!(policy(&many).unwrap_err().contains("more than 100 rules"));
    }

    #[test]
    fn good_rules_become_what_they_say() {
        let words = "[rewrite]\nrecorded_cookies = \"from_answers\"\nbodies = \"synthesise\"\nremove = [\"X-Debug\"]\nset = { X-Tenant = \"load\" }\naccounts = { file = \"a.csv\", columns = [\"user\"] }\n\
            [[rewrite.auth]]\non = \"GET /api/**\"\nenv = \"TOKEN\"\nprefix = \"Bearer \"\n\
            [[rewrite.take]]\nname = \"csrf\"\nfrom = \"GET /login\"\nregex = 'value=\"([^\"]+)\"'\n\
            [[rewrite.put]]\ninto = \"POST /login\"\nbody = \"u={user:url}&t={csrf}\"\nheaders = { X-Csrf = \"{csrf}\" }\ntarget = \"/login?u={user}\"\n";
        let made = policy(words).unwrap().rewrite;
        assert!(made.has_secrets());
        assert_eq!(made.accounts, Some(("a.csv".into(), vec!["user".into()])));
        let rules = &made.rules;
        assert_eq!((rules.cookies, rules.bodies), (RecordedCookies::FromAnswers, Bodies::Synthesise));
        assert_eq!(
            (rules.remove.clone(), rules.names.clone()),
            (vec!["x-debug".to_owned()], vec!["csrf".to_owned(), "user".into()])
        );
        let put = &rules.puts[0];
        let values = |t: &Template| t.values().collect::<Vec<_>>();
        assert_eq!(values(put.body.as_ref().unwrap()), [1, 0]);
        assert_eq!((values(put.target.as_ref().unwrap()), values(&put.headers[0].1)), (vec![1], vec![0]));
        assert_eq!(rules.takes[0].name, "csrf");
        let auth = &made.auth[0];
        assert_eq!((auth.header.as_str(), auth.prefix.as_str()), ("Authorization", "Bearer "));
        assert_eq!(auth.from.to_string(), "the variable TOKEN");
        let none = policy("").unwrap().rewrite;
        assert!(!none.has_secrets() && none == RewriteWords::default());
    }

    #[test]
    fn a_secret_does_not_leave_this_machine_in_the_clear() {
        let with = |scheme: &str, secret: &str| {
            let text = format!(
                "version = 1\nname = \"w\"\n[target]\nurl = \"{scheme}://api.example.com:444\"\nallow = [\"api.example.com:444\"]\n{secret}"
            );
            parse(&text, "w").err().is_some_and(|e| e.to_string().contains("G035"))
        };
        let secret = "[[rewrite.auth]]\nenv = \"TOKEN\"\n";
        assert!(with("http", secret) && !with("https", secret) && !with("http", ""));
        assert!(policy(secret).is_ok(), "loopback");
        let list = super::super::target::AllowList::parse([
            "api.example.com:443",
            "api.example.com:80",
            "127.0.0.0/8",
        ])
        .unwrap();
        let objects = |words: &str, url: &str| {
            policy(words).unwrap().rewrite.objection(&Target::new(url, list.clone()).unwrap()).is_some()
        };
        assert!(objects(secret, "http://api.example.com"), "another target of the same policy");
        assert!(!objects(secret, "https://api.example.com") && !objects(secret, "http://127.0.0.1:80"));
        assert!(!objects("", "http://api.example.com"));
    }
}
