//! Frames from a network interface, through libpcap.
//!
//! libpcap reads the ring that it shares with the kernel; what did not fit is counted there, and told here every second. What
//! this refuses to do: anything else with the interface. Frames are never sent.

use anyhow::{Context, bail};
use pcap::{Active, Capture, Device, Error};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::capture::frame::LinkType;
use crate::capture::recorder::Recorder;
use crate::limits::{LIVE_FRAME_BYTES, LIVE_LOOK};
use crate::trace::{Item, Ledger};
use crate::units::{NANOS_PER_SEC, WallTime};

/// What to capture.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Name of the interface, or `any`.
    pub interface: String,
    /// Which frames, in the language of pcap-filter(7).
    pub filter: Option<String>,
    /// Ring between the kernel and us, MiB.
    pub buffer_mib: u16,
}

/// An open interface.
pub struct Live {
    capture: Capture<Active>,
    link: Result<LinkType, i32>,
    name: String,
    /// Dropped by the kernel and by the interface, as last told: counters of 32 bits.
    dropped: (u32, u32),
}

impl Live {
    /// Opens an interface. Needs CAP_NET_RAW, which can be given up afterwards.
    ///
    /// # Errors
    /// When there is no such interface, the privilege is missing, or the filter is wrong.
    pub fn open(wanted: &Wanted) -> anyhow::Result<Self> {
        let name = &wanted.interface;
        let inactive =
            Capture::from_device(name.as_str()).with_context(|| format!("cannot capture on {name}"))?;
        // The kernel hands over a part of the ring that is not full after this time.
        let hand_over = i32::try_from(LIVE_LOOK.as_millis() / 4).unwrap_or(i32::MAX);
        let inactive = inactive
            .snaplen(LIVE_FRAME_BYTES)
            .buffer_size(i32::from(wanted.buffer_mib) * 1024 * 1024)
            .timeout(hand_over)
            .promisc(name != "any" && name != "lo");
        // Without waiting: libpcap's own wait does not end on an interface on which nothing happens.
        let capture = inactive.open().map_err(|e| refused(name, &e))?;
        let mut capture = capture.setnonblock().with_context(|| format!("cannot capture on {name}"))?;
        if let Some(filter) = &wanted.filter {
            capture.filter(filter, true).map_err(|e| anyhow::anyhow!("--filter {filter:?}: {e}"))?;
        }
        let link = LinkType::from_number(capture.get_datalink().0);
        if let Err(number) = link {
            bail!("{name} has frames of link type {number}, which is not supported");
        }
        Ok(Self { capture, link, name: name.clone(), dropped: (0, 0) })
    }

    /// Hands one frame to the recorder, and says when it was captured; nothing when none came for a while.
    ///
    /// # Errors
    /// When the interface went away.
    pub fn next(&mut self, recorder: &mut Recorder) -> anyhow::Result<Option<WallTime>> {
        match self.capture.next_packet() {
            Ok(packet) => {
                // Microseconds, which libpcap gives unless it is asked for more.
                let h = packet.header;
                let part = u64::try_from(h.ts.tv_usec).unwrap_or(0) * 1_000;
                let at = u64::try_from(h.ts.tv_sec)
                    .unwrap_or(0)
                    .saturating_mul(NANOS_PER_SEC)
                    .saturating_add(part);
                recorder.frame(self.link, WallTime(at), packet.data, h.len as usize);
                Ok(Some(WallTime(at)))
            }
            Err(Error::TimeoutExpired) => {
                self.wait()?;
                Ok(None)
            }
            Err(e) => Err(anyhow::anyhow!("{}: {e}", self.name)),
        }
    }

    /// Waits for a frame, or a while.
    fn wait(&self) -> anyhow::Result<()> {
        let mut fds = [PollFd::new(&self.capture, PollFlags::IN)];
        let look = Timespec { tv_sec: 0, tv_nsec: LIVE_LOOK.subsec_nanos().into() };
        match poll(&mut fds, Some(&look)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(e).with_context(|| format!("cannot wait for {}", self.name)),
        }
    }

    /// Adds what was dropped since the last call.
    ///
    /// # Errors
    /// When the interface went away.
    pub fn count_drops(&mut self, ledger: &mut Ledger) -> anyhow::Result<()> {
        let stats = self.capture.stats().with_context(|| format!("{} tells no drops", self.name))?;
        let (kernel, interface) = self.dropped;
        ledger.add(Item::KernelDrops, u64::from(stats.dropped.wrapping_sub(kernel)));
        ledger.add(Item::InterfaceDrops, u64::from(stats.if_dropped.wrapping_sub(interface)));
        self.dropped = (stats.dropped, stats.if_dropped);
        Ok(())
    }
}

fn refused(name: &str, error: &Error) -> anyhow::Error {
    let text = error.to_string();
    if text.contains("ermission") || text.contains("permitted") {
        return anyhow::anyhow!(
            "cannot capture on {name}: it needs the privilege CAP_NET_RAW. Give it to the program once \
             (setcap cap_net_raw=ep /usr/bin/replay), or start it by systemd (systemd/replay-capture.service)"
        );
    }
    let names = Device::list().map(|all| all.into_iter().map(|d| d.name).collect::<Vec<_>>().join(", "));
    let known = names.map_or_else(|_| String::new(), |n| format!(". There are: {n}"));
    anyhow::anyhow!("cannot capture on {name}: {text}{known}")
}
