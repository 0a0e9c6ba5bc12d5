//! Requests out: name resolution, connections, TLS, one lane per connection.
//!
//! Nothing leaves without a permit: opening takes a [`ConnectPermit`](crate::govern::gate::ConnectPermit)
//! and an address that the policy permits; the I/O under hyper refuses any write that is not armed with a
//! [`Permit`](crate::govern::gate::Permit).

pub mod book;
pub mod connect;
pub mod dns;
pub mod lane;
pub mod look;
pub mod session;
