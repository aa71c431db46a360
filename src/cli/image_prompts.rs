//! Image prompts of the command line: pictures, or embeddings that `encode` wrote, each with a weight.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::given::Given;
use crate::error::{Error, Result};
use crate::image::{Image, ImagePrompt};
use crate::picture;
use crate::pipeline::{HostTensor, Pipeline};
use crate::shape::Shape;

/// `FILE[:WEIGHT]`, where the weight is a number from -10 to 10, 1 if there is none.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Named {
    pub(super) path: PathBuf,
    weight: f32,
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        // A colon may also be part of the name.
        let split = text.rsplit_once(':').filter(|_| !Path::new(text).exists());
        let weighted = split.and_then(|(path, weight)| Some((path, weight.trim().parse().ok()?)));
        let (path, weight) = weighted.unwrap_or((text, 1.0));
        match !path.is_empty() && (-10.0..=10.0).contains(&weight) {
            true => Ok(Self { path: path.into(), weight }),
            false => Err(format!("expected a file, and after a colon a weight from -10 to 10, got `{text}`")),
        }
    }
}

/// An image prompt that was read.
pub(super) struct Prompt {
    source: Source,
    weight: f32,
    name: String,
}

enum Source {
    Picture(Image),
    Embeddings(Box<Given>),
}

/// Reads every file.
///
/// # Errors
/// For the first that cannot be read, or is neither a picture nor a safetensors file.
pub(super) fn read(all: &[Named]) -> Result<Vec<Prompt>> {
    let one = |named: &Named| {
        let source = match named.path.extension().is_some_and(|extension| extension == "safetensors") {
            true => Source::Embeddings(Box::new(Given::open(&named.path)?)),
            false => Source::Picture(picture::read(&named.path)?),
        };
        let name = named.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Prompt { source, weight: named.weight, name })
    };
    all.iter().map(one).collect()
}

impl Prompt {
    /// A picture that was read elsewhere.
    #[cfg(feature = "serve")]
    pub(super) fn of(picture: Image, weight: f32, name: String) -> Self {
        Self { source: Source::Picture(picture), weight, name }
    }

    /// What a record says of it.
    pub(super) fn record(&self) -> ImagePrompt {
        ImagePrompt { file: self.name.clone(), weight: self.weight }
    }
}

/// The embeddings of all image prompts, `[1, 1, prompts, c]`, each times its weight; `None` without any.
///
/// # Errors
/// Those of [`Pipeline::embed_pictures`], and for a file of embeddings that this model does not take.
pub(super) fn embed(prompts: &[Prompt], pipeline: &mut Pipeline, check_nodes: bool) -> Result<Option<HostTensor>> {
    let Some(channels) = pipeline.model().stage_c.1.clip_image_in_channels.filter(|_| !prompts.is_empty()) else {
        return match prompts.is_empty() {
            true => Ok(None),
            false => Err(Error::Request {
                what: "image".into(),
                expected: "no image prompt, because this model's Stage C takes none".into(),
                found: format!("{}", prompts.len()),
            }),
        };
    };
    let mut values = Vec::new();
    for prompt in prompts {
        let embeddings = match &prompt.source {
            Source::Picture(picture) => pipeline.embed_pictures(std::slice::from_ref(picture), check_nodes)?.values,
            Source::Embeddings(file) => file.image_embeds(channels)?,
        };
        values.extend(embeddings.iter().map(|value| value * prompt.weight));
    }
    Ok(Some(HostTensor { shape: Shape::new(1, 1, values.len() / channels, channels), values }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_weights() {
        let named = |path: &str, weight| Named { path: path.into(), weight };
        for (text, want) in [
            ("a.png", named("a.png", 1.0)),
            ("a.png:0.5", named("a.png", 0.5)),
            ("a.png:-1", named("a.png", -1.0)),
            ("c:/a.png", named("c:/a.png", 1.0)),
            ("c:/a.png: 2 ", named("c:/a.png", 2.0)),
        ] {
            assert_eq!(text.parse::<Named>().unwrap(), want, "{text}");
        }
        for bad in ["", ":1", "a.png:11", "a.png:nan", "a.png:-inf"] {
            assert!(bad.parse::<Named>().unwrap_err().contains(&format!("`{bad}`")), "{bad}");
        }
    }
}
