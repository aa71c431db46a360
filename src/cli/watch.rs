//! Watches a run for the command line: progress, notes, `--dump`, and whether it is to stop.

use std::io::IsTerminal;
use std::ops::ControlFlow;

use indicatif::{ProgressBar, ProgressStyle};

use super::tensors::Tensors;
use super::{interrupt, note};
use crate::backend::Residency;
use crate::model::Model;
use crate::pipeline::{Footprint, HostTensor, Observer, StageName, Step};

/// Shows how far a run has come, and collects what `--dump` asks for.
pub(super) struct Watch {
    bar: Option<ProgressBar>,
    shows_progress: bool,
    shows_memory: bool,
    shows_warnings: bool,
    /// Which weights were taken where the model has several.
    choices: Vec<String>,
    /// Intermediate results of all batches.
    pub(super) dump: Tensors,
}

impl Watch {
    /// Nothing is printed if `quiet`. Where `json`, warnings are.
    pub(super) fn new(quiet: bool, json: bool) -> Self {
        Self {
            bar: None,
            shows_progress: !quiet && !json && std::io::stderr().is_terminal(),
            shows_memory: !quiet && !json,
            shows_warnings: !quiet,
            choices: Vec::new(),
            dump: Tensors::default(),
        }
    }
}

impl Watch {
    /// The model that runs: where it has several files for a network, the line about memory says which was taken.
    pub(super) fn about(&mut self, model: &Model) {
        self.choices = model.choices();
    }
}

impl Observer for Watch {
    fn planned(&mut self, plan: &Footprint) {
        if self.shows_memory {
            let choices = self.choices.iter().map(|choice| format!("; {choice}"));
            note(&(memory(plan) + &choices.collect::<String>()));
        }
    }

    fn truncated(&mut self, _: &str, cut: &str) {
        if self.shows_warnings {
            note(&format!("warning: the prompt is too long, cut off: \"{}\"", shorten(cut)));
        }
    }

    fn begin(&mut self, stage: StageName, steps: usize) {
        if !self.shows_progress {
            return;
        }
        let bar = ProgressBar::new(steps as u64).with_prefix(stage.to_string());
        let style = ProgressStyle::with_template("{prefix:8} {bar:30} {pos}/{len} [{elapsed}, {eta} left]");
        bar.set_style(style.expect("the template is well-formed"));
        bar.tick();
        self.bar = Some(bar);
    }

    fn step(&mut self, _: &mut Step<'_>) -> ControlFlow<()> {
        if let Some(bar) = &self.bar {
            bar.inc(1);
            if bar.length() == Some(bar.position()) {
                bar.finish();
            }
        }
        if interrupt::asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn tensor(&mut self, name: &'static str, tensor: HostTensor) {
        match name {
            "tokens" => self.dump.append(name, vec![tensor.shape.n, tensor.shape.w], tensor.values),
            "text_states" | "text_pooled" => self.dump.append_rows(name, tensor),
            _ => self.dump.append_images(name, tensor),
        }
    }
}

/// At most some 200 characters of a text.
fn shorten(text: &str) -> String {
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The memory that a plan takes, in words.
fn memory(plan: &Footprint) -> String {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let weights = match plan.residency {
        Residency::Mapped => "read from the files",
        Residency::All => "which all stay on the device",
        Residency::Turns => "of which stages take turns on the device",
    };
    let free = if plan.free == u64::MAX { String::new() } else { format!("; {} MiB are free", mib(plan.free)) };
    let (images, activations) = (plan.images, mib(plan.activations));
    format!("memory: {activations} MiB for batches of {images}, {} MiB of weights {weights}{free}", mib(plan.weights))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_in_words() {
        let (activations, weights, residency) = (5 << 20, (9 << 20) + 1, Residency::Mapped);
        let plan = Footprint { images: 2, activations, weights, free: u64::MAX, residency };
        assert_eq!(memory(&plan), "memory: 5 MiB for batches of 2, 10 MiB of weights read from the files");
        let turns = memory(&Footprint { free: 12 << 20, residency: Residency::Turns, ..plan });
        assert!(
            turns.ends_with("10 MiB of weights of which stages take turns on the device; 12 MiB are free"),
            "{turns}"
        );
    }
}
