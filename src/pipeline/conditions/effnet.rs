//! Stage C's latents as a condition of Stage B.

use super::{Batch, absent};
use crate::error::Result;
use crate::net::slot;
use crate::ops::Concat;
use crate::pipeline::run::Feed;
use crate::plan::{Recorder, Slot};

/// `latents [n, h, w, 16]` → `[rows, h, w, 16]`; the unconditional half of a guided batch has none.
pub(in crate::pipeline) fn record(rec: &mut Recorder, feed: &mut Feed, batch: Batch, latents: Slot) -> Result<Slot> {
    if !batch.guided {
        return Ok(latents);
    }
    let none = absent::record(rec, feed, latents.shape);
    rec.node("effnet", Concat::Images, &[slot(latents), slot(none)])
}
