//! TLS with a key log: records opened, what is in them handed on as if it had been sent in the clear.
//!
//! Each direction is tried with the key it has; where that does not fit, with the next one it may have moved on to (handshake,
//! application, a key update). The tag of the cipher says whether a key fits, so nothing is ever guessed into a request.
//! Behind a hole the number of the next record is unknown: a few hundred are tried.

mod cipher;
mod hello;
pub mod keylog;

use self::cipher::{RecordKey, Suite, next_secret, tls12_keys};
use self::hello::Hello;
use self::keylog::{KeyLog, Secrets};
use super::flow::{Mark, Piece};
use crate::limits::{
    TLS_EARLY_BYTES_MAX, TLS_FAILED_MAX, TLS_HANDSHAKE_BYTES_MAX, TLS_RECORD_BYTES_MAX, TLS_RECORDS_TRIED_MAX,
};
use crate::units::WallTime;

/// Types of records (RFC 8446, section 5.1).
const CHANGE_CIPHER: u8 = 20;
const HANDSHAKE: u8 = 22;
const APPLICATION: u8 = 23;

/// Message of a handshake: the client's early data have ended (RFC 8446, section 4.5).
const END_OF_EARLY_DATA: u8 = 5;

/// What comes of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Out<'a> {
    /// Bytes or a hole of what was sent, from the client or not.
    Plain(bool, Piece<'a>),
    /// The connection cannot be read: no key for it, or a suite without a tag.
    Closed,
    /// Its first record was opened.
    Opened,
    /// A record that no key fits, or that a hole took.
    Lost,
}

/// Whether bytes of a client begin a handshake of TLS.
#[must_use]
pub fn begins(bytes: &[u8]) -> bool {
    matches!(bytes, [HANDSHAKE, 3, 0..=4, _, _, 1, ..] | [HANDSHAKE, 3, 0..=4])
}

/// One direction.
#[derive(Debug, Default)]
struct Side {
    /// Record under way, with the time of its first byte.
    record: Vec<u8>,
    began: WallTime,
    /// Where the record began.
    mark: Option<Mark>,
    /// Bytes of a record under way that a hole took: it is passed over.
    skip: usize,
    /// A hole of unknown reach: the next record is looked for.
    searching: bool,
    handshake: Vec<u8>,
    key: Option<RecordKey>,
    /// Of TLS 1.3: which secret the key is from, and those it may move on to.
    stage: usize,
    secrets: [Option<Vec<u8>>; 3],
    /// TLS 1.2: what comes is sealed.
    sealed: bool,
    /// Records in a row that no key fitted.
    failed: u32,
}

/// A connection of TLS.
#[derive(Debug, Default)]
pub struct Tls {
    sides: [Side; 2],
    client_random: Option<[u8; 32]>,
    suite: Option<Suite>,
    tls13: bool,
    opened: bool,
    closed: bool,
    /// Early data that the server may not have taken.
    early: Vec<(WallTime, Vec<u8>)>,
}

impl Tls {
    /// Takes a piece of a byte stream. What is in it goes to `out`.
    pub fn push(&mut self, is_client: bool, piece: Piece<'_>, keys: &KeyLog, out: &mut dyn FnMut(Out<'_>)) {
        if self.closed {
            return;
        }
        match piece {
            Piece::Gap { len, .. } => self.gap(is_client, len, out),
            Piece::Data { at, bytes, mark } => self.data(is_client, (at, mark), bytes, keys, out),
        }
    }

    /// When the oldest record began that is not whole yet.
    #[must_use]
    pub fn oldest(&self) -> Option<WallTime> {
        self.sides.iter().filter(|s| !s.record.is_empty()).map(|s| s.began).min()
    }

    /// Whether a record of this side is under way.
    #[must_use]
    pub fn is_within_record(&self, is_client: bool) -> bool {
        let side = &self.sides[usize::from(!is_client)];
        !side.record.is_empty() || side.skip > 0 || side.searching
    }

    /// Bytes that are held.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let sides: usize = self.sides.iter().map(|s| s.record.len() + s.handshake.len()).sum();
        sides + self.early.iter().map(|(_, b)| b.len()).sum::<usize>()
    }

    fn side(&mut self, is_client: bool) -> &mut Side {
        &mut self.sides[usize::from(!is_client)]
    }

    fn gap(&mut self, is_client: bool, len: u64, out: &mut dyn FnMut(Out<'_>)) {
        let tls13 = self.tls13;
        let side = self.side(is_client);
        if side.searching {
            // More may have stood in it.
            return out(Out::Plain(is_client, Piece::Gap { len: u64::MAX, mark: None }));
        }
        // A record that is lost already.
        let within = (side.skip as u64).min(len);
        side.skip -= within as usize;
        let len = len - within;
        if len == 0 {
            return;
        }
        let (whole, seen) = (record_len(&side.record), side.record.len());
        side.record.clear();
        let lost = match (whole, &mut side.key) {
            // Within one record: that one is lost, and where the next begins is known.
            (Some(whole), Some(key)) if len <= (whole - seen) as u64 => {
                side.skip = whole - seen - len as usize;
                key.seq = key.seq.saturating_add(1);
                key.plain_len(whole - 5, tls13)
            }
            _ => {
                side.searching = true;
                u64::MAX
            }
        };
        out(Out::Lost);
        out(Out::Plain(is_client, Piece::Gap { len: lost, mark: None }));
    }

    fn data(
        &mut self,
        is_client: bool,
        (at, mark): (WallTime, Option<Mark>),
        bytes: &[u8],
        keys: &KeyLog,
        out: &mut dyn FnMut(Out<'_>),
    ) {
        let side = self.side(is_client);
        let skipped = side.skip.min(bytes.len());
        side.skip -= skipped;
        let mut rest = &bytes[skipped..];
        // A record begins where a packet does, mostly.
        if side.searching && !rest.is_empty() {
            if !matches!(rest, [APPLICATION, 3, 3, ..]) {
                // What is passed over may hold whole messages.
                return out(Out::Plain(is_client, Piece::Gap { len: u64::MAX, mark: None }));
            }
            side.searching = false;
        }
        while !rest.is_empty() && !self.closed {
            let side = self.side(is_client);
            if side.record.is_empty() {
                let passed = (bytes.len() - rest.len()) as u32;
                side.began = at;
                side.mark = mark.map(|m| Mark { seq: m.seq.wrapping_add(passed), ..m });
            }
            let want = record_len(&side.record).unwrap_or(5) - side.record.len();
            let (now, later) = rest.split_at(want.min(rest.len()));
            side.record.extend_from_slice(now);
            rest = later;
            match record_len(&side.record) {
                Some(len) if len > TLS_RECORD_BYTES_MAX => return self.close(out),
                Some(len) if len == side.record.len() => self.record(is_client, keys, out),
                _ => {}
            }
        }
    }

    fn close(&mut self, out: &mut dyn FnMut(Out<'_>)) {
        self.closed = true;
        self.sides = Default::default();
        out(if self.opened { Out::Lost } else { Out::Closed });
    }

    /// A whole record.
    fn record(&mut self, is_client: bool, keys: &KeyLog, out: &mut dyn FnMut(Out<'_>)) {
        let side = self.side(is_client);
        let record = std::mem::take(&mut side.record);
        let Some((header, body)) = record.split_first_chunk::<5>() else { return };
        let (kind, began, sealed) = (header[0], (side.began, side.mark), side.sealed);
        let has_key = side.key.is_some();
        if self.tls13 || is_client && self.suite.is_none() && kind == APPLICATION {
            if kind == APPLICATION {
                self.open13(is_client, header, body, began, keys, out);
            }
            // A change of cipher says nothing in 1.3, and the hellos were read.
            return self.reuse(is_client, record);
        }
        match kind {
            // Before the suite is known it says nothing: that of a server that asks for another hello (1.3).
            CHANGE_CIPHER if self.suite.is_some() => self.side(is_client).sealed = true,
            // The change of cipher lay in a hole.
            APPLICATION if has_key => self.open12(is_client, header, body, began, out),
            HANDSHAKE if !sealed => self.handshake(is_client, body, keys, out),
            _ if sealed => self.open12(is_client, header, body, began, out),
            _ => {}
        }
        self.reuse(is_client, record);
    }

    /// The buffer of a record is used again.
    fn reuse(&mut self, is_client: bool, mut record: Vec<u8>) {
        record.clear();
        self.side(is_client).record = record;
    }

    fn handshake(&mut self, is_client: bool, body: &[u8], keys: &KeyLog, out: &mut dyn FnMut(Out<'_>)) {
        let side = self.side(is_client);
        if side.handshake.len() + body.len() > TLS_HANDSHAKE_BYTES_MAX {
            return self.close(out);
        }
        side.handshake.extend_from_slice(body);
        let messages = std::mem::take(&mut side.handshake);
        let mut rest = &messages[..];
        while let Some((len, hello)) = hello::first(rest) {
            rest = &rest[len..];
            let goes_on = match hello {
                Some(Hello::Client { random }) if is_client => {
                    self.client_random = Some(random);
                    true
                }
                Some(Hello::Server { random, suite, tls13 }) if !is_client => {
                    self.begin(random, suite, tls13, keys).is_some()
                }
                _ => true,
            };
            if !goes_on {
                return self.close(out);
            }
        }
        self.side(is_client).handshake = rest.to_vec();
    }

    /// Both hellos were seen: the keys, if they are known.
    fn begin(&mut self, server_random: [u8; 32], number: u16, tls13: bool, keys: &KeyLog) -> Option<()> {
        let random = self.client_random?;
        let secrets = keys.get(&random)?;
        self.tls13 = tls13;
        if tls13 {
            self.suite = Some(Suite::tls13(number)?);
            self.sides[0].secrets.clone_from(&secrets.client);
            self.sides[1].secrets.clone_from(&secrets.server);
            return Some(());
        }
        let suite = Suite::tls12(number)?;
        let [client, server] = tls12_keys(secrets.master.as_ref()?, &random, &server_random, suite)?;
        self.suite = Some(suite);
        (self.sides[0].key, self.sides[1].key) = (Some(client), Some(server));
        Some(())
    }

    fn open12(
        &mut self,
        is_client: bool,
        header: &[u8; 5],
        body: &[u8],
        at: (WallTime, Option<Mark>),
        out: &mut dyn FnMut(Out<'_>),
    ) {
        let Some(key) = &mut self.side(is_client).key else { return self.close(out) };
        let first = key.seq;
        let plain =
            (first..first.saturating_add(TLS_RECORDS_TRIED_MAX)).find_map(|n| key.open12(header, body, n));
        self.told(is_client, plain.map(|p| (p, header[0])), at, out);
    }

    fn open13(
        &mut self,
        is_client: bool,
        header: &[u8; 5],
        body: &[u8],
        at: (WallTime, Option<Mark>),
        keys: &KeyLog,
        out: &mut dyn FnMut(Out<'_>),
    ) {
        let suites: Vec<Suite> = match self.suite {
            Some(suite) => vec![suite],
            // Early data comes before the server has named the suite.
            None => [0x1301, 0x1302, 0x1303].into_iter().filter_map(Suite::tls13).collect(),
        };
        let early = || self.client_random.and_then(|r| keys.get(&r)).map(|s: &Secrets| s.client.clone());
        if is_client && self.suite.is_none() && self.sides[0].secrets[0].is_none() {
            self.sides[0].secrets = early().unwrap_or_default();
        }
        let side = self.side(is_client);
        let found = suites.into_iter().find_map(|suite| side.open13(suite, header, body));
        self.told(is_client, found, at, out);
    }

    /// Hands on what was in a record.
    fn told(
        &mut self,
        is_client: bool,
        found: Option<(Vec<u8>, u8)>,
        (at, mark): (WallTime, Option<Mark>),
        out: &mut dyn FnMut(Out<'_>),
    ) {
        let Some((plain, kind)) = found else {
            // Early data that nobody has a key for is passed over: the connection goes on without it.
            let side = &mut self.sides[usize::from(!is_client)];
            let Some(key) = side.key.as_mut().filter(|_| self.suite.is_some() && self.opened) else { return };
            key.seq = key.seq.saturating_add(1);
            side.failed += 1;
            if side.failed > TLS_FAILED_MAX {
                return self.close(out);
            }
            out(Out::Lost);
            return out(Out::Plain(is_client, Piece::Gap { len: u64::MAX, mark: None }));
        };
        self.side(is_client).failed = 0;
        if !std::mem::replace(&mut self.opened, true) {
            out(Out::Opened);
        }
        if self.is_early(is_client) {
            return self.early(kind, plain, at, out);
        }
        if is_client && !self.early.is_empty() {
            // It went on without saying that its early data had ended: the server had not taken them, and gets them again.
            self.early.clear();
            out(Out::Lost);
        }
        if kind == APPLICATION && !plain.is_empty() {
            // Where in a record an answer ends says nothing of its place in the stream.
            let mark = mark.filter(|_| is_client);
            out(Out::Plain(is_client, Piece::Data { at, bytes: &plain, mark }));
        }
    }

    /// Whether what was opened just now is early data (RFC 8446, section 2.3).
    fn is_early(&self, is_client: bool) -> bool {
        let side = &self.sides[0];
        is_client && (self.tls13 || self.suite.is_none()) && side.key.is_some() && side.stage == 0
    }

    /// Early data wait until the client says that they have ended, which it does only where the server took them.
    fn early(&mut self, kind: u8, plain: Vec<u8>, at: WallTime, out: &mut dyn FnMut(Out<'_>)) {
        let held: usize = self.early.iter().map(|(_, b)| b.len()).sum();
        match kind {
            APPLICATION if held + plain.len() <= TLS_EARLY_BYTES_MAX => self.early.push((at, plain)),
            APPLICATION => out(Out::Lost),
            HANDSHAKE if plain.first() == Some(&END_OF_EARLY_DATA) => {
                for (at, bytes) in std::mem::take(&mut self.early) {
                    out(Out::Plain(true, Piece::Data { at, bytes: &bytes, mark: None }));
                }
            }
            _ => {}
        }
    }
}

impl Side {
    /// Opens a record of TLS 1.3 with the key of now, of what may come next, or of an update.
    fn open13(&mut self, suite: Suite, header: &[u8; 5], body: &[u8]) -> Option<(Vec<u8>, u8)> {
        if let Some(key) = &mut self.key
            && let Some(found) = key.open13(header, body, key.seq)
        {
            return Some(found);
        }
        let from = if self.key.is_some() { self.stage + 1 } else { 0 };
        for stage in from..self.secrets.len() {
            let Some(mut key) = self.secrets[stage].as_ref().and_then(|s| RecordKey::tls13(s, suite)) else {
                continue;
            };
            if let Some(found) = key.open13(header, body, 0) {
                (self.key, self.stage) = (Some(key), stage);
                return Some(found);
            }
        }
        let secret = self.secrets[self.stage].as_ref()?;
        let next = next_secret(secret, suite)?;
        let mut updated = RecordKey::tls13(&next, suite)?;
        if let Some(found) = updated.open13(header, body, 0) {
            (self.key, self.secrets[self.stage]) = (Some(updated), Some(next));
            return Some(found);
        }
        // Behind a hole, which may have taken the first records of what comes next.
        let key = self.key.as_mut()?;
        let first = key.seq.saturating_add(1);
        let later =
            (first..first.saturating_add(TLS_RECORDS_TRIED_MAX)).find_map(|n| key.open13(header, body, n));
        if later.is_some() {
            return later;
        }
        for stage in from..self.secrets.len() {
            let Some(mut key) = self.secrets[stage].as_ref().and_then(|s| RecordKey::tls13(s, suite)) else {
                continue;
            };
            if let Some(found) = (1..TLS_RECORDS_TRIED_MAX).find_map(|n| key.open13(header, body, n)) {
                (self.key, self.stage) = (Some(key), stage);
                return Some(found);
            }
        }
        None
    }
}

impl Tls {
    /// The connection has ended. False where it is neither told as read nor as closed.
    #[must_use]
    pub fn was_told(&self) -> bool {
        self.opened || self.closed
    }
}

/// Length of a record by its header, the header with it.
fn record_len(record: &[u8]) -> Option<usize> {
    match record {
        [_, _, _, a, b, ..] => Some(5 + usize::from(u16::from_be_bytes([*a, *b]))),
        _ => None,
    }
}
