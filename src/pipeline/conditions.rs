//! What a sampling stage is told besides the latents, one file for each kind of condition.
//!
//! A condition declares its input slots, records what computes it from them, and adds to the stage's feed how
//! the host fills them. It runs once per batch, before the loop of steps.

pub(super) mod absent;
pub(super) mod control;
pub(super) mod effnet;
pub(super) mod image;
pub(super) mod text;
pub(super) mod times;

/// The batch that conditions are made for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Batch {
    /// Images.
    pub images: usize,
    /// Whether guidance is on. It doubles the network's batch: the conditional images first, then the
    /// unconditional ones.
    pub guided: bool,
}

impl Batch {
    /// Images that the network is evaluated on at once.
    pub fn rows(self) -> usize {
        self.images * if self.guided { 2 } else { 1 }
    }
}
