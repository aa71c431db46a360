//! Prompts with weights, and of any length: what Stable Diffusion WebUI and ComfyUI read into `(word:1.3)`, and how.
//!
//! A prompt is parsed into pieces with weights (`parse`), its tokens are divided into chunks of what the text encoder
//! takes (`chunks`), and each chunk is encoded as a text of its own. The states of a prompt are those of its chunks, one
//! after the other, weighted (`weigh`). Stage C attends to as many as there are. So nothing on the device knows of weights.

mod chunks;
mod parse;
mod weigh;

use std::fmt;
use std::str::FromStr;

use crate::error::Result;
use crate::pipeline::{Observer, Pipeline, TextEmbeddings};

/// What parentheses, brackets and BREAK mean in prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Syntax {
    /// Nothing; a prompt longer than the text encoder takes is cut off. As in diffusers.
    #[default]
    Plain,
    /// As in Stable Diffusion WebUI (A1111): `(x)` is 1.1 times as strong, `(x:1.3)` 1.3 times, `[x]` 1/1.1 times; a
    /// backslash before one of these takes it literally; `BREAK` begins a new chunk. States are multiplied by the
    /// weights, then all of them so that their mean is as before.
    WebUi,
    /// As in ComfyUI: `(x)` and `(x:1.3)` as above, brackets mean nothing. States are moved away from those of an empty
    /// prompt, or towards them.
    ComfyUi,
}

impl Syntax {
    /// Every syntax with its name.
    pub const NAMES: [(&'static str, Syntax); 3] =
        [("plain", Syntax::Plain), ("webui", Syntax::WebUi), ("comfyui", Syntax::ComfyUi)];
}

impl FromStr for Syntax {
    type Err = String;

    fn from_str(s: &str) -> std::result::Result<Self, String> {
        let named = Syntax::NAMES.iter().find(|(name, _)| *name == s);
        named.map(|&(_, syntax)| syntax).ok_or_else(|| format!("expected plain, webui or comfyui, got `{s}`"))
    }
}

impl fmt::Display for Syntax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(Syntax::NAMES.iter().find(|(_, syntax)| syntax == self).map_or("", |(name, _)| name))
    }
}

/// Encodes prompts, then the negative prompt, in a syntax. All get as many chunks as the longest needs; those that are
/// too many are empty ones.
///
/// # Errors
/// If a prompt cannot be tokenised, or has more tokens than 64 chunks; and those of a run.
pub fn encode(
    pipeline: &mut Pipeline,
    prompts: &[String],
    negative: &str,
    syntax: Syntax,
    observer: &mut dyn Observer,
) -> Result<TextEmbeddings> {
    let texts = prompts.iter().map(String::as_str).chain([negative]);
    let tokenizer = pipeline.tokenizer();
    let all =
        texts.map(|text| chunks::of(tokenizer, &parse::parse(text, syntax), syntax)).collect::<Result<Vec<_>>>()?;
    let count = all.iter().map(Vec::len).max().unwrap_or(1);
    let empty = chunks::empty(tokenizer);
    // Every chunk of every text, then an empty one, whose states are what others are compared with.
    let mut encodings: Vec<_> = all
        .iter()
        .flat_map(|text| text.iter().map(|chunk| &chunk.encoding).chain(std::iter::repeat(&empty)).take(count))
        .cloned()
        .collect();
    encodings.push(empty);
    let encoded = pipeline.encode_tokens(&encodings, observer)?;
    let weights: Vec<Vec<f32>> =
        all.iter().map(|text| text.iter().flat_map(|chunk| chunk.weights.clone()).collect()).collect();
    Ok(weigh::join(&encoded, &weights, count, syntax))
}
