//! Samplers on the host: which noise levels a run visits, and how each step combines what is known.
//!
//! Every step of every sampler here is a linear combination, `x ← a·x + b·ε + h·m + σ·z`, of the latents, the
//! network's prediction, the clean latents that the step before estimated, and noise. So the device needs one op
//! for all of them (`denoise`), and a sampler is a table of factors ([`Step`]).

mod embedding;
mod preset;
mod rule;
mod schedule;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
pub use embedding::timestep_embedding;
pub use preset::{PRESETS, Preset};
pub use rule::{Step, first_step, steps, steps_from};
pub use schedule::{S, alpha_bar, timesteps};

/// Declares an enum whose values have names, on the command line and in records.
macro_rules! named {
    ($(#[$doc:meta])* pub enum $Name:ident { $($(#[$value_doc:meta])* $Value:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub enum $Name { $($(#[$value_doc])* $Value,)* }

        impl $Name {
            /// Every value with its name.
            pub const NAMES: &[(&'static str, $Name)] = &[$(($name, $Name::$Value),)*];
        }

        impl FromStr for $Name {
            type Err = String;

            fn from_str(s: &str) -> std::result::Result<Self, String> {
                let names = [$($name),*];
                let named = Self::NAMES.iter().find(|(name, _)| *name == s);
                named.map(|&(_, value)| value).ok_or_else(|| format!("expected {}, got `{s}`", names.join(" or ")))
            }
        }

        impl TryFrom<String> for $Name {
            type Error = String;

            fn try_from(s: String) -> std::result::Result<Self, String> {
                s.parse()
            }
        }

        impl From<$Name> for String {
            fn from(value: $Name) -> String {
                value.to_string()
            }
        }

        impl fmt::Display for $Name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $($Name::$Value => $name,)* })
            }
        }
    };
}

named! {
    /// How a step uses the network's prediction.
    pub enum Sampler {
        /// Ancestral sampling as in diffusers' `DDPMWuerstchenScheduler`: fresh noise at every step but the last,
        /// which ends at a signal share of 0.9999.
        #[default]
        Ddpm = "ddpm",
        /// The original repository's sampler, with its clamped schedule. Its result is the last estimate of the image.
        Gdf = "gdf",
        /// Deterministic, with no fresh noise.
        Ddim = "ddim",
        /// Euler's method in the noise-to-signal ratio, as k-diffusion has it. The same steps as `ddim`, computed
        /// in other variables.
        Euler = "euler",
        /// Euler's method to a lower noise level, and fresh noise back up to the next.
        EulerAncestral = "euler-ancestral",
        /// DPM-Solver++(2M): deterministic, of second order, from two estimates of the image.
        Dpmpp2m = "dpmpp-2m",
        /// DPM-Solver++(2M) for the stochastic equation, midpoint form: of second order, with fresh noise.
        Dpmpp2mSde = "dpmpp-2m-sde",
        /// Consistency sampling: the estimate of the image with fresh noise. For models that were distilled for it.
        Lcm = "lcm",
    }
}

impl Sampler {
    /// The name in Stable Diffusion WebUI's text of settings.
    pub fn title(self) -> &'static str {
        match self {
            Sampler::Ddpm => "DDPM",
            Sampler::Gdf => "GDF",
            Sampler::Ddim => "DDIM",
            Sampler::Euler => "Euler",
            Sampler::EulerAncestral => "Euler a",
            Sampler::Dpmpp2m => "DPM++ 2M",
            Sampler::Dpmpp2mSde => "DPM++ 2M SDE",
            Sampler::Lcm => "LCM",
        }
    }

    /// Whether a step adds fresh noise.
    pub fn is_noisy(self) -> bool {
        !matches!(self, Sampler::Ddim | Sampler::Euler | Sampler::Dpmpp2m)
    }

    /// Whether a step uses the estimate of the step before.
    pub fn has_history(self) -> bool {
        matches!(self, Sampler::Dpmpp2m | Sampler::Dpmpp2mSde)
    }
}

named! {
    /// How the noise levels of a run are spaced.
    pub enum Spacing {
        /// Evenly in diffusion time, as the published pipelines do.
        #[default]
        Linear = "linear",
        /// Evenly in the seventh root of the noise-to-signal ratio (Karras et al. 2022, equation 5), which puts
        /// more steps near the image.
        Karras = "karras",
        /// Evenly in the logarithm of the noise-to-signal ratio.
        Exponential = "exponential",
    }
}

/// How a stage is sampled, besides the number of its steps and its guidance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Method {
    /// What a step computes.
    pub sampler: Sampler,
    /// Where its steps lie.
    pub spacing: Spacing,
    /// Shift of the schedule towards noise: noise-to-signal ratios are multiplied by it. 0.01 to 100; 1 is none,
    /// the original repository has 2 for Stage C.
    pub shift: f32,
    /// Diffusion times of the steps, descending, each above 0 and at most 1; as many as there are steps. Empty: as
    /// `spacing` says.
    pub times: Vec<f32>,
    /// Lowest and highest diffusion time at which guidance applies, `[0, 1]`. The network is evaluated once
    /// instead of twice at other steps.
    pub guided: (f32, f32),
    /// Every how many steps the whole network is evaluated, 1 to 16. Steps in between compute the finest level alone, on the
    /// way down and up, and take what all others make from the whole step before. 1: every step. A step at which
    /// guidance begins or ends is whole.
    pub reuse: u32,
    /// How much of guidance's change of contrast is taken back, 0 to 1. 0 is none; the original sampler has 0.7.
    pub rescale: f32,
    /// Share that remains of guidance's part along the prediction itself, 0 to 1 (adaptive projected guidance). 1 is
    /// ordinary guidance.
    pub parallel: f32,
}

impl Default for Method {
    /// What the published pipelines do.
    fn default() -> Self {
        Self {
            sampler: Sampler::Ddpm,
            spacing: Spacing::Linear,
            shift: 1.0,
            times: Vec::new(),
            guided: (0.0, 1.0),
            reuse: 1,
            rescale: 0.0,
            parallel: 1.0,
        }
    }
}

impl Method {
    /// Whether guidance needs sums over an image, rather than being the same formula for each value.
    pub fn is_projected(&self) -> bool {
        self.rescale != 0.0 || self.parallel != 1.0
    }

    /// Whether every value is in its range, for `steps` steps of a stage.
    ///
    /// # Errors
    /// [`Error::Request`], naming the field, the range and the value.
    pub fn check(&self, stage: &str, steps: u32) -> Result<()> {
        let share = 0.0..=1.0;
        let (low, high) = self.guided;
        let times = self.times.as_slice();
        let descend = times.is_sorted_by(|a, b| a > b) && times.iter().all(|t| *t > 0.0 && *t <= 1.0);
        let count = times.is_empty() || times.len() == steps as usize;
        for (holds, field, expected, found) in [
            ((0.01..=100.0).contains(&self.shift), "shift", "a number from 0.01 to 100".into(), self.shift.to_string()),
            (descend, "times", "times that descend, each above 0 and at most 1".into(), format!("{times:?}")),
            (count, "times", format!("as many times as steps, {steps}"), times.len().to_string()),
            (
                share.contains(&low) && share.contains(&high) && low <= high,
                "guided",
                "two times from 0 to 1, the lower one first".into(),
                format!("{low},{high}"),
            ),
            ((1..=16).contains(&self.reuse), "reuse", "a number from 1 to 16".into(), self.reuse.to_string()),
            (share.contains(&self.rescale), "rescale", "a number from 0 to 1".into(), self.rescale.to_string()),
            (share.contains(&self.parallel), "parallel", "a number from 0 to 1".into(), self.parallel.to_string()),
        ] {
            if !holds {
                return Err(Error::Request {
                    what: field.into(),
                    expected: format!("{expected} for Stage {stage}"),
                    found,
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_checked() {
        let good = Method::default;
        good().check("C", 20).unwrap();
        Method { times: vec![1.0, 0.5], shift: 2.0, guided: (0.2, 0.2), ..good() }.check("C", 2).unwrap();
        let message = |method: Method| method.check("C", 2).unwrap_err().to_string();
        assert_eq!(
            message(Method { shift: 0.0, ..good() }),
            "shift: expected a number from 0.01 to 100 for Stage C, got 0"
        );
        for times in [vec![0.5, 1.0], vec![0.5, 0.5], vec![0.5, 0.0], vec![1.5, 0.5], vec![0.5, f32::NAN]] {
            assert!(message(Method { times, ..good() }).starts_with("times: expected times that descend"));
        }
        assert!(message(Method { times: vec![1.0], ..good() }).contains("as many times as steps, 2"));
        for guided in [(0.6, 0.4), (-0.1, 1.0), (0.0, f32::NAN)] {
            assert!(message(Method { guided, ..good() }).starts_with("guided: "));
        }
        for reuse in [0, 17] {
            assert!(
                message(Method { reuse, ..good() }).starts_with("reuse: expected a number from 1 to 16 for Stage C")
            );
        }
        assert!(message(Method { rescale: f32::NAN, ..good() }).starts_with("rescale: "));
        assert!(message(Method { parallel: -0.1, ..good() }).starts_with("parallel: "));
    }
}
