//! `replay check POLICY`: everything that can be known before sending.

use std::io::Write;
use std::path::PathBuf;

use crate::edge::clock::Clock;
use crate::edge::watch::poll::{Board, PollContext, ask};
use crate::engine::prepare::load_policy;
use crate::govern::reading::{Answer, NoData, Reading};
use crate::policy::settings::{LeadIn, govern, lag, time_to_full};
use crate::policy::{GuardQuery, Policy, QueryGuard};
use crate::units::show_duration;

/// Check a policy without sending any traffic.
#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// Policy file (TOML); see policies/production-example.toml.
    policy: PathBuf,
    /// Do not ask Prometheus or any metrics page.
    #[arg(long)]
    offline: bool,
    /// Print lags, reaction times and requests at risk.
    #[arg(long)]
    explain: bool,
}

impl CheckArgs {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// If the output cannot be written.
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<u8> {
        let policy = match load_policy(&self.policy) {
            Ok(policy) => policy,
            Err(error) => {
                writeln!(std::io::stderr(), "replay: {error:#}")?;
                return Ok(super::USAGE);
            }
        };
        writeln!(out, "{}: {} (hash {})", self.policy.display(), policy.name, policy.hash)?;
        for warning in &policy.warnings {
            writeln!(out, "{warning}")?;
        }
        if self.explain {
            explain(out, &policy)?;
        }
        let healthy = self.offline || policy.guards.is_empty() || ask_all(out, &policy)?;
        writeln!(
            out,
            "{}",
            if healthy {
                "the policy is accepted"
            } else {
                "the policy is accepted, but a run would not start now"
            }
        )?;
        Ok(if healthy { super::OK } else { super::REFUSED })
    }
}

fn explain(out: &mut impl Write, policy: &Policy) -> anyhow::Result<()> {
    let settings = govern(policy, policy.rate.max_rps, LeadIn::Auto);
    writeln!(out, "L = {} (largest lag of any guard)", show_duration(lag(policy)))?;
    for guard in &settings.guards {
        let at_risk = policy.rate.max_rps.rps() * guard.lag.as_secs_f64();
        writeln!(
            out,
            "  {:<40} reacts within {:>7}; {at_risk:.0} requests at max_rps until then",
            guard.name,
            show_duration(guard.lag)
        )?;
    }
    writeln!(
        out,
        "steps of {:.0} % every {}; full scale after {} at the earliest; cool-down {}",
        settings.step.as_f64() * 100.0,
        show_duration(settings.step_hold),
        show_duration(time_to_full(&settings)),
        show_duration(settings.cooldown)
    )?;
    Ok(())
}

/// One answer; a growth per second needs two looks.
async fn once(context: &PollContext, guard: &QueryGuard) -> Answer {
    let (mut before, mut answer) = (None, Answer::NoData(NoData::NotYet));
    for _ in 0..2 {
        let asked = ask(context, guard, &mut before, context.clock.now());
        answer = tokio::time::timeout(guard.timeout, asked).await.unwrap_or(Answer::NoData(NoData::Timeout));
        if answer != Answer::NoData(NoData::NotYet) {
            break;
        }
        tokio::time::sleep(guard.poll).await;
    }
    answer
}

/// Asks each guard once and says what it would mean.
fn ask_all(out: &mut impl Write, policy: &Policy) -> anyhow::Result<bool> {
    let https = |u: &str| u.starts_with("https:");
    let page = |g: &crate::policy::QueryGuard| matches!(&g.query, GuardQuery::Scrape(q) if https(&q.url));
    let tls = policy.prometheus.as_ref().is_some_and(|p| https(&p.url)) || policy.guards.iter().any(page);
    let context = PollContext {
        board: Board::new(policy.guards.len()),
        clock: Clock::start(),
        prometheus: policy.prometheus.clone(),
        tls: tls.then(crate::edge::trust::client_config).transpose()?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut healthy = true;
    for guard in &policy.guards {
        let answer = runtime.block_on(once(&context, guard));
        let reading = guard.spec.read(answer);
        let fine = matches!(reading, Reading::Good(_) | Reading::Neutral);
        healthy &= fine || !guard.spec.required;
        let would = if fine { "would start" } else { "would not start" };
        writeln!(out, "  {:<40} {reading:?}: {would}", guard.spec.name)?;
    }
    Ok(healthy)
}
