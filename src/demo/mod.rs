//! The built-in shop: an HTTP server on loopback with a capacity knee by construction.
//!
//! It has `n` workers and each request takes one of them for a fixed time, so it carries exactly
//! `n / service time` requests a second: below that the queue is empty, above it the queue grows. Its
//! `/metrics` page says how long the queue is. Used by `replay demo` and by tests; it refuses to listen
//! anywhere but on loopback.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};

/// How the shop is built.
#[derive(Debug, Clone, Copy)]
pub struct ShopSettings {
    /// Workers.
    pub workers: usize,
    /// Time that a request holds a worker.
    pub service_time: Duration,
}

impl ShopSettings {
    /// Requests a second that the shop carries.
    #[must_use]
    pub fn capacity_rps(&self) -> f64 {
        self.workers as f64 / self.service_time.as_secs_f64()
    }
}

#[derive(Debug)]
struct State {
    settings: ShopSettings,
    permits: Semaphore,
    waiting: AtomicI64,
    served: AtomicU64,
}

/// A running shop. Dropping it closes it.
#[derive(Debug)]
pub struct Shop {
    addr: SocketAddr,
    state: Arc<State>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Shop {
    /// Opens a shop on a free loopback port, with a thread of its own.
    ///
    /// # Errors
    /// When no port or thread is to be had.
    pub fn open(settings: ShopSettings) -> anyhow::Result<Self> {
        Self::open_at(settings, 0)
    }

    /// Opens a shop on this loopback port.
    ///
    /// # Errors
    /// When the port or a thread is not to be had.
    pub fn open_at(settings: ShopSettings, port: u16) -> anyhow::Result<Self> {
        let state = Arc::new(State {
            settings,
            permits: Semaphore::new(settings.workers),
            waiting: AtomicI64::new(0),
            served: AtomicU64::new(0),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", port)))?;
        let addr = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let inside = Arc::clone(&state);
        let thread = std::thread::Builder::new().name("shop".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, inside) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { addr, state, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Requests answered, its own pages not counted.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.state.served.load(Ordering::SeqCst)
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&state), request));
            drop(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await,
            );
        });
    }
}

async fn answer(
    state: Arc<State>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    if request.uri().path() == "/metrics" {
        return Ok(Response::new(Full::from(metrics(&state))));
    }
    state.waiting.fetch_add(1, Ordering::SeqCst);
    let permit = state.permits.acquire().await;
    state.waiting.fetch_sub(1, Ordering::SeqCst);
    tokio::time::sleep(state.settings.service_time).await;
    drop(permit);
    state.served.fetch_add(1, Ordering::SeqCst);
    Ok(Response::new(Full::from("thank you, come again\n")))
}

fn metrics(state: &State) -> String {
    format!(
        "# HELP shop_queue_depth Requests waiting for a worker.\n# TYPE shop_queue_depth gauge\n\
         shop_queue_depth {}\n# HELP shop_requests_total Requests answered.\n# TYPE shop_requests_total counter\n\
         shop_requests_total {}\n# HELP shop_workers Workers.\n# TYPE shop_workers gauge\nshop_workers {}\n",
        state.waiting.load(Ordering::SeqCst).max(0),
        state.served.load(Ordering::SeqCst),
        state.settings.workers
    )
}
