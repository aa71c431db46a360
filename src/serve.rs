//! Pictures over HTTP: the API of OpenAI's images, that of Stable Diffusion WebUI as far as clients need it, jobs, and a
//! page for people.
//!
//! ```text
//! connection ─▶ guard (Host, Origin, key) ─▶ handler ─▶ Order ─▶ Queue ─▶ one thread with a Maker
//!                                               ▲                               │
//!                                               └──────────── Job ◀─────────────┘
//! ```
//!
//! One thread owns the model and makes one order after the other. Handlers read requests, put orders into a queue of
//! bounded length, and wait for what the job becomes. This module knows HTTP and queues, and nothing of how pictures are
//! made: that is the command line's, by the same code that reads its own flags.

mod a1111;
mod fault;
mod fields;
mod given;
mod guard;
mod health;
mod http;
mod job;
mod jobs;
mod metrics;
mod openai;
mod order;
mod page;
mod queue;
mod read;
mod routes;
#[cfg(test)]
mod tests;
mod worker;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::error::Result;
use crate::request::Request;
pub use guard::Keys;
pub use http::{Stop, run};
pub use job::{Job, Picture, Progress};
pub use order::{About, Maker};

use metrics::Metrics;
use queue::Queue;

/// How a server is run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it listens; port 0 is a free one.
    pub address: SocketAddr,
    /// Keys of which a client needs one; without any, nobody needs one.
    pub keys: Keys,
    /// Names that clients may call the server by, besides its addresses and `localhost`.
    pub hosts: Vec<String>,
    /// Origins of pages that may use it besides its own.
    pub origins: Vec<String>,
    /// Most orders that wait.
    pub queue: usize,
    /// Most pixels of a picture.
    pub pixels: u64,
    /// Longest time that an order may take, once it is made.
    pub timeout: Duration,
    /// How long orders that were accepted may go on after the server was asked to stop.
    pub drain: Duration,
}

impl Settings {
    /// Whether only programs of this machine can reach it.
    pub fn is_local(&self) -> bool {
        match self.address.ip() {
            IpAddr::V4(ip) => ip.is_loopback(),
            IpAddr::V6(ip) => ip.is_loopback(),
        }
    }
}

/// Reads a request from fields as a line of `--prompts` has them.
pub type Read = fn(Map<String, Value>) -> Result<Request>;

/// What handlers and the thread that makes pictures share.
pub(crate) struct Shared {
    settings: Settings,
    read: Read,
    queue: Queue,
    metrics: Metrics,
    /// Known as soon as the model is open.
    about: OnceLock<About>,
    /// No new orders: the server is about to stop.
    draining: AtomicBool,
    /// The device failed.
    lost: AtomicBool,
}

impl Shared {
    fn new(settings: Settings, read: Read) -> Arc<Self> {
        let queue = Queue::new(settings.queue);
        let (about, metrics) = (OnceLock::new(), Metrics::new());
        Arc::new(Self {
            settings,
            read,
            queue,
            metrics,
            about,
            draining: AtomicBool::new(false),
            lost: AtomicBool::new(false),
        })
    }

    /// What the model is, once it is ready for orders.
    ///
    /// # Errors
    /// 503 while it is being loaded, when the device is lost, and before the end.
    fn ready(&self) -> std::result::Result<&About, fault::Fault> {
        match self.about.get() {
            _ if self.draining.load(Ordering::SeqCst) => Err(fault::Fault::draining()),
            _ if self.lost.load(Ordering::SeqCst) => Err(fault::Fault::device_lost()),
            None => Err(fault::Fault::loading()),
            Some(about) => Ok(about),
        }
    }
}
