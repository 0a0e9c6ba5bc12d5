//! From the rules of a policy to rules with their secrets and accounts: read once, before the first request.
//!
//! A secret that cannot be read lets nothing start: requests without it would be answered, and their answers would
//! be counted.

use std::sync::Arc;

use anyhow::{Context, ensure};

use crate::edge::intake::secrets;
use crate::plan::rewrite::{Rewrite, Secret, SetHeader};
use crate::plan::session::Accounts;
use crate::policy::Policy;
use crate::policy::rewrite::Auth;
use crate::units::Scale;

fn rules(
    policy: &Policy,
    days: i64,
    secret: impl Fn(&Auth) -> anyhow::Result<Secret>,
) -> anyhow::Result<Rewrite> {
    let words = &policy.rewrite;
    let mut rules = words.rules.clone();
    // Before the headers that are set everywhere: what is said of a route is the closer rule.
    let mut set = Vec::new();
    for auth in &words.auth {
        set.push(SetHeader { on: auth.on.clone(), name: auth.header.clone(), value: secret(auth)? });
    }
    set.append(&mut rules.set);
    Ok(Rewrite { set, routes: policy.routes.clone(), days, ..rules })
}

/// The rules without secrets: what would be planned, not what would be sent.
///
/// # Errors
/// Never.
pub fn for_survey(policy: &Policy) -> anyhow::Result<Arc<Rewrite>> {
    rules(policy, 0, |_| Secret::new(b"-").context("a placeholder")).map(Arc::new)
}

/// The rules with their secrets, and the accounts, `days` after the recording.
///
/// # Errors
/// When a file or variable cannot be read, or a log-in would be sent more often than it has accounts.
pub fn load(policy: &Policy, scale: Scale, days: i64) -> anyhow::Result<(Arc<Rewrite>, Arc<Accounts>)> {
    let secret = |auth: &Auth| {
        let text = secrets::read(&auth.from)?;
        let whole = format!("{}{}", auth.prefix, text.trim_end_matches(['\r', '\n']));
        ensure!(!text.trim().is_empty(), "the secret for {} is empty: {}", auth.header, auth.from);
        Secret::new(whole.as_bytes()).with_context(|| {
            format!("the secret for {} has bytes that no header line may have: {}", auth.header, auth.from)
        })
    };
    let rules = rules(policy, days, secret)?;
    let accounts = match &policy.rewrite.accounts {
        None => Accounts::default(),
        Some((file, columns)) => secrets::accounts(file, columns)?,
    };
    if let Some(put) = rules.shared_log_in().filter(|_| scale.milli > 1000) {
        anyhow::bail!(
            "[[rewrite.put]] into {:?} logs everybody in with one account, and --scale {}x would do it more often than recorded; give [rewrite.accounts] and put a column of it into the body",
            put.into.text(),
            scale.as_f64()
        );
    }
    Ok((Arc::new(rules), Arc::new(accounts)))
}
