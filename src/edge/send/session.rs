//! What the lanes of one session share: its state, and its TLS tickets.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption as Store;

use crate::plan::session::SessionState;
use crate::policy::tls::Resumption;

/// Tickets kept for one session: browsers keep a few per host.
const TICKETS: usize = 4;

/// One session of a run.
#[derive(Debug, Default)]
pub struct SessionData {
    /// Cookies, values, account.
    pub state: RefCell<SessionState>,
    tls: OnceCell<Arc<ClientConfig>>,
}

/// A session, as its lanes hold it.
pub type Session = Rc<SessionData>;

impl SessionData {
    /// The TLS settings of this session: those of the run, with tickets of its own.
    #[must_use]
    pub fn tls(&self, base: &Arc<ClientConfig>, resumption: Resumption) -> Arc<ClientConfig> {
        match resumption {
            Resumption::None => Arc::clone(base),
            Resumption::PerSession => Arc::clone(self.tls.get_or_init(|| {
                let mut own = ClientConfig::clone(base);
                own.resumption = Store::in_memory_sessions(TICKETS);
                Arc::new(own)
            })),
        }
    }

    /// Whether nothing of its state would be lost with it; tickets would be.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.state.try_borrow().is_ok_and(|s| s.is_blank())
    }

    /// Whether it may have tickets.
    #[must_use]
    pub fn has_tickets(&self) -> bool {
        self.tls.get().is_some()
    }
}
