//! Every hard ceiling of the program, with its unit and its reason, in one place.
//!
//! A limit here is not a setting: a policy may ask for less, never for more. Whoever changes one should
//! be able to say what breaks on either side of it.

use std::time::Duration;

// --- Rates and budgets -------------------------------------------------------------------------

/// Highest scale, in thousandths (1000x): past that a trace is a seed for noise, not a shape.
pub const SCALE_MAX_MILLI: u64 = 1_000_000;

/// Highest request rate a policy may allow, requests per second, for the whole process.
pub const RATE_MAX_RPS: u64 = 1_000_000;

/// Highest number of requests in flight a policy may allow: one socket each, far below the port range.
pub const IN_FLIGHT_MAX: u64 = 50_000;

/// Smallest depth of the bucket, in requests: measured, 5 ms of rate shed 12-65 % of ordinary bursts.
pub const BURST_MIN_REQUESTS: u64 = 16;

/// Depth of the bucket as time at the current rate. See [`BURST_MIN_REQUESTS`].
pub const BURST_TIME: Duration = Duration::from_millis(100);

/// Time between two looks whether the policy's file was changed: for people to be told, so seconds are enough.
pub const POLICY_LOOK: Duration = Duration::from_secs(1);

// --- Governor ----------------------------------------------------------------------------------

/// Time between two looks of the governor.
pub const TICK: Duration = Duration::from_millis(100);

/// Life of a grant: a dead governor means rate zero within this time.
pub const GRANT_TTL: Duration = Duration::from_millis(500);

/// A tick this late means the host stalled; nobody was watching, so the run is over.
pub const TICK_LATE_ABORT: Duration = Duration::from_secs(2);

/// Wall clock against monotonic clock: a jump this large ends the run (windows, stamps, guards are off).
pub const CLOCK_JUMP_ABORT: Duration = Duration::from_secs(2);

/// A worker silent this long: hold.
pub const WORKER_SILENT_HOLD: Duration = Duration::from_millis(500);

/// A worker silent this long: abort.
pub const WORKER_SILENT_ABORT: Duration = Duration::from_secs(2);

/// Longest time a permit may lie between gate and first byte.
pub const PERMIT_TTL: Duration = Duration::from_millis(100);

/// Most guards in one policy: each is a query stream against Prometheus.
pub const GUARDS_MAX: usize = 32;

/// Spins of a seqlock reader before it gives up and refuses (fail closed, never wait on the governor).
pub const SEQLOCK_SPINS_MAX: u32 = 1_000;

/// Width of one bucket of the local window.
pub const LOCAL_BUCKET: Duration = Duration::from_millis(100);

/// Requests in flight from which silence of a target that answered before is an outage and not one slow request.
pub const OUTAGE_IN_FLIGHT_MIN: u64 = 20;

/// Longest look-back of a local guard, in buckets (30 s): older evidence is about another moment.
pub const LOCAL_BUCKETS_MAX: usize = 300;

/// Ticks of our own traffic kept to compare with what a query saw: 15 minutes, longer than any range a guard
/// should have.
pub const OWN_TRAFFIC_TICKS_MAX: usize = 9_000;

/// Rates seen before the start without which nothing can be said about visibility.
pub const VISIBILITY_SAMPLES_MIN: usize = 5;

/// Prometheus's clock against ours: beyond this the run holds (see also [`SKEW_NO_DATA`]).
pub const SKEW_HOLD: Duration = Duration::from_secs(2);

/// Experiments (cuts under observation) kept; more cuts than this end a run long before.
pub const EXPERIMENTS_MAX: usize = 64;

const _: () = assert!(GRANT_TTL.as_millis() >= 3 * TICK.as_millis());
const _: () = assert!(PERMIT_TTL.as_millis() < GRANT_TTL.as_millis());
const _: () = assert!(WORKER_SILENT_HOLD.as_millis() < WORKER_SILENT_ABORT.as_millis());

// --- Wire --------------------------------------------------------------------------------------

/// Longest request or response head we parse: nginx and HAProxy refuse above 32 KiB by default.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Most header lines in one head.
pub const HEADERS_MAX: usize = 256;

/// Longest chunk-size line, extensions included.
pub const CHUNK_LINE_MAX: usize = 4 * 1024;

// --- Values of a session -----------------------------------------------------------------------

/// Longest answer body that values are taken from, before and after decompression; longer ones give none.
pub const TAKE_BODY_BYTES_MAX: usize = 256 * 1024;

/// Longest value taken from an answer: a token fits, a page does not.
pub const VALUE_BYTES_MAX: usize = 8 * 1024;

/// Cookies kept per session: RFC 6265 asks for 50 at least.
pub const COOKIES_MAX: usize = 64;

/// Bytes of one cookie: RFC 6265 asks for 4096 at least.
pub const COOKIE_BYTES_MAX: usize = 4096;

/// Sessions of one worker whose values are kept; beyond it those without a connection are forgotten, and
/// what needs them is shed.
pub const SESSIONS_KEPT_MAX: usize = 200_000;

/// Bytes that those of one worker without a connection may know together; beyond it they are forgotten.
pub const SESSIONS_KEPT_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Time without a connection after which a session's values are forgotten and its account is given back: what a
/// recorded log takes as the end of a session ([`LOG_SESSION_IDLE`]).
pub const SESSION_KEPT: Duration = LOG_SESSION_IDLE;

/// Bytes of one HTTP/2 request's body that may lie between us and the wire: what a stop cannot take back.
pub const HTTP2_SEND_BUFFER_BYTES: usize = 64 * 1024;

/// Sessions of one worker kept for their TLS tickets alone (a few KiB each).
pub const TICKETS_KEPT_MAX: usize = 5_000;

/// Window of an HTTP/2 stream and connection that we offer: what browsers offer within a factor of two.
pub const HTTP2_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// Largest request body that is made up: larger ones are uploads, which nobody should make up.
pub const REQUEST_BODY_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Largest file of accounts.
pub const ACCOUNTS_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Rules of one kind in `[rewrite]`: each is looked at for every shape.
pub const REWRITE_RULES_MAX: usize = 100;

// --- Capture -----------------------------------------------------------------------------------

/// Out-of-order bytes held for one direction of one connection before a gap is declared.
pub const REASSEMBLY_BYTES_MAX: usize = 1024 * 1024;

/// Segments held out of order for one direction.
pub const REASSEMBLY_SEGMENTS_MAX: usize = 1_024;

/// Capture time a hole may stay open before a gap is declared: far above any retransmission.
pub const GAP_AGE_MAX: Duration = Duration::from_secs(30);

/// Bytes of shapes that a capture of packets remembers, so that requests that are alike share one.
pub const SHAPES_BYTES_MAX: usize = 24 * 1024 * 1024;

/// Connections tracked at once; the longest idle is closed to make room, and counted.
pub const FLOWS_MAX: usize = 100_000;

/// Idle time after which a connection is taken as ended.
pub const FLOW_IDLE_MAX: Duration = Duration::from_secs(600);

/// Requests waiting for their responses on one connection (pipelining).
pub const PIPELINE_MAX: usize = 256;

/// Longest frame taken from a capture file: TSO frames reach 64 KiB, BIG TCP more.
pub const FRAME_BYTES_MAX: usize = 512 * 1024;

/// Connections of the plan that a worker remembers, so that each is counted once.
pub const PLANNED_CONNECTIONS_MAX: usize = 400_000;

/// Streams of one captured HTTP/2 connection that are remembered at once.
pub const H2_STREAMS_MAX: usize = 4_096;

/// Largest table of header compression that a captured connection may have.
pub const H2_TABLE_BYTES_MAX: usize = 64 * 1024;

/// Requests of a `.gor` file that wait for their answers.
pub const GOR_WAITING_MAX: usize = 4_096;

/// Bytes of a `.gor` record that are read; behind them only its end is looked for.
pub const GOR_RECORD_BYTES_MAX: usize = 1024 * 1024;

/// Longest IP datagram.
pub const DATAGRAM_BYTES_MAX: usize = 65_535;

/// Datagrams put together at once: 64 MiB at the very most.
pub const FRAGMENTED_MAX: usize = 1_024;

/// Capture time that a datagram may stay incomplete.
pub const FRAGMENT_AGE_MAX: Duration = Duration::from_secs(30);

/// Capture time for which copies of segments of a connection that is over are known as such.
pub const OVER_KEPT: Duration = Duration::from_secs(120);

/// Bytes of a connection held until it is known which side is the client.
pub const EARLY_BYTES_MAX: usize = 64 * 1024;

/// Bytes of all connections of a capture held at once, out of order or unfinished; the one that asks for more is closed,
/// and counted.
pub const CAPTURE_HELD_BYTES_MAX: usize = 96 * 1024 * 1024;

/// Capture time after which requests of a connection whose server was never heard leave without an answer.
pub const ONE_SIDED_AFTER: Duration = Duration::from_secs(10);

/// Longest log line.
pub const LOG_LINE_BYTES_MAX: usize = 64 * 1024;

/// Requests of a capture by which it is told whether it was made behind a proxy.
pub const VANTAGE_REQUESTS: usize = 200;

/// Different requests of each input that are kept to tell whether two inputs hold the same traffic: half a MiB.
pub const TWIN_SAMPLE_MAX: usize = 8_192;

/// Connections of a key log: 200,000 are 60 MB.
pub const KEYLOG_CONNECTIONS_MAX: usize = 200_000;

/// Longest key log, bytes: that many connections of TLS 1.3, five lines each.
pub const KEYLOG_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Longest record of TLS with its header (RFC 5246, section 6.2.3).
pub const TLS_RECORD_BYTES_MAX: usize = 5 + (1 << 14) + 2_048;

/// Handshake messages held until a hello is whole: certificates come behind it, and are passed over message by message.
pub const TLS_HANDSHAKE_BYTES_MAX: usize = 128 * 1024;

/// Early data of a connection that wait for their end: servers take 16 KiB, seldom more.
pub const TLS_EARLY_BYTES_MAX: usize = 64 * 1024;

/// Records in a row that no key fits, behind which a connection is given up: each costs as many trials as are allowed.
pub const TLS_FAILED_MAX: u32 = 16;

/// Records tried behind a hole: 4 MiB of full ones.
pub const TLS_RECORDS_TRIED_MAX: u64 = 256;

/// Longest time that a live capture keeps events back because an older request has no answer yet: a long poll must not keep
/// an hour of others in memory. What is complete later than that is counted as late.
pub const LIVE_PLACE_WAIT_MAX: Duration = Duration::from_secs(600);

/// Time that frames of a live capture may be late: queues of several processors are a few milliseconds apart.
pub const LIVE_LATE: Duration = Duration::from_secs(1);

/// Longest time to read what lies in the ring when a live capture is stopped: 64 MiB take a tenth of a second.
pub const LIVE_DRAIN_MAX: Duration = Duration::from_secs(5);

/// Frames of a live capture between two looks at the clock: a few hundred microseconds of a busy network.
pub const LIVE_FRAMES_PER_LOOK: u64 = 256;

/// Bytes of a frame that a live capture takes: larger than any frame that the kernel puts together.
pub const LIVE_FRAME_BYTES: i32 = 262_144;

/// Time after which a live capture looks up although no frame came: that long a stop takes at most.
pub const LIVE_LOOK: Duration = Duration::from_millis(100);

/// Packed logs in which one is looked for that was packed while nobody looked: each is unpacked up to the place where it was
/// left, and meanwhile nothing else is read.
pub const FOLLOW_PACKED_MAX: usize = 4;

/// Bytes before the place in a followed log by which it is known again: a few lines, which no other log has there.
pub const FOLLOW_TAIL_BYTES: u64 = 256;

/// Lines of a followed log behind which what is certain is written, so that an hour of them does not wait in memory.
pub const FOLLOW_LINES_AT_ONCE: u64 = 4_096;

/// Lines of followed logs that are named when they cannot be used, in one run; the ledger counts them all.
pub const FOLLOW_BAD_LINES_SHOWN: u64 = 20;

/// Time between two looks at followed logs.
pub const FOLLOW_LOOK: Duration = Duration::from_millis(250);

/// Longest file of redaction rules, bytes: thousands of names.
pub const REDACT_RULES_BYTES_MAX: u64 = 256 * 1024;

/// Events held back to put them into time order.
pub const REORDER_EVENTS_MAX: usize = 400_000;

/// Bytes of those events.
pub const REORDER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Connections inferred for one access-log session: what browsers open to one host over HTTP/1.1.
pub const LOG_CONNECTIONS_MAX: u16 = 6;

/// Idle time that ends an inferred session of an access log.
pub const LOG_SESSION_IDLE: Duration = Duration::from_secs(300);

/// Assumed busy time of a log request without a duration, used only to choose a connection.
pub const LOG_BUSY_ASSUMED: Duration = Duration::from_millis(100);

/// Lines of a log held to put them in order, in each of two places: those of unfinished seconds, and those whose arrival
/// is known. Some 100 bytes each. At 20,000 a second a request may have taken 13 s and still find its place.
pub const LOG_WINDOW_LINES_MAX: usize = 262_144;

/// Bytes of those lines, in each place.
pub const LOG_WINDOW_BYTES_MAX: usize = 40 * 1024 * 1024;

/// How long after a second a line stamped with it may come: servers write when a request is over.
pub const LOG_LATE: Duration = Duration::from_secs(60);

/// Shapes of a log remembered by each thread that reads it, so that lines that are alike share one; as many of each of the
/// parts they are made of.
pub const LOG_SHAPES_MAX: usize = 16_384;

/// Bytes of a log that a thread reads at once.
pub const LOG_CHUNK_BYTES: usize = 1024 * 1024;

/// Bytes of all logs in chunks, and of what their lines become; with more than a hundred logs each has at least one chunk of the
/// longest line.
pub const LOG_CHUNKS_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Threads that read logs: by the shares measured on two cores, with more the one that packs or the one that orders is what is
/// waited for; and each remembers shapes of its own.
pub const LOG_THREADS_MAX: usize = 4;

/// Lines of a log that a thread reads at once, however short they are; what they hold is reckoned together.
pub const LOG_CHUNK_LINES: usize = 4_096;

/// Bytes of each of those parts, and half of those of the shapes; as much again is on its way to be forgotten. Some 32 MiB for
/// each thread at most.
pub const LOG_SHAPES_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Sessions an access log may hold open at once.
pub const LOG_SESSIONS_MAX: usize = 200_000;

// --- Trace -------------------------------------------------------------------------------------

/// Events in one block.
pub const BLOCK_EVENTS_MAX: usize = 8_192;

/// Bytes of one block before compression, checked before anything is allocated.
pub const BLOCK_RAW_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Raw bytes at which a writer closes a block, well below [`BLOCK_RAW_BYTES_MAX`].
pub const BLOCK_RAW_BYTES_TARGET: usize = 4 * 1024 * 1024;

/// Bytes of the shapes that a writer keeps while a block is open: alike ones are written once, and kept each.
pub const BLOCK_HELD_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Bytes of one block as stored.
pub const BLOCK_STORED_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Bytes of a trace's header facts.
pub const TRACE_META_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of a trace's end section (index and ledger).
pub const TRACE_END_BYTES_MAX: usize = 64 * 1024 * 1024;

const _: () = assert!(BLOCK_RAW_BYTES_TARGET + HEAD_BYTES_MAX * 2 < BLOCK_RAW_BYTES_MAX);

// --- Plan --------------------------------------------------------------------------------------

/// Length of a trace, in seconds of trace time (a week): the per-second curve in its end section stays small.
pub const TRACE_SECONDS_MAX: u64 = 7 * 86_400;

/// Requests up to which a trace is read through before a run (a second or two); a longer one is sounded where it is
/// densest.
pub const READ_THROUGH_REQUESTS_MAX: u64 = 2_000_000;

/// Time for sounding a trace before a run.
pub const SOUNDING_TIME: Duration = Duration::from_millis(300);

/// How far ahead of its first request a connection is opened at most: where users opened it earlier, it stays shut until
/// then. Bounds what must be known of the trace ahead.
pub const OPEN_AHEAD_MAX: Duration = Duration::from_secs(2);

/// Connections remembered while a trace is read: one that is not is opened by its first request.
pub const OPEN_CONNECTIONS_MAX: usize = 1_000_000;

/// Largest start jitter of a clone.
pub const CLONE_JITTER_MAX: Duration = Duration::from_secs(10);

/// Planned requests kept to be shared by all that are alike: a few megabytes, and most requests of a trace are few.
pub const ALIKE_MAX: usize = 4_096;

/// Plan read ahead of its time: bounds memory and the cost of a stop.
pub const HORIZON: Duration = Duration::from_secs(2);

/// Departures a plan may hold to merge clones in time order.
pub const PLAN_AHEAD_MAX: usize = 2_000_000;

/// Requests of the sample that the stationary plan draws sessions from.
pub const STATIONARY_REQUESTS_MAX: usize = 200_000;

/// Events of the trace that are looked at for that sample: where sessions last for hours, few of them are kept.
pub const STATIONARY_EVENTS_MAX: u64 = 2 * STATIONARY_REQUESTS_MAX as u64;

/// Requests below which a sample is no mix, and it is read on whatever it costs.
pub const STATIONARY_REQUESTS_MIN: u64 = 1_000;

/// Longest session kept in that sample; longer ones are cut, which a steady rate does not notice.
pub const STATIONARY_SESSION_MAX: Duration = Duration::from_secs(120);

/// A thinned session may come back at any request after this time.
pub const THINNED_RETURN_AFTER: Duration = Duration::from_secs(60);

/// Longest plan, in seconds of run time (a week): the per-second curve stays small.
pub const PLAN_SECONDS_MAX: u64 = 7 * 86_400;

// --- Engine ------------------------------------------------------------------------------------

/// Lateness of ours beyond which a departure is shed: it would be another moment's traffic.
pub const TOO_LATE: Duration = Duration::from_millis(500);

/// Default longest wait for the previous answer on the same HTTP/1.1 connection.
pub const SESSION_BLOCKED_MAX: Duration = Duration::from_secs(1);

/// Requests that may wait for one connection.
pub const LANE_QUEUE_MAX: usize = 64;

/// Default total time of a request, from first byte written to last byte read.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Default time to connect, TLS included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Largest answer read from the target; the rest is cut and counted.
pub const RESPONSE_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// Time that in-flight requests get after an abort.
pub const ABORT_GRACE: Duration = Duration::from_secs(5);

/// Time between two connections that one worker closes after the load, while there are few of them.
pub const CLOSE_EACH: Duration = Duration::from_millis(10);

/// Time in which all connections are closed, however many: within the grace of an abort.
pub const CLOSE_ALL: Duration = Duration::from_secs(3);

const _: () = assert!(CLOSE_ALL.as_millis() < ABORT_GRACE.as_millis());

/// Bytes of answers that may come in one second without having been seen before: the least of what is reserved
/// ahead of a budget on bytes.
pub const RESERVE_BYTES_PER_SECOND: u64 = 256 * 1024 * 1024;

/// Time that in-flight requests get after the last departure.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);

/// Batches in the channel between feeder and worker.
pub const FEED_BATCHES_MAX: usize = 64;

/// Departures in one batch.
pub const FEED_BATCH_MAX: usize = 1_024;

/// Journal lines waiting for the disk; a full queue ends the run (an unrecorded run proves nothing).
///
/// Five seconds of ticks: a disk that takes longer is not going to explain this run.
pub const JOURNAL_QUEUE_MAX: usize = 50;

/// Shortest life of an answer of DNS: a record without one must not make every connection ask.
pub const DNS_LIFE_MIN: Duration = Duration::from_secs(1);

/// Longest: a balancer that moves is followed within this, whatever its records say.
pub const DNS_LIFE_MAX: Duration = Duration::from_secs(300);

/// Connections of a pool: each request looks for a free one.
pub const POOL_MAX: u32 = 4_096;

/// Local addresses that connections may come from.
pub const SOURCE_ADDRESSES_MAX: usize = 256;

/// Most worker threads.
pub const WORKERS_MAX: usize = 64;

/// Lanes (connections) one worker keeps.
pub const LANES_MAX: usize = 60_000;

// --- Watch -------------------------------------------------------------------------------------

/// Largest answer taken from Prometheus or a scraped page.
pub const WATCH_BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Total time of one guard query, connect included.
pub const QUERY_TIMEOUT: Duration = Duration::from_secs(2);

/// Prometheus's clock against ours: beyond this the reading is unusable.
pub const SKEW_NO_DATA: Duration = Duration::from_secs(30);

/// Most series in one answer: a guard needs one.
pub const SERIES_MAX: usize = 1_000;

// --- Policy ------------------------------------------------------------------------------------

/// Bytes of a policy file.
pub const POLICY_BYTES_MAX: u64 = 1024 * 1024;

/// Route patterns in a policy.
pub const ROUTES_MAX: usize = 1_000;

/// Our own send lag (99th percentile of a second) above which a result is not to be trusted.
pub const LAG_LIMIT: Duration = Duration::from_millis(50);

/// Share of a second that one of our threads may want a CPU: above it nothing is left for the next request.
pub const OWN_BUSY_LIMIT: f64 = 0.97;

/// Share of a second that one of our threads may wait for a CPU while others have it.
pub const OWN_WAIT_LIMIT: f64 = 0.5;

/// Share of the machine's time that the host may take: above it clocks and measurements are the host's.
pub const OWN_STEAL_LIMIT: f64 = 0.25;

/// Seconds in a row in which the generator is at its limit before the governor holds and the result is invalid.
pub const LAG_SECONDS: u32 = 3;
