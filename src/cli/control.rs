//! ControlNets of the command line: files, hints, and how strongly they count.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::PICTURE;
use super::given::Given;
use crate::controlnet::{ControlKind, ControlNet};
use crate::error::{Error, Result};
use crate::image::{ControlRecord, Image};
use crate::picture::{self, Fit, canny_hint, inpainting_hint};
use crate::pipeline::{Additions, Control, HostTensor, Pipeline};
use crate::shape::Shape;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Steer Stage C by a ControlNet (safetensors); several act together. What it is for is told by its tensors: canny
    /// edges, inpainting, super-resolution, identity.
    #[arg(long, value_name = "FILE", requires = "control_image", help_heading = PICTURE, env = "CASCADE_CONTROL")]
    control: Vec<PathBuf>,
    /// What the ControlNet is told, one for each --control: a picture, of which it gets the edges or whatever it takes; or
    /// a .safetensors file with its hint as a tensor `hint`, [channels, height, width], which identity needs (the face
    /// detector and recogniser are not part of this program). A picture of nothing but black and white is edges already.
    #[arg(long, value_name = "FILE", requires = "control", help_heading = PICTURE, env = "CASCADE_CONTROL_IMAGE")]
    control_image: Vec<PathBuf>,
    /// For inpainting: a picture that is white, or transparent, where the one of --control-image is to be painted.
    #[arg(long, value_name = "FILE", requires = "control", help_heading = PICTURE, env = "CASCADE_CONTROL_MASK")]
    control_mask: Option<PathBuf>,
    /// How strongly it counts, for each --control or once for all. [default: 1]
    #[arg(long, value_name = "S", requires = "control", value_parser = parse_strength, allow_hyphen_values = true, help_heading = PICTURE, env = "CASCADE_CONTROL_STRENGTH")]
    control_strength: Vec<f32>,
    /// From where to where in Stage C's run it counts, as shares of the steps, for each --control or once for all.
    /// [default: 0,1]
    #[arg(long, value_name = "FROM,TO", requires = "control", help_heading = PICTURE, env = "CASCADE_CONTROL_RANGE")]
    control_range: Vec<Range>,
}

/// `FROM,TO`, shares from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Range(f32, f32);

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let ends = text.split_once(',').and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
        match ends {
            Some((from, to)) if 0.0 <= from && from <= to && to <= 1.0 => Ok(Self(from, to)),
            _ => Err(format!("expected two shares from 0 to 1, the lower one first, like 0,0.5, got `{text}`")),
        }
    }
}

fn parse_strength(s: &str) -> std::result::Result<f32, String> {
    let strength = s.trim().parse().ok().filter(|strength| (-10.0..=10.0).contains(strength));
    strength.ok_or_else(|| format!("expected a number from -10 to 10, got `{s}`"))
}

/// A ControlNet, its hint, and how it counts.
pub(super) struct Controlled {
    net: ControlNet,
    hint: Hint,
    record: ControlRecord,
}

enum Hint {
    Picture(Image),
    /// A picture, and one that is white where it is to be painted.
    Masked(Image, Image),
    Tensor(HostTensor),
}

impl Args {
    /// Whether there is any.
    pub(super) fn is_given(&self) -> bool {
        !self.control.is_empty()
    }

    /// Every file that is read.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        self.control.iter().chain(&self.control_image).chain(&self.control_mask).map(PathBuf::as_path)
    }

    /// What records say of them, where each has the mask.
    fn records(&self) -> Result<Vec<ControlRecord>> {
        let count = self.control.len();
        let wrong = |flag: &str, expected: &str, found: usize| Error::Request {
            what: flag.into(),
            expected: format!("{expected} for {count} of --control"),
            found: found.to_string(),
        };
        if self.control_image.len() != count {
            return Err(wrong("--control-image", "one", self.control_image.len()));
        }
        for (flag, given) in
            [("--control-strength", self.control_strength.len()), ("--control-range", self.control_range.len())]
        {
            if given > 1 && given != count {
                return Err(wrong(flag, "one for all, or as many as there are,", given));
            }
        }
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let of = |i: usize| {
            let strength = self.control_strength.get(i).or(self.control_strength.first());
            let range = self.control_range.get(i).or(self.control_range.first());
            let Range(from, to) = range.copied().unwrap_or(Range(0.0, 1.0));
            ControlRecord {
                file: name(&self.control[i]),
                image: name(&self.control_image[i]),
                mask: self.control_mask.as_deref().map(name),
                strength: strength.copied().unwrap_or(1.0),
                range: (from, to),
            }
        };
        Ok((0..count).map(of).collect())
    }

    /// Opens the ControlNets, and reads their hints.
    ///
    /// # Errors
    /// If there are not as many of one flag as of another, and for the first file that is not what it should be.
    pub(super) fn read(&self) -> Result<Vec<Controlled>> {
        let records = self.records()?;
        let files = self.control.iter().zip(&self.control_image).zip(records);
        let read = |((control, image), record): ((&PathBuf, &PathBuf), ControlRecord)| {
            let net = ControlNet::open(control)?;
            let hint = self.hint(&net, image)?;
            let masked = matches!(hint, Hint::Masked(..));
            let record = ControlRecord { mask: record.mask.filter(|_| masked), ..record };
            Ok(Controlled { net, hint, record })
        };
        let all: Vec<Controlled> = files.map(read).collect::<Result<_>>()?;
        match &self.control_mask {
            Some(mask) if !all.iter().any(|one| matches!(one.hint, Hint::Masked(..))) => Err(Error::Request {
                what: "--control-mask".into(),
                expected: "a --control that inpaints, and its picture".into(),
                found: mask.display().to_string(),
            }),
            _ => Ok(all),
        }
    }

    fn hint(&self, net: &ControlNet, image: &Path) -> Result<Hint> {
        let needs = |expected: &str| Error::Request {
            what: format!("--control-image {}", image.display()),
            expected: format!("{expected}, which {} takes ({})", net.path().display(), net.kind()),
            found: "a picture".into(),
        };
        if image.extension().is_some_and(|extension| extension == "safetensors") {
            return Ok(Hint::Tensor(Given::open(image)?.hint(net.hint_channels())?));
        }
        match (net.kind(), &self.control_mask) {
            (ControlKind::Canny, _) => Ok(Hint::Picture(picture::read(image)?)),
            (ControlKind::Inpainting, Some(mask)) => {
                let (picture, mask_picture) = (picture::read(image)?, picture::read_mask(mask)?);
                match (picture.width, picture.height) == (mask_picture.width, mask_picture.height) {
                    true => Ok(Hint::Masked(picture, mask_picture)),
                    false => Err(Error::Picture {
                        path: mask.clone(),
                        expected: format!("a mask of {}×{} pixels, as its picture has", picture.width, picture.height),
                        found: format!("{}×{}", mask_picture.width, mask_picture.height),
                    }),
                }
            }
            (ControlKind::Inpainting, None) => Err(needs("a picture with --control-mask")),
            (ControlKind::SuperResolution | ControlKind::Identity | ControlKind::Other, _) => {
                Err(needs(&format!("a .safetensors file with `hint`, [{}, height, width]", net.hint_channels())))
            }
        }
    }
}

impl Controlled {
    /// What a record says of it.
    pub(super) fn record(&self) -> ControlRecord {
        self.record.clone()
    }

    /// What it adds to Stage C for latents of this size, height and width.
    ///
    /// # Errors
    /// Those of [`Pipeline::control`].
    fn additions(&self, pipeline: &mut Pipeline, size: (usize, usize), check_nodes: bool) -> Result<Additions> {
        // As many pixels as an EfficientNet turns into the latents.
        let (height, width) = (32 * size.0, 32 * size.1);
        let fit = |picture: &Image| Fit::Cover.apply(picture, width as u32, height as u32);
        let shape = |c| Shape::new(1, height, width, c);
        let hint = match &self.hint {
            Hint::Tensor(hint) => hint.clone(),
            Hint::Masked(picture, mask) => {
                let painted: Vec<bool> = fit(mask).rgb.chunks_exact(3).map(|p| p[0] >= 128).collect();
                HostTensor { shape: shape(4), values: inpainting_hint(&fit(picture), &painted) }
            }
            Hint::Picture(picture) => HostTensor { shape: shape(1), values: canny_hint(&fit(picture)) },
        };
        pipeline.control(&self.net, &hint, size, check_nodes)
    }

    /// It in a run, where it adds this.
    pub(super) fn with<'a>(&self, additions: &'a Additions) -> Control<'a> {
        Control { additions, strength: self.record.strength, range: self.record.range }
    }
}

/// What each adds to Stage C, where these are the `sizes` of the latents of all requests.
///
/// # Errors
/// Those of [`Pipeline::control`], and if the sizes differ.
pub(super) fn additions(
    all: &[Controlled],
    mut sizes: impl Iterator<Item = (usize, usize)>,
    pipeline: &mut Pipeline,
    check_nodes: bool,
) -> Result<Vec<Additions>> {
    let (false, Some(size)) = (all.is_empty(), sizes.next()) else { return Ok(Vec::new()) };
    if sizes.any(|other| other != size) {
        return Err(Error::Request {
            what: "--control".into(),
            expected: "pictures of one size".into(),
            found: "several".into(),
        });
    }
    all.iter().map(|one| one.additions(pipeline, size, check_nodes)).collect()
}

/// The flags that ask for what a record says.
pub(super) fn flags(records: &[ControlRecord]) -> String {
    let of = |one: &ControlRecord| {
        let mask = one.mask.iter().map(|mask| format!(" --control-mask {mask}")).collect::<String>();
        let ControlRecord { file, image, strength, range: (from, to), .. } = one;
        format!(
            "--control {file} --control-image {image}{mask} --control-strength {strength} --control-range {from},{to}"
        )
    };
    records.iter().map(of).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!("0, 0.5".parse(), Ok(Range(0.0, 0.5)));
        for bad in ["", "0", "0.5,0.2", "-0.1,1", "0,1.1", "nan,1", "0,1,2"] {
            assert!(bad.parse::<Range>().unwrap_err().contains(&format!("`{bad}`")), "{bad}");
        }
    }
}
