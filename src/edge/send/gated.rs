//! The I/O under hyper: no byte of a request is written without a permit.
//!
//! `send_request` only queues, so the permit is handed to this wrapper and spent at the first write: latch
//! and lease are looked at there. It also sees when the head has been handed to the kernel and when the
//! first byte of the answer comes, which hyper does not tell.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connect::Stream;
use crate::edge::clock::Clock;
use crate::govern::gate::{Permit, ShedReason, Slot};
use crate::units::RunTime;

/// What the wrapper knows of the request under way.
#[derive(Debug, Default)]
pub struct Armed {
    permit: Option<Permit>,
    slot: Option<Slot>,
    refused: Option<ShedReason>,
    /// Bytes of `\r\n\r\n` matched so far.
    matched: u8,
    head_done: bool,
    written: Option<RunTime>,
    first_byte: Option<RunTime>,
}

/// Shared between the wrapper and its lane.
pub type SharedArmed = Rc<RefCell<Armed>>;

impl Armed {
    /// Arms the next write with a permit.
    pub fn arm(&mut self, permit: Permit) {
        *self = Self { permit: Some(permit), ..Self::default() };
    }

    /// Ends the request: gives the in-flight slot and an unused permit back.
    pub fn disarm(&mut self) {
        self.permit = None;
        self.slot = None;
    }

    /// When the head had been handed to the kernel.
    #[must_use]
    pub fn written(&self) -> Option<RunTime> {
        self.written
    }

    /// First byte of the answer.
    #[must_use]
    pub fn first_byte(&self) -> Option<RunTime> {
        self.first_byte
    }

    /// Why the first write was refused, if it was.
    #[must_use]
    pub fn refused(&self) -> Option<ShedReason> {
        self.refused
    }

    /// Spends the permit at the first write. Without one nothing may be written.
    fn may_write(&mut self, now: RunTime) -> io::Result<()> {
        if self.slot.is_some() {
            return Ok(());
        }
        let Some(permit) = self.permit.take() else {
            return Err(io::Error::other("a write without a permit"));
        };
        match permit.spend(now) {
            Ok(slot) => {
                self.slot = Some(slot);
                Ok(())
            }
            Err(reason) => {
                self.refused = Some(reason);
                Err(io::Error::other("the permit was no longer good at the first write"))
            }
        }
    }

    /// Looks for the end of the head in what was accepted.
    fn accepted(&mut self, bytes: &[u8], now: RunTime, buffered: bool) {
        const END: [u8; 4] = *b"\r\n\r\n";
        for byte in bytes {
            if self.head_done {
                break;
            }
            self.matched = if *byte == END[usize::from(self.matched)] {
                self.matched + 1
            } else {
                u8::from(*byte == END[0])
            };
            self.head_done = self.matched == 4;
        }
        if self.head_done && !buffered {
            self.written.get_or_insert(now);
        }
    }

    fn flushed(&mut self, now: RunTime) {
        if self.head_done {
            self.written.get_or_insert(now);
        }
    }
}

/// A connection whose writes need a permit.
#[derive(Debug)]
pub struct GatedIo {
    stream: Stream,
    armed: SharedArmed,
    clock: Clock,
}

impl GatedIo {
    /// Wraps a connection.
    #[must_use]
    pub fn new(stream: Stream, armed: SharedArmed, clock: Clock) -> Self {
        Self { stream, armed, clock }
    }
}

impl AsyncRead for GatedIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        let before = buf.filled().len();
        let polled = Pin::new(&mut me.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            let mut armed = me.armed.borrow_mut();
            if armed.first_byte.is_none() {
                armed.first_byte = Some(me.clock.now());
            }
        }
        polled
    }
}

impl AsyncWrite for GatedIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        let mut armed = me.armed.borrow_mut();
        armed.may_write(me.clock.now())?;
        let polled = Pin::new(&mut me.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(n)) = &polled {
            armed.accepted(&buf[..*n], me.clock.now(), me.stream.is_buffered());
        }
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        let polled = Pin::new(&mut me.stream).poll_flush(cx);
        if matches!(polled, Poll::Ready(Ok(()))) {
            me.armed.borrow_mut().flushed(me.clock.now());
        }
        polled
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::govern::gate::{Gate, GateLimits};
    use crate::govern::latch::{Latch, StopCause};
    use crate::units::Rate;

    const MS: fn(u64) -> RunTime = RunTime::from_millis;

    fn armed(gate: &std::sync::Arc<Gate>, at: RunTime) -> Armed {
        let mut armed = Armed::default();
        armed.arm(gate.permit(at).unwrap());
        armed
    }

    fn gate() -> std::sync::Arc<Gate> {
        let gate =
            Gate::new(Latch::new(), GateLimits::of_rate(Rate::per_sec(1_000), Rate::per_sec(1_000), 10));
        gate.publish(MS(0), Rate::per_sec(1_000), Rate::per_sec(10), MS(500));
        gate
    }

    #[test]
    fn without_a_permit_nothing_is_written() {
        assert!(Armed::default().may_write(MS(0)).is_err());
        let gate = gate();
        let mut a = armed(&gate, MS(50));
        gate.latch().set(StopCause::Signal);
        assert!(a.may_write(MS(50)).is_err());
        assert_eq!(a.refused(), Some(ShedReason::Latched));
        assert_eq!(gate.in_flight(), 0);
    }

    #[test]
    fn a_head_is_written_when_its_last_byte_is_accepted() {
        let gate = gate();
        let mut a = armed(&gate, MS(50));
        a.may_write(MS(50)).unwrap();
        a.accepted(b"GET / HTTP/1.1\r\nA: b\r\n\r", MS(51), false);
        assert_eq!(a.written(), None);
        a.accepted(b"\nGET", MS(52), false);
        assert_eq!(a.written(), Some(MS(52)));
        assert_eq!(gate.in_flight(), 1);
        a.disarm();
        assert_eq!(gate.in_flight(), 0);
        let mut tls = armed(&gate, MS(60));
        tls.may_write(MS(60)).unwrap();
        tls.accepted(b"\r\r\n\r\n", MS(61), true);
        assert_eq!(tls.written(), None, "it may still lie in our buffer");
        tls.flushed(MS(62));
        assert_eq!(tls.written(), Some(MS(62)));
    }
}
