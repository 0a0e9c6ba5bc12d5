//! What the lanes of one session share: its state, and its TLS tickets.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption as Store;

use super::mux::Alpn;
use crate::plan::session::SessionState;
use crate::policy::tls::Resumption;

/// Tickets kept for one session: browsers keep a few per host.
const TICKETS: usize = 4;

/// One session of a run.
#[derive(Debug, Default)]
pub struct SessionData {
    /// Cookies, values, account.
    pub state: RefCell<SessionState>,
    /// With tickets of its own, for HTTP/1.1 and for HTTP/2.
    tls: [OnceCell<Arc<ClientConfig>>; 2],
}

/// A session, as its lanes hold it.
pub type Session = Rc<SessionData>;

impl SessionData {
    /// The TLS settings of this session: those of the run, with tickets of its own.
    #[must_use]
    pub fn tls(&self, of: &Alpn, http2: bool, resumption: Resumption) -> Arc<ClientConfig> {
        let (base, [one, two]) = (if http2 { &of.http2 } else { &of.http1 }, &self.tls);
        let cell = if http2 { two } else { one };
        match resumption {
            Resumption::None => Arc::clone(base),
            Resumption::PerSession => Arc::clone(cell.get_or_init(|| {
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
        self.tls.iter().any(|c| c.get().is_some())
    }
}
