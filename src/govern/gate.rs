//! The gate: the only place where permits are made.
//!
//! A [`Permit`] is leave to send one request at one moment. Its fields are private and only [`Gate`]
//! makes one, so no code path can send what the governor did not allow; the compiler says so. It is
//! taken in the poll that writes, carries its in-flight slot, expires, and is looked at once more when
//! the first byte is written ([`Permit::spend`]). It is never refunded.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::bucket::{Bucket, Take};
use super::ceiling::HardCeiling;
use super::latch::{Latch, StopCause};
use super::sync::{AtomicU64, Ordering};
use crate::limits::PERMIT_TTL;
use crate::units::{Rate, RunTime};

/// Why a due request was not sent. Each cut request has exactly one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShedReason {
    /// The run was stopped.
    Latched,
    /// No grant was in force.
    NoGrant,
    /// The window was closed.
    OutsideWindow,
    /// The budget of requests or connections was used up.
    Budget,
    /// We were late ourselves.
    TooLate,
    /// The previous answer on the same connection had not come.
    SessionBlocked,
    /// The share left this session out.
    Thinned,
    /// The session has no value for a place that needs one: an answer did not give it, or no account was free.
    NoValue,
    /// Too many requests in flight.
    InFlight,
    /// No connection: none allowed, none ready in time, or refused by the target.
    Connecting,
    /// The bucket was empty.
    Bucket,
    /// The fixed outer ceiling refused (a bug of ours; the run ends).
    HardCeiling,
}

impl ShedReason {
    /// All reasons, in the order in which reports list them.
    pub const ALL: [Self; 12] = [
        Self::Latched,
        Self::NoGrant,
        Self::OutsideWindow,
        Self::Budget,
        Self::TooLate,
        Self::SessionBlocked,
        Self::Thinned,
        Self::NoValue,
        Self::InFlight,
        Self::Connecting,
        Self::Bucket,
        Self::HardCeiling,
    ];

    /// The name used in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Latched => "latched",
            Self::NoGrant => "no_grant",
            Self::OutsideWindow => "outside_window",
            Self::Budget => "budget",
            Self::TooLate => "too_late",
            Self::SessionBlocked => "session_blocked",
            Self::Thinned => "thinned",
            Self::NoValue => "no_value",
            Self::InFlight => "in_flight",
            Self::Connecting => "connecting",
            Self::Bucket => "bucket",
            Self::HardCeiling => "hard_ceiling",
        }
    }
}

/// A place among the requests in flight; given back when dropped.
#[derive(Debug)]
pub struct Slot(Arc<Gate>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Leave to send one request at one moment.
#[derive(Debug)]
#[must_use = "an unused permit is a request not sent"]
pub struct Permit {
    slot: Slot,
    not_after: RunTime,
}

impl Permit {
    /// Turns the permit into its in-flight slot at the first write, or refuses: the run was stopped, the
    /// lease ended, or the permit lay too long.
    ///
    /// # Errors
    /// The reason; the permit is gone either way.
    pub fn spend(self, now: RunTime) -> Result<Slot, ShedReason> {
        let gate = &self.slot.0;
        if gate.latch.is_set() {
            Err(ShedReason::Latched)
        } else if now > self.not_after || !gate.requests.is_leased(now) {
            Err(ShedReason::NoGrant)
        } else {
            gate.last_spent.fetch_max(now.0, Ordering::SeqCst);
            Ok(self.slot)
        }
    }
}

/// Leave to open one connection at one moment.
#[derive(Debug)]
#[must_use = "an unused permit is a connection not opened"]
pub struct ConnectPermit(());

/// What a gate can never let through, fixed for the run: policy, site limits and budgets, the lowest of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GateLimits {
    /// Highest request rate.
    pub rate: Rate,
    /// Highest rate of new connections.
    pub connects: Rate,
    /// Most requests in flight.
    pub in_flight: u64,
    /// Most requests in this run; `None` without a budget.
    pub requests: Option<u64>,
    /// Most connections in this run; `None` without a budget.
    pub connections: Option<u64>,
    /// End of the window.
    pub window_end: Option<RunTime>,
}

impl GateLimits {
    /// Limits on rates and requests in flight alone.
    #[must_use]
    pub fn of_rate(rate: Rate, connects: Rate, in_flight: u64) -> Self {
        Self { rate, connects, in_flight, requests: None, connections: None, window_end: None }
    }
}

/// What stands between a due request and the network.
#[derive(Debug)]
pub struct Gate {
    latch: Latch,
    requests: Bucket,
    connects: Bucket,
    hard: HardCeiling,
    hard_connects: HardCeiling,
    in_flight: AtomicU64,
    requests_left: AtomicU64,
    connections_left: AtomicU64,
    /// Run time of the last permit that was spent, nanoseconds: the last moment a request could leave.
    last_spent: AtomicU64,
    limits: GateLimits,
}

/// Takes one of what is left, or says that nothing is.
fn take_one(left: &AtomicU64) -> bool {
    let mut seen = left.load(Ordering::SeqCst);
    while let Some(next) = seen.checked_sub(1) {
        match left.compare_exchange_weak(seen, next, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => return true,
            Err(now) => seen = now,
        }
    }
    false
}

impl Gate {
    /// A closed gate.
    #[must_use]
    pub fn new(latch: Latch, limits: GateLimits) -> Arc<Self> {
        Arc::new(Self {
            latch,
            requests: Bucket::default(),
            connects: Bucket::default(),
            hard: HardCeiling::new(limits.rate),
            hard_connects: HardCeiling::new(limits.connects),
            in_flight: AtomicU64::new(0),
            requests_left: AtomicU64::new(limits.requests.unwrap_or(u64::MAX)),
            connections_left: AtomicU64::new(limits.connections.unwrap_or(u64::MAX)),
            last_spent: AtomicU64::new(0),
            limits,
        })
    }

    /// The latch of this run.
    #[must_use]
    pub fn latch(&self) -> &Latch {
        &self.latch
    }

    /// Publishes what the governor granted: clamped to the outer ceiling, zero once latched.
    pub fn publish(&self, now: RunTime, ceiling: Rate, connects: Rate, not_after: RunTime) {
        let open = !self.latch.is_set();
        let ceiling = if open { ceiling.min(self.hard.rate()) } else { Rate::ZERO };
        let connects = connects.min(self.hard_connects.rate());
        let connects = if open && ceiling > Rate::ZERO { connects } else { Rate::ZERO };
        self.requests.publish(now, ceiling, not_after);
        self.connects.publish(now, connects, not_after);
    }

    /// Requests in flight now.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Highest number allowed in flight.
    #[must_use]
    pub fn in_flight_max(&self) -> u64 {
        self.limits.in_flight
    }

    /// Requests that the budget still allows; `u64::MAX` without one.
    #[must_use]
    pub fn requests_left(&self) -> u64 {
        self.requests_left.load(Ordering::SeqCst)
    }

    /// When the last permit was spent.
    #[must_use]
    pub fn last_spent(&self) -> RunTime {
        RunTime(self.last_spent.load(Ordering::SeqCst))
    }

    fn is_outside_window(&self, now: RunTime) -> bool {
        self.limits.window_end.is_some_and(|end| now >= end)
    }

    /// Asks to send one request now.
    ///
    /// # Errors
    /// The one reason why not, in the order latch, window, grant, in flight, bucket, hard ceiling, budget.
    pub fn permit(self: &Arc<Self>, now: RunTime) -> Result<Permit, ShedReason> {
        if self.latch.is_set() {
            return Err(ShedReason::Latched);
        }
        if self.is_outside_window(now) {
            return Err(ShedReason::OutsideWindow);
        }
        if !self.requests.is_leased(now) {
            return Err(ShedReason::NoGrant);
        }
        let slot = self.slot()?;
        match self.requests.try_take(now) {
            Take::Taken => {}
            Take::Empty => return Err(ShedReason::Bucket),
            Take::NoGrant => return Err(ShedReason::NoGrant),
        }
        if !self.hard.allows(now) {
            self.latch.set(StopCause::HardCeiling);
            return Err(ShedReason::HardCeiling);
        }
        if !take_one(&self.requests_left) {
            return Err(ShedReason::Budget);
        }
        Ok(Permit { slot, not_after: now.plus(PERMIT_TTL) })
    }

    fn slot(self: &Arc<Self>) -> Result<Slot, ShedReason> {
        let before = self.in_flight.fetch_add(1, Ordering::SeqCst);
        let slot = Slot(Arc::clone(self));
        if before >= self.limits.in_flight { Err(ShedReason::InFlight) } else { Ok(slot) }
    }

    /// Asks to open one connection now.
    ///
    /// # Errors
    /// The one reason why not.
    pub fn connect(&self, now: RunTime) -> Result<ConnectPermit, ShedReason> {
        if self.latch.is_set() {
            return Err(ShedReason::Latched);
        }
        if self.is_outside_window(now) {
            return Err(ShedReason::OutsideWindow);
        }
        match self.connects.try_take(now) {
            Take::Taken => {}
            Take::Empty => return Err(ShedReason::Connecting),
            Take::NoGrant => return Err(ShedReason::NoGrant),
        }
        if !self.hard_connects.allows(now) {
            self.latch.set(StopCause::HardCeiling);
            return Err(ShedReason::HardCeiling);
        }
        if !take_one(&self.connections_left) {
            return Err(ShedReason::Budget);
        }
        Ok(ConnectPermit(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> RunTime = RunTime::from_millis;

    fn open_gate(in_flight_max: u64) -> Arc<Gate> {
        let limits = GateLimits::of_rate(Rate::per_sec(1_000), Rate::per_sec(1_000), in_flight_max);
        let gate = Gate::new(Latch::new(), limits);
        gate.publish(MS(0), Rate::per_sec(1_000), Rate::per_sec(100), MS(500));
        gate
    }

    #[test]
    fn nothing_leaves_before_the_first_grant() {
        let gate = Gate::new(Latch::new(), GateLimits::of_rate(Rate::per_sec(1_000), Rate::per_sec(9), 10));
        assert_eq!(gate.permit(MS(10)).unwrap_err(), ShedReason::NoGrant);
        assert_eq!(gate.connect(MS(10)).unwrap_err(), ShedReason::NoGrant);
        assert_eq!(gate.in_flight(), 0, "a refusal keeps no slot");
    }

    #[test]
    fn a_grant_of_nothing_and_a_latch_close_both_ways() {
        let gate = open_gate(10);
        let early = gate.permit(MS(100)).unwrap();
        gate.publish(MS(110), Rate::ZERO, Rate::per_sec(100), MS(600));
        assert_eq!(early.spend(MS(120)).unwrap_err(), ShedReason::NoGrant, "the grant it came from is gone");
        assert_eq!(gate.permit(MS(300)).unwrap_err(), ShedReason::NoGrant);
        assert_eq!(gate.connect(MS(300)).unwrap_err(), ShedReason::NoGrant, "no requests, no connections");
        gate.publish(MS(310), Rate::per_sec(1_000), Rate::per_sec(100), MS(900));
        assert!(gate.permit(MS(400)).is_ok() && gate.connect(MS(400)).is_ok());
        gate.latch().set(StopCause::KillFile);
        gate.publish(MS(410), Rate::per_sec(1_000), Rate::per_sec(100), MS(900));
        assert!(!gate.requests.is_leased(MS(420)) && !gate.connects.is_leased(MS(420)));
    }

    #[test]
    fn a_permit_lives_as_long_as_it_may() {
        let gate = open_gate(10);
        let permit = gate.permit(MS(100)).unwrap();
        assert_eq!(gate.last_spent(), MS(0));
        let slot = permit.spend(MS(200)).unwrap();
        assert_eq!((gate.last_spent(), gate.in_flight(), gate.in_flight_max()), (MS(200), 1, 10));
        drop(slot);
        assert_eq!(gate.in_flight(), 0);
        let limits =
            GateLimits { requests: Some(3), ..GateLimits::of_rate(Rate::per_sec(9), Rate::per_sec(9), 9) };
        let gate = Gate::new(Latch::new(), limits);
        gate.publish(MS(0), Rate::per_sec(9), Rate::per_sec(9), MS(5_000));
        assert!(gate.permit(MS(1_000)).is_ok());
        assert_eq!(gate.requests_left(), 2);
    }

    #[test]
    fn slots_come_back_and_bind() {
        let gate = open_gate(2);
        let first = gate.permit(MS(100)).unwrap().spend(MS(100)).unwrap();
        let _second = gate.permit(MS(100)).unwrap().spend(MS(100)).unwrap();
        assert_eq!(gate.permit(MS(100)).unwrap_err(), ShedReason::InFlight);
        drop(first);
        assert!(gate.permit(MS(100)).is_ok());
    }

    #[test]
    fn a_permit_dies_with_the_latch_the_lease_or_its_age() {
        let gate = open_gate(10);
        let permit = gate.permit(MS(100)).unwrap();
        assert_eq!(permit.spend(MS(201)).unwrap_err(), ShedReason::NoGrant, "too old");
        let permit = gate.permit(MS(450)).unwrap();
        assert_eq!(permit.spend(MS(500)).unwrap_err(), ShedReason::NoGrant, "lease over");
        let gate = open_gate(10);
        let permit = gate.permit(MS(100)).unwrap();
        gate.latch().set(StopCause::KillFile);
        assert_eq!(permit.spend(MS(100)).unwrap_err(), ShedReason::Latched);
        assert_eq!(gate.permit(MS(100)).unwrap_err(), ShedReason::Latched);
        assert_eq!(gate.connect(MS(100)).unwrap_err(), ShedReason::Latched);
        assert_eq!(gate.in_flight(), 0);
    }

    #[test]
    fn a_grant_above_the_outer_ceiling_is_clamped() {
        let gate = Gate::new(Latch::new(), GateLimits::of_rate(Rate::per_sec(100), Rate::per_sec(9), 10_000));
        gate.publish(MS(0), Rate::per_sec(1_000_000), Rate::per_sec(10), MS(500));
        let sent = (0..1_000).filter_map(|_| gate.permit(MS(400)).ok()).count();
        assert_eq!(sent, 16, "the burst of 100/s, not of a million");
        assert!(!gate.latch().is_set());
    }

    #[test]
    fn budgets_are_exact_and_the_window_is_hard() {
        let mut limits = GateLimits::of_rate(Rate::per_sec(1_000), Rate::per_sec(1_000), 100);
        (limits.requests, limits.connections, limits.window_end) = (Some(3), Some(2), Some(MS(450)));
        let gate = Gate::new(Latch::new(), limits);
        gate.publish(MS(0), Rate::per_sec(1_000), Rate::per_sec(1_000), MS(5_000));
        let sent = (0..10).filter(|_| gate.permit(MS(400)).is_ok()).count();
        assert_eq!((sent, gate.permit(MS(400)).unwrap_err()), (3, ShedReason::Budget));
        let opened = (0..10).filter(|_| gate.connect(MS(400)).is_ok()).count();
        assert_eq!((opened, gate.connect(MS(400)).unwrap_err()), (2, ShedReason::Budget));
        assert_eq!(gate.permit(MS(450)).unwrap_err(), ShedReason::OutsideWindow);
        assert_eq!(gate.connect(MS(450)).unwrap_err(), ShedReason::OutsideWindow);
    }
}
