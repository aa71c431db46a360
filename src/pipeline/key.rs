//! What a plan depends on besides the model.

use std::ops::Range;

use super::Inputs;
use crate::noise::NoiseKind;
use crate::request::Request;

/// Requests that agree in all of this share a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PlanKey {
    /// Images made at once.
    pub images: usize,
    /// Different texts among them, the negative one included.
    pub texts: usize,
    /// Width of the picture, pixels.
    pub width: usize,
    /// Height of the picture, pixels.
    pub height: usize,
    /// Sampling steps of Stage C and Stage B.
    pub steps: [usize; 2],
    /// Whether Stage C and Stage B are guided.
    pub guided: [bool; 2],
    /// Whether noise is made on the device.
    pub philox: bool,
    /// Whether intermediate results stay readable.
    pub keep: bool,
    /// Whether text states are given, so that the text encoder does not run.
    pub text_given: bool,
    /// Height and width of Stage C's latents where they are given, so that it does not run.
    pub stage_c_given: Option<(usize, usize)>,
    /// The last stage that runs.
    pub until: Until,
}

/// How far a plan goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// Text states.
    Text,
    /// Stage C's latents.
    StageC,
    /// Pictures.
    Pictures,
}

impl PlanKey {
    /// What `images` of all those of a request take.
    pub fn of(request: &Request, images: Range<usize>, inputs: &Inputs<'_>, keep: bool, until: Until) -> Self {
        let count = request.count as usize;
        let prompts = (images.end - 1) / count - images.start / count + 1;
        // As in diffusers, guidance is on above 1.
        let guided = [request.guidance.0 > 1.0, request.guidance.1 > 1.0];
        let negative = match until {
            // Whoever uses the text states later may want guidance then.
            Until::Text => true,
            Until::StageC => guided[0],
            Until::Pictures => guided[0] && inputs.stage_c.is_none() || guided[1],
        };
        let key = Self {
            images: images.len(),
            texts: prompts + usize::from(negative),
            width: request.width as usize,
            height: request.height as usize,
            steps: [request.steps.0 as usize, request.steps.1 as usize],
            guided,
            philox: request.noise == NoiseKind::Philox,
            keep,
            text_given: inputs.text.is_some(),
            stage_c_given: inputs.stage_c.map(|given| (given.shape.h, given.shape.w)),
            until,
        };
        match until {
            // Text does not depend on what the pictures are like.
            Until::Text => Self { width: 0, height: 0, steps: [0; 2], guided: [false; 2], philox: false, ..key },
            _ => key,
        }
    }
}
