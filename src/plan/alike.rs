//! Requests that are alike, judged and planned once.
//!
//! Most requests of a trace are few: the same shape, the same status. Judging one looks for words in its path, and its
//! head is made with it, so both are kept by the place of the shape in memory. An entry holds its shape, so the place
//! cannot become another's while the entry is there.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::screen::{RouteNames, Screen};
use super::{DropReason, PlannedRequest, shift};
use crate::limits::ALIKE_MAX;
use crate::trace::shape::SharedShape;
use crate::trace::{RequestFacts, RequestShape};

/// Place of the shape, status, body, and the clone where clones differ.
type Key = (usize, Option<u16>, Option<u64>, u64);

/// What was judged before.
#[derive(Debug, Clone, Default)]
pub(super) struct Alike {
    known: BTreeMap<Key, (SharedShape, Result<Arc<PlannedRequest>, DropReason>)>,
}

impl Alike {
    /// The request as planned, or why it is not part of the plan.
    ///
    /// # Errors
    /// The one reason.
    pub(super) fn planned(
        &mut self,
        screen: &Screen,
        routes: &mut RouteNames,
        r: &RequestFacts,
        clone: u64,
    ) -> Result<Arc<PlannedRequest>, DropReason> {
        let key = (Arc::as_ptr(&r.shape) as usize, r.status.value, r.body_len.value, clone);
        if let Some((_, known)) = self.known.get(&key) {
            return known.clone();
        }
        let shifted = shift::target(&screen.rewrite.shifts, &r.shape, clone, screen.rewrite.days);
        let shape = match shifted {
            None => Arc::clone(&r.shape),
            Some(target) => Arc::new(RequestShape { target: target.into(), ..RequestShape::clone(&r.shape) }),
        };
        // Judged as it would be sent.
        let planned = screen.judge(&RequestFacts { shape: Arc::clone(&shape), ..r.clone() }).map(|()| {
            Arc::new(PlannedRequest {
                shape: Arc::clone(&shape),
                body_len: r.body_len.value,
                expected: r.status.value,
                route: routes.number(&shape),
                cap: screen.routes.cap(&shape.method, shape.path()),
                prepared: OnceLock::new(),
            })
        });
        if self.known.len() >= ALIKE_MAX {
            self.known.clear();
        }
        self.known.insert(key, (Arc::clone(&r.shape), planned.clone()));
        planned
    }
}
