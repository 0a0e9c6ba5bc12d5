//! Whether an answer came from a cache, as far as its head says so.
//!
//! Caches say it in many words. Read here: `Cache-Status` (RFC 9211), `Age` (RFC 9111, section 5.1), and what is in
//! use without a standard: `X-Cache` (Varnish, Squid, CloudFront, Fastly), `X-Cache-Status` and `X-Proxy-Cache` (nginx
//! as people set it up), `CF-Cache-Status` (Cloudflare). What it refuses to do: to read silence as a miss.

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheStatus {
    /// A cache on the way had it.
    Hit,
    /// A cache was asked and had to go on, or was told not to answer.
    Miss,
}

impl CacheStatus {
    /// Name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
        }
    }

    pub(crate) fn code(this: Option<Self>) -> u8 {
        match this {
            None => 0,
            Some(Self::Hit) => 1,
            Some(Self::Miss) => 2,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Hit),
            2 => Some(Self::Miss),
            _ => None,
        }
    }
}

/// What the lines of one head said so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheLines {
    said: Option<CacheStatus>,
    aged: bool,
}

/// Words of a cache that answered itself: an old document, too, came from it.
const HITS: [&[u8]; 5] = [b"hit", b"stale", b"updating", b"revalidated", b"refreshhit"];
/// Words of one that did not.
const MISSES: [&[u8]; 7] = [b"miss", b"expired", b"bypass", b"dynamic", b"pass", b"ignored", b"scarce"];

impl CacheLines {
    /// Takes one line. Of several that differ, a hit counts: one cache on the way is enough.
    pub fn take(&mut self, name: &str, value: &[u8]) {
        match name.len() {
            3 if name.eq_ignore_ascii_case("age") => {
                self.aged |= value.iter().any(|b| (b'1'..=b'9').contains(b));
            }
            7 if name.eq_ignore_ascii_case("x-cache") => self.words(value),
            12 if name.eq_ignore_ascii_case("cache-status") => self.rfc9211(value),
            13 if name.eq_ignore_ascii_case("x-proxy-cache") => self.words(value),
            14 if name.eq_ignore_ascii_case("x-cache-status") => self.words(value),
            15 if name.eq_ignore_ascii_case("cf-cache-status") => self.words(value),
            _ => {}
        }
    }

    /// RFC 9211, section 2: per cache a name, then `hit`, or `fwd` with the reason for which it went on.
    fn rfc9211(&mut self, value: &[u8]) {
        for cache in value.split(|b| *b == b',') {
            let mut parts = cache.split(|b| *b == b';').skip(1).map(<[u8]>::trim_ascii);
            if parts.clone().any(|p| p.eq_ignore_ascii_case(b"hit")) {
                self.said = Some(CacheStatus::Hit);
            } else if parts.any(|p| p.get(..4).is_some_and(|p| p.eq_ignore_ascii_case(b"fwd="))) {
                self.said.get_or_insert(CacheStatus::Miss);
            }
        }
    }

    fn words(&mut self, value: &[u8]) {
        // Behind it stands the name of a machine.
        let end = value.windows(6).position(|w| w.eq_ignore_ascii_case(b" from ")).unwrap_or(value.len());
        let value = value.get(..end).unwrap_or_default();
        for word in value.split(|b| !b.is_ascii_alphanumeric()).filter(|w| !w.is_empty()) {
            let is = |known: &&[u8]| known.eq_ignore_ascii_case(word);
            if HITS.iter().any(&is) {
                self.said = Some(CacheStatus::Hit);
            } else if MISSES.iter().any(is) {
                self.said.get_or_insert(CacheStatus::Miss);
            }
        }
    }

    /// What they say together. An age alone is a hit; no age is nothing.
    #[must_use]
    pub fn status(self) -> Option<CacheStatus> {
        self.said.or(self.aged.then_some(CacheStatus::Hit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_caches_say_it() {
        use CacheStatus::{Hit, Miss};
        type Lines = &'static [(&'static str, &'static str)];
        #[rustfmt::skip]
        let table: [(Lines, Option<CacheStatus>); 20] = [
            (&[], None),
            (&[("X-Cache", "HIT")], Some(Hit)),
            (&[("x-cache", "Hit from cloudfront")], Some(Hit)),
            (&[("X-Cache", "RefreshHit from cloudfront")], Some(Hit)),
            (&[("X-Cache", "Miss from cloudfront")], Some(Miss)),
            (&[("X-Cache", "MISS, HIT")], Some(Hit)),
            (&[("X-Cache", "TCP_MISS from hit.example:3128")], Some(Miss)),
            (&[("CF-Cache-Status", "DYNAMIC")], Some(Miss)),
            (&[("CF-Cache-Status", "REVALIDATED"), ("Age", "0")], Some(Hit)),
            (&[("X-Cache-Status", "EXPIRED")], Some(Miss)),
            (&[("Cache-Status", "ExampleCache; hit; ttl=376")], Some(Hit)),
            (&[("Cache-Status", "Origin; fwd=uri-miss; stored")], Some(Miss)),
            (&[("Cache-Status", "Edge; fwd=stale; fwd-status=304")], Some(Miss)),
            (&[("Cache-Status", "Hit-Edge; fwd=uri-miss")], Some(Miss)),
            (&[("Cache-Status", "Edge; fwd=miss, Origin;hit")], Some(Hit)),
            (&[("Cache-Status", "Edge; detail=hit")], None),
            (&[("Age", "17")], Some(Hit)),
            (&[("Age", "0")], None),
            (&[("Age", "17"), ("X-Cache", "MISS")], Some(Miss)),
            (&[("X-Cache", "whatever"), ("X-Hit", "HIT")], None),
        ];
        for (lines, want) in table {
            let mut seen = CacheLines::default();
            lines.iter().for_each(|(n, v)| seen.take(n, v.as_bytes()));
            assert_eq!(seen.status(), want, "{lines:?}");
        }
        for status in [None, Some(Hit), Some(Miss)] {
            assert_eq!(CacheStatus::from_code(CacheStatus::code(status)), status);
        }
    }
}
