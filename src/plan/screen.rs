//! Which recorded requests may become part of the plan, and why not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::DropReason;
use super::prepared::is_sendable;
use super::rewrite::{Bodies, Rewrite};
use super::routes::Routes;
use crate::limits::REQUEST_BODY_BYTES_MAX;
use crate::trace::RequestFacts;
use crate::trace::shape::RequestShape;

/// Most routes told apart in tallies; the rest is `other`.
const ROUTES_TOLD_MAX: usize = 256;

/// What a run may send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Screen {
    /// Methods allowed.
    pub methods: BTreeSet<Vec<u8>>,
    /// Routes allowed.
    pub routes: Routes,
    /// Recorded hosts that stand for the target (lower case, without port); `None` accepts every host.
    pub hosts: Option<BTreeSet<Vec<u8>>>,
    /// What is changed in requests: credentials, values and bodies that rules supply.
    pub rewrite: Arc<Rewrite>,
}

impl Screen {
    /// Methods that are safe by RFC 9110, section 9.2.1.
    #[must_use]
    pub fn safe_methods() -> BTreeSet<Vec<u8>> {
        [&b"GET"[..], b"HEAD", b"OPTIONS"].into_iter().map(<[u8]>::to_vec).collect()
    }

    /// Whether a request may be planned.
    ///
    /// # Errors
    /// The one reason why not, the first that applies in the order of [`DropReason::ALL`].
    pub fn judge(&self, request: &RequestFacts) -> Result<(), DropReason> {
        let shape = &request.shape;
        if !self.methods.contains(&shape.method[..]) {
            Err(DropReason::Method)
        } else if !self.routes.permits(&shape.method, shape.path()) {
            Err(DropReason::Route)
        } else if !self.knows_host(shape) {
            Err(DropReason::Host)
        } else if !self.rewrite.supplies_credentials(shape) {
            Err(DropReason::NeedsCredentials)
        } else if shape.target_redacted && self.rewrite.put(shape).is_none_or(|p| p.target.is_none()) {
            Err(DropReason::Redacted)
        } else if unreplayable(shape) || !self.has_body_if_any(request) {
            Err(DropReason::Unreplayable)
        } else {
            Ok(())
        }
    }

    /// Whether the body of a request, if it has one, can be sent.
    fn has_body_if_any(&self, request: &RequestFacts) -> bool {
        let shape = &request.shape;
        if self.rewrite.put(shape).is_some_and(|p| p.body.is_some()) {
            return true;
        }
        // A log does not tell bodies: what usually has one is not sent without.
        let bodyless = [&b"GET"[..], b"HEAD", b"OPTIONS"].contains(&&shape.method[..]);
        match (request.body_len.value, self.rewrite.bodies) {
            (Some(0), _) => true,
            (None, _) => bodyless,
            (Some(len), Bodies::Synthesise) => len <= REQUEST_BODY_BYTES_MAX,
            (Some(_), Bodies::Drop) => false,
        }
    }

    fn knows_host(&self, shape: &RequestShape) -> bool {
        let Some(hosts) = &self.hosts else { return true };
        // A log without hosts was written by the target itself.
        let Some(authority) = &shape.authority else { return true };
        let host = authority.to_ascii_lowercase();
        let colon =
            host.iter().rposition(|b| *b == b':').filter(|i| host[i + 1..].iter().all(u8::is_ascii_digit));
        hosts.contains(&host[..colon.unwrap_or(host.len())])
    }
}

/// What cannot be sent whatever the policy says: tunnels, protocol switches, targets that are not paths.
fn unreplayable(shape: &RequestShape) -> bool {
    let upgrade = shape.header("upgrade").is_some();
    let path = shape.target.starts_with(b"/") || *shape.target == *b"*";
    // The sender's own rule, so that what is planned can be built.
    let clean = is_sendable(shape);
    let method = matches!(&shape.method[..], b"CONNECT" | b"TRACE");
    upgrade || !path || !clean || method
}

/// Numbers for routes, for tallies: method and first path segment, bounded.
#[derive(Debug, Clone, Default)]
pub struct RouteNames {
    names: Vec<String>,
    numbers: BTreeMap<String, u16>,
}

impl RouteNames {
    /// The number of a request's route; 0 is `other`.
    pub fn number(&mut self, shape: &RequestShape) -> u16 {
        if self.names.is_empty() {
            self.names.push("other".to_owned());
        }
        let segment = shape.path().split(|b| *b == b'/').nth(1).unwrap_or_default();
        let digits = !segment.is_empty() && segment.iter().all(u8::is_ascii_digit);
        let segment = if digits { "N".into() } else { String::from_utf8_lossy(segment) };
        let name = format!("{} /{segment}", String::from_utf8_lossy(&shape.method));
        if let Some(number) = self.numbers.get(&name) {
            return *number;
        }
        if self.names.len() >= ROUTES_TOLD_MAX {
            return 0;
        }
        let number = self.names.len() as u16;
        self.names.push(name.clone());
        self.numbers.insert(name, number);
        number
    }

    /// Names by number.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }
}
