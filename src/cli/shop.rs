//! `replay shop`: the demo's shop by itself, so that a person has something to try a run against.

use std::io::Write;
use std::time::Duration;

use anyhow::Context;

use crate::demo::{Shop, ShopSettings};
use crate::edge::clock::wait;
use crate::edge::host::signals;
use crate::govern::latch::Latch;
use crate::units::parse_duration;

/// Open the demo's shop on this machine, to try things against.
#[derive(Debug, clap::Args)]
pub(super) struct ShopArgs {
    /// Port on loopback.
    #[arg(long, default_value_t = 8900)]
    port: u16,
    /// Workers; each serves one request at a time, in 20 ms.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    workers: u16,
    /// Close after this time.
    #[arg(long = "for", default_value = "10m", value_parser = parse_duration)]
    lasting: Duration,
}

impl ShopArgs {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// If the port is not to be had.
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<u8> {
        let settings =
            ShopSettings { workers: usize::from(self.workers), service_time: Duration::from_millis(20) };
        let latch = Latch::new();
        signals::stop_on_signals(&latch)?;
        let shop = Shop::open_at(settings, self.port)
            .with_context(|| format!("cannot listen on port {}", self.port))?;
        writeln!(
            out,
            "a shop for {:.0} requests a second at http://{} (queue at /metrics)",
            settings.capacity_rps(),
            shop.addr()
        )?;
        out.flush()?;
        let tick = Duration::from_millis(100);
        let mut left = self.lasting;
        while !latch.is_set() && !left.is_zero() {
            wait(tick.min(left));
            left = left.saturating_sub(tick);
        }
        Ok(super::OK)
    }
}
