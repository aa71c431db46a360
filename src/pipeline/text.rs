//! The text encoder: tokens of every text of a batch in, states and pooled text out. Or text states that are
//! given take its place.

use super::inputs::HostTensor;
use super::key::{PlanKey, Until};
use super::observer::StageName;
use super::run::{Feed, Job, Run};
use super::stages::Stage;
use crate::error::Result;
use crate::model::Model;
use crate::net::{Net, clip};
use crate::ops::Element;
use crate::plan::{Recorder, SegmentId, Slot};
use crate::shape::Shape;
use crate::tokenizer::Encoding;

/// What later stages read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TextSlots {
    /// States of every token, `[texts, 1, t, c]`; absent where given text has none.
    pub states: Option<Slot>,
    /// Pooled text, `[texts, 1, 1, p]`.
    pub pooled: Slot,
}

/// The text stage.
pub(crate) struct Text {
    slots: TextSlots,
    feed: Feed,
    /// The encoder, and a small slot of it to wait for; absent where text states are given.
    encoder: Option<(SegmentId, Slot)>,
    is_result: bool,
}

impl Text {
    /// Records the encoder, or inputs where text states are given.
    pub fn record(rec: &mut Recorder, model: &Model, key: &PlanKey) -> Result<Self> {
        let (weights, config) = &model.text;
        let (tokens, is_result) = (config.max_position_embeddings, key.until == Until::Text);
        let mut feed = Feed::default();
        if let Some(positions) = key.text_given {
            let pooled = rec.input(Shape::new(key.texts, 1, 1, config.projection_dim), Element::F32);
            let states = Shape::new(key.texts, 1, positions, config.hidden_size);
            let states = key.stage_c_given.is_none().then(|| rec.input(states, Element::F32));
            feed.add(move |job, run| {
                let given = job.inputs.text.expect("text states are given");
                let rows = job.text_indices();
                run.write(pooled, &given.pooled.images(&rows))?;
                match (states, &given.states) {
                    (Some(slot), Some(given)) => run.write(slot, &given.images(&rows)),
                    _ => Ok(()),
                }
            });
            return Ok(Self { slots: TextSlots { states, pooled }, feed, encoder: None, is_result });
        }

        let segment = rec.segment("text");
        let ids = rec.input(Shape::new(key.texts, 1, tokens, 1), Element::U32);
        let key_len = rec.input(Shape::vector(key.texts), Element::U32);
        let end = rec.input(Shape::vector(key.texts), Element::U32);
        let text = clip::text(&mut Net::new(rec, weights), config, ids, key_len, end)?;
        if key.keep || is_result {
            [text.states, text.pooled].into_iter().for_each(|slot| rec.keep(slot));
        }
        let end_id = config.eos_token_id;
        feed.add(move |job, run| {
            let texts: Vec<&Encoding> = job.text_indices().into_iter().map(|i| &job.tokens[i]).collect();
            let all: Vec<u32> = texts.iter().flat_map(|text| text.ids.iter().copied()).collect();
            let lens: Vec<u32> = texts.iter().map(|text| text.len as u32).collect();
            let end_of = |(i, text): (usize, &&Encoding)| (i * tokens + end_position(&text.ids, end_id)) as u32;
            let ends: Vec<u32> = texts.iter().enumerate().map(end_of).collect();
            run.write(ids, &all)?;
            run.write(key_len, &lens)?;
            run.write(end, &ends)
        });
        let slots = TextSlots { states: Some(text.states), pooled: text.pooled };
        Ok(Self { slots, feed, encoder: Some((segment, end)), is_result })
    }

    /// What later stages read.
    pub fn slots(&self) -> TextSlots {
        self.slots
    }

    /// Hands tokens, states and pooled text of every image to the observer.
    fn keep(&self, run: &mut Run<'_>) -> Result<()> {
        let Job { images, tokens, .. } = run.job;
        let ids: Vec<f32> =
            images.clone().flat_map(|i| &tokens[run.job.prompt_of(i)].ids).map(|&id| id as f32).collect();
        let shape = Shape::new(images.len(), 1, ids.len() / images.len(), 1);
        run.keep("tokens", HostTensor { shape, values: ids });
        let rows: Vec<usize> = run.job.text_of_images(false).iter().map(|&text| text as usize).collect();
        for (name, slot) in [("text_states", self.slots.states), ("text_pooled", Some(self.slots.pooled))] {
            let Some(slot) = slot else { continue };
            let all = run.read(slot)?;
            let shape = Shape { n: rows.len(), ..slot.shape };
            run.keep(name, HostTensor { shape, values: all.images(&rows) });
        }
        Ok(())
    }
}

impl Stage for Text {
    fn name(&self) -> StageName {
        StageName::Text
    }

    fn steps(&self) -> usize {
        usize::from(self.encoder.is_some())
    }

    fn segments(&self) -> Vec<(SegmentId, usize)> {
        self.encoder.iter().map(|(segment, _)| (*segment, 1)).collect()
    }

    fn run(&self, run: &mut Run<'_>) -> Result<()> {
        self.feed.write(run)?;
        let Some((segment, last)) = self.encoder else { return Ok(()) };
        run.segment(segment)?;
        if run.keep {
            self.keep(run)?;
        }
        if let (true, Some(states)) = (self.is_result, self.slots.states) {
            run.results.text = Some([run.read(states)?, run.read(self.slots.pooled)?]);
        }
        // Waits until the encoder has run, so that its time is its own.
        run.read(last)?;
        run.step_done(StageName::Text, [0, 1], 0.0, None, None)
    }
}

/// Position of the end token: the first of its id. Old configurations say 2 for it, which is the id of another
/// token; with them it is the token with the largest id, as in transformers.
fn end_position(ids: &[u32], end_id: u32) -> usize {
    let wanted = if end_id == 2 { ids.iter().copied().max().unwrap_or(0) } else { end_id };
    ids.iter().position(|&id| id == wanted).unwrap_or(0)
}
