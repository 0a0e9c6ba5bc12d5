//! Facts about a whole trace, written at its start.

use super::ledger::Position;
use crate::units::WallTime;

/// How stamps that were cut to the second were spread over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Spreading {
    /// Uniformly by seed.
    #[default]
    Uniform,
    /// At equal distances.
    Even,
    /// In bursts as long as each client's requests.
    Cascade,
}

impl Spreading {
    /// All ways.
    pub const ALL: [Self; 3] = [Self::Uniform, Self::Even, Self::Cascade];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Even => "even",
            Self::Cascade => "cascade",
        }
    }

    /// What stands behind the format of a source whose stamps were spread so.
    #[must_use]
    pub fn mark(self) -> &'static str {
        match self {
            Self::Uniform => "",
            Self::Even => "/spread-even",
            Self::Cascade => "/spread-cascade",
        }
    }

    /// What was done, and what follows from it.
    #[must_use]
    pub fn words(self, seed: u64) -> String {
        match self {
            Self::Uniform => format!("spread uniformly with seed {seed}, so bursts are understated"),
            Self::Even => "spread evenly, so there are no bursts within a second".to_owned(),
            Self::Cascade => {
                format!(
                    "spread in bursts as long as each client's requests with seed {seed}: a model of ours, not recorded"
                )
            }
        }
    }
}

/// One input of a capture. Only the file's own name is kept, never its folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// File name, or `-`.
    pub name: String,
    /// What it was read as, such as `pcap` or `access-log/combined`; `/behind-proxy` where its connections are a proxy's,
    /// and then [`Spreading::mark`].
    pub format: String,
}

/// A place in one of `sources`, in words.
#[must_use]
pub fn place(sources: &[Source], at: Position) -> String {
    let Some(source) = sources.get(at.source as usize) else { return format!("number {}", at.number) };
    let unit = match source.format.split('/').next() {
        Some("pcap" | "pcapng" | "live") => "frame",
        Some("har" | "gor") => "record",
        _ => "line",
    };
    format!("{}, {unit} {}", source.name, at.number)
}

/// Facts about a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceMeta {
    /// Wall-clock time of trace time zero.
    pub started_at: WallTime,
    /// Inputs.
    pub sources: Vec<Source>,
    /// The redaction that was applied.
    pub redaction: String,
    /// Resolution of the stamps, nanoseconds.
    pub resolution_ns: u64,
    /// Seed with which coarse stamps were spread, where they were.
    pub spread_seed: Option<u64>,
    /// Program that wrote the trace.
    pub made_by: String,
}

impl TraceMeta {
    /// How coarse stamps were spread, and with which seed, where they were.
    #[must_use]
    pub fn spread(&self) -> Option<(Spreading, u64)> {
        let is = |way: &Spreading| {
            *way != Spreading::Uniform && self.sources.iter().any(|s| s.format.ends_with(way.mark()))
        };
        let way = Spreading::ALL.into_iter().find(is).unwrap_or_default();
        self.spread_seed.map(|seed| (way, seed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_of_spreading_is_read_from_the_sources() {
        let meta = |formats: &[&str], spread_seed| TraceMeta {
            started_at: WallTime(0),
            sources: formats
                .iter()
                .map(|f| Source { name: "a".to_owned(), format: (*f).to_owned() })
                .collect(),
            redaction: String::new(),
            resolution_ns: 1,
            spread_seed,
            made_by: String::new(),
        };
        #[rustfmt::skip]
        let table: [(&[&str], _, _); 5] = [
            (&["pcap"], None, None),
            (&["access-log/combined"], Some(7), Some((Spreading::Uniform, 7))),
            (&["access-log/combined/behind-proxy/spread-even"], Some(7), Some((Spreading::Even, 7))),
            (&["pcap", "access-log/timed", "access-log/combined/spread-cascade"], Some(1), Some((Spreading::Cascade, 1))),
            (&["access-log/combined/spread-later"], Some(1), Some((Spreading::Uniform, 1))),
        ];
        for (formats, seed, want) in table {
            assert_eq!(meta(formats, seed).spread(), want, "{formats:?}");
        }
    }
}
