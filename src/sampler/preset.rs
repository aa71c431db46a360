//! Settings that go together, by name: how much time a picture may take.

use super::{Method, Sampler, Spacing};

/// Settings of both stages, Stage C's first. Guidance and all else stay as they are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preset {
    /// On the command line.
    pub name: &'static str,
    /// Steps.
    pub steps: (u32, u32),
    /// The sampler of both.
    pub sampler: Sampler,
    /// Where the steps of both lie.
    pub spacing: Spacing,
    /// Every how many steps the whole network is evaluated.
    pub reuse: (u32, u32),
}

/// All presets, the fastest first. SPEED.md says what each costs, and how far its pictures are from those of 60 steps.
pub const PRESETS: [Preset; 3] = [
    Preset { name: "fast", steps: (10, 5), sampler: Sampler::Dpmpp2m, spacing: Spacing::Exponential, reuse: (1, 1) },
    Preset {
        name: "balanced",
        steps: (14, 8),
        sampler: Sampler::Dpmpp2m,
        spacing: Spacing::Exponential,
        reuse: (1, 1),
    },
    Preset { name: "best", steps: (30, 15), sampler: Sampler::Dpmpp2m, spacing: Spacing::Exponential, reuse: (1, 1) },
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

    /// Puts these settings into the steps and methods of both stages.
    pub fn apply(self, steps: &mut (u32, u32), methods: &mut (Method, Method)) {
        let Self { sampler, spacing, .. } = self;
        let with = |method: &mut Method, reuse| {
            *method = Method { sampler, spacing, reuse, times: Vec::new(), ..method.clone() };
        };
        *steps = self.steps;
        with(&mut methods.0, self.reuse.0);
        with(&mut methods.1, self.reuse.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_settings_that_are_allowed() {
        for preset in PRESETS {
            let (mut steps, mut methods) =
                ((20, 10), (Method { rescale: 0.5, ..Method::default() }, Method::default()));
            Preset::named(preset.name).unwrap().apply(&mut steps, &mut methods);
            methods.0.check("C", steps.0).unwrap();
            methods.1.check("B", steps.1).unwrap();
            assert_eq!((steps, methods.0.rescale), (preset.steps, 0.5));
            assert_eq!((methods.0.sampler, methods.1.sampler), (preset.sampler, preset.sampler));
            assert_eq!((methods.0.reuse, methods.1.reuse), preset.reuse);
        }
        assert!(PRESETS.is_sorted_by(|a, b| a.steps.0 < b.steps.0 && a.steps.1 < b.steps.1));
        assert!(Preset::named("slow").unwrap_err().contains("fast, balanced, best"));
    }
}
