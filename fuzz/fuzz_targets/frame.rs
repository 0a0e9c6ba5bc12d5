//! Any bytes as frames of any link type, through the whole of a capture.
#![no_main]
use libfuzzer_sys::fuzz_target;
use replay::capture::frame::LinkType;
use replay::capture::recorder::Recorder;
use replay::units::WallTime;

fuzz_target!(|data: &[u8]| {
    let Some((kind, mut rest)) = data.split_first() else { return };
    let links = [1, 9, 12, 0, 113, 276, 239];
    let link = LinkType::from_number(links[usize::from(*kind) % links.len()]);
    let (mut recorder, mut at) = (Recorder::new(replay::capture::redact::Redactor::with_key(b"k")), 1_000_000_000u64);
    while let Some((len, more)) = rest.split_first() {
        let n = usize::from(*len).min(more.len());
        recorder.frame(link, WallTime(at), &more[..n], n + usize::from(*len & 3));
        rest = &more[n..];
        at += 700_000_000;
    }
    drop(recorder.finish());
});
