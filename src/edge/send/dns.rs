//! Name resolution with every address checked against the policy, again after each look-up.

use std::cell::RefCell;
use std::time::Duration;

use crate::edge::clock::Clock;
use crate::limits::DNS_LIFE;
use crate::policy::target::{PermittedAddr, Target};
use crate::units::RunTime;

/// Resolves the target of one worker; answers live for [`DNS_LIFE`] and are used in turn.
#[derive(Debug)]
pub struct Resolver {
    host: String,
    port: u16,
    clock: Clock,
    known: RefCell<(RunTime, Vec<PermittedAddr>, usize)>,
}

impl Resolver {
    /// A resolver for `target`, or for the address that `--connect-to` gives instead.
    #[must_use]
    pub fn new(target: &Target, connect_to: Option<&(String, u16)>, clock: Clock) -> Self {
        let (host, port) = connect_to.cloned().unwrap_or_else(|| (target.host().to_owned(), target.port()));
        Self { host, port, clock, known: RefCell::new((RunTime::START, Vec::new(), 0)) }
    }

    fn next_known(&self) -> Option<PermittedAddr> {
        let mut known = self.known.borrow_mut();
        let (until, addrs, turn) = &mut *known;
        if addrs.is_empty() || self.clock.now() >= *until {
            return None;
        }
        *turn = (*turn + 1) % addrs.len();
        addrs.get(*turn).copied()
    }

    /// The next address and, where a look-up was needed, how long it took.
    ///
    /// # Errors
    /// When the name does not resolve, or any of its addresses is not permitted: one stray address is
    /// enough to refuse all, because it means that the name is not what the policy's author thought.
    pub async fn next(&self, target: &Target) -> anyhow::Result<(PermittedAddr, Option<Duration>)> {
        if let Some(addr) = self.next_known() {
            return Ok((addr, None));
        }
        let start = self.clock.now();
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await?;
        let addrs = found.map(|a| target.permit(a)).collect::<Result<Vec<_>, _>>()?;
        let took = self.clock.now().since(start);
        let Some(first) = addrs.first().copied() else { anyhow::bail!("{} has no address", self.host) };
        *self.known.borrow_mut() = (self.clock.now().plus(DNS_LIFE), addrs, 0);
        Ok((first, Some(took)))
    }
}
