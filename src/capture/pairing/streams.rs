//! The streams of a connection that carries HTTP/2: requests that wait for their answers, by stream.
//!
//! A part of [`super::Pairing`]; what the frames say comes from [`crate::capture::http2`]. Nothing is guessed behind a hole.

use super::{Pairing, Pending, cache_of};
use crate::capture::RawEvent;
use crate::capture::flow::Piece;
use crate::capture::http2::{self, Http2};
use crate::limits::{H2_STREAMS_MAX, ONE_SIDED_AFTER};
use crate::lookup::Lookup;
use crate::trace::{Item, Ledger, Scheme};
use crate::wire::body::Asked;

/// HTTP/2 of a connection.
#[derive(Debug, Default)]
pub(super) struct Streams {
    pub(super) frames: Http2,
    pub(super) open: Lookup<u32, Pending>,
    /// The server's side cannot be read.
    pub(super) deaf: bool,
}

impl Pairing {
    pub(super) fn begin_http2(&mut self, ledger: &mut Ledger) {
        ledger.count(Item::ConnectionsHttp2);
        self.http2 = Some(Box::default());
        self.requests.end_http();
        self.responses.end_http();
    }

    /// A piece of a connection that carries HTTP/2.
    pub(super) fn frames(
        &mut self,
        is_client: bool,
        piece: Piece<'_>,
        ledger: &mut Ledger,
        out: &mut Vec<RawEvent>,
    ) {
        let Some(mut streams) = self.http2.take() else { return };
        let mut events = Vec::new();
        match piece {
            Piece::Gap { .. } => streams.frames.gap(is_client, &mut events),
            Piece::Data { at, bytes, .. } => {
                self.last_at = self.last_at.max(at);
                streams.frames.push(is_client, at, bytes, &mut events);
            }
        }
        for event in events {
            streams.deaf |= event == http2::Event::Lost && !is_client;
            self.on_frame_event(event, &mut streams, ledger, out);
        }
        self.give_up_old_streams(&mut streams, ledger, out);
        self.http2 = Some(streams);
    }

    fn on_frame_event(
        &mut self,
        event: http2::Event,
        streams: &mut Streams,
        ledger: &mut Ledger,
        out: &mut Vec<RawEvent>,
    ) {
        use http2::Event as E;
        let open = &mut streams.open;
        match event {
            E::Request { stream, at, head, https } => {
                let shape = self.redactor.shape(&head, if https { Scheme::Https } else { self.scheme });
                let (body_len, status, cache, answer) = (None, None, None, None);
                let asked = Asked::by(&head.method);
                let client = self.redactor.client(&head.headers);
                self.waiting_bytes += shape.weight();
                let pending =
                    Pending { at, acked: None, shape, client, asked, body_len, status, cache, answer };
                if open.len() >= H2_STREAMS_MAX {
                    self.give_up_streams(open, ledger, out);
                }
                if let Some(old) = open.insert(stream, pending) {
                    self.emit(old, out);
                }
            }
            E::RequestEnd { stream, body_len } => {
                if let Some(p) = open.get_mut(&stream) {
                    p.body_len = Some(body_len);
                }
            }
            E::Response { stream, status, headers } => match open.get_mut(&stream) {
                Some(p) => (p.status, p.cache) = (Some(status), cache_of(&headers)),
                None => ledger.count(Item::UnpairedResponses),
            },
            E::ResponseEnd { stream, body_len, at } => {
                // An answer may come before the request has ended; then that is the end of both.
                if let Some(mut p) = open.remove(&stream) {
                    p.answer = p.status.map(|_| (body_len, at));
                    ledger.add(Item::UnpairedRequests, u64::from(p.answer.is_none()));
                    self.emit(p, out);
                }
            }
            E::Reset { stream } => {
                if let Some(p) = open.remove(&stream) {
                    ledger.count(Item::UnpairedRequests);
                    self.emit(p, out);
                }
            }
            E::Malformed => ledger.count(Item::MalformedRequests),
            E::Lost => ledger.count(Item::Http2Lost),
        }
    }

    /// Where no answers will be seen, requests do not wait for them.
    fn give_up_old_streams(&mut self, streams: &mut Streams, ledger: &mut Ledger, out: &mut Vec<RawEvent>) {
        if self.heard_server && !streams.deaf {
            return;
        }
        let (now, deaf) = (self.last_at.0, streams.deaf);
        let old = |p: &Pending| now.saturating_sub(p.at.0) > ONE_SIDED_AFTER.as_nanos() as u64;
        for (_, pending) in streams.open.take_if(|_, p| p.body_len.is_some() && (deaf || old(p))) {
            ledger.count(Item::UnpairedRequests);
            self.emit(pending, out);
        }
    }

    /// Emits the requests of streams that wait for nothing any more.
    pub(super) fn give_up_streams(
        &mut self,
        open: &mut Lookup<u32, Pending>,
        ledger: &mut Ledger,
        out: &mut Vec<RawEvent>,
    ) {
        for (_, pending) in open.take_if(|_, _| true) {
            ledger.count(Item::UnpairedRequests);
            self.emit(pending, out);
        }
    }
}
