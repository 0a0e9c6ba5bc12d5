//! Escapes as the servers write them, undone. Bytes are kept as they are: a URI need not be UTF-8.
//!
//! Source: nginx `ngx_http_log_module` (`escape=`), Apache `mod_log_config`, HAProxy configuration manual section 8.6.

use std::borrow::Cow;

/// How a format escapes what could be taken for its own signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Escape {
    /// `\"`, `\\`, `\n`, `\t`, `\r`, `\xHH` in either case: nginx and Apache.
    #[default]
    Backslash,
    /// `#HH`: HAProxy.
    Hash,
    /// JSON strings: `\uHHHH`, `\/` and the others.
    Json,
    /// Nothing is escaped, so a forged line cannot be told (Envoy's text, nginx `escape=none`).
    None,
    /// A blank is written `+`: W3C logs of IIS.
    Plus,
}

/// Undoes the escapes. Borrows where there are none; an escape that is none stays as it is.
#[must_use]
pub fn unescape(raw: &[u8], escape: Escape) -> Cow<'_, [u8]> {
    let sign = match escape {
        Escape::None => return Cow::Borrowed(raw),
        Escape::Backslash | Escape::Json => b'\\',
        Escape::Hash => b'#',
        Escape::Plus => b'+',
    };
    if memchr::memchr(sign, raw).is_none() {
        return Cow::Borrowed(raw);
    }
    let (mut out, mut rest) = (Vec::with_capacity(raw.len()), raw);
    while let Some((first, more)) = rest.split_first() {
        let used = if *first != sign {
            out.push(*first);
            0
        } else {
            match escape {
                Escape::Hash => hash(more, &mut out),
                Escape::Json => json(more, &mut out),
                Escape::Plus => {
                    out.push(b' ');
                    0
                }
                Escape::Backslash | Escape::None => backslash(more, &mut out),
            }
        };
        rest = more.get(used..).unwrap_or_default();
    }
    Cow::Owned(out)
}

fn hex(byte: Option<&u8>) -> Option<u32> {
    byte.and_then(|b| char::from(*b).to_digit(16))
}

/// What stands behind a backslash: how many bytes were used.
fn backslash(more: &[u8], out: &mut Vec<u8>) -> usize {
    match more.first() {
        Some(b'x') => {
            if let (Some(high), Some(low)) = (hex(more.get(1)), hex(more.get(2))) {
                out.push((high * 16 + low) as u8);
                return 3;
            }
            out.push(b'\\');
            0
        }
        Some(c @ (b'"' | b'\\')) => push(out, *c),
        Some(b'n') => push(out, b'\n'),
        Some(b't') => push(out, b'\t'),
        Some(b'r') => push(out, b'\r'),
        _ => {
            out.push(b'\\');
            0
        }
    }
}

fn push(out: &mut Vec<u8>, byte: u8) -> usize {
    out.push(byte);
    1
}

fn hash(more: &[u8], out: &mut Vec<u8>) -> usize {
    if let (Some(high), Some(low)) = (hex(more.first()), hex(more.get(1))) {
        out.push((high * 16 + low) as u8);
        return 2;
    }
    out.push(b'#');
    0
}

fn json(more: &[u8], out: &mut Vec<u8>) -> usize {
    match more.first() {
        Some(b'u') => {
            let digits = (1..5).map(|i| hex(more.get(i))).collect::<Option<Vec<u32>>>();
            let code = digits.map(|d| d.iter().fold(0, |n, d| n * 16 + d));
            if let Some(c) = code.and_then(char::from_u32) {
                out.extend(c.encode_utf8(&mut [0; 4]).as_bytes());
                return 5;
            }
            out.push(b'\\');
            0
        }
        Some(c @ (b'"' | b'\\' | b'/')) => push(out, *c),
        Some(b'n') => push(out, b'\n'),
        Some(b't') => push(out, b'\t'),
        Some(b'r') => push(out, b'\r'),
        Some(b'b') => push(out, 8),
        Some(b'f') => push(out, 12),
        _ => {
            out.push(b'\\');
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_each_server_writes_them() {
        #[rustfmt::skip]
        let table: [(Escape, &str, &[u8]); 12] = [
            (Escape::Backslash, r#"a\"b\\c\x20\xe9\xAD"#, b"a\"b\\c \xe9\xad"),
            (Escape::Backslash, r"\n\t\r", b"\n\t\r"),
            (Escape::Backslash, r"\xZ1\q\", br"\xZ1\q\"),
            (Escape::Hash, "a#20b#", b"a b#"),
            (Escape::Hash, "#zz", b"#zz"),
            (Escape::Json, r#"\u00e9\/\"\b"#, "é/\"\u{8}".as_bytes()),
            (Escape::Json, r"\u12", br"\u12"),
            (Escape::Json, r"\ud800", br"\ud800"),
            (Escape::None, r"a\x20", br"a\x20"),
            (Escape::Plus, "Mozilla/4.0+(x)", b"Mozilla/4.0 (x)"),
            (Escape::Plus, "a", b"a"),
            (Escape::Backslash, "", b""),
        ];
        for (escape, raw, want) in table {
            assert_eq!(&unescape(raw.as_bytes(), escape)[..], want, "{escape:?} {raw}");
        }
    }
}
