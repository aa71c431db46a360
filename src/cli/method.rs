//! Flags that say how latents are sampled, besides steps and guidance.

use std::str::FromStr;

use crate::request::Request;
use crate::sampler::{Method, Preset, Sampler, Spacing};

/// A setting of Stage C, and perhaps one of Stage B after it: `x` or `x,y`; lists are divided by a slash.
#[derive(Debug, Clone)]
struct Pair<T>(T, Option<T>);

/// The samplers of both stages. `decode`, which samples Stage B alone, takes the first setting of each for it.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Sampling")]
#[group(skip)]
pub(super) struct Args {
    /// Sampler of Stage C, then Stage B: ddpm, gdf (the original repository's), ddim, euler, euler-ancestral,
    /// dpmpp-2m, dpmpp-2m-sde or lcm. Where one is given, Stage B keeps ddpm.
    #[arg(long, value_name = "C[,B]", value_parser = pair::<Sampler>, env = "CASCADE_SAMPLER")]
    sampler: Option<Pair<Sampler>>,
    /// Spacing of the steps: linear in diffusion time, karras or exponential in the noise-to-signal ratio.
    #[arg(long, value_name = "C[,B]", value_parser = pair::<Spacing>, env = "CASCADE_SCHEDULER")]
    scheduler: Option<Pair<Spacing>>,
    /// Factor by which noise-to-signal ratios are larger than the schedule has them. The original repository has 2
    /// for Stage C.
    #[arg(long, value_name = "C[,B]", value_parser = pair::<f32>, env = "CASCADE_SHIFT")]
    shift: Option<Pair<f32>>,
    /// Diffusion times of the steps, like 1,0.75,0.5,0.25, in place of --steps and --scheduler. Stage B's follow
    /// after a slash.
    #[arg(long, value_name = "C[/B]", value_parser = lists, env = "CASCADE_TIMESTEPS")]
    timesteps: Option<Pair<Vec<f32>>>,
    /// Guide only at diffusion times between these two, like 0.3,0.9; Stage B's follow after a slash. Other steps
    /// take half the time.
    #[arg(long, value_name = "C[/B]", value_parser = intervals, env = "CASCADE_GUIDANCE_INTERVAL")]
    guidance_interval: Option<Pair<(f32, f32)>>,
    /// Compute the whole network only at every Nth step, 1 to 16, and at the others its finest level alone, with what the
    /// coarser levels made at the step before. Faster, and less exact. [default: 1]
    #[arg(long, value_name = "C[,B]", value_parser = pair::<u32>, env = "CASCADE_REUSE")]
    reuse: Option<Pair<u32>>,
    /// Steps, samplers and what saves time, all at once: fast, balanced or best. Other flags change what it says.
    #[arg(long, value_name = "NAME", value_parser = Preset::named, env = "CASCADE_PRESET")]
    preset: Option<Preset>,
    /// How much of guidance's change of contrast is taken back, 0 to 1. The original repository's samplers can take
    /// back 0.7.
    #[arg(long, value_name = "C[,B]", value_parser = pair::<f32>, env = "CASCADE_GUIDANCE_RESCALE")]
    guidance_rescale: Option<Pair<f32>>,
    /// Share that is kept of guidance's part along the prediction, 0 to 1 (adaptive projected guidance). Less gives
    /// less saturated pictures at high guidance.
    #[arg(long, value_name = "C[,B]", value_parser = pair::<f32>, env = "CASCADE_GUIDANCE_PARALLEL")]
    guidance_parallel: Option<Pair<f32>>,
}

impl Args {
    /// `request` with what the preset says, which all other flags change.
    pub(super) fn preset(&self, mut request: Request) -> Request {
        if let Some(preset) = self.preset {
            preset.apply(&mut request.steps, &mut request.method);
        }
        request
    }

    /// `request`, sampled like this.
    pub(super) fn apply(&self, mut request: Request) -> Request {
        self.set(false, &mut request.method.0, &mut request.steps.0);
        self.set(true, &mut request.method.1, &mut request.steps.1);
        request
    }

    /// `request`, whose Stage B is sampled like this.
    pub(super) fn apply_to_stage_b(&self, mut request: Request) -> Request {
        self.set(false, &mut request.method.1, &mut request.steps.1);
        request
    }

    /// Sets what is given for the first or the second stage of each pair.
    fn set(&self, second: bool, method: &mut Method, steps: &mut u32) {
        fn of<T: Clone>(pair: &Option<Pair<T>>, second: bool) -> Option<T> {
            let Pair(first, other) = pair.as_ref()?;
            if second { other.clone() } else { Some(first.clone()) }
        }
        fn put<T>(value: Option<T>, field: &mut T) {
            if let Some(value) = value {
                *field = value;
            }
        }
        put(of(&self.sampler, second), &mut method.sampler);
        put(of(&self.scheduler, second), &mut method.spacing);
        put(of(&self.shift, second), &mut method.shift);
        put(of(&self.guidance_interval, second), &mut method.guided);
        put(of(&self.reuse, second), &mut method.reuse);
        put(of(&self.guidance_rescale, second), &mut method.rescale);
        put(of(&self.guidance_parallel, second), &mut method.parallel);
        if let Some(times) = of(&self.timesteps, second) {
            *steps = times.len() as u32;
            method.times = times;
        }
    }
}

fn pair<T: FromStr<Err: ToString>>(s: &str) -> std::result::Result<Pair<T>, String> {
    let one = |s: &str| s.trim().parse().map_err(|e: T::Err| format!("{} (`{s}`)", e.to_string()));
    match s.split_once(',') {
        Some((first, second)) => Ok(Pair(one(first)?, Some(one(second)?))),
        None => Ok(Pair(one(s)?, None)),
    }
}

fn numbers(s: &str) -> std::result::Result<Vec<f32>, String> {
    let number =
        |s: &str| s.trim().parse().map_err(|_| format!("expected numbers with commas between them, got `{s}`"));
    s.split(',').map(number).collect()
}

fn lists(s: &str) -> std::result::Result<Pair<Vec<f32>>, String> {
    match s.split_once('/') {
        Some((first, second)) => Ok(Pair(numbers(first)?, Some(numbers(second)?))),
        None => Ok(Pair(numbers(s)?, None)),
    }
}

fn intervals(s: &str) -> std::result::Result<Pair<(f32, f32)>, String> {
    let interval = |times: Vec<f32>| match times[..] {
        [low, high] => Ok((low, high)),
        _ => Err(format!("expected two times like 0.3,0.9, got `{s}`")),
    };
    let Pair(first, second) = lists(s)?;
    Ok(Pair(interval(first)?, second.map(interval).transpose()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn request(line: &str) -> Request {
        let line = std::iter::once("test").chain(line.split_whitespace());
        Line::try_parse_from(line).unwrap_or_else(|e| panic!("{e}")).args.apply(Request::new("a fox"))
    }

    #[test]
    fn one_setting_is_stage_c_and_two_are_both() {
        assert_eq!(request(""), Request::new("a fox"));
        let one = request("--sampler dpmpp-2m --shift 2");
        assert_eq!((one.method.0.sampler, one.method.1.sampler), (Sampler::Dpmpp2m, Sampler::Ddpm));
        assert_eq!((one.method.0.shift, one.method.1.shift), (2.0, 1.0));
        let both =
            request("--scheduler karras,exponential --timesteps 1,0.5/0.9,0.6,0.1 --guidance-interval 0.2,0.8/0,0.5");
        assert_eq!((both.method.0.spacing, both.method.1.spacing), (Spacing::Karras, Spacing::Exponential));
        assert_eq!((both.steps, &both.method.1.times[..]), ((2, 3), &[0.9, 0.6, 0.1][..]));
        assert_eq!((both.method.0.guided, both.method.1.guided), ((0.2, 0.8), (0.0, 0.5)));
        let reuse = request("--reuse 3,2");
        assert_eq!((reuse.method.0.reuse, reuse.method.1.reuse), (3, 2));
    }

    #[test]
    fn what_is_no_setting_is_an_error_that_shows_it() {
        for (line, found) in [
            ("--sampler heun", "`heun`"),
            ("--sampler ddim,ddim,ddim", "`ddim,ddim`"),
            ("--scheduler=", "expected linear or karras or exponential"),
            ("--shift a", "`a`"),
            ("--timesteps 1,,0.5", "got ``"),
            ("--timesteps 1/", "got ``"),
            ("--guidance-interval 0.5", "got `0.5`"),
            ("--preset slow", "expected one of fast, balanced, best, got `slow`"),
        ] {
            let error = Line::try_parse_from(std::iter::once("test").chain(line.split_whitespace())).err();
            let error = error.expect("is refused").to_string();
            assert!(error.contains(found), "{line}: {error}");
        }
    }
}
