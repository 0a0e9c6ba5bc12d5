//! The plan: a trace becomes departures on an absolute schedule.
//!
//! Pure, streaming, and the same for the same seed. `due = (t - t0) / speed` from the start of the measure
//! phase: nothing sleeps a delta, so nothing drifts. A scale clones whole sessions, so think times, bursts
//! and connection counts stay real. What cannot be sent is dropped here, with one reason each; the
//! identity `recorded x scale = due + dropped` holds to the request.

mod ahead;
mod alike;
pub mod body;
pub mod connections;
pub mod cookies;
pub mod draw;
pub mod forecast;
mod head;
pub mod pacing;
pub mod prepared;
pub mod rewrite;
pub mod routes;
pub mod screen;
pub mod session;
pub mod shift;
pub mod sounding;
pub mod stationary;
pub mod stream;
pub mod take;
pub mod thin;

use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use crate::trace::AnswerFacts;
use crate::trace::shape::SharedShape;

/// Why a recorded request is not part of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// The policy does not allow the method.
    Method,
    /// The policy does not allow the route, or a built-in deny word is in it.
    Route,
    /// The host is not mapped to the target.
    Host,
    /// The request carried a credential and no rule supplies one.
    NeedsCredentials,
    /// Path or query was redacted at capture.
    Redacted,
    /// It cannot be sent at all: CONNECT, an upgrade, or a body that was not kept.
    Unreplayable,
    /// Its route is at its rate cap.
    RouteCap,
}

impl DropReason {
    /// All reasons, in the order of reports.
    pub const ALL: [Self; 7] = [
        Self::Method,
        Self::Route,
        Self::Host,
        Self::NeedsCredentials,
        Self::Redacted,
        Self::Unreplayable,
        Self::RouteCap,
    ];

    /// Name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Route => "route",
            Self::Host => "host",
            Self::NeedsCredentials => "needs_credentials",
            Self::Redacted => "redacted",
            Self::Unreplayable => "unreplayable",
            Self::RouteCap => "route_cap",
        }
    }
}

/// A session of the plan: a recorded one, or a clone of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instance(pub u64);

/// A request that is due.
#[derive(Debug, Clone)]
pub struct PlannedRequest {
    /// What to send.
    pub shape: SharedShape,
    /// Body bytes to be made up; `None` is none, or a body that a rule gives.
    pub body_len: Option<u64>,
    /// Status when recorded.
    pub expected: Option<u16>,
    /// Route, for tallies.
    pub route: u16,
    /// Rate cap that applies, as its index in the policy.
    pub cap: Option<usize>,
    /// Its head, once it was made; none where it cannot be.
    pub prepared: OnceLock<Option<prepared::Prepared>>,
}

/// Counts requests per second against the rate caps of routes, in the order in which they are due.
#[derive(Debug, Clone)]
pub struct CapCounter {
    /// Per cap: rate in thousandths, the second counted now, requests in it.
    slots: Vec<(u64, u64, u64)>,
}

impl CapCounter {
    /// A counter for the caps of a policy.
    #[must_use]
    pub fn new(routes: &routes::Routes) -> Self {
        Self { slots: routes.max_rps.iter().map(|(_, rate)| (rate.mrps, 0, 0)).collect() }
    }

    /// Whether a request due then is above its cap. Counts it.
    pub fn is_over(&mut self, request: &PlannedRequest, due_ns: u64) -> bool {
        let Some((mrps, second, used)) = request.cap.and_then(|c| self.slots.get_mut(c)) else {
            return false;
        };
        let now = due_ns / crate::units::NANOS_PER_SEC;
        if *second != now {
            (*second, *used) = (now, 0);
        }
        *used += 1;
        // Requests allowed in this second: the growth of floor(rate x t), so 0.5/s is one in two seconds.
        let until = |s: u64| u128::from(*mrps) * u128::from(s) / 1000;
        u128::from(*used) > until(now + 1) - until(now)
    }
}

/// What is due.
#[derive(Debug, Clone)]
pub enum DepartureKind {
    /// Open a connection.
    Open {
        /// Its requests were recorded as HTTP/2.
        http2: bool,
    },
    /// Send a request.
    Request(Arc<PlannedRequest>, AnswerFacts),
    /// Close a connection.
    Close,
}

/// Something that is due at a moment of the plan.
#[derive(Debug, Clone)]
pub struct Departure {
    /// Nanoseconds since the start of the phase.
    pub due_ns: u64,
    /// Whose.
    pub instance: Instance,
    /// Connection within the session.
    pub connection: u16,
    /// What.
    pub kind: DepartureKind,
}
