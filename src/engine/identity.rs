//! The identity of a run: its id, and how its traffic is marked.

use std::sync::Arc;

use crate::plan::prepared::Marking;
use crate::plan::rewrite::Rewrite;
use crate::policy::Policy;
use crate::policy::target::Target;
use crate::units::WallTime;

/// A run id: start in UTC and a short hash, such as `20261122T030000Z-3f2a91`.
#[must_use]
pub fn run_id(start: WallTime, salt: u64) -> String {
    let text: String = start.rfc3339().chars().take(19).filter(char::is_ascii_alphanumeric).collect();
    format!("{text}Z-{:06x}", crate::capture::mix64(start.0 ^ salt) & 0xff_ffff)
}

/// How the traffic of a run is marked.
#[must_use]
pub fn marking(policy: &Policy, target: &Target, run_id: &str, seed: u64, rewrite: &Arc<Rewrite>) -> Marking {
    let clean =
        |s: &str| s.chars().filter(|c| c.is_ascii_graphic() && !"();".contains(*c)).collect::<String>();
    let part = |name: &str, v: &Option<String>| {
        v.as_ref().map_or_else(String::new, |v| format!("; {name}={}", clean(v)))
    };
    let owner = part("owner", &policy.owner);
    let runbook = part("runbook", &policy.runbook);
    Marking {
        authority: target.authority(),
        agent_suffix: format!(
            "replay/{} (load test; run={run_id}{owner}{runbook})",
            env!("CARGO_PKG_VERSION")
        ),
        run_id: run_id.to_owned(),
        trace_seed: crate::capture::mix64(seed ^ u64::from(crc32c::crc32c(run_id.as_bytes()))),
        https: target.https(),
        rewrite: Arc::clone(rewrite),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_readable_and_sortable() {
        let id = run_id(WallTime(1_700_000_000_000_000_000), 1);
        assert!(id.starts_with("20231114T221320Z-") && id.len() == 23, "{id}");
    }
}
