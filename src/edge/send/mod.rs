//! Requests out: name resolution, connections, TLS, one lane per connection.
//!
//! Nothing leaves without a permit: opening takes a [`ConnectPermit`](crate::govern::gate::ConnectPermit)
//! and an address that the policy permits; a lane hands a request over only with the
//! [`Slot`](crate::govern::gate::Slot) that a [`Permit`](crate::govern::gate::Permit) becomes.

pub mod book;
pub mod connect;
pub mod dns;
pub mod lane;
pub mod look;
pub mod mux;
pub mod session;
mod shared_wire;
