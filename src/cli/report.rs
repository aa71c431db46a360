//! What a run says when it is done: names of files, or one JSON object, and where the time went.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{note, say};
use crate::backend::Backend;
use crate::error::Result;
use crate::image::Record;
use crate::measure::memory::peak_bytes;
use crate::pipeline::Times;

/// What is known of a run so far.
pub(super) struct Report {
    begin: Instant,
    json: bool,
    quiet: bool,
    model: String,
    /// Names of the weights' files, by network, where the model has several for one.
    weights: BTreeMap<String, String>,
    device: String,
    /// Opening the model and the device.
    load: Duration,
    /// Time of each stage, over all runs.
    pub(super) times: Times,
    /// Encoding and writing files.
    encode: Duration,
    /// Files that were written.
    paths: Vec<String>,
}

impl Report {
    /// A run that began at `begin`, and has just opened its model and its device.
    pub(super) fn new(begin: Instant, json: bool, quiet: bool, record: &Record, backend: &dyn Backend) -> Self {
        let (model, weights) = (record.model.clone(), record.weights.clone());
        let (device, load) = (backend.device().name.clone(), begin.elapsed());
        let (times, encode, paths) = (Times::default(), Duration::ZERO, Vec::new());
        Self { begin, json, quiet, model, weights, device, load, times, encode, paths }
    }

    /// Notes the file that `write` encodes and writes, and how long that takes. Without JSON, its name is printed
    /// at once. Standard output has no name.
    ///
    /// # Errors
    /// Those of `write`, and if standard output cannot be written to.
    pub(super) fn wrote<'a>(&mut self, write: impl FnOnce() -> Result<Option<&'a Path>>) -> Result<()> {
        let start = Instant::now();
        let path = write()?.map(|path| path.display().to_string());
        if let (Some(path), false) = (&path, self.json) {
            say(path)?;
        }
        self.paths.extend(path);
        self.encode += start.elapsed();
        Ok(())
    }

    /// Prints the JSON object, with the files as `files` and what `more` adds, or else the times.
    ///
    /// # Errors
    /// If standard output cannot be written to.
    pub(super) fn end(self, files: &str, more: Value) -> Result<()> {
        let Self { times, load, encode, device, .. } = &self;
        if self.json {
            let seconds = json!({
                "load": load.as_secs_f64(),
                "plan": times.plan.as_secs_f64(),
                "text": times.text.as_secs_f64(),
                "stage_c": times.stage_c.as_secs_f64(),
                "stage_b": times.stage_b.as_secs_f64(),
                "stage_a": times.stage_a.as_secs_f64(),
                "encode": encode.as_secs_f64(),
            });
            let mut all = json!({
                files: self.paths, "model": self.model, "weights": self.weights, "device": device, "seconds": seconds,
                "peak_bytes": peak_bytes(),
            });
            if let (Some(all), Value::Object(more)) = (all.as_object_mut(), more) {
                all.extend(more);
            }
            return say(&all.to_string());
        }
        if !self.quiet {
            let total = self.begin.elapsed().as_secs_f64();
            let peak =
                peak_bytes().map_or(String::new(), |peak| format!("; peak memory {} MiB", peak.div_ceil(1 << 20)));
            note(&format!(
                "{total:.2} s on {device}: load {:.2}, text {:.2}, Stage C {:.2}, Stage B {:.2}, Stage A {:.2}{peak}",
                (*load + times.plan).as_secs_f64(),
                times.text.as_secs_f64(),
                times.stage_c.as_secs_f64(),
                times.stage_b.as_secs_f64(),
                times.stage_a.as_secs_f64(),
            ));
        }
        Ok(())
    }
}
