//! What this machine can open: file descriptors, local ports, tracked connections.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Numbers of this machine; `None` where the kernel does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Open files allowed.
    pub files: Option<u64>,
    /// Local ports for outgoing connections.
    pub ports: Option<u64>,
    /// Connections that the firewall can track, and how many it does now.
    pub conntrack: Option<(u64, u64)>,
}

fn number(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Raises the number of open files to what the system allows this process; says what it is then.
#[must_use]
pub fn raise_files() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum && setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok() {
        return maximum;
    }
    current
}

/// Looks.
#[must_use]
pub fn look() -> Capacity {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok();
    let ports = range.and_then(|text| {
        let mut both = text.split_ascii_whitespace().map(str::parse::<u64>);
        Some(both.next()?.ok()?).zip(both.next()?.ok()).map(|(low, high)| (high + 1).saturating_sub(low))
    });
    let tracked = number("/proc/sys/net/netfilter/nf_conntrack_max")
        .zip(number("/proc/sys/net/netfilter/nf_conntrack_count"));
    Capacity { files: getrlimit(Resource::Nofile).current, ports, conntrack: tracked }
}

impl Capacity {
    /// What is too small for `connections` at once, in words.
    #[must_use]
    pub fn too_small_for(&self, connections: u64) -> Vec<String> {
        let mut out = Vec::new();
        // Besides connections: journal, logs, timers, guards.
        if let Some(files) = self.files.filter(|f| connections.saturating_add(100) > *f) {
            out.push(format!(
                "{connections} connections need more than the {files} open files allowed (ulimit -n)"
            ));
        }
        out.extend(self.scarce(connections, 1));
        out
    }

    /// What `connections` at once from so many local addresses come close to, in words.
    #[must_use]
    pub fn scarce(&self, connections: u64, sources: usize) -> Vec<String> {
        let mut out = Vec::new();
        if let Some(ports) = self.ports.map(|p| p * sources.max(1) as u64).filter(|p| connections > p / 2) {
            out.push(format!(
                "{connections} connections to one address take more than half of the {ports} local ports; closed ones wait for a minute (--source-ip gives more)"
            ));
        }
        if let Some((max, now)) =
            self.conntrack.filter(|(max, now)| connections.saturating_add(*now) > max * 8 / 10)
        {
            out.push(format!(
                "{connections} connections beside the {now} tracked ones come close to conntrack's {max}"
            ));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_small_is_named() {
        let c = Capacity { files: Some(1_024), ports: Some(28_000), conntrack: Some((10_000, 5_000)) };
        assert!(c.too_small_for(900).is_empty());
        assert_eq!(c.too_small_for(1_000).len(), 1);
        assert_eq!(c.too_small_for(20_000).len(), 3);
        assert_eq!(
            (c.scarce(14_000, 1).len(), c.scarce(14_001, 1).len(), c.scarce(14_001, 2).len()),
            (1, 2, 1)
        );
        let files = raise_files();
        assert_eq!((files, look().files), (getrlimit(Resource::Nofile).maximum, files));
        assert!(Capacity::default().too_small_for(1_000_000).is_empty(), "not known is not too small");
        assert!(look().files.is_some());
    }
}
