//! ControlNets of the command line: files, hints, and how strongly they count.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::PICTURE;
use super::hint::Hint;
use super::initial::{Initial, fit_alike};
use crate::controlnet::{ControlKind, ControlNet};
use crate::error::{Error, Result};
use crate::image::ControlRecord;
use crate::pipeline::{Additions, Control, Pipeline};
use crate::request::Request;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Steer Stage C by a ControlNet (safetensors); several act together. What it is for is told by its tensors: canny
    /// edges, inpainting, super-resolution, identity.
    #[arg(long, value_name = "FILE", help_heading = PICTURE, env = "CASCADE_CONTROL")]
    control: Vec<PathBuf>,
    /// What the ControlNet is told, one for each --control: a picture, of which it gets the edges or whatever it takes, that
    /// of --init where none is given; or a .safetensors file with its hint as a tensor `hint`, [channels, height, width], which identity needs (the face
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
    #[arg(long, value_name = "FROM,TO", allow_hyphen_values = true, requires = "control", help_heading = PICTURE, env = "CASCADE_CONTROL_RANGE")]
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

pub(super) fn parse_strength(s: &str) -> std::result::Result<f32, String> {
    let strength = s.trim().parse().ok().filter(|strength| (-10.0..=10.0).contains(strength));
    strength.ok_or_else(|| format!("expected a number from -10 to 10, got `{s}`"))
}

/// A ControlNet, its hint, and how it counts.
pub(super) struct Controlled {
    net: ControlNet,
    hint: Hint,
    record: ControlRecord,
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

    /// What records say of them, where each has the mask, and where pictures do or do not begin with one.
    fn records(&self, is_begun: bool) -> Result<Vec<ControlRecord>> {
        let count = self.control.len();
        let wrong = |flag: &str, expected: &str, found: usize| Error::Request {
            what: flag.into(),
            expected: format!("{expected} for {count} of --control"),
            found: found.to_string(),
        };
        if self.control_image.len() != count && !(self.control_image.is_empty() && is_begun) {
            let expected = if is_begun { "one, or none to take the picture of --init," } else { "one" };
            return Err(wrong("--control-image", expected, self.control_image.len()));
        }
        for (flag, given) in
            [("--control-strength", self.control_strength.len()), ("--control-range", self.control_range.len())]
        {
            if given > 1 && given != count {
                return Err(wrong(flag, "one for all, or as many as there are,", given));
            }
        }
        let of = |i: usize| {
            let strength = self.control_strength.get(i).or(self.control_strength.first());
            let range = self.control_range.get(i).or(self.control_range.first());
            let Range(from, to) = range.copied().unwrap_or(Range(0.0, 1.0));
            ControlRecord {
                file: name(&self.control[i]),
                image: self.control_image.get(i).map_or_else(String::new, |image| name(image)),
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
    pub(super) fn read(&self, initial: Option<&Initial>) -> Result<Vec<Controlled>> {
        let mask = self.control_mask.as_deref();
        let read = |(i, record): (usize, ControlRecord)| {
            let net = ControlNet::open(&self.control[i])?;
            let hint = Hint::read(&net, self.control_image.get(i).map(PathBuf::as_path), mask, initial)?;
            let record = ControlRecord { mask: record.mask.filter(|_| hint.is_masked()), ..record };
            Ok(Controlled { net, hint, record })
        };
        let all: Vec<Controlled> =
            self.records(initial.is_some())?.into_iter().enumerate().map(read).collect::<Result<_>>()?;
        match mask {
            Some(mask) if !all.iter().any(|one| one.hint.is_masked()) => Err(Error::Request {
                what: "--control-mask".into(),
                expected: "a --control that inpaints, and its picture".into(),
                found: mask.display().to_string(),
            }),
            _ => Ok(all),
        }
    }
}

impl Controlled {
    /// The super-resolution ControlNet of a file, which is told of a small picture.
    ///
    /// # Errors
    /// If either file is not what it should be.
    pub(super) fn of_small(net: &Path, picture: &Path, strength: f32) -> Result<Self> {
        let net = ControlNet::open(net)?;
        if net.kind() != ControlKind::SuperResolution {
            return Err(Error::Model {
                path: net.path().to_owned(),
                expected: "a ControlNet for super-resolution".into(),
                found: format!("one for {}", net.kind()),
            });
        }
        let hint = Hint::read(&net, Some(picture), None, None)?;
        let (file, image) = (name(net.path()), name(picture));
        Ok(Self { net, hint, record: ControlRecord { file, image, mask: None, strength, range: (0.0, 1.0) } })
    }

    /// What a record says of it.
    pub(super) fn record(&self) -> ControlRecord {
        self.record.clone()
    }

    /// It in a run, where it adds this.
    pub(super) fn with<'a>(&self, additions: &'a Additions) -> Control<'a> {
        Control { additions, strength: self.record.strength, range: self.record.range }
    }
}

/// What each adds to Stage C in pictures of these requests.
///
/// # Errors
/// Those of [`Pipeline::control`], and if the sizes differ.
pub(super) fn additions<'a>(
    all: &[Controlled],
    mut requests: impl Iterator<Item = &'a Request>,
    initial: Option<&Initial>,
    pipeline: &mut Pipeline,
    check_nodes: bool,
) -> Result<Vec<Additions>> {
    let (false, Some(request)) = (all.is_empty(), requests.next()) else { return Ok(Vec::new()) };
    if requests.any(|other| !fit_alike(other, request)) {
        return Err(Error::Request {
            what: "--control".into(),
            expected: "pictures of one size".into(),
            found: "several".into(),
        });
    }
    let of = |Controlled { net, hint, .. }: &Controlled| {
        let hint = hint.tensor(net, request, initial, pipeline, check_nodes)?;
        pipeline.control(net, &hint, request.sizes().c, check_nodes)
    };
    all.iter().map(of).collect()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The flags that ask for what a record says.
pub(super) fn flags(records: &[ControlRecord]) -> String {
    let of = |one: &ControlRecord| {
        let mask = one.mask.iter().map(|mask| format!(" --control-mask {mask}")).collect::<String>();
        let ControlRecord { file, image, strength, range: (from, to), .. } = one;
        let image = if image.is_empty() { String::new() } else { format!(" --control-image {image}") };
        format!("--control {file}{image}{mask} --control-strength {strength} --control-range {from},{to}")
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
