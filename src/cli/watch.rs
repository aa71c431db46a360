//! Watches a run for the command line: progress, notes, `--dump`, and whether it is to stop.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::preview::Preview;
use super::progress::Progress;
use super::tensors::Tensors;
use super::{interrupt, note};
use crate::backend::Residency;
use crate::image::Image;
use crate::measure::memory::resident_bytes;
use crate::model::Model;
use crate::pipeline::{Footprint, HostTensor, Observer, Outline, StageName, Step};

/// How often progress is said where standard error is no terminal.
const LINES: Duration = Duration::from_secs(10);
/// What threads take for their stacks and to pack operands, in bytes.
const WORKING: u64 = 16 << 20;
/// How often a device is waited for, so that what is shown is done and not only asked for.
const WAITS: Duration = Duration::from_millis(300);

/// Shows how far a run has come, and collects what `--dump` asks for.
pub(super) struct Watch {
    /// Pictures of the run.
    total: usize,
    /// Bytes in which they are kept until the end.
    kept: u64,
    progress: Progress,
    bar: Option<ProgressBar>,
    shows_progress: bool,
    shows_memory: bool,
    shows_warnings: bool,
    /// Which weights were taken where the model has several.
    choices: Vec<String>,
    /// When the device was waited for, and when a line was last printed.
    waited: Instant,
    said: Instant,
    /// Intermediate results of all batches.
    pub(super) dump: Tensors,
    /// Where previews are shown, if anywhere.
    pub(super) preview: Option<Preview>,
    /// All pictures, where a grid is drawn of them.
    pub(super) pictures: Option<Vec<Image>>,
}

impl Watch {
    /// Nothing is printed if `quiet`. Where `json`, warnings are.
    pub(super) fn new(quiet: bool, json: bool) -> Self {
        Self {
            total: 1,
            kept: 0,
            progress: Progress::new(1),
            bar: None,
            shows_progress: !quiet && !json,
            shows_memory: !quiet && !json,
            shows_warnings: !quiet,
            choices: Vec::new(),
            waited: Instant::now(),
            said: Instant::now(),
            dump: Tensors::default(),
            preview: None,
            pictures: None,
        }
    }

    /// The pictures that are going to be made, and the bytes in which they are kept.
    pub(super) fn expect(&mut self, total: usize, kept: u64) {
        (self.total, self.kept, self.progress) = (total, kept, Progress::new(total));
        let terminal = self.shows_progress && std::io::stderr().is_terminal();
        self.bar = terminal.then(|| {
            let style = ProgressStyle::with_template("{bar:20} {percent:>3} % {wide_msg}");
            ProgressBar::new(1000).with_style(style.expect("the template is well-formed"))
        });
    }

    /// Shows what the pictures are going to be like. That this fails is no reason to stop.
    fn preview(&mut self, step: &mut Step<'_>) {
        let Some(mut preview) = self.preview.take() else { return };
        let shown = match &self.bar {
            Some(bar) => bar.suspend(|| preview.step(step)),
            None => preview.step(step),
        };
        match shown {
            Ok(()) => self.preview = Some(preview),
            Err(error) => note(&format!("warning: no more previews: {error}")),
        }
    }

    /// Shows what is known now.
    fn show(&mut self) {
        match &self.bar {
            Some(bar) => {
                bar.set_position((self.progress.fraction() * 1000.0) as u64);
                bar.set_message(self.progress.line());
            }
            None if self.shows_progress && self.said.elapsed() >= LINES => {
                self.said = Instant::now();
                note(&format!("{:3.0} %: {}", self.progress.fraction() * 100.0, self.progress.line()));
            }
            None => {}
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.bar.iter().for_each(ProgressBar::finish_and_clear);
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
            let line = memory(plan, self.total, self.kept, resident_bytes()) + &choices.collect::<String>();
            match &self.bar {
                Some(bar) => bar.suspend(|| note(&line)),
                None => note(&line),
            }
        }
    }

    fn truncated(&mut self, _: &str, cut: &str) {
        if self.shows_warnings {
            note(&format!("warning: the prompt is too long, cut off: \"{}\"", shorten(cut)));
        }
    }

    fn batch(&mut self, outline: &Outline) {
        self.progress.batch(outline);
    }

    fn begin(&mut self, stage: StageName, _: usize) {
        self.progress.begin(stage);
        self.show();
    }

    fn step(&mut self, step: &mut Step<'_>) -> ControlFlow<()> {
        self.preview(step);
        let is_last = step.index + 1 == step.steps;
        if self.shows_progress && (is_last || self.waited.elapsed() >= WAITS) {
            // Whether that fails, the run itself will find out.
            let _ = step.latents();
            self.waited = Instant::now();
            self.progress.step(step.index + 1, self.waited);
            self.show();
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

/// The memory that a run of `total` pictures takes, in words, which are kept in so many bytes, and where the program
/// holds `resident` bytes already, those of copies of weights included.
fn memory(plan: &Footprint, total: usize, kept: u64, resident: Option<u64>) -> String {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let weights = match plan.residency {
        Residency::Mapped => "read from the files",
        Residency::All => "which all stay on the device",
        Residency::Turns => "of which stages take turns on the device",
    };
    let mut line = format!("memory: {} MiB for batches of {}", mib(plan.activations), plan.images);
    let int8 = if plan.int8 > 0 { format!(" ({} of them int8)", mib(plan.int8)) } else { String::new() };
    let copied = if plan.residency == Residency::Mapped { plan.copies } else { 0 };
    line += &format!(", {} MiB of weights{int8} {weights}", mib(plan.weights - copied));
    if plan.copies > 0 {
        line += &format!(", {} MiB of weights made of them", mib(plan.copies));
    }
    if plan.kept > 0 {
        // The results of all batches and the file that is made of them, and one batch's as they come.
        let all = plan.kept / plan.images.max(1) as u64 * total.max(plan.images) as u64;
        line += &format!(", {} MiB for the dump", mib(2 * all + plan.kept));
    }
    if kept > 0 {
        line += &format!(", {} MiB for the grid", mib(kept));
    }
    if let Some(resident) = resident {
        line += &format!(", {} MiB for the program", mib(resident.saturating_sub(plan.copies) + WORKING));
    }
    if plan.free != u64::MAX {
        line += &format!("; {} MiB are free", mib(plan.free));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_in_words() {
        let (activations, weights, residency) = (5 << 20, (9 << 20) + 1, Residency::Mapped);
        let plan =
            Footprint { images: 2, activations, weights, int8: 0, copies: 0, kept: 0, free: u64::MAX, residency };
        let said = memory(&plan, 8, 0, None);
        assert_eq!(said, "memory: 5 MiB for batches of 2, 10 MiB of weights read from the files");
        let said = memory(&Footprint { int8: 3 << 20, ..plan }, 8, 0, None);
        assert!(said.ends_with("10 MiB of weights (3 of them int8) read from the files"), "{said}");
        let made = Footprint { copies: 3 << 20, ..plan };
        assert_eq!(
            memory(&made, 8, 0, Some(40 << 20)),
            "memory: 5 MiB for batches of 2, 7 MiB of weights read from the files, 3 MiB of weights made of them, \
             53 MiB for the program"
        );
        let said = memory(&Footprint { kept: 3 << 20, ..plan }, 8, 2 << 20, Some(40 << 20));
        assert!(
            said.ends_with("read from the files, 27 MiB for the dump, 2 MiB for the grid, 56 MiB for the program"),
            "{said}"
        );
        let turns = memory(&Footprint { free: 12 << 20, residency: Residency::Turns, ..plan }, 1, 0, None);
        assert!(
            turns.ends_with("10 MiB of weights of which stages take turns on the device; 12 MiB are free"),
            "{turns}"
        );
    }
}
