//! An order on its way: what is known of it, and who is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::fault::Fault;
use super::order::Order;
use crate::image::Format;
use crate::pipeline::Times;

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Queued,
    Generating,
    Completed,
    Failed,
    Cancelled,
}

impl State {
    /// Its name in answers.
    pub(super) fn name(self) -> &'static str {
        match self {
            State::Queued => "queued",
            State::Generating => "generating",
            State::Completed => "completed",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
        }
    }

    pub(super) fn is_end(self) -> bool {
        !matches!(self, State::Queued | State::Generating)
    }
}

/// How far a job has come.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// The part of its work that is done, 0 to 1.
    pub fraction: f64,
    /// Seconds that are left, if that is known yet.
    pub left: Option<f64>,
    /// The stage that runs.
    pub stage: String,
    /// Its steps that are done.
    pub step: usize,
    /// Its steps.
    pub steps: usize,
}

/// A picture as a file.
#[derive(Debug)]
pub struct Picture {
    /// The file.
    pub bytes: Vec<u8>,
    /// Its format.
    pub format: Format,
    /// The seed that makes it again.
    pub seed: u64,
    /// Its SHA-256, which names it.
    pub(super) hash: String,
}

impl Picture {
    /// A file of this format.
    pub fn new(bytes: Vec<u8>, format: Format, seed: u64) -> Self {
        let hash = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        Self { bytes, format, seed, hash }
    }

    pub(super) fn base64(&self) -> String {
        STANDARD.encode(&self.bytes)
    }

    /// The path below which the server has it.
    pub(super) fn path(&self) -> String {
        format!("/v1/images/{}.{}", self.hash, format_name(self.format))
    }
}

/// The name of a format in requests and answers.
pub(super) fn format_name(format: Format) -> &'static str {
    match format {
        Format::Png => "png",
        Format::Jpeg { .. } => "jpeg",
        Format::Webp => "webp",
    }
}

/// Its media type.
pub(super) fn media_type(format: Format) -> &'static str {
    match format {
        Format::Png => "image/png",
        Format::Jpeg { .. } => "image/jpeg",
        Format::Webp => "image/webp",
    }
}

/// What is known of a job.
#[derive(Debug, Clone)]
pub(super) struct Live {
    pub(super) state: State,
    pub(super) progress: Progress,
    pub(super) warnings: Vec<String>,
    /// Unfinished pictures that the order asked for.
    pub(super) partials: Vec<Arc<Picture>>,
    /// The latest unfinished picture, where somebody watches.
    pub(super) preview: Option<Arc<Picture>>,
    pub(super) pictures: Vec<Arc<Picture>>,
    pub(super) times: Times,
    /// Why it failed.
    pub(super) fault: Option<Fault>,
}

/// An order that was accepted.
#[derive(Debug)]
pub struct Job {
    /// Its name, which nobody can guess.
    pub(super) id: String,
    /// What is asked for.
    pub order: Order,
    /// Seconds since 1970.
    pub(super) created: u64,
    /// When it began to be made.
    began: std::sync::OnceLock<Instant>,
    cancelled: AtomicBool,
    watched: AtomicBool,
    live: watch::Sender<Live>,
}

impl Job {
    pub(super) fn new(id: String, order: Order) -> Arc<Self> {
        let live = Live {
            state: State::Queued,
            progress: Progress::default(),
            warnings: Vec::new(),
            partials: Vec::new(),
            preview: None,
            pictures: Vec::new(),
            times: Times::default(),
            fault: None,
        };
        Arc::new(Self {
            id,
            order,
            created: now(),
            began: std::sync::OnceLock::new(),
            cancelled: AtomicBool::new(false),
            watched: AtomicBool::new(false),
            live: watch::Sender::new(live),
        })
    }

    /// Whether it was cancelled, or has taken too long.
    pub fn is_to_stop(&self) -> bool {
        self.cancelled.load(SeqCst) || self.is_late()
    }

    pub(super) fn is_late(&self) -> bool {
        self.began.get().is_some_and(|began| began.elapsed() > self.order.timeout)
    }

    /// Seconds that it has been made for.
    pub(super) fn seconds(&self) -> f64 {
        self.began.get().map_or(0.0, |began| began.elapsed().as_secs_f64())
    }

    /// Whether somebody looks at unfinished pictures.
    pub fn is_watched(&self) -> bool {
        self.watched.load(SeqCst)
    }

    pub(super) fn watch(&self) -> watch::Receiver<Live> {
        self.live.subscribe()
    }

    /// From now on, unfinished pictures are made of it as well.
    pub(super) fn show(&self) {
        self.watched.store(true, SeqCst);
    }

    pub(super) fn cancel(&self) {
        self.cancelled.store(true, SeqCst);
    }

    pub(super) fn begin(&self) {
        self.began.get_or_init(Instant::now);
        self.live.send_modify(|live| live.state = State::Generating);
    }

    /// Says how far it has come.
    pub fn progress(&self, progress: Progress) {
        self.live.send_modify(|live| live.progress = progress);
    }

    /// Something that the client should know.
    pub fn warn(&self, warning: String) {
        self.live.send_modify(|live| live.warnings.push(warning));
    }

    /// A finished picture.
    pub fn picture(&self, picture: Picture) {
        self.live.send_modify(|live| live.pictures.push(Arc::new(picture)));
    }

    /// An unfinished picture that the order asked for.
    pub fn partial(&self, picture: Picture) {
        self.live.send_modify(|live| live.partials.push(Arc::new(picture)));
    }

    /// What the pictures are going to be like, for who watches.
    pub fn preview(&self, picture: Picture) {
        self.live.send_modify(|live| live.preview = Some(Arc::new(picture)));
    }

    /// It ends, unless it has already.
    pub(super) fn end(&self, state: State, times: Times, fault: Option<Fault>) {
        self.live.send_if_modified(|live| {
            let first = !live.state.is_end();
            if first {
                live.preview = None;
                (live.state, live.times, live.fault) = (state, times, fault);
            }
            first
        });
    }

    pub(super) fn now(&self) -> Live {
        self.live.borrow().clone()
    }

    pub(super) fn state(&self) -> State {
        self.live.borrow().state
    }

    /// Waits until it has ended.
    pub(super) async fn ended(&self) -> Live {
        let mut watch = self.live.subscribe();
        let end = watch.wait_for(|live| live.state.is_end()).await.map(|live| live.clone());
        end.unwrap_or_else(|_| self.now())
    }

    /// Bytes of its pictures.
    pub(super) fn bytes(&self) -> usize {
        let live = self.live.borrow();
        live.pictures.iter().chain(&live.partials).map(|picture| picture.bytes.len()).sum()
    }

    /// What answers say of how it was made: `cascade` beside what the API itself has.
    pub(super) fn about(&self, live: &Live, device: &str) -> Value {
        let seeds: Vec<u64> = live.pictures.iter().map(|picture| picture.seed).collect();
        let Times { plan, text, stage_c, stage_b, stage_a } = live.times;
        let [plan, text, stage_c, stage_b, stage_a] =
            [plan, text, stage_c, stage_b, stage_a].map(|time| (time.as_secs_f64() * 1e4).round() / 10.0);
        json!({
            "id": self.id,
            "seeds": seeds,
            "timings_ms": {"plan": plan, "text": text, "stage_c": stage_c, "stage_b": stage_b, "stage_a": stage_a},
            "device": device,
            "warnings": live.warnings,
        })
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
