//! What one session of a run knows: its cookies, the values it took from answers, its account.
//!
//! Kept per (session, clone), so that no clone lives on another's cart. A session that needed a value it did not have is
//! broken: nothing more of it is sent, and never the recorded value instead.

use std::collections::VecDeque;
use std::sync::Arc;

use super::cookies::{Jar, Now};
use super::rewrite::Rewrite;
use super::take::{Answer, extract};

/// Accounts that sessions log in with: one row each, never two sessions on one row at a time.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Rows.
    pub rows: Vec<Vec<super::rewrite::Secret>>,
}

/// The rows of one worker that nobody uses now. The one that rested longest goes first.
#[derive(Debug, Default)]
pub struct AccountPool {
    accounts: Arc<Accounts>,
    free: VecDeque<usize>,
}

impl AccountPool {
    /// The share of worker `index` of `workers`: rows are dealt, so that no two workers share one.
    #[must_use]
    pub fn new(accounts: Arc<Accounts>, index: usize, workers: usize) -> Self {
        let free = (0..accounts.rows.len()).filter(|r| r % workers.max(1) == index).collect();
        Self { accounts, free }
    }

    /// Gives a session an account if it has none. Whether it has one now.
    pub fn lend(&mut self, session: &mut SessionState) -> bool {
        if session.account.is_none() {
            session.account = self.free.pop_front();
            if let Some(row) = session.account.and_then(|r| self.accounts.rows.get(r)) {
                session.columns.clone_from(row);
            }
        }
        session.account.is_some()
    }

    /// Takes a session's account back.
    pub fn give_back(&mut self, session: &mut SessionState) {
        if let Some(row) = session.account.take() {
            session.columns.clear();
            self.free.push_back(row);
        }
    }
}

/// The state of one session.
#[derive(Debug, Default)]
pub struct SessionState {
    /// Cookies that answers set.
    pub jar: Jar,
    /// It needed a value that it did not have.
    pub broken: bool,
    values: Vec<Option<Vec<u8>>>,
    account: Option<usize>,
    columns: Vec<super::rewrite::Secret>,
}

impl SessionState {
    /// Whether nothing would be lost with it.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.jar.is_empty()
            && !self.broken
            && self.account.is_none()
            && self.values.iter().all(Option::is_none)
    }

    /// Bytes of what it knows, roughly.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.jar.weight() + self.values.iter().flatten().map(Vec::len).sum::<usize>()
    }

    /// A value by its number; `taken` values come from answers, the rest is columns of the account.
    #[must_use]
    pub fn value(&self, number: u16, taken: usize) -> Option<&[u8]> {
        let n = usize::from(number);
        match n.checked_sub(taken) {
            Some(column) => self.columns.get(column).map(super::rewrite::Secret::reveal),
            None => self.values.get(n)?.as_deref(),
        }
    }

    /// Takes what the rules numbered `takes` find in an answer to a request for `path`: cookies from any answer, values
    /// from those that mean well. A value that is not found is gone: an old one would be somebody else's.
    pub fn heed(
        &mut self,
        rules: &Rewrite,
        takes: &[u16],
        status: u16,
        path: &[u8],
        answer: &Answer<'_>,
        now: Now,
    ) {
        for (_, line) in answer.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case("set-cookie")) {
            self.jar.set(line, path, now);
        }
        if takes.is_empty() {
            return;
        }
        self.values.resize(rules.takes.len(), None);
        let rule = |n: u16| rules.takes.get(usize::from(n));
        let wants_body = takes.iter().filter_map(|n| rule(*n)).any(super::take::Take::needs_body);
        let plain = if wants_body { answer.plain_body() } else { None };
        for n in takes {
            let (Some(take), Some(slot)) = (rule(*n), self.values.get_mut(usize::from(*n))) else { continue };
            let well = (200..400).contains(&status);
            *slot = extract(&take.place, answer, plain.as_deref()).filter(|_| well);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rewrite::Secret;
    use super::super::routes::Pattern;
    use super::super::take::{Place, Take};
    use super::*;
    use crate::units::RunTime;

    const NOW: Now = Now { run: RunTime::START, unix_s: 0 };

    fn accounts(n: u8) -> Arc<Accounts> {
        let row = |i: u8| vec![Secret::new(&[b'a' + i]).unwrap()];
        Arc::new(Accounts { columns: vec!["user".into()], rows: (0..n).map(row).collect() })
    }

    #[test]
    fn no_two_sessions_share_an_account() {
        let mut pool = AccountPool::new(accounts(3), 0, 2);
        let (mut a, mut b, mut c) =
            (SessionState::default(), SessionState::default(), SessionState::default());
        assert!(pool.lend(&mut a) && pool.lend(&mut a) && pool.lend(&mut b));
        assert_eq!((a.value(0, 0), b.value(0, 0)), (Some(&b"a"[..]), Some(&b"c"[..])), "rows 0 and 2 of 3");
        assert!(!pool.lend(&mut c), "none is left");
        assert_eq!(c.value(0, 0), None);
        pool.give_back(&mut a);
        assert!(pool.lend(&mut c) && a.value(0, 0).is_none());
        let mut other = AccountPool::new(accounts(3), 1, 2);
        assert!(other.lend(&mut a) && !other.lend(&mut SessionState::default()));
        assert_eq!(a.value(0, 0), Some(&b"b"[..]));
        assert!(!AccountPool::new(accounts(0), 0, 1).lend(&mut SessionState::default()));
    }

    #[test]
    fn values_come_from_answers_that_mean_well_and_old_ones_do_not_stay() {
        let take = Take {
            name: "csrf".into(),
            from: Pattern::parse("GET /login").unwrap(),
            place: Place::Header("X-Csrf".into()),
        };
        let rules = Rewrite { takes: vec![take], names: vec!["csrf".into()], ..Rewrite::default() };
        let mut s = SessionState::default();
        assert!(s.is_blank());
        let with: [(&str, &[u8]); 2] = [("X-Csrf", b"v1"), ("Set-Cookie", b"sid=1; Path=/")];
        let without: [(&str, &[u8]); 1] = [("X-Other", b"v1")];
        let answer = |headers| Answer { headers, body: None };
        s.heed(&rules, &[], 200, b"/", &answer(&with), NOW);
        assert!(s.value(0, 1).is_none() && !s.jar.is_empty(), "cookies from any answer");
        for (status, headers, want) in [
            (200, &with[..], Some(&b"v1"[..])),
            (200, &without[..], None),
            (302, &with[..], Some(&b"v1"[..])),
            (500, &with[..], None),
            (404, &with[..], None),
            (399, &with[..], Some(&b"v1"[..])),
        ] {
            s.heed(&rules, &[0], status, b"/", &answer(headers), NOW);
            assert_eq!(s.value(0, 1), want, "{status}");
        }
        assert!(!s.is_blank());
    }
}
