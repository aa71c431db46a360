//! Compiled plans, kept for requests that need the same ones again, and what is said of one that does not fit.

use std::sync::Arc;

use super::key::PlanKey;
use super::stages::Recorded;
use super::{Pipeline, stages};
use crate::backend::{Backend, Program};
use crate::error::{Error, Result};
use crate::plan::Plan;

/// A recorded plan and the program made of it.
pub(super) struct Compiled {
    pub key: PlanKey,
    pub recorded: Recorded,
    pub program: Box<dyn Program>,
    /// Bytes of activations.
    pub activations: u64,
}

/// Compiled plans, the least recently used first.
///
/// Each has memory for activations of its own. Together they take no more than the largest of them took
/// alone, which was stated before it ran, or than `budget` where that is more.
#[derive(Default)]
pub(super) struct Plans {
    kept: Vec<Compiled>,
    largest: u64,
    pub budget: u64,
}

/// The bytes of `free` memory that a plan may take; the rest is for what is not counted.
pub(super) fn usable(free: u64) -> u64 {
    free / 10 * 9
}

impl Plans {
    /// Whether there is a plan of this key, which is then the most recently used.
    pub fn touch(&mut self, key: &PlanKey) -> bool {
        let found = self.kept.iter().position(|plan| plan.key == *key);
        if let Some(at) = found {
            let plan = self.kept.remove(at);
            self.kept.push(plan);
        }
        found.is_some()
    }

    /// The most recently used plan.
    pub fn latest(&mut self) -> Option<&mut Compiled> {
        self.kept.last_mut()
    }

    /// Drops plans until one more fits that needs `need` bytes, of which `activations` are for itself. Returns
    /// the bytes that are free then, or `None` if it does not fit even alone.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn make_room(&mut self, need: u64, activations: u64, backend: &dyn Backend) -> Result<Option<u64>> {
        loop {
            // Asked for anew: others may have taken memory since the device was opened.
            let free = backend.free_bytes()?;
            let kept: u64 = self.kept.iter().map(|plan| plan.activations).sum();
            let fits = need <= usable(free);
            if fits && kept + activations <= self.largest.max(activations).max(self.budget) {
                return Ok(Some(free));
            }
            if self.kept.is_empty() {
                return Ok(None);
            }
            self.kept.remove(0);
        }
    }

    /// A program of a plan that runs apart from those that are kept, some of which may be dropped for it. `what` it is of, is
    /// for messages.
    ///
    /// # Errors
    /// [`Error::DoesNotFit`], or if the device is lost.
    pub fn program(&mut self, plan: &Arc<Plan>, backend: &dyn Backend, what: &str) -> Result<Box<dyn Program>> {
        let device = backend.device();
        let weights = if device.copies_weights { plan.span_weight_bytes(device.stores_bf16()) } else { 0 };
        let need = plan.arena_bytes() + weights;
        if self.make_room(need, plan.arena_bytes(), backend)?.is_some() {
            return backend.compile(plan.clone());
        }
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        Err(Error::DoesNotFit {
            device: device.name.clone(),
            free_mib: mib(usable(backend.free_bytes()?)),
            need_mib: mib(need),
            detail: what.into(),
            remedy: "free memory, or make smaller pictures".into(),
        })
    }

    /// Drops the plan that was not used for longest; whether there was one.
    pub fn drop_oldest(&mut self) -> bool {
        let any = !self.kept.is_empty();
        self.kept.drain(..usize::from(any));
        any
    }

    /// Keeps a plan, now the most recently used.
    pub fn push(&mut self, plan: Compiled) {
        self.largest = self.largest.max(plan.activations);
        self.kept.push(plan);
    }
}

impl Pipeline {
    /// Says how much is missing, and which size would fit, of a picture that is so many times as large as is asked for.
    pub(super) fn does_not_fit(
        &self,
        key: &PlanKey,
        recorded: &Recorded,
        total: usize,
        enlarged: f32,
    ) -> Result<Error> {
        let asked = |side: usize| (side as f32 / enlarged) as usize / 8 * 8;
        let (device, free) = (self.backend.device(), usable(self.backend.free_bytes()?));
        let mut smaller = key.clone();
        let fits = loop {
            smaller.width = (smaller.width / 2).next_multiple_of(8);
            smaller.height = (smaller.height / 2).next_multiple_of(8);
            if asked(smaller.width).min(asked(smaller.height)) < 64 {
                break None;
            }
            if stages::record(&self.model, &smaller).is_ok_and(|r| r.least_bytes(total, device) <= free) {
                break Some(smaller);
            }
        };
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let (need, activations) = (recorded.least_bytes(total, device), recorded.activation_bytes(total, device));
        Ok(Error::DoesNotFit {
            device: device.name.clone(),
            free_mib: mib(free),
            need_mib: mib(need),
            detail: format!(
                "one image of {}×{} px, {} and {} steps: activations {} MiB, weights at once {} MiB",
                key.width,
                key.height,
                key.steps[0],
                key.steps[1],
                mib(activations),
                mib(need - activations)
            ),
            remedy: match fits {
                Some(s) => format!("`width` {} and `height` {} would fit", asked(s.width), asked(s.height)),
                None => "no size would fit; try fewer steps, or free memory".into(),
            },
        })
    }
}
