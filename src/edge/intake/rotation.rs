//! Names of traces that follow one another, and which of them go.
//!
//! What it refuses to do: remove anything that it would not have named itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use super::trace_file;
use crate::units::WallTime;

/// When a trace ends and how many are kept.
#[derive(Debug, Clone)]
pub struct Rotation {
    folder: PathBuf,
    /// What names begin with.
    stem: String,
    every: Option<Duration>,
    bytes_max: Option<u64>,
    keep: Option<usize>,
}

/// What names end with.
const END: &str = ".trace";

/// Between the stem and the end: `-20261126T030000Z`.
const STAMP: &str = "-%Y%m%dT%H%M%SZ";

impl Rotation {
    /// Traces beside `output`, whose end `.trace` is put behind a stamp.
    ///
    /// # Errors
    /// When `output` has no name.
    pub fn new(
        output: &Path,
        every: Option<Duration>,
        bytes_max: Option<u64>,
        keep: Option<usize>,
    ) -> anyhow::Result<Self> {
        let name = output.file_name().with_context(|| format!("{} names no file", output.display()))?;
        let name = name.to_str().with_context(|| format!("the name {} is no text", output.display()))?;
        let stem = name.strip_suffix(END).unwrap_or(name).to_owned();
        let folder = output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(Self { folder: folder.to_owned(), stem, every, bytes_max, keep })
    }

    /// The name of the trace whose first event is at `at`; never one that is there already.
    #[must_use]
    pub fn name(&self, at: WallTime) -> PathBuf {
        let stamp = jiff::Timestamp::from_nanosecond(i128::from(at.0))
            .unwrap_or_default()
            .strftime(STAMP)
            .to_string();
        let numbered = |n: u32| {
            let again = if n == 0 { String::new() } else { format!("-{n}") };
            self.folder.join(format!("{}{stamp}{again}{END}", self.stem))
        };
        // The one that is being written first: it may get its name meanwhile.
        let is_free = |p: &PathBuf| !trace_file::partial(p).exists() && !p.exists();
        let free = (0..10_000).map(numbered).find(is_free);
        free.unwrap_or_else(|| numbered(10_000))
    }

    /// When the trace that has an event at `at` ends: at a whole multiple of the time since 1970, so that hours are hours.
    #[must_use]
    pub fn end_of(&self, at: WallTime) -> Option<WallTime> {
        let every = u64::try_from(self.every?.as_nanos()).unwrap_or(u64::MAX).max(1);
        Some(WallTime((at.0 / every).saturating_add(1).saturating_mul(every)))
    }

    /// Whether a trace of so many bytes is long enough.
    #[must_use]
    pub fn is_full(&self, bytes: u64) -> bool {
        self.bytes_max.is_some_and(|most| bytes >= most)
    }

    /// Removes the oldest traces beyond those that are kept, and says which.
    ///
    /// # Errors
    /// When the folder cannot be read or a trace not be removed.
    pub fn prune(&self) -> std::io::Result<Vec<PathBuf>> {
        let Some(keep) = self.keep else { return Ok(Vec::new()) };
        let mut names: Vec<String> = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            names.extend(entry?.file_name().into_string().ok().filter(|n| self.is_ours(n)));
        }
        names.sort_unstable_by_key(|n| self.place_of(n));
        let gone = names.len().saturating_sub(keep);
        let gone: Vec<PathBuf> = names.into_iter().take(gone).map(|n| self.folder.join(n)).collect();
        for path in &gone {
            match std::fs::remove_file(path) {
                // Somebody else was faster.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                done => done?,
            }
        }
        Ok(gone)
    }

    /// Stamp and number of a name of ours.
    fn place_of(&self, name: &str) -> Option<(String, u32)> {
        let rest = name.strip_prefix(&self.stem)?.strip_suffix(END)?.strip_prefix('-')?;
        let (stamp, again) = rest.split_once('-').unwrap_or((rest, "0"));
        let bytes = stamp.as_bytes();
        let fits = bytes.len() == 16
            && bytes.iter().enumerate().all(|(i, b)| match i {
                8 => *b == b'T',
                15 => *b == b'Z',
                _ => b.is_ascii_digit(),
            });
        fits.then_some((stamp.to_owned(), again.parse().ok()?))
    }

    fn is_ours(&self, name: &str) -> bool {
        self.place_of(name).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-26 03:10:20 UTC.
    const AT: WallTime = WallTime(1_795_662_620_000_000_000);

    #[test]
    fn names_are_stamped_ends_are_round_and_only_own_names_go() {
        let folder = tempfile::tempdir().unwrap();
        let hour = Some(Duration::from_secs(3600));
        let rotation = Rotation::new(&folder.path().join("shop.trace"), hour, Some(1_000), Some(2)).unwrap();
        let name = |p: &Path| p.file_name().unwrap().to_str().unwrap().to_owned();
        let first = rotation.name(AT);
        assert_eq!(name(&first), "shop-20261126T031020Z.trace");
        assert_eq!(rotation.end_of(AT), Some(WallTime(1_795_665_600_000_000_000)));
        assert_eq!(
            rotation.end_of(WallTime(1_795_665_600_000_000_000)).map(|t| t.0 / 1_000_000_000),
            Some(1_795_669_200)
        );
        assert!(!rotation.is_full(999) && rotation.is_full(1_000));
        std::fs::write(&first, "").unwrap();
        assert_eq!(name(&rotation.name(AT)), "shop-20261126T031020Z-1.trace");
        // Nor that of one that is being written.
        std::fs::write(trace_file::partial(&folder.path().join("shop-20261126T031020Z-1.trace")), "")
            .unwrap();
        assert_eq!(name(&rotation.name(AT)), "shop-20261126T031020Z-2.trace");
        std::fs::remove_file(trace_file::partial(&folder.path().join("shop-20261126T031020Z-1.trace")))
            .unwrap();
        let others = [
            "shop-20261126T031020Z-1.trace",
            "shop-20261125T000000Z.trace",
            "shop.trace",
            "shop-old.trace",
            "shop-20261124T000000Z.trace.partial",
        ];
        others.iter().for_each(|n| std::fs::write(folder.path().join(n), "").unwrap());
        let gone = rotation.prune().unwrap();
        assert_eq!(gone.iter().map(|p| name(p)).collect::<Vec<_>>(), ["shop-20261125T000000Z.trace"]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 5);
    }
}
