//! `replay demo`: a capture, a shop with a knee, a run below it and a run into it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};

use super::capture::{CaptureOptions, capture};
use super::run::LiveLine;
use crate::demo::{Shop, ShopSettings};
use crate::engine::prepare::{Refusal, Request, prepare};
use crate::engine::run::{Conduct, run, workers_for};
use crate::plan::connections::Connections;
use crate::plan::pacing::Pacing;
use crate::policy::settings::LeadIn;
use crate::policy::{Policy, check};
use crate::report::json::Report;
use crate::report::text;
use crate::units::{Scale, Speed};

/// The capture that the demo replays; how it was made is in captures/README.md.
const CAPTURE: &[u8] = include_bytes!("../../captures/demo.pcap");

/// The demo's policy.
const POLICY: &str = include_str!("../../policies/demo.toml");

/// The shop carries 250 requests a second: twice the recorded rate, less than four times.
const SHOP: ShopSettings = ShopSettings { workers: 5, service_time: Duration::from_millis(20) };

/// Watch the governor at work against a built-in shop on this machine.
#[derive(Debug, clap::Args)]
pub(super) struct DemoArgs {
    /// Folder for trace and reports; default runs/demo.
    #[arg(long, default_value = "runs/demo")]
    out: PathBuf,
    /// No live line.
    #[arg(long)]
    quiet: bool,
}

fn policy(shop: &Shop) -> anyhow::Result<Policy> {
    let text = POLICY.replace("http://127.0.0.1:1/metrics", &format!("http://{}/metrics", shop.addr()));
    check::parse(&text, "built in, for the demo").context("the demo's policy is refused")
}

impl DemoArgs {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// When a part of the demo fails, or did not happen as described.
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<u8> {
        std::fs::create_dir_all(&self.out)
            .with_context(|| format!("cannot create {}", self.out.display()))?;
        let shop = Shop::open(SHOP)?;
        writeln!(
            out,
            "1. A shop on this machine: {} workers, 20 ms each, so it carries {:.0} requests a second.",
            SHOP.workers,
            SHOP.capacity_rps()
        )?;
        let trace = self.out.join("demo.trace");
        let pcap = self.out.join("demo.pcap");
        std::fs::write(&pcap, CAPTURE)?;
        let written = capture(std::slice::from_ref(&pcap), &trace, &CaptureOptions::default())?.written;
        writeln!(
            out,
            "2. A capture of real packets became a trace: {} requests in {} sessions, {} bytes instead of {}.",
            written.requests,
            written.sessions,
            written.bytes,
            CAPTURE.len()
        )?;
        writeln!(out, "3. Replayed as recorded (1x), below the shop's limit:")?;
        out.flush()?;
        let calm = self.one(&shop, &trace, "1x", LeadIn::None, Duration::from_secs(5), "calm")?;
        line(out, &calm)?;
        writeln!(out, "4. Replayed at 4x, beyond the limit, climbing step by step under the governor:")?;
        out.flush()?;
        let hot = self.one(&shop, &trace, "4x", LeadIn::Auto, Duration::from_secs(12), "hot")?;
        write!(out, "{}", indented(&text::summary(&hot)))?;
        verdict(out, &calm, &hot)?;
        let report = self.out.join("hot").join("report.json");
        writeln!(
            out,
            "\nTake away: the governor saw the queue grow, halved the load before a single request failed, and went on\nbelow the rate that broke, so production would have kept its users. Report: {}",
            report.display()
        )?;
        Ok(super::OK)
    }

    fn one(
        &self,
        shop: &Shop,
        trace: &Path,
        scale: &str,
        lead_in: LeadIn,
        run_for: Duration,
        name: &str,
    ) -> anyhow::Result<Report> {
        let request = Request {
            trace: trace.to_owned(),
            scale: Scale::parse(scale)?,
            speed: Speed::ONE,
            rate: None,
            policy: policy(shop)?,
            target: Some(format!("http://{}", shop.addr())),
            connect_to: None,
            from: Duration::ZERO,
            to: None,
            run_for: Some(run_for),
            repeat: true,
            lead_in,
            seed: 1,
            shard: (0, 1),
            pacing: Pacing::Auto,
            connections: Connections::Recorded,
            source_ips: Vec::new(),
        };
        let (prepared, _) = prepare(&request).map_err(|r| match r {
            Refusal::Usage(error) => error,
            Refusal::Refused(why) => anyhow::anyhow!(why),
        })?;
        let workers = workers_for(prepared.settings.target, prepared.connections);
        let conduct = Conduct::into(self.out.join(name), workers);
        let mut live = LiveLine::new(self.quiet);
        let report = run(prepared, &conduct, &mut |s| live.show(s));
        live.done();
        report
    }
}

fn line(out: &mut impl Write, r: &Report) -> anyhow::Result<()> {
    let p95 = r.latency.get("response").and_then(|l| l.p95_ms).unwrap_or(f64::NAN);
    writeln!(
        out,
        "   {}: {} sent, {} ok, p95 {p95:.1} ms from the due time, own send lag p50 {:.2} ms",
        r.state,
        r.counts.sent,
        r.counts.ok,
        r.fidelity.send_lag_p50_ms.unwrap_or(f64::NAN)
    )?;
    Ok(())
}

fn indented(text: &str) -> String {
    text.lines().map(|l| if l.is_empty() { "\n".to_owned() } else { format!("   {l}\n") }).collect()
}

/// Whether what the demo tells is what happened.
fn verdict(out: &mut impl Write, calm: &Report, hot: &Report) -> anyhow::Result<()> {
    let cut = hot.events.iter().find(|e| e.what.starts_with("share cut") && e.what.contains("shop:"));
    let recovered = hot.events.iter().any(|e| e.what.starts_with("recover →"));
    ensure!(calm.state == "completed", "the calm run ended as {}: {:?}", calm.state, calm.cause);
    ensure!(cut.is_some(), "no cut on the scraped guard was seen");
    ensure!(recovered, "the governor did not recover");
    ensure!(hot.state == "completed_capped", "the hot run ended as {}: {:?}", hot.state, hot.cause);
    let c = &hot.counts;
    let failed = c.timeout + c.error.values().sum::<u64>() + c.unexpected.values().sum::<u64>();
    ensure!(failed == 0, "{failed} requests failed");
    ensure!(hot.identities.values().all(|holds| *holds), "the counts do not add up");
    if let Some(cut) = cut {
        writeln!(out, "\n   The moment to look at: {:.1} s, {}.", cut.t, cut.what)?;
    }
    Ok(())
}
