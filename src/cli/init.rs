//! `replay init`: a short policy for review, from what a Prometheus has and what a trace holds.
//!
//! It proposes, a person decides: every line that it could not know says so, and `replay check` refuses the file
//! until the owner has put a name to it.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::edge::clock::Clock;
use crate::edge::watch::get::get;
use crate::edge::watch::poll::{Board, PollContext};
use crate::edge::watch::prometheus::{query_url, read_labels, read_names, scrape_interval};
use crate::engine::foresight::Foresight;
use crate::engine::prepare::{default_policy, survey};
use crate::plan::forecast::Forecast;
use crate::policy::packs::{Pack, choose_le, found};
use crate::policy::target::{is_loopback_host, split};
use crate::units::{Scale, show_duration};

/// Write a short policy for review.
#[derive(Debug, clap::Args)]
pub(super) struct InitArgs {
    /// The trace that will be replayed.
    #[arg(long, value_name = "TRACE")]
    trace: PathBuf,
    /// URL of the load balancer.
    #[arg(long, value_name = "URL")]
    target: String,
    /// URL of the Prometheus that watches it.
    #[arg(long, value_name = "URL")]
    prometheus: String,
    /// Label matchers that choose the service, such as 'service="checkout"'.
    #[arg(long, default_value = "", value_name = "MATCHERS")]
    scope: String,
    /// Latency that users should not notice.
    #[arg(long, default_value = "500ms", value_parser = crate::units::parse_duration)]
    slow: Duration,
    /// Where to write it; standard output by default.
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What a Prometheus told.
struct Found {
    pack: &'static Pack,
    scrape: Duration,
    errors: bool,
    le: Option<String>,
    /// The metric tells marked traffic apart by a label `replay`.
    marked: bool,
}

impl InitArgs {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// When trace or Prometheus cannot be read, or nothing known is found there.
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<u8> {
        let (_, host, port) = split(&self.target).with_context(|| {
            format!("--target {:?} is not a URL such as \"https://api.example.com\"", self.target)
        })?;
        // Every route must be seen: one that is not written down here may never be sent.
        let (forecast, _) = survey(&self.trace, default_policy()?, Scale::ONE, Foresight::whole)?;
        anyhow::ensure!(
            !forecast.routes.is_empty(),
            "{}: no request of the trace may be sent, so there is no route to allow",
            self.trace.display()
        );
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let found = runtime.block_on(self.look())?;
        writeln!(
            std::io::stderr(),
            "replay: metrics as of {}; scraped every {}",
            found.pack.name,
            show_duration(found.scrape)
        )?;
        let text = self.policy(&host, port, &forecast, &found);
        match &self.out {
            Some(path) => {
                anyhow::ensure!(!path.exists(), "{} exists; it is not written over", path.display());
                std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
                writeln!(
                    std::io::stderr(),
                    "replay: wrote {}; read it line by line, then: replay check {}",
                    path.display(),
                    path.display()
                )?;
            }
            None => write!(out, "{text}")?,
        }
        Ok(super::OK)
    }

    async fn look(&self) -> anyhow::Result<Found> {
        let base = self.prometheus.trim_end_matches('/');
        let tls = base.starts_with("https:").then(crate::edge::trust::client_config).transpose()?;
        let ask = async |url: String| {
            let got = tokio::time::timeout(Duration::from_secs(10), get(&url, tls.as_ref(), None)).await;
            match got {
                Ok(Ok(got)) => Ok(got),
                Ok(Err(why)) => bail!("{base} cannot be asked: {why:?}"),
                Err(_) => bail!("{base} did not answer within 10 s"),
            }
        };
        let names = ask(format!("{base}/api/v1/label/__name__/values")).await?;
        let names =
            read_names(&names).map_err(|why| anyhow::anyhow!("{base} did not list its metrics: {why:?}"))?;
        let scrape = scrape_interval(&ask(format!("{base}/api/v1/status/config")).await?)
            .unwrap_or(Duration::from_secs(15));
        for pack in found(&names) {
            let values = async |query: String, label: &str| -> anyhow::Result<Vec<String>> {
                Ok(read_labels(&ask(query_url(base, &query)).await?, label))
            };
            let some =
                values(format!("count({})", pack.requests_expr(&self.scope, &range(scrape))), "").await?;
            if some.is_empty() {
                continue;
            }
            let errors = match (pack.status_query(&self.scope), pack.status_label) {
                (Some(q), Some(label)) => !values(q, label).await?.iter().all(String::is_empty),
                _ => false,
            };
            let les = match pack.buckets_query() {
                Some(q) => values(q, "le").await?,
                None => Vec::new(),
            };
            let le = pack.latency.and_then(|l| choose_le(l.unit_per_second, &les, self.slow.as_secs_f64()));
            let marked = values(
                format!("count by (replay) ({{__name__=\"{}\",replay!=\"\"}})", pack.requests),
                "replay",
            )
            .await?;
            return Ok(Found { pack, scrape, errors, le, marked: !marked.is_empty() });
        }
        bail!(
            "no metric of requests that this program knows has data on {base}{}; write the guards by hand (policies/production-example.toml)",
            if self.scope.is_empty() { String::new() } else { format!(" for {}", self.scope) }
        )
    }

    fn policy(&self, host: &str, port: u16, f: &Forecast, found: &Found) -> String {
        let range = range(found.scrape);
        let pack = found.pack;
        let scope = self.scope.trim().trim_matches(',');
        let users = match (scope.is_empty(), found.marked) {
            (true, true) => "replay=\"\"".to_owned(),
            (false, true) => format!("{scope},replay=\"\""),
            (_, false) => scope.to_owned(),
        };
        let loopback = is_loopback_host(host);
        let networks = if loopback { ", \"127.0.0.0/8\", \"::1/128\"" } else { "" };
        let peak = f.peak.rps();
        let mut t = String::new();
        let mut line = |l: String| t.push_str(&(l + "\n"));
        line("version = 1".to_owned());
        line(format!("name = {:?}", format!("{host}-replay")));
        line(if loopback {
            "owner = \"you\"".to_owned()
        } else {
            "# owner = \"YOUR TEAM <mail>\"     # who answers for this load: no run before it is given"
                .to_owned()
        });
        line(format!(
            "target = {{ url = {:?}, allow = [\"{host}:{port}\"{networks}], hosts = [\"*\"] }}   # add the balancer's network",
            self.target.trim_end_matches('/')
        ));
        line(format!("routes = {{ allow = [{}] }}", routes(f)));
        if !loopback {
            line("window = { timezone = \"UTC\", start = \"Sun 03:00\", duration = \"2h\" }   # your quiet hours".to_owned());
        }
        line(format!(
            "rate = {{ max_scale = 2, max_rps = {:.0}, max_new_connections_per_s = 50 }}   # twice the recorded peak",
            (peak * 2.0).ceil().max(1.0)
        ));
        line(format!(
            "budget = {{ failed_requests = {}, bytes_received = \"100GiB\" }}",
            (f.counts.due / 500).max(50)
        ));
        line(format!(
            "stop = {{ kill_file = {:?} }}",
            if loopback { "/tmp/replay-STOP" } else { "/run/replay/STOP" }
        ));
        line(format!(
            "prometheus = {{ url = {:?}, scrape_interval = \"{}\" }}",
            self.prometheus.trim_end_matches('/'),
            show_duration(found.scrape)
        ));
        if !loopback {
            let about = "# an address that this Prometheus scrapes";
            line(format!("metrics = {{ listen = \"127.0.0.1:9464\" }}   {about}"));
        }
        line(format!("visibility = {{ requests = '{}' }}", pack.requests_expr(scope, &range)));
        if found.errors {
            line("[[guard]]".to_owned());
            line("name = \"errors seen by users\"".to_owned());
            if let (true, Some(expr)) = (found.marked, pack.errors_expr(&users, &range)) {
                line(format!("expr = '{expr}'"));
            } else if let Some((errors, requests)) =
                pack.errors_expr(scope, &range).as_deref().and_then(|e| e.rsplit_once(" / "))
            {
                line(format!("errors = '{errors}'   # nothing marks our traffic here, so it is subtracted"));
                line(format!("requests = '{requests}'"));
            }
            line("unit = \"ratio\"".to_owned());
            line(
                "hold_above = \"0.5%\"\nback_off_above = \"1%\"\nabort_above = \"5%\"\nmin_samples = 100"
                    .to_owned(),
            );
        }
        if let Some((le, expr)) =
            found.le.as_ref().and_then(|le| Some((le, pack.slow_expr(&users, &range, le)?)))
        {
            line("[[guard]]".to_owned());
            line(format!("name = \"slow requests (bucket {le})\""));
            line(format!("expr = '{expr}'"));
            line("unit = \"ratio\"\nback_off_above = \"5%\"\nabort_above = \"25%\"".to_owned());
        }
        line("[local]".to_owned());
        line("error_ratio = { back_off_above = \"5%\", abort_above = \"30%\" }".to_owned());
        line(format!("p95 = {{ back_off_above = \"{}\" }}", show_duration(self.slow * 2)));
        t
    }
}

fn range(scrape: Duration) -> String {
    show_duration((scrape * 4).max(Duration::from_secs(60)))
}

/// The routes that make up the trace, as patterns: what is rarer than one in a hundred is left to the reader.
fn routes(f: &Forecast) -> String {
    let all: u64 = f.routes.iter().map(|(_, n)| n).sum();
    let mut often: Vec<&(String, u64)> =
        f.routes.iter().filter(|(name, n)| *n * 100 >= all && name != "other").collect();
    often.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    let pattern = |name: &str| {
        let (method, path) = name.split_once(' ').unwrap_or(("GET", name));
        match path {
            "/" => vec![format!("\"{method} /\"")],
            "/N" => vec![format!("\"{method} /*/**\""), format!("\"{method} /*\"")],
            path => vec![format!("\"{method} {path}\""), format!("\"{method} {path}/**\"")],
        }
    };
    often.iter().take(8).flat_map(|(name, _)| pattern(name)).collect::<Vec<_>>().join(", ")
}

/// A context to ask Prometheus outside a run.
///
/// # Errors
/// When TLS or the token cannot be set up.
pub(super) fn context(policy: &crate::policy::Policy, target: String) -> anyhow::Result<PollContext> {
    let https = |u: &str| u.starts_with("https:");
    let page = |g: &crate::policy::QueryGuard| matches!(&g.query, crate::policy::GuardQuery::Scrape(q) if https(&q.url));
    let tls = policy.prometheus.as_ref().is_some_and(|p| https(&p.url)) || policy.guards.iter().any(page);
    Ok(PollContext {
        exported: false,
        board: Board::new(policy.guards.len()),
        clock: Clock::start(),
        prometheus: policy.prometheus.clone(),
        tls: tls.then(crate::edge::trust::client_config).transpose()?,
        token: crate::engine::run::token(policy)?,
        ours: std::sync::Arc::default(),
        questions: std::sync::Arc::default(),
        run: "check".to_owned(),
        target,
    })
}
