//! What the caller of a run wants besides pictures, and what it gets.

use std::ops::Range;

use super::inputs::Inputs;
use super::key::Until;
use super::observer::Observer;
use crate::backend::Kind;
use crate::image::Image;

/// Images that the CPU makes at once: a batch of more is no faster for each of them, and the first takes longer.
const CPU_BATCH: usize = 4;

/// What the caller wants besides pictures.
#[derive(Default)]
pub struct Options<'a> {
    /// What is given in place of what would otherwise be computed or drawn.
    pub inputs: Inputs<'a>,
    /// Which images of the request are made; `None` for all. What an image looks like does not depend on the others.
    pub images: Option<Range<usize>>,
    /// Most images that are made at once, 1 or more. `None` for what is fastest for each image: as many as memory
    /// allows, on the CPU at most 4.
    pub batch: Option<usize>,
    /// Whether the observer gets intermediate results.
    pub keep: bool,
    /// Whether the observer may ask for [previews](super::Step::preview) of Stage C's steps. What is made is the same.
    pub preview: bool,
    /// Compare every node with the reference as it runs.
    pub check_nodes: bool,
    /// Is told what happens, and may stop the run.
    pub observer: Option<&'a mut dyn Observer>,
}

/// One batch of finished pictures.
#[derive(Debug)]
pub struct Batch {
    /// Index of the first among all images of the request.
    pub first: usize,
    /// The pictures.
    pub images: Vec<Image>,
}

impl Options<'_> {
    /// The most images that a device of this kind makes at once.
    pub(super) fn limit(&self, device: Kind, until: Until) -> usize {
        let usual = match (device, until) {
            (Kind::Cpu, Until::StageC | Until::Pictures) => CPU_BATCH,
            _ => usize::MAX,
        };
        self.batch.unwrap_or(usual).max(1)
    }
}
