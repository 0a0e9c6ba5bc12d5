//! Secrets and accounts from files and the environment. Nothing of their content is ever part of an error.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use ring::rand::{SecureRandom, SystemRandom};

use crate::limits::{ACCOUNTS_BYTES_MAX, KEYLOG_BYTES_MAX, REDACT_RULES_BYTES_MAX};
use crate::plan::rewrite::Secret;
use crate::plan::session::Accounts;
use crate::policy::rewrite::SecretFrom;

/// Longest secret: a header line of usual servers.
const SECRET_BYTES_MAX: u64 = 8 * 1024;

fn text(file: &str, most: u64) -> anyhow::Result<String> {
    let size = fs::metadata(file).with_context(|| format!("cannot read {file}"))?.len();
    ensure!(size <= most, "{file} has {size} bytes; at most {most} are read");
    fs::read_to_string(file).with_context(|| format!("cannot read {file}"))
}

/// Shortest key of redaction.
const REDACT_KEY_BYTES_MIN: usize = 16;

/// Reads a file of redaction rules.
///
/// # Errors
/// When it is not there, is too long, or is no text.
pub fn rules(file: &Path) -> anyhow::Result<String> {
    text(&file.to_string_lossy(), REDACT_RULES_BYTES_MAX)
}

/// Reads a key of redaction: all bytes of the file but for blanks at its ends.
///
/// # Errors
/// When it is not there, or too short or too long.
pub fn redact_key(file: &Path) -> anyhow::Result<Vec<u8>> {
    let show = file.display();
    let cannot = || format!("cannot read the key {show}");
    let meta = fs::metadata(file).with_context(cannot)?;
    ensure!(
        meta.len() <= SECRET_BYTES_MAX,
        "the key {show} has {} bytes; at most {SECRET_BYTES_MAX} are read",
        meta.len()
    );
    let key = read_most(file, SECRET_BYTES_MAX).with_context(cannot)?.trim_ascii().to_vec();
    let n = key.len();
    ensure!(
        n >= REDACT_KEY_BYTES_MIN,
        "the key {show} has {n} bytes; at least {REDACT_KEY_BYTES_MIN} random ones are needed (head -c 32 /dev/urandom | base64)"
    );
    if meta.permissions().mode() & 0o077 != 0 {
        drop(writeln!(
            std::io::stderr(),
            "replay: warning: others than its owner can read the key {show} (chmod 600)"
        ));
    }
    Ok(key)
}

/// Reads a key log of TLS connections.
///
/// # Errors
/// When it is not there or too long.
pub fn key_log(file: &Path) -> anyhow::Result<Vec<u8>> {
    let show = file.display();
    let size = fs::metadata(file).with_context(|| format!("cannot read the key log {show}"))?.len();
    ensure!(
        size <= KEYLOG_BYTES_MAX,
        "the key log {show} has {size} bytes; at most {KEYLOG_BYTES_MAX} are read"
    );
    read_most(file, KEYLOG_BYTES_MAX).with_context(|| format!("cannot read the key log {show}"))
}

/// All of a file, which may be a pipe or a device; not more than `most` bytes of it.
fn read_most(file: &Path, most: u64) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(file)?.take(most + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 <= most, "it has more than {most} bytes");
    Ok(bytes)
}

/// A key that nobody knows.
///
/// # Errors
/// When the system has no randomness.
pub fn random_key() -> anyhow::Result<[u8; 32]> {
    let mut key = [0; 32];
    SystemRandom::new().fill(&mut key).map_err(|_| anyhow::anyhow!("the system gives no random bytes"))?;
    Ok(key)
}

/// Reads a secret.
///
/// # Errors
/// When it is not there, is too long, or is no text.
pub fn read(from: &SecretFrom) -> anyhow::Result<String> {
    match from {
        SecretFrom::File(file) => text(file, SECRET_BYTES_MAX),
        SecretFrom::Env(name) => match std::env::var(name) {
            Ok(secret) => Ok(secret),
            Err(std::env::VarError::NotPresent) => bail!("the variable {name} is not set"),
            Err(std::env::VarError::NotUnicode(_)) => bail!("the variable {name} is no text"),
        },
    }
}

/// Reads accounts: CSV (RFC 4180) with a header line, or one JSON object per line where the first byte is `{`.
///
/// # Errors
/// With the file and the line: a column that is not there, an empty value, one that no request may carry.
pub fn accounts(file: &str, columns: &[String]) -> anyhow::Result<Accounts> {
    let text = text(file, ACCOUNTS_BYTES_MAX)?;
    let rows = if text.trim_start().starts_with('{') { json(file, &text)? } else { csv(file, &text)? };
    ensure!(!rows.is_empty(), "{file} has no accounts");
    let row = |(line, mut row): (u64, BTreeMap<String, String>)| {
        let cells = columns.iter().map(|c| {
            let Some(value) = row.remove(c) else { bail!("{file}, line {line}: there is no column {c:?}") };
            Secret::new(value.as_bytes()).with_context(|| {
                format!(
                    "{file}, line {line}: {c:?} is empty or has control bytes; every account needs a value"
                )
            })
        });
        cells.collect::<anyhow::Result<Vec<_>>>()
    };
    let rows = rows.into_iter().map(row).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(Accounts { columns: columns.to_vec(), rows })
}

type Rows = Vec<(u64, BTreeMap<String, String>)>;

fn csv(file: &str, text: &str) -> anyhow::Result<Rows> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::Headers).from_reader(text.as_bytes());
    let names = reader.headers().map_err(|_| anyhow::anyhow!("{file}, line 1: no header line"))?.clone();
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|e| {
            let line = e.position().map_or(0, csv::Position::line);
            anyhow::anyhow!("{file}, line {line}: not as many values as the header line has, or no text")
        })?;
        let line = record.position().map_or(0, csv::Position::line);
        let row = names.iter().zip(record.iter()).map(|(n, v)| (n.to_owned(), v.to_owned()));
        rows.push((line, row.collect()));
    }
    Ok(rows)
}

fn json(file: &str, text: &str) -> anyhow::Result<Rows> {
    let lines = text.lines().zip(1u64..).filter(|(l, _)| !l.trim().is_empty());
    let row = |(line, number): (&str, u64)| {
        let parsed: BTreeMap<String, serde_json::Value> = serde_json::from_str(line)
            .map_err(|_| anyhow::anyhow!("{file}, line {number}: not one JSON object"))?;
        let plain = |(name, value): (String, serde_json::Value)| match value {
            serde_json::Value::String(s) => Some((name, s)),
            serde_json::Value::Number(n) => Some((name, n.to_string())),
            _ => None,
        };
        Ok((number, parsed.into_iter().filter_map(plain).collect()))
    };
    lines.map(row).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn rows(text: &str) -> Result<Vec<Vec<String>>, String> {
        let file = file(text);
        let name = file.path().display().to_string();
        let columns = ["user".to_owned(), "password".to_owned()];
        let accounts = accounts(&name, &columns).map_err(|e| format!("{e:#}").replace(&name, "FILE"))?;
        let cell = |s: &Secret| String::from_utf8(s.reveal().to_vec()).unwrap();
        Ok(accounts.rows.iter().map(|r| r.iter().map(cell).collect()).collect())
    }

    #[test]
    fn accounts_are_read_from_csv_and_json_lines() {
        let want = Ok(vec![vec!["ann".to_owned(), "a,1".to_owned()], vec!["bob".into(), "2".into()]]);
        assert_eq!(rows("password, user,x\n\"a,1\",ann,0\n2,bob,0\n"), want);
        assert_eq!(
            rows("{\"user\":\"ann\",\"password\":\"a,1\"}\n\n{\"user\":\"bob\",\"password\":2}\n"),
            want
        );
    }

    #[test]
    fn what_is_wrong_is_named_without_its_content() {
        let table = [
            ("user,password\n", "FILE has no accounts"),
            ("user,pass\nann,s3cret\n", "FILE, line 2: there is no column \"password\""),
            (
                "user,password\nann,s3cret\nbob\n",
                "FILE, line 3: not as many values as the header line has, or no text",
            ),
            (
                "user,password\nann,\n",
                "FILE, line 2: \"password\" is empty or has control bytes; every account needs a value",
            ),
            (
                "user,password\nann,\"s3\ncret\"\n",
                "FILE, line 2: \"password\" is empty or has control bytes; every account needs a value",
            ),
            ("{\"user\":\"ann\",\"password\":\"s3cret\"\n", "FILE, line 1: not one JSON object"),
            ("{\"user\":\"ann\",\"password\":null}\n", "FILE, line 1: there is no column \"password\""),
        ];
        for (text, want) in table {
            assert_eq!(rows(text).unwrap_err(), want);
        }
    }

    #[test]
    fn a_secret_is_there_or_it_is_said_which_is_not() {
        let secret = file("s3cret\n");
        let name = secret.path().display().to_string();
        assert_eq!(read(&SecretFrom::File(name)).unwrap(), "s3cret\n");
        let gone = read(&SecretFrom::File("/nonexistent/token".into())).unwrap_err();
        assert!(format!("{gone:#}").starts_with("cannot read /nonexistent/token"), "{gone:#}");
        let unset = read(&SecretFrom::Env("REPLAY_TEST_NO_SUCH_VARIABLE".into())).unwrap_err();
        assert_eq!(unset.to_string(), "the variable REPLAY_TEST_NO_SUCH_VARIABLE is not set");
        let long = file(&"x".repeat(8 * 1024 + 1));
        assert!(read(&SecretFrom::File(long.path().display().to_string())).is_err());
    }
}
