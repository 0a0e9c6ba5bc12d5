//! What a run asks of this machine, looked at before the first request: open files, local ports, local addresses.
//!
//! A generator that runs out of them fails in ways that look like the target's.

use core::net::{IpAddr, SocketAddr};
use std::net::TcpListener;

use super::prepare::Request;
use crate::edge::host::capacity;
use crate::limits::SOURCE_ADDRESSES_MAX;
use crate::plan::connections::Connections;
use crate::plan::forecast::Forecast;

/// Files that a run needs besides its connections: journal, logs, timers, guards.
const FILES_BESIDES: u64 = 100;

/// Why the local addresses cannot be used.
#[must_use]
pub fn source_objection(addrs: &[IpAddr]) -> Option<String> {
    if addrs.len() > SOURCE_ADDRESSES_MAX {
        return Some(format!("--source-ip: {} addresses; at most {SOURCE_ADDRESSES_MAX}", addrs.len()));
    }
    addrs.iter().find_map(|addr| {
        let error = TcpListener::bind(SocketAddr::new(*addr, 0)).err()?;
        Some(format!(
            "--source-ip {addr} is no address of this machine that connections can come from: {error}"
        ))
    })
}

/// Most connections that are open at once.
#[must_use]
pub fn connections(asked: &Request, forecast: &Forecast) -> u64 {
    match asked.connections {
        Connections::Recorded => forecast.connections_peak,
        Connections::Pool(n) => u64::from(n),
    }
}

/// Why this machine cannot carry so many connections, and what may go wrong with them. The limit of open files is raised
/// to what the system allows first.
#[must_use]
pub fn capacity_objection(connections: u64, sources: usize) -> (Option<String>, Vec<String>) {
    let files = capacity::raise_files();
    if let Some(files) = files.filter(|f| connections.saturating_add(FILES_BESIDES) > *f) {
        return (
            Some(format!(
                "{connections} connections at once need more than the {files} open files that this process may have; raise LimitNOFILE= of the service or ulimit -Hn, or use --connections pool:N or a smaller --scale"
            )),
            Vec::new(),
        );
    }
    (None, capacity::look().scarce(connections, sources))
}
