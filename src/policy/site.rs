//! Site limits: what no policy and no flag on this host can exceed.
//!
//! The file (`/etc/replay/limits.toml`) belongs to whoever runs the host, not to whoever writes policies. Pure:
//! the text is an argument; `edge::host::site_file` reads it and insists on its owner. It can only lower.

use std::time::Duration;

use serde::Deserialize;

use super::Policy;
use super::target::AllowList;
use crate::govern::budget::BudgetLimits;
use crate::units::{Rate, parse_bytes, parse_duration, show_duration};

/// The file as it is written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SiteFile {
    version: u32,
    max_rps: Option<f64>,
    max_new_connections_per_s: Option<f64>,
    max_in_flight: Option<u64>,
    max_mbit_per_s: Option<f64>,
    max_bytes_received: Option<String>,
    max_duration: Option<String>,
    targets: Option<Vec<String>>,
    methods: Option<Vec<String>>,
}

/// Checked site limits; `None` leaves the policy as it is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SiteLimits {
    /// Highest request rate.
    pub max_rps: Option<Rate>,
    /// Highest rate of new connections.
    pub max_new_connections: Option<Rate>,
    /// Most requests in flight.
    pub max_in_flight: Option<u64>,
    /// Most Mbit/s received.
    pub max_mbit_per_s: Option<f64>,
    /// Most bytes received in one period.
    pub max_bytes_received: Option<u64>,
    /// Longest run.
    pub max_duration: Option<Duration>,
    /// Whom any run may hit.
    pub targets: Option<AllowList>,
    /// What any run may send.
    pub methods: Option<Vec<String>>,
}

/// Parses site limits.
///
/// # Errors
/// In words; a file that cannot be understood limits nothing, so the caller must refuse to run.
pub fn parse(text: &str) -> Result<SiteLimits, String> {
    let file: SiteFile = toml::from_str(text).map_err(|e| e.to_string())?;
    if file.version != 1 {
        return Err(format!("version {} is not known; this program reads version 1", file.version));
    }
    let positive = |key: &str, v: Option<f64>| match v {
        Some(v) if !v.is_finite() || v <= 0.0 => Err(format!("{key} = {v} must be above 0")),
        other => Ok(other),
    };
    let targets = match &file.targets {
        None => None,
        Some(t) => Some(AllowList::parse(t.iter().map(String::as_str)).map_err(|e| format!("targets: {e}"))?),
    };
    if file.max_in_flight == Some(0) {
        return Err("max_in_flight must be above 0".to_owned());
    }
    Ok(SiteLimits {
        max_rps: positive("max_rps", file.max_rps)?.map(Rate::from_rps_f64),
        max_new_connections: positive("max_new_connections_per_s", file.max_new_connections_per_s)?
            .map(Rate::from_rps_f64),
        max_in_flight: file.max_in_flight,
        max_mbit_per_s: positive("max_mbit_per_s", file.max_mbit_per_s)?,
        max_bytes_received: file
            .max_bytes_received
            .map(|t| parse_bytes(&t).map_err(|e| format!("max_bytes_received: {e}")))
            .transpose()?,
        max_duration: file
            .max_duration
            .map(|t| parse_duration(&t).map_err(|e| format!("max_duration: {e}")))
            .transpose()?,
        targets,
        methods: file.methods,
    })
}

impl SiteLimits {
    /// The lower of both in everything.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        fn low<T: PartialOrd>(a: Option<T>, b: Option<T>) -> Option<T> {
            match (a, b) {
                (Some(a), Some(b)) => Some(if b < a { b } else { a }),
                (a, b) => a.or(b),
            }
        }
        let methods = match (self.methods, other.methods) {
            (Some(a), Some(b)) => Some(a.into_iter().filter(|m| b.contains(m)).collect()),
            (a, b) => a.or(b),
        };
        let targets = match (self.targets, other.targets) {
            (Some(a), Some(b)) => Some(a.under(b)),
            (a, b) => a.or(b),
        };
        Self {
            max_rps: low(self.max_rps, other.max_rps),
            max_new_connections: low(self.max_new_connections, other.max_new_connections),
            max_in_flight: low(self.max_in_flight, other.max_in_flight),
            max_mbit_per_s: low(self.max_mbit_per_s, other.max_mbit_per_s),
            max_bytes_received: low(self.max_bytes_received, other.max_bytes_received),
            max_duration: low(self.max_duration, other.max_duration),
            targets,
            methods,
        }
    }

    /// Lowers a policy to these limits. Returns what was lowered, in words.
    #[must_use]
    pub fn lower(&self, policy: &mut Policy) -> Vec<String> {
        let mut said = Vec::new();
        let rate = &mut policy.rate;
        let mut low = |name: &str, mine: &mut Rate, site: Option<Rate>| {
            if let Some(site) = site.filter(|s| *s < *mine) {
                said.push(format!("{name} {mine} → {site}"));
                *mine = site;
            }
        };
        low("max_rps", &mut rate.max_rps, self.max_rps);
        low("max_new_connections_per_s", &mut rate.max_new_connections, self.max_new_connections);
        if let Some(site) = self.max_in_flight {
            // "auto" could become more than the site allows, so it is fixed here too.
            if site < rate.max_in_flight.unwrap_or(u64::MAX) && site < rate.in_flight_ceiling {
                said.push(format!("max_in_flight → {site}"));
            }
            rate.in_flight_ceiling = rate.in_flight_ceiling.min(site);
        }
        if let Some(site) = self.max_mbit_per_s.filter(|s| rate.max_mbit_per_s.is_none_or(|m| *s < m)) {
            said.push(format!("max_mbit_per_s → {site}"));
            rate.max_mbit_per_s = Some(site);
        }
        if let Some(bytes) = self.max_bytes_received {
            let site = BudgetLimits { bytes_received: Some(bytes), ..BudgetLimits::default() };
            let rule = policy.budget.get_or_insert(super::BudgetRule {
                limits: BudgetLimits::default(),
                period: Duration::from_secs(86_400),
            });
            // The site's amount is per day, whatever period a policy chose for its own.
            rule.period = rule.period.max(Duration::from_secs(86_400));
            let before = rule.limits;
            rule.limits = rule.limits.lowered(site);
            if rule.limits != before {
                said.push(format!("bytes_received → {bytes} bytes"));
            }
        }
        if let Some(site) = self.max_duration {
            said.push(format!("longest run → {}", show_duration(site)));
        }
        policy.duration_max = match (policy.duration_max, self.max_duration) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        if let Some(methods) = &self.methods {
            let before = policy.methods.len();
            policy.methods.retain(|m| methods.iter().any(|s| s.as_bytes() == m.as_slice()));
            if policy.methods.len() < before {
                said.push(format!("methods → {}", methods.join(", ")));
            }
        }
        if let Some(targets) = &self.targets {
            said.push("targets → those that the site lists too".to_owned());
            policy.allow = policy.allow.clone().under(targets.clone());
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::check;

    fn policy() -> Policy {
        let text = "version = 1\nname = \"t\"\n[target]\nallow = [\"127.0.0.0/8\", \"127.9.9.9:80\"]\n[rate]\nmax_rps = 500\n";
        check::parse(text, "test").unwrap()
    }

    #[test]
    fn they_only_lower() {
        let mut p = policy();
        let site = parse("version = 1\nmax_rps = 100\nmax_new_connections_per_s = 900\nmax_in_flight = 7\nmax_duration = \"1h\"\nmax_bytes_received = \"1GiB\"\nmethods = [\"GET\"]\ntargets = [\"127.0.0.1/32\"]\n").unwrap();
        let said = site.lower(&mut p);
        assert_eq!(p.rate.max_rps, Rate::per_sec(100));
        assert_eq!(p.rate.max_new_connections, Rate::per_sec(50), "the policy's own is lower");
        assert_eq!(p.rate.in_flight_ceiling, 7);
        assert_eq!(p.duration_max, Some(Duration::from_secs(3600)));
        assert_eq!(p.budget.unwrap().limits.bytes_received, Some(1 << 30));
        assert_eq!(p.methods.len(), 1);
        assert!(said.iter().any(|s| s.starts_with("max_rps")), "{said:?}");
        assert!(p.allow.lists("127.0.0.1", 80) && !p.allow.lists("127.0.0.2", 80), "both must list it");
        let stream = parse("version = 1\nmax_mbit_per_s = 50\n").unwrap();
        for (own, left, told) in [
            (None, 50.0, true),
            (Some(100.0), 50.0, true),
            (Some(50.0), 50.0, false),
            (Some(20.0), 20.0, false),
        ] {
            let mut p = policy();
            p.rate.max_mbit_per_s = own;
            assert_eq!(!stream.lower(&mut p).is_empty(), told, "{own:?}");
            assert_eq!(p.rate.max_mbit_per_s, Some(left), "{own:?}");
        }
        let loose = parse("version = 1\nmax_rps = 100000\n").unwrap();
        let mut again = policy();
        assert!(loose.lower(&mut again).is_empty());
        assert_eq!(again, policy());
    }

    #[test]
    fn what_is_lowered_is_said_and_nothing_else() {
        let site = |words: &str| parse(&format!("version = 1\n{words}\n")).unwrap();
        let said = |words: &str, change: fn(&mut Policy)| {
            let mut p = policy();
            change(&mut p);
            site(words).lower(&mut p)
        };
        assert_eq!(said("max_rps = 500", |_| ()), Vec::<String>::new(), "the same is not lower");
        assert_eq!(said("max_rps = 499", |_| ()).len(), 1);
        let in_flight = "max_in_flight = 40";
        assert_eq!(said(in_flight, |_| ()), ["max_in_flight → 40"]);
        assert_eq!(said(in_flight, |p| p.rate.max_in_flight = Some(41)), ["max_in_flight → 40"]);
        assert_eq!(said(in_flight, |p| p.rate.max_in_flight = Some(40)), Vec::<String>::new());
        assert_eq!(said(in_flight, |p| p.rate.in_flight_ceiling = 40), Vec::<String>::new());
        assert_eq!(said(in_flight, |p| p.rate.in_flight_ceiling = 41), ["max_in_flight → 40"]);
        let bytes = "max_bytes_received = \"1GiB\"";
        assert_eq!(said(bytes, |_| ()), [format!("bytes_received → {} bytes", 1u64 << 30)]);
        let budget = |bytes| {
            let limits = BudgetLimits { bytes_received: Some(bytes), ..BudgetLimits::default() };
            Some(crate::policy::BudgetRule { limits, period: Duration::from_secs(3600) })
        };
        let mut p = policy();
        p.budget = budget(1 << 29);
        assert_eq!(site(bytes).lower(&mut p), Vec::<String>::new());
        assert_eq!(p.budget.unwrap().period, Duration::from_secs(86_400), "the site counts by the day");
        let methods = "methods = [\"GET\", \"HEAD\", \"OPTIONS\"]";
        assert_eq!(said(methods, |_| ()), Vec::<String>::new());
        assert_eq!(said("methods = [\"GET\"]", |_| ()), ["methods → GET"]);
    }

    #[test]
    fn two_files_are_kept_both() {
        let (a, b) = (
            parse("version = 1\nmax_rps = 100\nmethods = [\"GET\", \"HEAD\"]\n").unwrap(),
            parse("version = 1\nmax_rps = 300\nmax_in_flight = 5\nmethods = [\"HEAD\"]\n").unwrap(),
        );
        let both = a.clone().and(b.clone());
        assert_eq!(both, b.and(a));
        assert_eq!((both.max_rps, both.max_in_flight), (Some(Rate::per_sec(100)), Some(5)));
        assert_eq!(both.methods, Some(vec!["HEAD".to_owned()]));
    }

    #[test]
    fn what_cannot_be_understood_is_refused() {
        for text in [
            "",
            "version = 2\n",
            "version = 1\nmax_rsp = 5\n",
            "version = 1\nmax_rps = 0\n",
            "version = 1\nmax_rps = nan\n",
            "version = 1\ntargets = [\"x\"]\n",
            "version = 1\nmax_duration = \"long\"\n",
            "version = 1\nmax_in_flight = 0\n",
            "version = 1\nmax_bytes_received = \"1\"\n",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
