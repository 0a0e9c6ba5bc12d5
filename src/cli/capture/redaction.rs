//! What is redacted, as the command line says it.

use std::path::PathBuf;

use anyhow::Context;

use crate::capture::redact::key::RedactKey;
use crate::capture::redact::rules::Rules;
use crate::capture::redact::{Detail, Redactor};
use crate::edge::intake::secrets;

/// Redaction.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct RedactionArgs {
    /// Rules that tighten or loosen the redaction (TOML; see docs/CAPTURE.md).
    #[arg(long, value_name = "FILE")]
    redact: Option<PathBuf>,
    /// Key of the hashes, at least 16 bytes: traces made with the same key have the same hashes. Without it each capture has one of its own.
    #[arg(long, value_name = "FILE")]
    redact_key: Option<PathBuf>,
    /// Keep templates only: no values of headers, paths and queries.
    #[arg(long)]
    shape_only: bool,
}

impl RedactionArgs {
    /// Reads rules and key.
    ///
    /// # Errors
    /// When a file cannot be read, a rule is wrong, or the key is too short.
    pub(super) fn redactor(&self) -> anyhow::Result<Redactor> {
        let rules = match &self.redact {
            None => Rules::default(),
            Some(file) => {
                let text = secrets::rules(file)?;
                Rules::parse(&text).with_context(|| format!("{}", file.display()))?
            }
        };
        let key = match &self.redact_key {
            None => secrets::random_key()?.to_vec(),
            Some(file) => secrets::redact_key(file)?,
        };
        let detail = if self.shape_only { Detail::ShapeOnly } else { Detail::Values };
        Ok(Redactor::new(RedactKey::new(&key), rules, detail))
    }
}
