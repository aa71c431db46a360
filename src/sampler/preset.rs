//! Settings that go together, by name: how much time a picture may take.

use super::{Method, Sampler};

/// Settings of both stages, Stage C's first. Guidance and all else stay as they are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preset {
    /// On the command line.
    pub name: &'static str,
    /// Steps.
    pub steps: (u32, u32),
    /// Samplers.
    pub samplers: (Sampler, Sampler),
    /// Lowest and highest diffusion time at which Stage C is guided.
    pub guided: (f32, f32),
    /// Every how many steps the whole network is evaluated.
    pub reuse: (u32, u32),
}

/// All presets, the fastest first. SPEED.md says what each costs, and how far its pictures are from those of 60 steps.
pub const PRESETS: [Preset; 3] = [
    Preset {
        name: "fast",
        steps: (8, 4),
        samplers: (Sampler::Dpmpp2m, Sampler::Dpmpp2m),
        guided: (0.0, 1.0),
        reuse: (1, 1),
    },
    Preset {
        name: "balanced",
        steps: (14, 6),
        samplers: (Sampler::Dpmpp2m, Sampler::Dpmpp2m),
        guided: (0.0, 1.0),
        reuse: (1, 1),
    },
    Preset {
        name: "best",
        steps: (30, 12),
        samplers: (Sampler::Dpmpp2m, Sampler::Dpmpp2m),
        guided: (0.0, 1.0),
        reuse: (1, 1),
    },
];

impl Preset {
    /// The preset of this name.
    ///
    /// # Errors
    /// The names that there are.
    pub fn named(name: &str) -> Result<Self, String> {
        let names = PRESETS.map(|preset| preset.name).join(", ");
        let found = PRESETS.into_iter().find(|preset| preset.name == name);
        found.ok_or_else(|| format!("expected one of {names}, got `{name}`"))
    }

    /// Steps and methods of both stages with these settings.
    pub fn apply(self, steps: &mut (u32, u32), methods: &mut (Method, Method)) {
        let with = |method: &mut Method, sampler, reuse| {
            *method = Method { sampler, reuse, times: Vec::new(), ..method.clone() };
        };
        *steps = self.steps;
        with(&mut methods.0, self.samplers.0, self.reuse.0);
        with(&mut methods.1, self.samplers.1, self.reuse.1);
        methods.0.guided = self.guided;
    }
}
