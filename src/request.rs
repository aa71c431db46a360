//! What to make: plain data, checked before anything is loaded.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::noise::NoiseKind;
use crate::sampler::Method;
use crate::sizes::StageSizes;

/// Longest side of a picture, pixels.
pub(crate) const MAX_SIDE: u32 = 16_384;
/// Most images of one run.
const MAX_IMAGES: usize = 1024;
const MAX_STEPS: u32 = 1000;
/// Least and most compression.
const COMPRESSION: (f32, f32) = (4.0, 128.0);
const MAX_GUIDANCE: f32 = 100.0;
/// Most that a second pass enlarges a picture.
const MAX_HIRES: f32 = 8.0;

/// One run: every prompt `count` times.
///
/// Image `i` of the run, from 0, has prompt `i / count`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Request {
    /// What the pictures show; at least one prompt, which may be empty.
    pub prompts: Vec<String>,
    /// What guidance leads away from.
    pub negative: String,
    /// Width, pixels: a multiple of 8 from 64 to 16384.
    pub width: u32,
    /// Height, pixels: a multiple of 8 from 64 to 16384.
    pub height: u32,
    /// Pixels of the picture for a pixel of Stage C's latent along each axis, 4 to 128. Fewer give Stage C more to do and a
    /// picture with more, smaller things; the published models were trained for about 42.67.
    pub compression: f32,
    /// Where the noise of the first image starts, see [`seed_of`](Self::seed_of); torch uses the low 32 bits.
    pub seed: u64,
    /// Denoising steps of Stage C and Stage B, 1 to 1000 each.
    pub steps: (u32, u32),
    /// Guidance of Stage C and Stage B, 0 to 100 each; 1 and below is off.
    pub guidance: (f32, f32),
    /// How Stage C and Stage B are sampled, besides steps and guidance.
    pub method: (Method, Method),
    /// Images per prompt, 1 to 1024.
    pub count: u32,
    /// Where noise comes from.
    pub noise: NoiseKind,
    /// How many times as wide and as high the picture becomes by a second pass of Stage C, 1 to 8, see
    /// [`last_pass`](Self::last_pass); 1 is one pass.
    #[serde(skip_serializing_if = "is_one")]
    pub hires: f32,
    /// How much the second pass changes of what the first one has made, 0 to 1, as
    /// [`Init::strength`](crate::Init::strength) says it of a picture.
    #[serde(skip_serializing_if = "is_usual_strength")]
    pub hires_strength: f32,
}

fn is_one(hires: &f32) -> bool {
    *hires == 1.0
}

fn is_usual_strength(strength: &f32) -> bool {
    *strength == Request::HIRES_STRENGTH
}

impl Default for Request {
    /// No prompt; diffusers' defaults for the published models.
    fn default() -> Self {
        Self {
            prompts: Vec::new(),
            negative: String::new(),
            width: 1024,
            height: 1024,
            compression: StageSizes::COMPRESSION,
            seed: 0,
            steps: (20, 10),
            guidance: (4.0, 0.0),
            method: Default::default(),
            count: 1,
            noise: NoiseKind::Torch,
            hires: 1.0,
            hires_strength: Self::HIRES_STRENGTH,
        }
    }
}

impl Request {
    /// What a second pass changes unless asked otherwise: enough for new detail, and too little for another layout.
    const HIRES_STRENGTH: f32 = 0.3;

    /// One picture of this, with diffusers' defaults for the published models.
    ///
    /// ```
    /// # use cascade_rt::Request;
    /// let request = Request { width: 1152, height: 896, seed: 7, ..Request::new("a fox") };
    /// assert_eq!(request.images(), 1);
    /// ```
    pub fn new(prompt: impl Into<String>) -> Self {
        Self { prompts: vec![prompt.into()], ..Self::default() }
    }

    /// Whether every value is in its range.
    ///
    /// # Errors
    /// [`Error::Request`], naming the field, the range and the value.
    pub fn check(&self) -> Result<()> {
        for (field, side) in [("width", self.width), ("height", self.height)] {
            let near = (side.min(MAX_SIDE).next_multiple_of(8)).max(64);
            let expected = format!("a multiple of 8 from 64 to {MAX_SIDE} pixels");
            require(side == near, field, expected, format!("{side} (try {near})"))?;
        }
        let (least, most) = COMPRESSION;
        let expected = format!("a number of pixels from {least} to {most}");
        require((least..=most).contains(&self.compression), "compression", expected, self.compression.to_string())?;
        for (stage, steps) in [("C", self.steps.0), ("B", self.steps.1)] {
            let expected = format!("1 to {MAX_STEPS} steps for Stage {stage}");
            require((1..=MAX_STEPS).contains(&steps), "steps", expected, steps.to_string())?;
        }
        for (stage, guidance) in [("C", self.guidance.0), ("B", self.guidance.1)] {
            let expected = format!("a number from 0 to {MAX_GUIDANCE} for Stage {stage}");
            require((0.0..=MAX_GUIDANCE).contains(&guidance), "guidance", expected, guidance.to_string())?;
        }
        let expected = format!("a factor from 1, which is one pass, to {MAX_HIRES}");
        require((1.0..=MAX_HIRES).contains(&self.hires), "hires", expected, self.hires.to_string())?;
        let strength = self.hires_strength;
        require(
            (0.0..=1.0).contains(&strength),
            "hires_strength",
            "a number from 0 to 1".into(),
            strength.to_string(),
        )?;
        let Self { width, height, .. } = self.last_pass();
        let expected = format!("a factor that leaves sides of at most {MAX_SIDE} pixels");
        let found = format!("{}, which gives {width}×{height}", self.hires);
        require(width.max(height) <= MAX_SIDE, "hires", expected, found)?;
        self.method.0.check("C", self.steps.0)?;
        self.method.1.check("B", self.steps.1)?;
        let expected = format!("1 to {MAX_IMAGES} images per prompt");
        require((1..=MAX_IMAGES as u32).contains(&self.count), "count", expected, self.count.to_string())?;
        require(!self.prompts.is_empty(), "prompts", "at least one".into(), "none".into())?;
        let expected = format!("at most {MAX_IMAGES} images in one run");
        let found = format!("{} prompts, {} images each", self.prompts.len(), self.count);
        require(self.images() <= MAX_IMAGES, "prompts", expected, found)
    }

    /// Images of the run.
    pub fn images(&self) -> usize {
        self.prompts.len().saturating_mul(self.count as usize)
    }

    /// The prompt of image `image`; empty beyond the last.
    pub fn prompt_of(&self, image: usize) -> &str {
        self.prompts.get(image / self.count.max(1) as usize).map_or("", String::as_str)
    }

    /// The seed of image `image`: `seed + image`; or `seed`, where one generator draws for all images.
    pub fn seed_of(&self, image: usize) -> u64 {
        if self.noise.is_of_batch() { self.seed } else { self.seed.wrapping_add(image as u64) }
    }

    /// The smallest request that makes image `image` of this one, and which of its images that is: one prompt and
    /// one image; or as many images as here, where one generator draws for all of them.
    pub fn alone(&self, image: usize) -> (Self, usize) {
        let one = Self { prompts: vec![self.prompt_of(image).to_owned()], seed: self.seed_of(image), ..self.clone() };
        match self.noise.is_of_batch() {
            false => (Self { count: 1, ..one }, 0),
            true => (Self { count: self.images() as u32, ..one }, image),
        }
    }

    /// Whether Stage C makes two passes.
    pub fn is_hires(&self) -> bool {
        self.hires > 1.0
    }

    /// The request of the last pass alone, whose size is the picture's: `hires` times the first one's, rounded to the nearest
    /// multiples of 8.
    ///
    /// ```
    /// # use cascade_rt::Request;
    /// let last = Request { width: 1152, height: 896, hires: 1.5, ..Request::new("a fox") }.last_pass();
    /// assert_eq!((last.width, last.height, last.hires), (1728, 1344, 1.0));
    /// ```
    pub fn last_pass(&self) -> Self {
        let side = |side: u32| match self.is_hires() {
            true => 8 * (f64::from(side) * f64::from(self.hires) / 8.0).round() as u32,
            false => side,
        };
        Self { width: side(self.width), height: side(self.height), hires: 1.0, ..self.clone() }
    }

    /// Latent sizes, of the first pass where there are two.
    pub fn sizes(&self) -> StageSizes {
        StageSizes::for_image(self.width as usize, self.height as usize, self.compression)
    }
}

fn require(holds: bool, what: &str, expected: String, found: String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::Request { what: what.into(), expected, found }) }
}

/// `"20,10"` → `(20, 10)`, and `"20"` → `(20, 10)` with the usual 10 of Stage B; each 1 to 1000.
///
/// # Errors
/// What was expected, for the command line's own message.
pub fn parse_steps(s: &str) -> std::result::Result<(u32, u32), String> {
    let range = 1..=MAX_STEPS;
    pair(s, Request::default().steps.1)
        .filter(|(c, b)| range.contains(c) && range.contains(b))
        .ok_or_else(|| format!("expected one or two counts from 1 to {MAX_STEPS} like 20 or 20,10, got `{s}`"))
}

/// `"4.0,1.1"` → `(4.0, 1.1)`, and `"4.0"` → `(4.0, 0.0)` with the usual 0 of Stage B; each 0 to 100.
///
/// # Errors
/// What was expected, for the command line's own message.
pub fn parse_guidance(s: &str) -> std::result::Result<(f32, f32), String> {
    let range = 0.0..=MAX_GUIDANCE;
    pair(s, Request::default().guidance.1)
        .filter(|(c, b)| range.contains(c) && range.contains(b))
        .ok_or_else(|| format!("expected one or two numbers from 0 to {MAX_GUIDANCE} like 4 or 4,1.1, got `{s}`"))
}

/// `"10"` → `10`, 1 to 1000.
///
/// # Errors
/// What was expected, for the command line's own message.
pub fn parse_one_steps(s: &str) -> std::result::Result<u32, String> {
    let wrong = || format!("expected a count from 1 to {MAX_STEPS}, got `{s}`");
    s.trim().parse().ok().filter(|steps| (1..=MAX_STEPS).contains(steps)).ok_or_else(wrong)
}

/// `"1.1"` → `1.1`, 0 to 100.
///
/// # Errors
/// What was expected, for the command line's own message.
pub fn parse_one_guidance(s: &str) -> std::result::Result<f32, String> {
    let wrong = || format!("expected a number from 0 to {MAX_GUIDANCE}, got `{s}`");
    s.trim().parse().ok().filter(|guidance| (0.0..=MAX_GUIDANCE).contains(guidance)).ok_or_else(wrong)
}

/// `"1.5"` → `1.5`, how much a second pass enlarges a picture, 1 to 8.
///
/// # Errors
/// What was expected, for the command line's own message.
pub fn parse_hires(s: &str) -> std::result::Result<f32, String> {
    let wrong = || format!("expected a factor from 1, which is one pass, to {MAX_HIRES}, got `{s}`");
    s.trim().parse().ok().filter(|factor| (1.0..=MAX_HIRES).contains(factor)).ok_or_else(wrong)
}

/// `"0.6"` → `0.6`, how much is to change, 0 to 1.
///
/// # Errors
/// What was expected, for the command line's own message.
pub fn parse_strength(s: &str) -> std::result::Result<f32, String> {
    let wrong = || format!("expected a number from 0 to 1, got `{s}`");
    s.trim().parse().ok().filter(|strength| (0.0..=1.0).contains(strength)).ok_or_else(wrong)
}

/// A number of pixels, images or a seed, with a message that says what was expected.
///
/// # Errors
/// What was expected, for the command line's own message.
pub fn parse_whole<T: std::str::FromStr>(s: &str) -> std::result::Result<T, String> {
    let bits = 8 * size_of::<T>();
    s.trim().parse().map_err(|_| format!("expected a whole number from 0 up, of at most {bits} bits, got `{s}`"))
}

/// Stage C's setting, and Stage B's where it is given.
fn pair<T: std::str::FromStr>(s: &str, usual: T) -> Option<(T, T)> {
    match s.split_once(',') {
        Some((c, b)) => Some((c.trim().parse().ok()?, b.trim().parse().ok()?)),
        None => Some((s.trim().parse().ok()?, usual)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parsers() {
        assert_eq!(parse_steps("20,10"), Ok((20, 10)));
        assert_eq!(parse_steps(" 1 , 1000 "), Ok((1, 1000)));
        assert_eq!((parse_steps("30"), parse_steps(" 7 ")), (Ok((30, 10)), Ok((7, 10))));
        for bad in ["", "0", "20,", ",10", "0,10", "20,1001", "a,b", "20,10,5", "-1,2", "99999999999,1"] {
            assert!(parse_steps(bad).unwrap_err().contains(&format!("`{bad}`")), "{bad}");
        }
        assert_eq!(parse_guidance("4.0,0.0"), Ok((4.0, 0.0)));
        assert_eq!(parse_guidance("100,1e-1"), Ok((100.0, 0.1)));
        assert_eq!((parse_guidance("4"), parse_guidance("1.5 ")), (Ok((4.0, 0.0)), Ok((1.5, 0.0))));
        for bad in ["", "101", "4,", "NaN,0", "inf,1", "0,101", "-0.5,1", "1,2,3"] {
            assert!(parse_guidance(bad).unwrap_err().contains(&format!("`{bad}`")), "{bad}");
        }
    }

    #[test]
    fn single_settings() {
        assert_eq!((parse_one_steps(" 10"), parse_one_guidance("1.1")), (Ok(10), Ok(1.1)));
        for bad in ["", "0", "1001", "-1", "1,2", "x"] {
            assert!(parse_one_steps(bad).unwrap_err().contains(&format!("`{bad}`")), "{bad}");
        }
        for bad in ["", "-0.1", "101", "nan", "1,2"] {
            assert!(parse_one_guidance(bad).unwrap_err().contains(&format!("`{bad}`")), "{bad}");
        }
    }

    #[test]
    fn whole_numbers() {
        assert_eq!(parse_whole::<u32>("1024"), Ok(1024));
        assert_eq!(parse_whole(" 18446744073709551615 "), Ok(u64::MAX));
        for bad in ["", "-5", "abc", "1.5", "4294967296", "0x40"] {
            assert!(parse_whole::<u32>(bad).unwrap_err().contains(&format!("32 bits, got `{bad}`")), "{bad}");
        }
    }

    #[test]
    fn checks() {
        let good = || Request { prompts: vec!["a".into()], ..Request::default() };
        good().check().unwrap();
        Request { width: 64, height: MAX_SIDE, steps: (1, 1000), guidance: (0.0, 100.0), ..good() }.check().unwrap();

        let message = |request: Request| {
            let error = request.check().unwrap_err();
            assert_eq!(error.exit_code(), 2);
            error.to_string()
        };
        assert_eq!(
            message(Request { width: 1001, ..good() }),
            "width: expected a multiple of 8 from 64 to 16384 pixels, got 1001 (try 1008)"
        );
        assert!(message(Request { height: 0, ..good() }).starts_with("height: "));
        assert!(message(Request { width: 100_000, ..good() }).ends_with("got 100000 (try 16384)"));
        assert!(message(Request { width: u32::MAX, ..good() }).ends_with("(try 16384)"));
        assert!(message(Request { steps: (0, 10), ..good() }).ends_with("Stage C, got 0"));
        assert!(message(Request { steps: (20, 1_000_000), ..good() }).ends_with("Stage B, got 1000000"));
        assert!(message(Request { guidance: (f32::NAN, 0.0), ..good() }).ends_with("Stage C, got NaN"));
        assert!(message(Request { guidance: (4.0, f32::INFINITY), ..good() }).ends_with("Stage B, got inf"));
        assert!(message(Request { compression: 3.9, ..good() }).ends_with("got 3.9"));
        assert!(message(Request { compression: f32::NAN, ..good() }).starts_with("compression: "));
        assert!(message(Request { hires: 0.9, ..good() }).starts_with("hires: "));
        assert!(message(Request { hires: f32::NAN, ..good() }).ends_with("got NaN"));
        assert!(message(Request { hires_strength: 1.1, ..good() }).starts_with("hires_strength: "));
        let huge = Request { width: 4096, height: 64, hires: 5.0, ..good() };
        assert!(message(huge).ends_with("at most 16384 pixels, got 5, which gives 20480×320"));
        assert!(message(Request { count: 0, ..good() }).starts_with("count: "));
        assert!(message(Request { count: 1025, ..good() }).ends_with("got 1025"));
        assert!(message(Request::default()).starts_with("prompts: "));
        let many = Request { prompts: vec![String::new(); 200], count: 6, ..good() };
        assert_eq!(message(many), "prompts: expected at most 1024 images in one run, got 200 prompts, 6 images each");
    }

    #[test]
    fn images_of_a_run() {
        let run = Request { prompts: vec!["a".into(), "b".into()], count: 3, seed: u64::MAX, ..Request::default() };
        assert_eq!((run.images(), run.prompt_of(2), run.prompt_of(3), run.prompt_of(6)), (6, "a", "b", ""));
        for (_, noise) in NoiseKind::NAMES {
            let run = Request { noise, ..run.clone() };
            let (one, image) = run.alone(4);
            assert_eq!((one.prompts.len(), one.prompt_of(image), one.seed_of(image)), (1, "b", run.seed_of(4)));
            let (images, seed) = if noise.is_of_batch() { (6, u64::MAX) } else { (1, 3) };
            assert_eq!((one.images(), run.seed_of(4)), (images, seed), "{noise}");
            one.check().unwrap();
        }
    }
}
