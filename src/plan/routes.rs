//! Which routes may be sent: allow and deny patterns, built-in deny words, rate caps.
//!
//! A pattern is an optional method and a path glob: `GET /api/**`, `/search`, `**/logout`. `*` stands for
//! part of one segment, `**` for anything. Patterns see the path only, percent-decoded and in lower case
//! for deny words, so that `/LogOut` and `/log%6fut` do not slip through. GET is not safe by itself.

use crate::units::Rate;

/// Path words that are never sent unless an allow pattern names them literally.
pub const DENY_WORDS: [&str; 22] = [
    "logout",
    "log-out",
    "signout",
    "sign-out",
    "logoff",
    "unsubscribe",
    "delete",
    "remove",
    "destroy",
    "export",
    "download-all",
    "otp",
    "pay",
    "payment",
    "checkout/confirm",
    "cart/add",
    "purchase",
    "transfer",
    "cancel",
    "reset",
    "revoke",
    "shutdown",
];

/// A method and path pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    method: Option<String>,
    glob: String,
    text: String,
}

/// Why a pattern was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a route such as \"GET /api/**\", \"/search\" or \"**/logout\"")]
pub struct BadPattern {
    /// What was written.
    pub text: String,
}

impl Pattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// [`BadPattern`].
    pub fn parse(text: &str) -> Result<Self, BadPattern> {
        let refuse = || BadPattern { text: text.to_owned() };
        let (method, glob) = match text.trim().split_once(' ') {
            Some((m, g)) => (Some(m.to_owned()), g.trim()),
            None => (None, text.trim()),
        };
        let method_fits =
            method.as_ref().is_none_or(|m| m.bytes().all(|b| b.is_ascii_uppercase()) && !m.is_empty());
        let glob_fits = (glob.starts_with('/') || glob.starts_with("**")) && !glob.contains([' ', '?', '#']);
        if !method_fits || !glob_fits {
            return Err(refuse());
        }
        Ok(Self { method, glob: glob.to_owned(), text: text.trim().to_owned() })
    }

    /// As written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether a method and a path (without query) match.
    #[must_use]
    pub fn matches(&self, method: &[u8], path: &[u8]) -> bool {
        self.method.as_ref().is_none_or(|m| m.as_bytes() == method) && glob(self.glob.as_bytes(), path)
    }

    /// The pattern in lower case, to be held against folded paths.
    fn folded(&self) -> Self {
        Self { glob: self.glob.to_ascii_lowercase(), ..self.clone() }
    }

    /// Built-in deny words that this pattern allows literally.
    #[must_use]
    pub fn deny_words(&self) -> Vec<&'static str> {
        DENY_WORDS.into_iter().filter(|w| contains_word(&self.glob.to_ascii_lowercase(), w)).collect()
    }
}

/// Matches a glob with `*` (not across `/`) and `**`. Linear in the product of both lengths.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    // `reach[j]`: the pattern so far matches the first j bytes.
    let mut reach = vec![false; text.len() + 1];
    reach[0] = true;
    let mut i = 0;
    while i < pattern.len() {
        let double = pattern[i..].starts_with(b"**");
        match pattern[i] {
            b'*' => {
                let mut open = false;
                for j in 0..=text.len() {
                    open |= reach[j];
                    reach[j] = open;
                    if j < text.len() && text[j] == b'/' && !double {
                        open = false;
                    }
                }
                i += if double { 2 } else { 1 };
            }
            byte => {
                for j in (0..text.len()).rev() {
                    reach[j + 1] = reach[j] && text[j] == byte;
                }
                reach[0] = false;
                i += 1;
            }
        }
    }
    reach[text.len()]
}

/// Whether a path climbs (`/api/../admin`): no pattern can say where it leads.
fn has_dot_segment(folded: &str) -> bool {
    folded.split(['/', '\\']).any(|s| s == ".." || s == ".")
}

/// Whether `word` stands in `path` at segment or word borders.
fn contains_word(path: &str, word: &str) -> bool {
    let border = |c: Option<char>| c.is_none_or(|c| !c.is_ascii_alphanumeric());
    path.match_indices(word)
        .any(|(i, _)| border(path[..i].chars().next_back()) && border(path[i + word.len()..].chars().next()))
}

/// The path with percent escapes undone (twice, as proxies may), in lower case.
fn folded(path: &[u8]) -> String {
    let hex = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16));
    let mut bytes = path.to_vec();
    for _ in 0..2 {
        let (mut out, mut i) = (Vec::with_capacity(bytes.len()), 0);
        while i < bytes.len() {
            match (bytes[i], hex(bytes.get(i + 1)), hex(bytes.get(i + 2))) {
                (b'%', Some(h), Some(l)) => {
                    out.push((h * 16 + l) as u8);
                    i += 3;
                }
                (b, _, _) => {
                    out.push(b);
                    i += 1;
                }
            }
        }
        bytes = out;
    }
    String::from_utf8_lossy(&bytes).to_ascii_lowercase()
}

/// The routes of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Routes {
    /// Only these are sent, when there is any.
    pub allow: Vec<Pattern>,
    /// These are never sent.
    pub deny: Vec<Pattern>,
    /// Rate caps.
    pub max_rps: Vec<(Pattern, Rate)>,
}

impl Routes {
    /// Whether a request may be sent.
    #[must_use]
    pub fn permits(&self, method: &[u8], path: &[u8]) -> bool {
        let plain = folded(path);
        let denied = |p: &Pattern| p.matches(method, path) || p.folded().matches(method, plain.as_bytes());
        if has_dot_segment(&plain) || self.deny.iter().any(denied) {
            return false;
        }
        let allowed_by = self.allow.iter().filter(|p| p.matches(method, path)).collect::<Vec<_>>();
        if !self.allow.is_empty() && allowed_by.is_empty() {
            return false;
        }
        let denied = DENY_WORDS.into_iter().filter(|w| contains_word(&plain, w));
        denied.into_iter().all(|w| allowed_by.iter().any(|p| p.deny_words().contains(&w)))
    }

    /// Index of the rate cap that applies, if one does.
    #[must_use]
    pub fn cap(&self, method: &[u8], path: &[u8]) -> Option<usize> {
        self.max_rps.iter().position(|(p, _)| p.matches(method, path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    #[test]
    fn globs_match_as_documented() {
        #[rustfmt::skip]
        let table = [
            ("/search", "/search", true), ("/search", "/search/", false), ("/a/*", "/a/b", true),
            ("/a/*", "/a/b/c", false), ("/a/**", "/a/b/c", true), ("/a/**", "/a", false), ("/**", "/", true),
            ("**/logout", "/x/y/logout", true), ("**/export*", "/a/export.csv", true), ("/p/*/x", "/p/1/x", true),
            ("/p/*/x", "/p/1/2/x", false), ("/*.js", "/app.js", true), ("**", "/anything/at/all", true),
        ];
        for (glob, path, want) in table {
            assert_eq!(pattern(glob).matches(b"GET", path.as_bytes()), want, "{glob} {path}");
        }
        assert!(pattern("GET /a").matches(b"GET", b"/a") && !pattern("GET /a").matches(b"POST", b"/a"));
        for text in ["", "GET", "search", "get /a", "GET /a b", "/a?b"] {
            assert!(Pattern::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn deny_words_hold_unless_named() {
        let none = Routes::default();
        for path in [
            "/logout",
            "/user/LogOut",
            "/log%6Fut",
            "/log%256Fut",
            "/cart/add",
            "/a/delete/3",
            "/api/delete-item",
        ] {
            assert!(!none.permits(b"GET", path.as_bytes()), "{path}");
        }
        for path in ["/", "/paypal-info", "/undelete", "/deleted", "/exports", "/payload"] {
            assert!(none.permits(b"GET", path.as_bytes()), "{path}");
        }
        let wide = Routes { allow: vec![pattern("GET /**")], ..Routes::default() };
        assert!(!wide.permits(b"GET", b"/logout"), "a wide allow does not name it");
        let named = Routes { allow: vec![pattern("GET /report/export")], ..Routes::default() };
        assert!(named.permits(b"GET", b"/report/export") && !named.permits(b"GET", b"/other"));
        let denied = Routes { deny: vec![pattern("**/report/**")], ..named };
        assert!(!denied.permits(b"GET", b"/report/export"));
        let internal = Routes { deny: vec![pattern("**/Internal/**")], ..Routes::default() };
        for path in ["/internal/x", "/%69nternal/x", "/INTERNAL/x", "/api/../x", "/api/%2e%2E/x", "/a/./b"] {
            assert!(!internal.permits(b"GET", path.as_bytes()), "{path}");
        }
    }
}
