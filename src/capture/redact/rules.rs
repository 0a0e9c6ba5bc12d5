//! Rules that tighten or loosen the redaction, from a TOML file.
//!
//! What it refuses to do: keep credentials or client addresses. They are never needed to send a shape, and a trace is copied
//! about more freely than what it was made from.

use std::collections::BTreeMap;

use regex::bytes::Regex;
use serde::Deserialize;

use super::{ADDRESSES, AUTHORIZATION};
use crate::trace::shape::TOKEN_HEADERS;

/// What happens to a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// It stays.
    Keep,
    /// Presence and length stay.
    Drop,
    /// A keyed hash stands in for it, and its length stays.
    Hash,
    /// This stands in for it, and can be sent.
    Set(Vec<u8>),
}

/// The file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RulesFile {
    headers: HeadersFile,
    query: QueryFile,
    path: PathFile,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct HeadersFile {
    keep: Vec<String>,
    drop: Vec<String>,
    hash: Vec<String>,
    set: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct QueryFile {
    /// What happens to values of keys that are not named.
    others: Others,
    keep: Vec<String>,
    hash: Vec<String>,
    set: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Others {
    /// Judged by their form.
    #[default]
    Guess,
    /// Hashed.
    Hash,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PathFile {
    keep: Vec<String>,
    hash: Vec<String>,
}

/// Checked rules.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    headers: BTreeMap<Vec<u8>, Fate>,
    query: BTreeMap<Vec<u8>, Fate>,
    hash_other_queries: bool,
    pub(super) keep_paths: Vec<Regex>,
    pub(super) hash_paths: Vec<Regex>,
}

/// Why a rule file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRules {
    /// Not TOML, or a key that does not exist.
    #[error("{0}")]
    File(String),
    /// Named in two lists.
    #[error("[{table}]: {name:?} has two rules; one of keep, drop, hash and set is allowed")]
    Twice {
        /// Table.
        table: &'static str,
        /// Name.
        name: String,
    },
    /// Loosens what must not be.
    #[error(
        "[headers] {rule}: {name:?} carries credentials or a client's address; neither its value nor a hash is ever kept. Give credentials for \
         sending in the policy ([rewrite])"
    )]
    Never {
        /// Rule.
        rule: &'static str,
        /// Header.
        name: String,
    },
    /// Not a regular expression.
    #[error("[path] {rule}: {text:?} is not a regular expression: {why}")]
    Pattern {
        /// Rule.
        rule: &'static str,
        /// As written.
        text: String,
        /// What is wrong.
        why: String,
    },
    /// A value that no request may carry.
    #[error("[{table}.set]: the value of {name:?} has bytes that no request may carry there")]
    Value {
        /// Table.
        table: &'static str,
        /// Name.
        name: String,
    },
}

impl Rules {
    /// Reads and checks a rule file.
    ///
    /// # Errors
    /// [`BadRules`], which names the rule.
    pub fn parse(text: &str) -> Result<Self, BadRules> {
        let file: RulesFile = toml::from_str(text).map_err(|e| {
            // Not the line itself: it may be a key that was taken for a rule file.
            let line = e.span().map_or(0, |s| text[..s.start.min(text.len())].lines().count().max(1));
            BadRules::File(format!("line {line}: {}", e.message()))
        })?;
        let HeadersFile { keep, drop, hash, set } = file.headers;
        let mut headers = Table::new("headers");
        for (rule, names) in [("keep", &keep), ("hash", &hash), ("set", &set.keys().cloned().collect())] {
            if let Some(name) = names.iter().find(|n| is_never_kept(n.as_bytes())) {
                return Err(BadRules::Never { rule, name: name.clone() });
            }
        }
        headers.add(keep, &Fate::Keep)?;
        headers.add(drop, &Fate::Drop)?;
        headers.add(hash, &Fate::Hash)?;
        headers.set(set, |b| b == b'\t' || (b' '..=b'~').contains(&b))?;
        let QueryFile { others, keep, hash, set } = file.query;
        let mut query = Table::new("query");
        query.add(keep, &Fate::Keep)?;
        query.add(hash, &Fate::Hash)?;
        query.set(set, |b| b.is_ascii_graphic() && !b"&;#?".contains(&b))?;
        Ok(Self {
            headers: headers.fates,
            query: query.fates,
            hash_other_queries: others == Others::Hash,
            keep_paths: patterns("keep", file.path.keep)?,
            hash_paths: patterns("hash", file.path.hash)?,
        })
    }

    /// The rule for a header, by its name in any case.
    pub(super) fn header(&self, name: &[u8]) -> Option<&Fate> {
        if self.headers.is_empty() { None } else { self.headers.get(&name.to_ascii_lowercase()) }
    }

    /// The rule for a query key, decoded, in any case.
    pub(super) fn query(&self, key: &[u8]) -> Option<&Fate> {
        if !self.query.is_empty()
            && let Some(fate) = self.query.get(&key.to_ascii_lowercase())
        {
            return Some(fate);
        }
        self.hash_other_queries.then_some(&Fate::Hash)
    }

    /// How many rules there are.
    #[must_use]
    pub fn count(&self) -> usize {
        let rest = usize::from(self.hash_other_queries) + self.keep_paths.len() + self.hash_paths.len();
        self.headers.len() + self.query.len() + rest
    }
}

/// Whether a header's value never stays.
fn is_never_kept(name: &[u8]) -> bool {
    let lists: [&[&str]; 4] = [&AUTHORIZATION, &TOKEN_HEADERS, &ADDRESSES, &["cookie"]];
    lists.iter().any(|l| super::is_one_of(name, l))
}

/// Names and what happens to them.
struct Table {
    name: &'static str,
    fates: BTreeMap<Vec<u8>, Fate>,
}

impl Table {
    fn new(name: &'static str) -> Self {
        Self { name, fates: BTreeMap::new() }
    }

    fn one(&mut self, name: String, fate: Fate) -> Result<(), BadRules> {
        match self.fates.insert(name.to_ascii_lowercase().into_bytes(), fate) {
            Some(_) => Err(BadRules::Twice { table: self.name, name }),
            None => Ok(()),
        }
    }

    fn add(&mut self, names: Vec<String>, fate: &Fate) -> Result<(), BadRules> {
        names.into_iter().try_for_each(|name| self.one(name, fate.clone()))
    }

    fn set(&mut self, values: BTreeMap<String, String>, fits: impl Fn(u8) -> bool) -> Result<(), BadRules> {
        values.into_iter().try_for_each(|(name, value)| {
            if !value.bytes().all(&fits) {
                return Err(BadRules::Value { table: self.name, name });
            }
            self.one(name, Fate::Set(value.into_bytes()))
        })
    }
}

fn patterns(rule: &'static str, texts: Vec<String>) -> Result<Vec<Regex>, BadRules> {
    let one =
        |text: String| Regex::new(&text).map_err(|e| BadRules::Pattern { rule, text, why: e.to_string() });
    texts.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_or_refused_by_name() {
        let table = [
            ("", Ok(0)),
            (
                "[headers]\nkeep = ['X-Tenant']\nset = { x-version = '2' }\n[query]\nothers = 'hash'\nkeep = ['q']",
                Ok(4),
            ),
            ("[path]\nhash = ['^/u/([^/]+)']\nkeep = ['^/assets/']", Ok(2)),
            ("[header]\nkeep = []", Err("unknown field `header`")),
            ("[headers]\nkeep = ['Cookie']", Err("\"Cookie\" carries credentials")),
            ("[headers]\nhash = ['X-Forwarded-For']", Err("a client's address")),
            ("0123456789abcdef not toml", Err("line 1: ")),
            ("[headers]\nset = { X-Real-IP = '1' }", Err("a client's address")),
            ("[headers]\nkeep = ['a']\nhash = ['A']", Err("\"A\" has two rules")),
            ("[headers.set]\na = \"x\\r\\ny\"", Err("no request may carry")),
            ("[query.set]\na = '1&b=2'", Err("no request may carry")),
            ("[path]\nhash = ['(']", Err("[path] hash: \"(\" is not a regular expression")),
        ];
        for (text, want) in table {
            match (Rules::parse(text), want) {
                (Ok(rules), Ok(n)) => assert_eq!(rules.count(), n, "{text}"),
                (Err(e), Err(words)) => assert!(e.to_string().contains(words), "{text}: {e}"),
                (got, want) => panic!("{text}: {got:?}, wanted {want:?}"),
            }
        }
    }
}
