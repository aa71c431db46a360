//! What a plan depends on besides the model.

use std::ops::Range;

use super::Options;
use crate::noise::NoiseKind;
use crate::request::Request;
use crate::sampler::{self, Method};
use crate::sizes::StageSizes;

/// Requests that agree in all of this share a plan.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PlanKey {
    /// Images made at once.
    pub images: usize,
    /// Different texts among them, the negative one included.
    pub texts: usize,
    /// Width of the picture, pixels.
    pub width: usize,
    /// Height of the picture, pixels.
    pub height: usize,
    /// Pixels of the picture for a pixel of Stage C's latent, along each axis.
    pub compression: f32,
    /// Sampling steps of Stage C and Stage B.
    pub steps: [usize; 2],
    /// Guidance of Stage C and Stage B.
    pub guidance: [Guidance; 2],
    /// Whether Stage C and Stage B have steps that compute a part of the network.
    pub reuse: [bool; 2],
    /// What the samplers of Stage C and Stage B need besides latents and prediction.
    pub needs: [Needs; 2],
    /// Image prompts of each image; zeros in place of the one if none is given.
    pub image_prompts: usize,
    /// For each ControlNet, the residual blocks of Stage C to whose input it adds something.
    pub control: Vec<Vec<usize>>,
    /// Whether noise is made on the device.
    pub philox: bool,
    /// Whether intermediate results stay readable.
    pub keep: bool,
    /// Whether Stage C's steps can be previewed.
    pub preview: bool,
    /// Positions of the text states that are given, so that the text encoder does not run; 0 where only pooled text is.
    pub text_given: Option<usize>,
    /// Height and width of Stage C's latents where they are given, so that it does not run.
    pub stage_c_given: Option<(usize, usize)>,
    /// The last stage that runs.
    pub until: Until,
}

/// At which of a stage's steps the network is evaluated with and without the prompt, for guidance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Guidance {
    /// At one step at least.
    pub some: bool,
    /// At all steps.
    pub all: bool,
    /// Whether it takes sums over an image.
    pub is_projected: bool,
}

impl Guidance {
    /// None at any step.
    const OFF: Self = Self { some: false, all: false, is_projected: false };

    fn of(guidance: f32, method: &Method, steps: u32) -> Self {
        let steps = sampler::steps(method, steps);
        // As in diffusers, guidance is on above 1.
        match guidance > 1.0 && steps.iter().any(|step| step.guided) {
            true => Self { some: true, all: steps.iter().all(|step| step.guided), is_projected: method.is_projected() },
            false => Self::OFF,
        }
    }
}

/// What a sampler needs besides latents and prediction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Needs {
    /// Fresh noise.
    pub noise: bool,
    /// The estimate of the clean latents one step before.
    pub history: bool,
}

impl Needs {
    fn of(method: &Method) -> Self {
        Self { noise: method.sampler.is_noisy(), history: method.sampler.has_history() }
    }
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
    /// Sizes of the latents.
    pub fn sizes(&self) -> StageSizes {
        StageSizes::for_image(self.width, self.height, self.compression)
    }

    /// What `images` of all those of a request take.
    pub fn of(request: &Request, images: Range<usize>, options: &Options<'_>, until: Until) -> Self {
        let Options { inputs, keep, preview, .. } = options;
        let count = request.count as usize;
        let prompts = (images.end - 1) / count - images.start / count + 1;
        let guidance = [
            Guidance::of(request.guidance.0, &request.method.0, request.steps.0),
            Guidance::of(request.guidance.1, &request.method.1, request.steps.1),
        ];
        let guided = guidance.map(|guidance| guidance.some);
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
            compression: request.compression,
            steps: [request.steps.0 as usize, request.steps.1 as usize],
            guidance,
            reuse: [(&request.method.0, request.steps.0), (&request.method.1, request.steps.1)]
                .map(|(method, steps)| sampler::steps(method, steps).iter().any(|step| !step.whole)),
            needs: [Needs::of(&request.method.0), Needs::of(&request.method.1)],
            image_prompts: inputs.image.map_or(1, |given| given.shape.w),
            control: inputs.control.iter().map(|control| control.additions.blocks()).collect(),
            philox: request.noise == NoiseKind::Philox,
            keep: *keep,
            preview: *preview,
            text_given: inputs.text.map(|text| text.states.as_ref().map_or(0, |states| states.shape.w)),
            stage_c_given: inputs.stage_c.map(|given| (given.shape.h, given.shape.w)),
            until,
        };
        match until {
            // Text does not depend on what the pictures are like.
            Until::Text => Self {
                width: 0,
                height: 0,
                compression: 0.0,
                steps: [0; 2],
                guidance: [Guidance::OFF; 2],
                reuse: [false; 2],
                needs: [Needs::default(); 2],
                image_prompts: 0,
                control: Vec::new(),
                philox: false,
                preview: false,
                ..key
            },
            _ => key,
        }
    }
}
