//! `replay simulate JOURNAL|SCENARIO.toml`: decide again, offline, and draw it.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::explain::load;
use crate::engine::prepare::load_policy;
use crate::govern::record::redecide;
use crate::policy::settings::{LeadIn, govern};
use crate::report::explain::Journal;
use crate::report::picture::{Moment, of_moments, of_run};
use crate::simulate::{Scenario, again, run};

/// Decide a recorded run again, or an invented one, offline.
#[derive(Debug, clap::Args)]
pub(super) struct SimulateArgs {
    /// A run's folder or journal, or a scenario (TOML).
    input: PathBuf,
    /// Decide a recorded run under this policy's limits instead of its own.
    #[arg(long, value_name = "POLICY")]
    policy: Option<PathBuf>,
    /// Draw share, ceiling and guards over time into this file (SVG).
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

impl SimulateArgs {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// When the input cannot be read or the output not written.
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<u8> {
        let scenario = self.input.extension().is_some_and(|e| e == "toml");
        match (scenario, &self.policy) {
            (true, None) => self.scenario(out),
            (true, Some(_)) => {
                anyhow::bail!("a scenario has its own governor; --policy is for recorded runs")
            }
            (false, None) => self.recorded(out),
            (false, Some(policy)) => self.other_policy(out, policy),
        }
    }

    fn draw(&self, svg: &str) -> anyhow::Result<()> {
        let Some(path) = &self.svg else { return Ok(()) };
        std::fs::write(path, svg).with_context(|| format!("cannot write {}", path.display()))?;
        writeln!(std::io::stderr(), "replay: the picture is in {}", path.display())?;
        Ok(())
    }

    fn scenario(&self, out: &mut impl Write) -> anyhow::Result<u8> {
        let show = self.input.display();
        let text = std::fs::read_to_string(&self.input).with_context(|| format!("cannot read {show}"))?;
        let scenario =
            Scenario::parse(&text).map_err(|e| anyhow::anyhow!("the scenario {show} is refused: {e}"))?;
        let (ticks, o) = run(&scenario);
        let end = o.terminal.map_or_else(
            || "time was up first".to_owned(),
            |t| format!("{}{}", t.name(), t.cause().map_or_else(String::new, |c| format!(" ({c:?})"))),
        );
        writeln!(out, "{}: {end}", scenario.name)?;
        writeln!(out, "  highest second over capacity  {:>9.2} x", o.peak_over_capacity)?;
        writeln!(out, "  highest ten seconds           {:>9.2} x", o.sustained_over_capacity)?;
        writeln!(out, "  time over capacity            {:>9.1} s", o.over_capacity_s)?;
        writeln!(out, "  failed of all requests        {:>9.3} %", o.failed_ratio * 100.0)?;
        writeln!(out, "  failed requests of users      {:>9.0}", o.users_failed)?;
        writeln!(out, "  back-offs                     {:>9}", o.back_offs)?;
        writeln!(out, "  ours over the last quarter    {:>9.1} /s", o.settled_rps)?;
        let moments: Vec<Moment<'_>> = ticks
            .iter()
            .map(|t| Moment { inputs: &t.inputs, state: &t.state, effects: &t.effects })
            .collect();
        self.draw(&of_moments(&scenario.name, &end, &scenario.settings, &moments).svg())?;
        Ok(super::OK)
    }

    fn recorded(&self, out: &mut impl Write) -> anyhow::Result<u8> {
        let lines = load(&self.input)?;
        let journal = Journal::of(&lines).context("the journal does not begin with the start of a run")?;
        let again = redecide(&journal.settings, journal.ticks.iter().map(|(i, s, _)| (*i, *s)));
        self.draw(&of_run(&journal).svg())?;
        match again {
            None => {
                writeln!(
                    out,
                    "{} ticks decided again from their inputs: the same states",
                    journal.ticks.len()
                )?;
                Ok(super::OK)
            }
            Some(d) => {
                let at = d.at.as_secs_f64();
                writeln!(
                    out,
                    "tick {} ({at:.1} s): {} in the journal, {} when decided again",
                    d.tick, d.phases.0, d.phases.1
                )?;
                Ok(super::FAULT)
            }
        }
    }

    fn other_policy(&self, out: &mut impl Write, policy: &Path) -> anyhow::Result<u8> {
        let lines = load(&self.input)?;
        let journal = Journal::of(&lines).context("the journal does not begin with the start of a run")?;
        let policy = load_policy(policy)?;
        let recorded = &journal.settings;
        let lead_in = if recorded.lead_in { LeadIn::Auto } else { LeadIn::None };
        let mut settings = govern(&policy, recorded.target, lead_in);
        (settings.window_end, settings.measure_len) = (recorded.window_end, recorded.measure_len);
        let ticks: Vec<_> = journal.ticks.iter().map(|(i, s, _)| (*i, *s)).collect();
        let again = again::decide(&settings, recorded, &ticks).map_err(anyhow::Error::msg)?;
        let was = journal.terminal().map_or("breaks off", |t| t.name());
        let end =
            again.ticks.last().and_then(|(_, s, _)| s.terminal).map_or("goes on at the end", |t| t.name());
        writeln!(out, "recorded: {was}; under {}: {end}", policy.name)?;
        match again.differs_at.and_then(|n| again.ticks.get(n)) {
            None => writeln!(out, "no decision differs")?,
            Some((i, s, _)) => {
                let at = i.now.as_secs_f64();
                writeln!(
                    out,
                    "the first difference is at {at:.1} s ({}, {:.1} %)",
                    s.phase.name(),
                    s.share.as_f64() * 100.0
                )?;
                writeln!(
                    out,
                    "from there on the readings are those of the recorded traffic: take it as an approximation"
                )?;
            }
        }
        let moments: Vec<Moment<'_>> =
            again.ticks.iter().map(|(inputs, state, effects)| Moment { inputs, state, effects }).collect();
        let title = format!("Run {} under {}", journal.run, policy.name);
        self.draw(&of_moments(&title, "decided again; readings as recorded", &settings, &moments).svg())?;
        Ok(super::OK)
    }
}
