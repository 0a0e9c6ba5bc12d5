//! Name resolution with every address checked against the policy, again after each look-up.
//!
//! Answers live as long as their records say (within bounds), so that a balancer that moves is followed while a run lasts,
//! and never outside the allow-list. All addresses are used in turn. It refuses to go on with an old answer when a new one
//! cannot be had: the connection fails instead.

use core::net::{IpAddr, SocketAddr};
use std::cell::RefCell;
use std::time::Duration;

use anyhow::Context;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{Resolver as Hickory, TokioResolver};

use crate::edge::clock::Clock;
use crate::limits::{DNS_LIFE_MAX, DNS_LIFE_MIN};
use crate::policy::target::{PermittedAddr, Target};
use crate::units::RunTime;

/// What is known, until when, and whose turn it is.
#[derive(Debug, Default)]
struct Known {
    until: RunTime,
    addrs: Vec<PermittedAddr>,
    turn: usize,
}

/// Resolves the target of one worker.
#[derive(Debug)]
pub struct Resolver {
    host: String,
    port: u16,
    /// Name servers that the policy gives; none are the machine's own.
    servers: Vec<SocketAddr>,
    clock: Clock,
    known: RefCell<Known>,
    /// Made at the first look-up; held while one is under way, so that others wait for it instead of asking, too.
    asking: tokio::sync::Mutex<Option<TokioResolver>>,
}

fn hickory(servers: &[SocketAddr]) -> anyhow::Result<TokioResolver> {
    let mut builder = if servers.is_empty() {
        TokioResolver::builder_tokio()
            .context("cannot read how this machine resolves names (/etc/resolv.conf)")?
    } else {
        let server = |addr: &SocketAddr| {
            let mut server = NameServerConfig::udp_and_tcp(addr.ip());
            server.connections.iter_mut().for_each(|c| c.port = addr.port());
            server
        };
        let config = ResolverConfig::from_name_servers(servers.iter().map(server).collect());
        Hickory::builder_with_config(config, TokioRuntimeProvider::default())
    };
    // What is known is kept here, where its end is seen.
    builder.options_mut().cache_size = 0;
    builder.build().context("cannot set up the resolver")
}

impl Resolver {
    /// A resolver for `target`, or for the address that `--connect-to` gives instead; `servers` are asked, or else
    /// those of the machine.
    #[must_use]
    pub fn new(
        target: &Target,
        connect_to: Option<&(String, u16)>,
        servers: &[SocketAddr],
        clock: Clock,
    ) -> Self {
        let (host, port) = connect_to.cloned().unwrap_or_else(|| (target.host().to_owned(), target.port()));
        let (servers, asking) = (servers.to_vec(), tokio::sync::Mutex::default());
        Self { host, port, servers, clock, known: RefCell::default(), asking }
    }

    fn next_known(&self) -> Option<PermittedAddr> {
        let mut known = self.known.borrow_mut();
        if known.addrs.is_empty() || self.clock.now() >= known.until {
            return None;
        }
        known.turn = (known.turn + 1) % known.addrs.len();
        known.addrs.get(known.turn).copied()
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
        let mut asking = self.asking.lock().await;
        // Somebody else may have asked meanwhile.
        if let Some(addr) = self.next_known() {
            return Ok((addr, None));
        }
        let start = self.clock.now();
        let (found, life) = self.look_up(&mut asking).await?;
        let permit = |ip: IpAddr| target.permit(SocketAddr::new(ip, self.port));
        let addrs = found.into_iter().map(permit).collect::<Result<Vec<_>, _>>()?;
        let now = self.clock.now();
        let Some(first) = addrs.first().copied() else { anyhow::bail!("{} has no address", self.host) };
        *self.known.borrow_mut() = Known { until: now.plus(life), addrs, turn: 0 };
        Ok((first, Some(now.since(start))))
    }

    /// All addresses, each permitted.
    ///
    /// # Errors
    /// As [`Resolver::next`].
    pub async fn all(&self, target: &Target) -> anyhow::Result<Vec<PermittedAddr>> {
        self.next(target).await?;
        Ok(self.known.borrow().addrs.clone())
    }

    /// Addresses, and how long they may be used.
    async fn look_up(&self, asking: &mut Option<TokioResolver>) -> anyhow::Result<(Vec<IpAddr>, Duration)> {
        if let Ok(literal) = self.host.parse::<IpAddr>() {
            return Ok((vec![literal], DNS_LIFE_MAX));
        }
        // This machine's own word for itself: what it says, not what RFC 6761 would make of it (both families).
        if self.host.eq_ignore_ascii_case("localhost") {
            let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await?;
            return Ok((found.map(|a| a.ip()).collect(), DNS_LIFE_MAX));
        }
        let resolver = match asking {
            Some(resolver) => resolver,
            None => asking.insert(hickory(&self.servers)?),
        };
        let found = resolver.lookup_ip(self.host.as_str()).await;
        let found = found.with_context(|| format!("cannot resolve {}", self.host))?;
        let shortest = found.as_lookup().answers().iter().map(|r| r.ttl).min().unwrap_or(0);
        let life = Duration::from_secs(u64::from(shortest)).clamp(DNS_LIFE_MIN, DNS_LIFE_MAX);
        Ok((found.iter().collect(), life))
    }
}
