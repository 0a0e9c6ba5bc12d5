//! Bodies that are made up: of the recorded length and of a like kind, never of recorded content.
//!
//! A recording keeps no bodies. Where a policy asks for it, a request with one gets words (which compress as text does),
//! a JSON document, or bytes that do not compress, by its recorded content type.

/// What a made-up body is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// One JSON object with one text in it.
    Json,
    /// Words.
    Text,
    /// Bytes that do not compress: pictures, archives, uploads.
    Dense,
}

/// A made-up body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filler {
    kind: Kind,
    len: u64,
}

const JSON_BEGIN: &[u8] = b"{\"replay\":\"";
const JSON_END: &[u8] = b"\"}";

/// Words without a character that JSON, forms or markup would read as more.
const WORDS: &[u8] =
    b"shape of recorded traffic sent again at a chosen scale through the balancer under a governor ";

/// Bytes of the page that dense bodies repeat: longer than the window of DEFLATE, so that repeats do not compress.
const DENSE_BYTES: usize = 48 * 1024;

static DENSE: [u8; DENSE_BYTES] = dense();

/// A page of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
const fn dense() -> [u8; DENSE_BYTES] {
    let (mut page, mut i, mut seed) = ([0; DENSE_BYTES], 0, 0x9e37_79b9_7f4a_7c15_u64);
    while i < DENSE_BYTES {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        page[i] = (z >> 56) as u8;
        i += 1;
    }
    page
}

impl Filler {
    /// A body of `len` bytes for a content type.
    #[must_use]
    pub fn new(content_type: Option<&[u8]>, len: u64) -> Self {
        let full = content_type.unwrap_or_default();
        let kind = full.split(|b| *b == b';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
        let is = |s: &[u8]| kind == s;
        let json = is(b"application/json") || kind.ends_with(b"+json");
        let text = kind.starts_with(b"text/") || kind.ends_with(b"+xml");
        let form = is(b"application/xml") || is(b"application/x-www-form-urlencoded");
        let fits = len >= (JSON_BEGIN.len() + JSON_END.len()) as u64;
        let kind = match (json && fits, json || text || form) {
            (true, _) => Kind::Json,
            (false, true) => Kind::Text,
            (false, false) => Kind::Dense,
        };
        Self { kind, len }
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes from `at` on: not all of them, and none at the end.
    #[must_use]
    pub fn from(&self, at: u64) -> &'static [u8] {
        let left = self.len.saturating_sub(at);
        if left == 0 {
            return &[];
        }
        let (begin, end) = match self.kind {
            Kind::Json => (JSON_BEGIN, JSON_END),
            Kind::Text | Kind::Dense => (&[][..], &[][..]),
        };
        let page: &'static [u8] = if self.kind == Kind::Dense { &DENSE } else { WORDS };
        let (begins, ends) = (begin.len() as u64, end.len() as u64);
        let part = if at < begins {
            begin.get(at as usize..)
        } else if left <= ends {
            end.get((ends - left) as usize..)
        } else {
            let inner = ((at - begins) % page.len() as u64) as usize;
            page.get(inner..).map(|p| p.get(..(left - ends) as usize).unwrap_or(p))
        };
        part.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(content_type: &str, len: u64) -> Vec<u8> {
        let filler = Filler::new(Some(content_type.as_bytes()), len);
        let mut out: Vec<u8> = Vec::new();
        loop {
            let next = filler.from(out.len() as u64);
            if next.is_empty() {
                return out;
            }
            out.extend_from_slice(next);
        }
    }

    #[test]
    fn bodies_have_their_length_to_the_byte() {
        for content_type in ["application/json", "text/plain", "image/png", ""] {
            for len in [0, 1, 12, 13, 14, 92, 93, 94, 1_000, 49_151, 49_152, 49_153, 200_000] {
                assert_eq!(whole(content_type, len).len() as u64, len, "{content_type} {len}");
            }
        }
    }

    #[test]
    fn json_is_json_and_pictures_do_not_compress() {
        for len in [14, 15, 500, 70_000] {
            let body = whole("application/vnd.api+json; charset=utf-8", len);
            let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(value["replay"].as_str().unwrap().len() as u64, len - 13);
        }
        let packed = |body: &[u8]| {
            let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            std::io::Write::write_all(&mut e, body).unwrap();
            e.finish().unwrap().len() as f64 / body.len() as f64
        };
        assert!(packed(&whole("image/jpeg", 200_000)) > 0.99);
        assert!(packed(&whole("text/html", 200_000)) < 0.5);
    }
}
