//! HTTP archives (HAR 1.2), as browsers and proxies write them, into a [`LogRecorder`], an entry at a time.
//!
//! An archive may be large and holds bodies: only one entry is in memory, and of it only what a log would have is used.

use std::fmt;
use std::io::{BufReader, Read};

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::capture::access_log::row::LineError;
use crate::capture::access_log::{LogRecorder, LogSource};

/// Reads an archive. `bad` is called with the number of each entry that could not be used, from 1, and why; `each` now and
/// then. An archive that ends early gives what it has, and the reason.
///
/// # Errors
/// When `each` fails.
pub fn read(
    input: impl Read,
    recorder: &mut LogRecorder,
    source: LogSource,
    mut bad: impl FnMut(u64, LineError),
    mut each: impl FnMut(&mut LogRecorder) -> anyhow::Result<()>,
) -> anyhow::Result<Option<String>> {
    let source = recorder.add_source(source);
    let (mut entries, mut failed) = (0u64, None);
    let mut take = |entry: Value| {
        entries += 1;
        if let Err(error) = recorder.entry(source, &entry) {
            bad(entries, error);
        }
        if entries.is_multiple_of(64) && failed.is_none() {
            failed = each(recorder).err();
        }
    };
    let mut json = serde_json::Deserializer::from_reader(BufReader::with_capacity(1 << 20, input));
    let end = Archive(&mut take).deserialize(&mut json);
    match (failed, end) {
        (Some(error), _) => Err(error),
        (None, Ok(())) => Ok(None),
        // The parser's words name a place and no content.
        (None, Err(e)) => {
            Ok(Some(format!("line {}, column {}: not an HTTP archive from here on", e.line(), e.column())))
        }
    }
}

type Take<'t> = &'t mut dyn FnMut(Value);

/// The whole: `{"log": {"entries": [...]}}`.
struct Archive<'t>(Take<'t>);
/// What stands under `log`.
struct Log<'t>(Take<'t>);
/// The list.
struct Entries<'t>(Take<'t>);

macro_rules! seed {
    ($name:ident, $method:ident) => {
        impl<'de> DeserializeSeed<'de> for $name<'_> {
            type Value = ();
            fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
                d.$method(self)
            }
        }
    };
}
seed!(Archive, deserialize_map);
seed!(Log, deserialize_map);
seed!(Entries, deserialize_seq);

impl<'de> Visitor<'de> for Archive<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an HTTP archive")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == "log" {
                map.next_value_seed(Log(&mut *self.0))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

impl<'de> Visitor<'de> for Log<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the log of an HTTP archive")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == "entries" {
                map.next_value_seed(Entries(&mut *self.0))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the entries of an HTTP archive")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(entry) = list.next_element::<Value>()? {
            (self.0)(entry);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::access_log::format::Format;
    use crate::capture::redact::Redactor;
    use crate::trace::EventKind;

    const ENTRY: &str = r#"{"startedDateTime":"2026-01-01T00:00:00.250Z","time":12.5,"connection":"443","request":{"method":"GET",
        "url":"https://shop.example/a?b=1","httpVersion":"h2","headers":[{"name":":authority","value":"shop.example"},
        {"name":"Accept","value":"*/*"},{"name":"Cookie","value":"sid=seeded-secret"}],"bodySize":0},
        "response":{"status":200,"bodySize":512,"content":{"text":"a body"}}}"#;

    fn requests(text: &str) -> (Vec<String>, Vec<u64>, Option<String>) {
        let (mut recorder, mut bad) = (LogRecorder::new(1, Redactor::with_key(b"k")), Vec::new());
        let source = LogSource::new(Format::named("har", &[]).unwrap(), false, 0);
        let end = read(text.as_bytes(), &mut recorder, source, |n, _| bad.push(n), |_| Ok(())).unwrap();
        let (events, _) = recorder.finish();
        let one = |e: &crate::capture::RawEvent| match &e.kind {
            EventKind::Request(r) => Some(format!("{} {r:?}", e.at.0 / 1_000_000)),
            EventKind::Open(_) | EventKind::Close(_) => None,
        };
        (events.iter().filter_map(one).collect(), bad, end)
    }

    #[test]
    fn entries_become_requests_and_secrets_do_not() {
        let text = format!(
            r#"{{"log":{{"version":"1.2","pages":[{{"id":1}}],"entries":[{ENTRY},{{"request":{{}}}}]}},"x":1}}"#
        );
        let (got, bad, end) = requests(&text);
        assert_eq!((got.len(), bad, end), (1, vec![2], None));
        let r = &got[0];
        assert!(r.starts_with("1767225600250 ") && r.contains("Https") && r.contains("cookie: true"), "{r}");
        assert!(!r.contains("seeded-secret") && !format!("{r:?}").contains("a body"), "{r}");
    }

    #[test]
    fn an_archive_that_ends_early_gives_what_it_has() {
        let (got, bad, end) = requests(&format!(r#"{{"log":{{"entries":[{ENTRY},{{"requ"#));
        assert_eq!((got.len(), bad.len()), (1, 0));
        assert!(end.unwrap().contains("not an HTTP archive from here on"));
    }
}
