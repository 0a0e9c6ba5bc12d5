//! A lane's surroundings on loopback, without a governor: everything is allowed for a minute. Shared by `lane.rs` and
//! `mux.rs`.
#![allow(unreachable_pub, missing_docs)]

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use replay::edge::clock::Clock;
use replay::edge::send::book::Book;
use replay::edge::send::connect::{Connector, Sources};
use replay::edge::send::dns::Resolver;
use replay::edge::send::lane::LaneContext;
use replay::govern::gate::{Gate, GateLimits};
use replay::govern::latch::Latch;
use replay::plan::prepared::Marking;
use replay::policy::check;
use replay::policy::target::Target;
use replay::policy::tls::Resumption;
use replay::units::{Rate, RunTime};

pub fn context(addr: SocketAddr, timeout: Duration, blocked: Duration) -> (Rc<LaneContext>, Book) {
    let clock = Clock::start();
    let limits = GateLimits::of_rate(Rate::per_sec(10_000), Rate::per_sec(10_000), 1_000);
    let gate = Gate::new(Latch::new(), limits);
    gate.publish(RunTime::START, Rate::per_sec(10_000), Rate::per_sec(10_000), RunTime::from_millis(60_000));
    let policy =
        check::parse("version = 1\nname = \"t\"\n[target]\nallow = [\"127.0.0.0/8\"]\n", "t").unwrap();
    let target = Target::new(&format!("http://{}", addr), policy.allow.clone()).unwrap();
    let book = Book::new(clock);
    let context = Rc::new(LaneContext {
        gate,
        clock,
        book: book.clone(),
        connector: Connector {
            resolver: Resolver::new(&target, None, &[], clock),
            tls: None,
            server_name: None,
            resumption: Resumption::default(),
            sources: Sources::default(),
            timeout: Duration::from_secs(5),
            target: target.clone(),
            clock,
        },
        marking: Marking {
            authority: target.authority(),
            agent_suffix: "replay/test".to_owned(),
            run_id: "r".to_owned(),
            trace_seed: 1,
            ..Marking::default()
        },
        request_timeout: timeout,
        session_blocked_max: blocked,
        number: Cell::new(0),
        scratch: LaneContext::scratch(),
        learns: true,
        accounts: RefCell::default(),
    });
    (context, book)
}
