//! The capture ledger: what was read, and what could not be used, by reason.
//!
//! Nothing is dropped in silence: whatever does not become an event is counted here, the ledger is stored
//! at the end of the trace, and every report can say how complete its trace is.

/// Declares the items once: variant, name in files and reports, meaning.
macro_rules! items {
    ($($variant:ident $name:literal $words:literal,)*) => {
        /// One line of the ledger.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Item {
            $(#[doc = $words] $variant,)*
        }

        impl Item {
            /// All items, in the order of reports.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$variant),*];

            /// Name in files and reports.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Meaning, for people.
            #[must_use]
            pub fn words(self) -> &'static str {
                match self { $(Self::$variant => $words,)* }
            }
        }
    };
}

items! {
    Frames "frames" "frames read",
    Bytes "bytes" "bytes of frames or log read",
    Lines "lines" "log lines read",
    KernelDrops "kernel_drops" "frames that the kernel dropped (live capture only)",
    InterfaceDrops "interface_drops" "frames that the network interface dropped",
    CutFiles "cut_files" "input files that end in the middle of a record",
    Truncated "truncated" "frames cut by the snapshot length",
    FramesNotTcp "frames_not_tcp" "frames that are not TCP over IP",
    FramesUnparsed "frames_unparsed" "frames whose headers could not be read",
    FramesUnsupported "frames_unsupported" "frames of a link type that is not supported",
    FragmentsLost "fragments_lost" "IP fragments whose datagram stayed incomplete",
    Tunnelled "tunnelled" "frames inside a tunnel that is not opened, or too deep",
    Connections "connections" "TCP connections seen",
    ConnectionsMidstream "connections_midstream" "connections whose beginning was not seen",
    ConnectionsEvicted "connections_evicted" "connections given up to stay within the limit",
    ConnectionsTls "connections_tls" "connections that carry TLS and could not be read",
    ConnectionsDecrypted "connections_decrypted" "connections of TLS that were read with a key log",
    TlsRecordsLost "tls_records_lost" "records of those that no key fits, or that a hole took",
    ConnectionsHttp2 "connections_http2" "connections that carry HTTP/2",
    Http2Lost "http2_lost" "directions of HTTP/2 connections that could not be read any further",
    ConnectionsNotHttp "connections_not_http" "connections that carry something else",
    ConnectionsTunnel "connections_tunnel" "connections that became a tunnel (CONNECT, upgrade)",
    Duplicates "duplicates" "TCP segments seen before",
    OutOfOrder "out_of_order" "TCP segments that had to be put in order",
    Gaps "gaps" "holes in the byte streams",
    GapBytes "gap_bytes" "bytes missing in those holes",
    MalformedRequests "malformed_requests" "requests that are not valid HTTP/1",
    MalformedResponses "malformed_responses" "responses that are not valid HTTP/1",
    LostRequests "lost_requests" "requests lost to a hole",
    LostResponses "lost_responses" "responses lost to a hole",
    IncompleteRequests "incomplete_requests" "requests unfinished when their connection ended",
    DamagedRequests "damaged_requests" "requests with a hole in the body, kept: the length is known",
    UnpairedRequests "unpaired_requests" "requests without an answer, kept without one",
    UnpairedResponses "unpaired_responses" "answers without a request",
    UnparsedLines "unparsed_lines" "log lines that could not be read",
    MalformedLines "malformed_lines" "log lines whose request is not HTTP",
    LogCuts "log_cuts" "times a followed log was cut or replaced before it was known to be read",
    OtherLines "other_lines" "log lines that a program wrote about itself",
    TooLarge "too_large" "requests whose head is too large for a trace",
    LateEvents "late_events" "events too far out of time order to be placed",
}

impl Item {
    /// Whether it helps to look at a case of it: volumes and drops have none.
    #[must_use]
    pub fn has_example(self) -> bool {
        use Item as I;
        let volume = matches!(
            self,
            I::Frames | I::Bytes | I::Lines | I::GapBytes | I::Connections | I::ConnectionsDecrypted
        );
        !volume && !matches!(self, I::KernelDrops | I::InterfaceDrops | I::LogCuts)
    }
}

/// A place in an input: which of the trace's sources, and the number of the frame or line, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Index into the sources of the trace.
    pub source: u32,
    /// Frame or line; 0 where only the source is known.
    pub number: u64,
}

/// Counts per item, and where the first case of each was met. `None` means not known, which is not zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    counts: [u64; Item::ALL.len()],
    first: [Option<Position>; Item::ALL.len()],
    /// What is being read.
    here: Option<Position>,
    kernel_drops_known: bool,
}

impl Default for Ledger {
    fn default() -> Self {
        let (counts, first) = ([0; Item::ALL.len()], [None; Item::ALL.len()]);
        Self { counts, first, here: None, kernel_drops_known: false }
    }
}

impl Ledger {
    /// Adds `n` to an item.
    pub fn add(&mut self, item: Item, n: u64) {
        self.kernel_drops_known |= item == Item::KernelDrops;
        let count = &mut self.counts[item as usize];
        if *count == 0 && n > 0 && item.has_example() {
            self.first[item as usize] = self.here;
        }
        *count = count.saturating_add(n);
    }

    /// What is counted from here on was met at `here`.
    pub fn at(&mut self, here: Position) {
        self.here = Some(here);
    }

    /// What is counted from here on was met nowhere in particular.
    pub fn nowhere(&mut self) {
        self.here = None;
    }

    /// Where the first case of an item was met: when it was noticed, which for a hole is later than where it is.
    #[must_use]
    pub fn first(&self, item: Item) -> Option<Position> {
        self.first[item as usize]
    }

    /// The same, when reading a trace.
    pub(crate) fn set_first_by_name(&mut self, name: &str, position: Position) {
        if let Some(item) = Item::ALL.iter().find(|i| i.name() == name) {
            self.first[*item as usize] = Some(position);
        }
    }

    /// Adds one to an item.
    pub fn count(&mut self, item: Item) {
        self.add(item, 1);
    }

    /// The count of an item; `None` where it cannot be known.
    #[must_use]
    pub fn get(&self, item: Item) -> Option<u64> {
        (!matches!(item, Item::KernelDrops | Item::InterfaceDrops) || self.kernel_drops_known)
            .then(|| self.counts[item as usize])
    }

    /// All items with their counts.
    pub fn rows(&self) -> impl Iterator<Item = (Item, Option<u64>)> + '_ {
        Item::ALL.iter().map(|i| (*i, self.get(*i)))
    }

    /// How many of the requests that were seen are in the trace, which has `recorded`: a share, and whether more may hide
    /// in what could not be read (holes, cut frames, connections given up or lost).
    #[must_use]
    pub fn completeness(&self, recorded: u64) -> (f64, bool) {
        let count =
            |items: &[Item]| items.iter().fold(0u64, |n, i| n.saturating_add(self.get(*i).unwrap_or(0)));
        let lost = count(&[
            Item::LostRequests,
            Item::IncompleteRequests,
            Item::MalformedRequests,
            Item::UnparsedLines,
            Item::MalformedLines,
            Item::LateEvents,
            Item::TooLarge,
        ]);
        let hidden = count(&[
            Item::KernelDrops,
            Item::InterfaceDrops,
            Item::CutFiles,
            Item::LogCuts,
            Item::Truncated,
            Item::FramesUnparsed,
            Item::FramesUnsupported,
            Item::FragmentsLost,
            Item::Tunnelled,
            Item::ConnectionsEvicted,
            Item::ConnectionsTls,
            Item::TlsRecordsLost,
            Item::Http2Lost,
            Item::Gaps,
        ]);
        let all = recorded.saturating_add(lost);
        (if all == 0 { 1.0 } else { recorded as f64 / all as f64 }, hidden > 0)
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        let here = self.here.take();
        for (item, n) in other.rows() {
            if let Some(n) = n {
                self.add(item, n);
            }
            let first = &mut self.first[item as usize];
            *first = first.or(other.first(item));
        }
        self.here = here;
    }

    /// Sets an item by name, when reading a trace. Unknown names are from a newer program: false.
    pub(crate) fn set_by_name(&mut self, name: &str, n: u64) -> bool {
        let found = Item::ALL.iter().find(|i| i.name() == name);
        if let Some(item) = found {
            self.add(*item, n);
        }
        found.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_is_not_zero() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.get(Item::KernelDrops), None);
        assert_eq!(ledger.get(Item::Gaps), Some(0));
        ledger.add(Item::KernelDrops, 0);
        assert_eq!(ledger.get(Item::KernelDrops), Some(0));
    }

    #[test]
    fn completeness_counts_what_was_seen_and_says_what_may_hide() {
        let mut ledger = Ledger::default();
        assert_eq!((ledger.completeness(0), ledger.completeness(7)), ((1.0, false), (1.0, false)));
        ledger.add(Item::MalformedLines, 1);
        ledger.add(Item::LateEvents, 1);
        // Lines of a program about itself, and answers, are no requests.
        ledger.add(Item::OtherLines, 50);
        ledger.add(Item::UnpairedRequests, 50);
        assert_eq!(ledger.completeness(98), (0.98, false));
        ledger.add(Item::Gaps, 1);
        assert_eq!(ledger.completeness(98), (0.98, true));
    }

    #[test]
    fn the_first_case_of_each_reason_is_remembered() {
        let (mut one, mut other) = (Ledger::default(), Ledger::default());
        let at = |source, number| Position { source, number };
        one.at(at(0, 7));
        one.count(Item::Frames);
        one.count(Item::Gaps);
        one.at(at(0, 9));
        one.count(Item::Gaps);
        other.at(at(1, 3));
        other.count(Item::Gaps);
        other.count(Item::UnparsedLines);
        one.merge(&other);
        let first = [Item::Frames, Item::Gaps, Item::UnparsedLines, Item::LateEvents].map(|i| one.first(i));
        assert_eq!(first, [None, Some(at(0, 7)), Some(at(1, 3)), None]);
        assert_eq!(one.get(Item::Gaps), Some(3));
    }

    #[test]
    fn names_are_unique_and_in_order() {
        let names: std::collections::BTreeSet<_> = Item::ALL.iter().map(|i| i.name()).collect();
        assert_eq!(names.len(), Item::ALL.len());
        assert!(Item::ALL.iter().enumerate().all(|(n, i)| *i as usize == n));
    }
}
