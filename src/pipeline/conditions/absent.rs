//! A condition that is not given: zeros, which the networks were trained to take as "none".

use crate::ops::Element;
use crate::pipeline::run::Feed;
use crate::plan::{Recorder, Slot};
use crate::shape::Shape;

/// An input of this shape that is filled with zeros.
pub(in crate::pipeline) fn record(rec: &mut Recorder, feed: &mut Feed, shape: Shape) -> Slot {
    let slot = rec.input(shape, Element::F32);
    feed.add(move |_, run| run.write(slot, &vec![0f32; shape.elements()]));
    slot
}
