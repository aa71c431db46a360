//! Models of the real structure with random weights, to measure speed and
//! memory and to test loading where the published weights are not at hand.
//!
//! Weights are bf16 and healthy: matrices have a standard deviation of
//! `1/√fan_in`, the last matrix of each residual branch a fifth of that, so that
//! activations and the predicted noise stay near 1 through every layer. Such a
//! network does not recognise noise, so the sampler amplifies its start noise
//! about a hundredfold; Stage A's first layer undoes that. The pictures are
//! coloured noise.
//!
//! The same preset gives the same bytes on every machine.

mod memory;
mod tokenizer;

pub use memory::{Noise, in_memory};

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::str::FromStr;

use half::bf16;
use rayon::prelude::*;
use safetensors::Dtype;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::net::config::{Activation, Block, ClipTextConfig, StageAConfig, UNetConfig, to_json};
use crate::net::tensors::Table;
use crate::weights::NetworkKind::{StageA, StageB, StageC, TextEncoder};
use crate::weights::header::header;

/// A size of model. Sizes on disk are those of all parts together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// Narrow and shallow networks: 0.4 GB.
    Mid,
    /// The published small networks: 4.9 GB.
    Lite,
    /// The published large networks: 11.7 GB.
    Large,
}

impl FromStr for Preset {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "mid" => Ok(Self::Mid),
            "lite" => Ok(Self::Lite),
            "large" => Ok(Self::Large),
            _ => Err(Error::Request {
                what: "preset".to_owned(),
                expected: "mid, lite or large".to_owned(),
                found: format!("`{name}`"),
            }),
        }
    }
}

impl std::fmt::Display for Preset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Mid => "mid",
            Self::Lite => "lite",
            Self::Large => "large",
        })
    }
}

/// Writes a model into `dir`, in the `diffusers` layout with `prior/` beside
/// `decoder/`, and returns its size in bytes. Holds at most some 40 MB in
/// memory.
///
/// # Errors
/// [`Error::Request`] if `dir` holds anything already; [`Error::Disk`] if
/// writing fails.
pub fn synthesise(preset: Preset, dir: &Path) -> Result<u64> {
    create(dir)?;
    let mut entries = fs::read_dir(dir).map_err(disk(dir, "read"))?;
    if entries.next().is_some() {
        return Err(Error::Request {
            what: "output folder".to_owned(),
            expected: "a new or empty folder".to_owned(),
            found: format!("{} with files in it", dir.display()),
        });
    }

    let (text, prior, decoder) = sizes(preset);
    let stage_a = StageAConfig::default();
    let unet = "diffusion_pytorch_model";
    let tokenizer = dir.join("tokenizer");
    create(&tokenizer)?;
    tokenizer::files().iter().try_for_each(|(name, json)| save(&tokenizer.join(name), json))?;
    let sizes = [
        part(&dir.join("prior"), unet, to_json(StageC, &prior), prior.tensors())?,
        part(&dir.join("decoder"), unet, to_json(StageB, &decoder), decoder.tensors())?,
        part(&dir.join("vqgan"), unet, to_json(StageA, &stage_a), stage_a.tensors())?,
        part(&dir.join("text_encoder"), "model", to_json(TextEncoder, &text), text.tensors())?,
    ];
    Ok(sizes.iter().sum())
}

/// Text encoder, Stage C and Stage B of a preset.
fn sizes(preset: Preset) -> (ClipTextConfig, UNetConfig, UNetConfig) {
    match preset {
        Preset::Mid => (
            text(768, 12),
            prior(512, [2, 3], 768),
            decoder([128, 192, 512, 512], [1, 2, 2, 1], [2, 2, 2, 2], 512, 768),
        ),
        Preset::Lite => (
            text(1280, 32),
            prior(1536, [4, 12], 1280),
            decoder([320, 576, 1152, 1152], [2, 4, 14, 4], [2, 2, 2, 2], 1280, 1280),
        ),
        Preset::Large => (
            text(1280, 32),
            prior(2048, [8, 24], 1280),
            decoder([320, 640, 1280, 1280], [2, 6, 28, 6], [3, 3, 2, 2], 1280, 1280),
        ),
    }
}

/// Channels of an attention head, in every part.
const HEAD: usize = 64;

fn text(width: usize, layers: usize) -> ClipTextConfig {
    ClipTextConfig {
        hidden_size: width,
        intermediate_size: 4 * width,
        num_hidden_layers: layers,
        num_attention_heads: width / HEAD,
        hidden_act: Activation::Gelu,
        projection_dim: width,
        ..ClipTextConfig::default()
    }
}

/// Stage C; `layers` on the way down, and reversed on the way up.
fn prior(width: usize, layers: [usize; 2], text: usize) -> UNetConfig {
    UNetConfig {
        block_out_channels: vec![width; 2],
        conditioning_dim: width,
        num_attention_heads: vec![width / HEAD; 2],
        down_num_layers_per_block: layers.to_vec(),
        up_num_layers_per_block: layers.into_iter().rev().collect(),
        clip_text_in_channels: Some(text),
        clip_text_pooled_in_channels: text,
        clip_image_in_channels: Some(768),
        switch_level: Some(vec![false]),
        self_attn: vec![true; 2],
        ..UNetConfig::default()
    }
}

/// Stage B; `layers` on the way down, and reversed on the way up; `repeats` of
/// the up levels.
fn decoder(widths: [usize; 4], layers: [usize; 4], repeats: [usize; 4], context: usize, pooled: usize) -> UNetConfig {
    let plain = vec![Block::Res, Block::Timestep];
    let attending = vec![Block::Res, Block::Timestep, Block::Attn];
    UNetConfig {
        in_channels: 4,
        out_channels: 4,
        patch_size: 2,
        conditioning_dim: context,
        block_out_channels: widths.to_vec(),
        num_attention_heads: vec![0, 0, widths[2] / HEAD, widths[3] / HEAD],
        down_num_layers_per_block: layers.to_vec(),
        up_num_layers_per_block: layers.into_iter().rev().collect(),
        down_blocks_repeat_mappers: vec![1; 4],
        up_blocks_repeat_mappers: repeats.to_vec(),
        block_types_per_layer: vec![plain.clone(), plain, attending.clone(), attending],
        clip_text_pooled_in_channels: pooled,
        effnet_in_channels: Some(16),
        pixel_mapper_in_channels: Some(3),
        timestep_conditioning_type: vec!["sca".to_owned()],
        self_attn: vec![true; 4],
        ..UNetConfig::default()
    }
}

/// Writes one part's config and weights; returns the weights' size in bytes.
fn part(dir: &Path, stem: &str, config: Value, table: Table) -> Result<u64> {
    create(dir)?;
    save(&dir.join("config.json"), &config)?;
    let path = dir.join(format!("{stem}.safetensors"));
    weights(&path, &table).map_err(disk(&path, "write"))
}

/// Writes random tensors as one safetensors file, a batch of chunks at a time.
fn weights(path: &Path, table: &Table) -> std::io::Result<u64> {
    /// Elements made by one thread at once, and chunks per batch: 32 MB.
    const CHUNK: usize = 1 << 20;
    const BATCH: usize = 16;

    let tensors: Vec<_> = table.iter().map(|(name, dims)| (name.clone(), Dtype::BF16, dims.clone())).collect();
    let header = header(&tensors);
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(&header)?;
    let mut chunks = table.iter().flat_map(|(name, dims)| {
        let len = dims.iter().product();
        (0..len).step_by(CHUNK).map(move |start| (name, dims, start, CHUNK.min(len - start)))
    });
    loop {
        let batch: Vec<_> = chunks.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            break;
        }
        let made: Vec<Vec<bf16>> =
            batch.par_iter().map(|(name, dims, start, len)| fill(name, dims, *start, *len)).collect();
        made.iter().try_for_each(|values| file.write_all(bytemuck::cast_slice(values)))?;
    }
    file.flush()?;
    let elements: usize = table.iter().map(|(_, dims)| dims.iter().product::<usize>()).sum();
    Ok((header.len() + 2 * elements) as u64)
}

/// Elements `start..start + len` of a tensor: uniform around a mean.
fn fill(name: &str, dims: &[usize], start: usize, len: usize) -> Vec<bf16> {
    let (mean, deviation) = distribution(name, dims);
    let seed = name.bytes().fold(0, |seed, byte| mix(seed ^ u64::from(byte)));
    let scale = deviation * 3f32.sqrt() / 32_768.0;
    let value = |bits: u64| bf16::from_f32(mean + scale * (bits as u16 as i16 as f32 + 0.5));
    let mut out = Vec::with_capacity(len + 3);
    for quad in start / 4..(start + len).div_ceil(4) {
        let bits = mix(seed.wrapping_add(quad as u64));
        out.extend([value(bits), value(bits >> 16), value(bits >> 32), value(bits >> 48)]);
    }
    out.truncate(len);
    out
}

/// A random-looking 64-bit number for each input (the splitmix64 generator).
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Mean and standard deviation of a tensor's elements.
fn distribution(name: &str, dims: &[usize]) -> (f32, f32) {
    let ends = |suffixes: &[&str]| suffixes.iter().any(|s| name.ends_with(s));
    if name == "out_block.0.bias" {
        return (0.5, 0.02); // mid-grey
    }
    match name.rsplit('.').next() {
        Some("running_mean") => return (0.0, 0.0),
        Some("running_var") => return (1.0, 0.0),
        Some("gamma" | "beta" | "gammas") => return (0.0, 0.1),
        Some("bias") => return (0.0, 0.02),
        _ if dims.len() == 1 => return (1.0, 0.02), // a norm
        _ => {}
    }
    let gain = if ends(&[".channelwise.4.weight", ".to_out.0.weight", ".out_proj.weight", ".fc2.weight"]) {
        0.2 // the last matrix of a residual branch
    } else if ends(&[".mapper.weight", ".mapper_sca.weight", ".mapper_crp.weight"]) {
        0.05 // its result multiplies the stream in every layer
    } else if name == "up_blocks.0.0.weight" {
        0.006 // latents are near 150, see above
    } else {
        1.0
    };
    let fan_in: usize = dims[1..].iter().product();
    (0.0, gain / (fan_in as f32).sqrt())
}

fn save(path: &Path, json: &Value) -> Result<()> {
    let text = serde_json::to_vec(json).expect("JSON values can be written");
    fs::write(path, text).map_err(disk(path, "write"))
}

fn create(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(disk(dir, "create"))
}

fn disk(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Disk { path: path.to_owned(), action, source }
}
