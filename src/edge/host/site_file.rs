//! Reads the site limits and insists that they belong to root.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, bail, ensure};

use crate::limits::POLICY_BYTES_MAX;
use crate::policy::site::{SiteLimits, parse};

/// Where they are.
pub const PATH: &str = "/etc/replay/limits.toml";

/// Reads one file; without one there are no limits. `owner` is the user that must own it.
///
/// # Errors
/// When it is there and is not the owner's alone to write, or cannot be understood: then nothing may run.
pub fn load(path: &Path, owner: u32) -> anyhow::Result<Option<SiteLimits>> {
    let show = path.display();
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(|| format!("cannot look at the site limits {show}")),
    };
    ensure!(meta.is_file(), "the site limits {show} are no plain file");
    ensure!(meta.uid() == owner, "the site limits {show} belong to user {}, not to user {owner}", meta.uid());
    ensure!(meta.mode() & 0o022 == 0, "the site limits {show} can be written by others: chmod 644 it");
    ensure!(
        meta.len() <= POLICY_BYTES_MAX,
        "the site limits {show} are larger than {POLICY_BYTES_MAX} bytes"
    );
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read the site limits {show}"))?;
    match parse(&text) {
        Ok(limits) => Ok(Some(limits)),
        Err(why) => bail!("the site limits {show} are refused: {why}"),
    }
}

/// The limits of this host: those of [`PATH`], and those of the file that `REPLAY_LIMITS_ALSO` names, which can
/// only lower them further.
///
/// # Errors
/// As [`load`].
pub fn of_host() -> anyhow::Result<SiteLimits> {
    let site = load(Path::new(PATH), 0)?.unwrap_or_default();
    let Some(also) = std::env::var_os("REPLAY_LIMITS_ALSO").filter(|v| !v.is_empty()) else {
        return Ok(site);
    };
    let me = rustix::process::getuid().as_raw();
    let also =
        load(Path::new(&also), me)?.context("the file that REPLAY_LIMITS_ALSO names does not exist")?;
    Ok(site.and(also))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_a_file_that_nobody_else_can_write_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("limits.toml");
        let me = std::fs::metadata(dir.path()).unwrap().uid();
        assert!(load(&path, me).unwrap().is_none());
        std::fs::write(&path, "version = 1\nmax_rps = 5\n").unwrap();
        let mode = |m| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(m)).unwrap();
        mode(0o644);
        assert!(load(&path, me).unwrap().is_some());
        assert!(load(&path, me + 1).is_err(), "another owner");
        mode(0o664);
        assert!(load(&path, me).is_err(), "writable by the group");
        mode(0o600);
        std::fs::write(&path, "max_rps = 5\n").unwrap();
        assert!(load(&path, me).is_err(), "cannot be understood");
        assert!(load(dir.path(), me).is_err(), "a folder");
    }
}
