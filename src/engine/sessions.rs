//! The sessions of one worker: what each knows, and for how long it is kept.
//!
//! A session that knows nothing costs nothing once its connections are closed. One with cookies, values or an account is
//! kept a while, because a recorded session may go on over another connection; then it is forgotten, and what needs its
//! values afterwards is shed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use crate::edge::send::session::{Session, SessionData};
use crate::limits::{SESSION_KEPT, SESSIONS_KEPT_BYTES_MAX, SESSIONS_KEPT_MAX, TICKETS_KEPT_MAX};
use crate::plan::Instance;
use crate::plan::session::AccountPool;
use crate::units::RunTime;

/// Time between two looks for sessions to be forgotten.
const SWEEP: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Kept {
    state: Session,
    lanes: u32,
    /// When the last lane went.
    idle_since: RunTime,
}

/// The sessions of one worker.
#[derive(Debug)]
pub struct Sessions {
    kept: BTreeMap<Instance, Kept>,
    /// Over, but a lane of theirs still has work: their accounts are not free yet.
    ending: Vec<Session>,
    /// How many of them have no lane.
    idle: usize,
    swept: RunTime,
    weight_max: usize,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            kept: BTreeMap::new(),
            ending: Vec::new(),
            idle: 0,
            swept: RunTime::START,
            weight_max: SESSIONS_KEPT_BYTES_MAX,
        }
    }
}

impl Sessions {
    /// The session, for one more lane.
    pub fn enter(&mut self, instance: Instance) -> Session {
        let fresh = || Kept { state: Session::default(), lanes: 0, idle_since: RunTime::START };
        let known = self.kept.contains_key(&instance);
        let kept = self.kept.entry(instance).or_insert_with(fresh);
        if known && kept.lanes == 0 {
            self.idle -= 1;
        }
        kept.lanes += 1;
        Rc::clone(&kept.state)
    }

    /// A lane of the session is gone.
    pub fn leave(&mut self, instance: Instance, now: RunTime) {
        let Some(kept) = self.kept.get_mut(&instance) else { return };
        kept.lanes = kept.lanes.saturating_sub(1);
        if kept.lanes > 0 {
            return;
        }
        kept.idle_since = now;
        // The lane may still be reading an answer that sets something.
        if is_idle_for_nothing(&kept.state, self.idle) {
            self.kept.remove(&instance);
        } else {
            self.idle += 1;
        }
    }

    /// The session is over: nothing of it will come again.
    pub fn end(&mut self, instance: Instance, pool: &RefCell<AccountPool>) {
        if let Some(kept) = self.kept.remove(&instance) {
            self.idle -= usize::from(kept.lanes == 0);
            self.let_go(kept.state, pool);
        }
    }

    /// Gives an account back now, or when the last lane has done its work: it may still be in use on the wire.
    fn let_go(&mut self, session: Session, pool: &RefCell<AccountPool>) {
        if Rc::strong_count(&session) == 1 {
            release(&session, pool);
        } else {
            self.ending.push(session);
        }
    }

    /// All sessions are over.
    pub fn clear(&mut self, pool: &RefCell<AccountPool>) {
        for kept in std::mem::take(&mut self.kept).into_values() {
            self.let_go(kept.state, pool);
        }
        self.idle = 0;
    }

    /// Bytes of what sessions without a connection know.
    fn weight(&self) -> usize {
        let idle = self.kept.values().filter(|k| k.lanes == 0);
        idle.map(|k| k.state.state.try_borrow().map_or(0, |s| s.weight())).sum()
    }

    /// Forgets sessions without a connection for [`SESSION_KEPT`], earlier when there are too many of them.
    pub fn sweep(&mut self, now: RunTime, pool: &RefCell<AccountPool>) {
        if (self.idle == 0 && self.ending.is_empty()) || now.since(self.swept) < SWEEP {
            return;
        }
        self.swept = now;
        for session in std::mem::take(&mut self.ending) {
            self.let_go(session, pool);
        }
        let patience = if self.idle > SESSIONS_KEPT_MAX || self.weight() > self.weight_max {
            Duration::ZERO
        } else {
            SESSION_KEPT
        };
        let idle = &mut self.idle;
        self.kept.retain(|_, kept| {
            let alone = Rc::strong_count(&kept.state) == 1;
            let over = kept.lanes == 0 && alone && now.since(kept.idle_since) >= patience;
            let blank = kept.lanes == 0 && is_idle_for_nothing(&kept.state, *idle);
            if over || blank {
                *idle -= 1;
                release(&kept.state, pool);
            }
            !(over || blank)
        });
    }
}

/// Whether a session without lanes knows nothing. TLS tickets are worth keeping while they are few.
fn is_idle_for_nothing(session: &Session, idle: usize) -> bool {
    let tickets = session.has_tickets() && idle < TICKETS_KEPT_MAX;
    Rc::strong_count(session) == 1 && session.is_blank() && !tickets
}

fn release(session: &SessionData, pool: &RefCell<AccountPool>) {
    pool.borrow_mut().give_back(&mut session.state.borrow_mut());
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::plan::rewrite::Secret;
    use crate::plan::session::{Accounts, SessionState};

    fn at(s: u64) -> RunTime {
        RunTime::from_millis(s * 1000)
    }

    fn pool(rows: usize) -> RefCell<AccountPool> {
        let row = || vec![Secret::new(b"ann").unwrap()];
        let accounts = Accounts { columns: vec!["user".into()], rows: (0..rows).map(|_| row()).collect() };
        RefCell::new(AccountPool::new(Arc::new(accounts), 0, 1))
    }

    #[test]
    fn a_session_that_knows_nothing_is_gone_with_its_last_lane() {
        let mut s = Sessions::default();
        let one = s.enter(Instance(1));
        let two = s.enter(Instance(1));
        assert!(Rc::ptr_eq(&one, &two));
        drop((one, two));
        s.leave(Instance(1), at(1));
        assert_eq!(s.kept.len(), 1);
        s.leave(Instance(1), at(1));
        assert_eq!((s.kept.len(), s.idle), (0, 0));
    }

    #[test]
    fn what_a_session_knows_outlives_its_connections_for_a_while() {
        let (mut s, pool) = (Sessions::default(), pool(1));
        let state = s.enter(Instance(1));
        assert!(pool.borrow_mut().lend(&mut state.state.borrow_mut()));
        drop(state);
        s.leave(Instance(1), at(10));
        s.sweep(at(10 + SESSION_KEPT.as_secs() - 1), &pool);
        let again = s.enter(Instance(1));
        assert_eq!((again.state.borrow().value(0, 0), s.idle), (Some(&b"ann"[..]), 0));
        drop(again);
        s.leave(Instance(1), at(1_000));
        let mut other = SessionState::default();
        assert!(!pool.borrow_mut().lend(&mut other), "still in use");
        s.sweep(at(1_000 + SESSION_KEPT.as_secs()), &pool);
        assert_eq!((s.kept.len(), s.idle), (0, 0));
        assert!(pool.borrow_mut().lend(&mut other), "given back");
    }

    #[test]
    fn an_account_in_use_on_the_wire_is_nobody_elses() {
        for clear in [false, true] {
            let (mut s, pool) = (Sessions::default(), pool(1));
            let lane = s.enter(Instance(1));
            assert!(pool.borrow_mut().lend(&mut lane.state.borrow_mut()));
            // The session is over, and an answer is still awaited.
            if clear {
                s.clear(&pool);
            } else {
                s.end(Instance(1), &pool);
            }
            let mut other = SessionState::default();
            s.sweep(at(10), &pool);
            assert!(!pool.borrow_mut().lend(&mut other), "clear: {clear}");
            assert!(pool.borrow_mut().lend(&mut lane.state.borrow_mut()), "it keeps its own");
            drop(lane);
            s.sweep(at(20), &pool);
            assert!(pool.borrow_mut().lend(&mut other), "and gives it back: clear: {clear}");
        }
        // A session that is swept for its age is not in use either.
        let (mut s, pool) = (Sessions::default(), pool(1));
        let lane = s.enter(Instance(1));
        assert!(pool.borrow_mut().lend(&mut lane.state.borrow_mut()));
        s.leave(Instance(1), at(1));
        s.sweep(at(1 + SESSION_KEPT.as_secs()), &pool);
        assert!(!pool.borrow_mut().lend(&mut SessionState::default()));
    }

    #[test]
    fn what_sessions_know_is_forgotten_early_when_it_is_much() {
        let kept = |weight_max: usize| {
            let (mut s, pool) = (Sessions { weight_max, ..Sessions::default() }, pool(0));
            let now = crate::plan::cookies::Now { run: at(1), unix_s: 0 };
            s.enter(Instance(1)).state.borrow_mut().jar.set(b"sid=0123456789; Path=/", b"/", now);
            s.leave(Instance(1), at(1));
            s.sweep(at(3), &pool);
            s.kept.len()
        };
        assert_eq!((kept(14), kept(13)), (1, 0), "name, value and path");
    }

    #[test]
    fn accounts_come_back_when_sessions_end() {
        let (mut s, pool) = (Sessions::default(), pool(2));
        for i in 0..2 {
            assert!(pool.borrow_mut().lend(&mut s.enter(Instance(i)).state.borrow_mut()));
        }
        s.end(Instance(0), &pool);
        assert!(pool.borrow_mut().lend(&mut SessionState::default()));
        s.leave(Instance(1), at(1));
        s.clear(&pool);
        assert!(pool.borrow_mut().lend(&mut SessionState::default()));
        assert_eq!((s.kept.len(), s.idle), (0, 0));
    }
}
