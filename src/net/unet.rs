//! Stages B and C: one U-Net architecture with different conditions. It is recorded in two parts: what
//! depends only on the prompt, and what every sampling step repeats.

use std::collections::HashMap;

use super::blocks::{EPS, attn_block, context_kv, res_block, timestep_block, timestep_table};
use super::config::{Block, UNetConfig};
use super::{Modulation, Net, With, slot};
use crate::error::Result;
use crate::ops::{Activation, Add, Concat, ConvTranspose2d, Denoise, Function, PixelShuffle, PixelUnshuffle, Resample};
use crate::plan::Slot;
use crate::shape::Shape;

/// The inputs of a network besides the latents.
#[derive(Debug, Clone)]
pub struct Conditions {
    /// Embeddings of the timestep, then of each extra condition of the
    /// configuration, each `[m, 1, steps, d]`, where `m` is `n`, or 1 if all images share them.
    pub times: Vec<Slot>,
    /// Pooled text, `[n, 1, s, p]`.
    pub pooled: Slot,
    /// Text states, `[n, 1, l, t]`; used only together with `image`.
    pub text: Option<Slot>,
    /// Image embeddings, `[n, 1, k, i]`.
    pub image: Option<Slot>,
    /// Stage C's latents, for Stage B, `[n, h, w, 16]`.
    pub effnet: Option<Slot>,
    /// What ControlNets add to the input of residual blocks.
    pub additions: Vec<Addition>,
    /// A low-resolution picture for Stage B, `[n or 1, h, w, 3]`; a black one means none.
    pub pixels: Option<Slot>,
}

/// Tensors computed from [`Conditions`] once for all steps.
#[derive(Debug, Default)]
pub struct Conditioned {
    /// For each timestep block: `a` and `b` of every step.
    tables: HashMap<String, Slot>,
    /// For each attention block: keys and values of the context.
    context_kv: HashMap<String, Slot>,
    /// Tensors that are added to the embedded latents.
    addends: Vec<Slot>,
    /// What ControlNets add to the input of residual blocks.
    pub additions: Vec<Addition>,
    /// For each ControlNet, the factors of its additions at every step, `[1, 1, steps, 4]`, see [`Denoise`].
    pub strengths: Vec<Slot>,
}

/// What a ControlNet adds to the input of a residual block.
#[derive(Debug, Clone)]
pub struct Addition {
    /// The block's name, like `down_blocks.0.0`.
    pub block: String,
    /// Which ControlNet it is.
    pub control: usize,
    /// `[n, h, w, c]`, as the block's input.
    pub values: Slot,
}

impl Conditioned {
    /// The same for the first `images` images alone: in a guided batch, the conditional ones.
    pub fn first(&self, images: usize) -> Self {
        // What all images share has one row.
        let part = |slot: &Slot| slot.first(slot.shape.n.min(images));
        let named =
            |slots: &HashMap<String, Slot>| slots.iter().map(|(name, slot)| (name.clone(), part(slot))).collect();
        Self {
            tables: named(&self.tables),
            context_kv: named(&self.context_kv),
            addends: self.addends.iter().map(part).collect(),
            additions: self.additions.iter().map(|add| Addition { values: part(&add.values), ..add.clone() }).collect(),
            strengths: self.strengths.clone(),
        }
    }
}

/// One pass through a level of the U-Net, on the way down or up.
struct Place {
    /// `down_blocks` or `up_blocks`.
    path: &'static str,
    /// Index in `path`, in the order of execution.
    index: usize,
    /// Level; 0 has the highest resolution.
    level: usize,
    /// How often the level's list of block types is repeated.
    layers: usize,
}

/// A Stage B or C network.
#[derive(Debug)]
pub struct UNet<'a> {
    /// Its architecture.
    pub config: &'a UNetConfig,
}

impl UNet<'_> {
    /// Records what depends only on the prompt (and in Stage B also on Stage C's result),
    /// for latents `[n, height, width, _]`.
    pub fn condition(&self, net: &mut Net<'_>, given: &Conditions, latents: Shape) -> Result<Conditioned> {
        let context = self.context(net, given)?;
        let context = net.op("clip_norm", Activation { function: Function::Silu }, &[slot(context)])?;
        let mut conditioned = Conditioned::default();
        for place in self.places() {
            let c = self.config.block_out_channels[place.level];
            for (name, block) in self.blocks(&place) {
                let mut net = net.scope(&name);
                match block {
                    Block::Res => {}
                    Block::Timestep => {
                        let conditions = &self.config.timestep_conditioning_type;
                        let table = timestep_table(&mut net, &given.times, conditions, c)?;
                        conditioned.tables.insert(name, table);
                    }
                    Block::Attn => {
                        let kv = context_kv(&mut net, context, c)?;
                        conditioned.context_kv.insert(name, kv);
                    }
                }
            }
        }
        let patch = self.config.patch_size;
        let size = latents.with_hw(latents.h / patch, latents.w / patch);
        let resample = Resample { height: size.h, width: size.w };
        if let Some(effnet) = given.effnet {
            let x = net.op("effnet", resample, &[slot(effnet)])?;
            conditioned.addends.push(self.mapper(&mut net.scope("effnet_mapper"), x)?);
        }
        if let Some(pixels) = given.pixels {
            let x = self.mapper(&mut net.scope("pixels_mapper"), pixels)?;
            conditioned.addends.push(net.op("pixels", resample, &[slot(x)])?);
        }
        conditioned.additions = given.additions.clone();
        Ok(conditioned)
    }

    /// Records one evaluation: latents `x [n, h, w, c]` → `[n, h, w, c_out]`.
    pub fn step(&self, net: &mut Net<'_>, x: Slot, given: &Conditioned, counter: Slot) -> Result<Slot> {
        self.step_around(net, x, given, counter, None).map(|(eps, _)| eps)
    }

    /// The same, and what all levels below the finest make on their way, which changes little from step to step. Where
    /// that is given, from an earlier evaluation, only the finest level is computed around it.
    pub fn step_around(
        &self,
        net: &mut Net<'_>,
        x: Slot,
        given: &Conditioned,
        counter: Slot,
        deep: Option<Slot>,
    ) -> Result<(Slot, Slot)> {
        let config = self.config;
        let mut x = x;
        if config.patch_size > 1 {
            x = net.op("embedding.0", PixelUnshuffle { patch: config.patch_size }, &[slot(x)])?;
        }
        x = net.pointwise("embedding.1", x, config.block_out_channels[0], With::default())?;
        x = net.layer_norm("embedding.2", x, EPS)?;
        for addend in &given.addends {
            x = net.op("embedding", Add, &[slot(x), slot(*addend)])?;
        }

        let levels = config.block_out_channels.len();
        let mut skips = Vec::with_capacity(levels);
        let computed = if deep.is_some() { 1 } else { levels };
        for place in self.places().filter(|p| p.path == "down_blocks").take(computed) {
            if place.level > 0 {
                x = self.downscale(&mut net.scope(format!("down_downscalers.{}", place.level)), x, place.level)?;
            }
            x = self.run_level(net, x, None, &place, given, counter)?;
            skips.push(x);
        }
        let mut below = deep;
        for place in self.places().filter(|p| p.path == "up_blocks").skip(levels - computed) {
            if place.level == 0 {
                x = *below.get_or_insert(x);
            }
            let skip = (place.index > 0).then(|| skips[place.level]);
            x = self.run_level(net, x, skip, &place, given, counter)?;
            if place.level > 0 {
                x = self.upscale(&mut net.scope(format!("up_upscalers.{}", place.index)), x, place.level)?;
            }
        }
        let below = below.expect("the finest level is the last on the way up");

        x = net.layer_norm("clf.0", x, EPS)?;
        let channels = config.out_channels * config.patch_size * config.patch_size;
        x = net.pointwise("clf.1", x, channels, With::default())?;
        if config.patch_size > 1 {
            x = net.op("clf.2", PixelShuffle { patch: config.patch_size }, &[slot(x)])?;
        }
        Ok((x, below))
    }

    /// The normalised context of text, and of the image if there is one: `[n, 1, s, c_cond]`.
    fn context(&self, net: &mut Net<'_>, given: &Conditions) -> Result<Slot> {
        let (c, seq) = (self.config.conditioning_dim, self.config.clip_seq);
        // A linear layer turns one vector into `clip_seq` tokens.
        let tokens = |net: &mut Net<'_>, name, x: Slot| -> Result<Slot> {
            let y = net.linear(name, x, c * seq, With::default())?;
            Ok(y.reshape(Shape::new(x.shape.n, 1, x.shape.tokens() * seq, c)))
        };
        let mut context = tokens(net, "clip_txt_pooled_mapper", given.pooled)?;
        if let (Some(text), Some(image)) = (given.text, given.image) {
            let text = net.linear("clip_txt_mapper", text, c, With::default())?;
            let image = tokens(net, "clip_img_mapper", image)?;
            context = net.op("clip_txt", Concat::Tokens, &[slot(text), slot(context)])?;
            context = net.op("clip_img", Concat::Tokens, &[slot(context), slot(image)])?;
        }
        net.layer_norm("clip_norm", context, EPS)
    }

    /// Maps Stage C's latents, or pixels, to the channels of level 0: linear, GELU, linear, layer norm.
    fn mapper(&self, net: &mut Net<'_>, x: Slot) -> Result<Slot> {
        let c = self.config.block_out_channels[0];
        let x = net.pointwise("0", x, 4 * c, With { function: Function::GeluErf, ..With::default() })?;
        let x = net.pointwise("2", x, c, With::default())?;
        net.layer_norm("3", x, EPS)
    }

    /// All passes through the levels in the order of execution.
    fn places(&self) -> impl Iterator<Item = Place> {
        let levels = self.config.block_out_channels.len();
        let down = self.config.down_num_layers_per_block.iter().enumerate();
        let down = down.map(|(i, &layers)| Place { path: "down_blocks", index: i, level: i, layers });
        let up = self.config.up_num_layers_per_block.iter().enumerate();
        let up = up.map(move |(i, &layers)| Place { path: "up_blocks", index: i, level: levels - 1 - i, layers });
        down.chain(up)
    }

    /// Names of the residual blocks in the order of execution, each with the shape of its input where the latents are
    /// `[n, h, w, _]`.
    pub fn res_blocks(&self, latents: Shape) -> Vec<(String, Shape)> {
        let config = self.config;
        let mut size = (latents.h / config.patch_size, latents.w / config.patch_size);
        let mut sizes = vec![size];
        for level in 1..config.levels() {
            // As in `downscale`.
            if config.switch_level.as_ref().is_none_or(|switch| switch[level - 1]) {
                size = (size.0 / 2, size.1 / 2);
            }
            sizes.push(size);
        }
        let of_place = |place: Place| {
            let c = config.block_out_channels[place.level];
            let shape = latents.with_hw(sizes[place.level].0, sizes[place.level].1).with_c(c);
            let residual = self.blocks(&place).into_iter().filter(|(_, block)| *block == Block::Res);
            residual.map(|(name, _)| (name, shape)).collect::<Vec<_>>()
        };
        self.places().flat_map(of_place).collect()
    }

    /// Names and types of the blocks of one pass.
    fn blocks(&self, place: &Place) -> Vec<(String, Block)> {
        let types = &self.config.block_types_per_layer[place.level];
        let all = std::iter::repeat_n(types, place.layers).flatten().enumerate();
        all.map(|(i, block)| (format!("{}.{}.{i}", place.path, place.index), *block)).collect()
    }

    /// The blocks of one pass. They may be repeated with the same weights, with a linear layer in between.
    fn run_level(
        &self,
        net: &mut Net<'_>,
        mut x: Slot,
        skip: Option<Slot>,
        place: &Place,
        given: &Conditioned,
        counter: Slot,
    ) -> Result<Slot> {
        let (repeats, mappers) = match place.path {
            "down_blocks" => (self.config.down_blocks_repeat_mappers[place.index], "down_repeat_mappers"),
            _ => (self.config.up_blocks_repeat_mappers[place.index], "up_repeat_mappers"),
        };
        for repeat in 0..repeats {
            x = self.run_blocks(net, x, skip, place, given, counter)?;
            if repeat + 1 < repeats {
                x = net.pointwise(&format!("{mappers}.{}.{repeat}", place.index), x, x.shape.c, With::default())?;
            }
        }
        Ok(x)
    }

    fn run_blocks(
        &self,
        net: &mut Net<'_>,
        mut x: Slot,
        skip: Option<Slot>,
        place: &Place,
        given: &Conditioned,
        counter: Slot,
    ) -> Result<Slot> {
        let config = self.config;
        let blocks = self.blocks(place);
        let modulation = |name: &String| Modulation { table: given.tables[name], counter };
        let mut i = 0;
        while i < blocks.len() {
            let (name, block) = &blocks[i];
            let mut net = net.scope(name);
            match block {
                Block::Res => {
                    let skip = skip.filter(|_| i == 0);
                    if let Some(skip) = skip
                        && (x.shape.h, x.shape.w) != (skip.shape.h, skip.shape.w)
                    {
                        let resample = Resample { height: skip.shape.h, width: skip.shape.w };
                        x = net.op("resize", resample, &[slot(x)])?;
                    }
                    // What is added enters the block's residual as well.
                    for add in given.additions.iter().filter(|add| add.block == *name) {
                        let factors = given.strengths[add.control];
                        let inputs = [slot(x), slot(add.values), None, None, slot(factors), slot(counter)];
                        x = net.op("control", Denoise, &inputs)?;
                    }
                    // A timestep block that follows is fused into the last linear layer.
                    let next = blocks.get(i + 1).filter(|(_, b)| *b == Block::Timestep);
                    x = res_block(&mut net, x, skip, config.kernel_size, next.map(|(name, _)| modulation(name)))?;
                    i += usize::from(next.is_some());
                }
                Block::Timestep => x = timestep_block(&mut net, x, modulation(name))?,
                Block::Attn => {
                    let (heads, self_attn) = (config.num_attention_heads[place.level], config.self_attn[place.level]);
                    x = attn_block(&mut net, x, given.context_kv[name], heads, self_attn)?;
                }
            }
            i += 1;
        }
        Ok(x)
    }

    /// Downscales from level `level − 1` to `level`.
    fn downscale(&self, net: &mut Net<'_>, x: Slot, level: usize) -> Result<Slot> {
        let to = self.config.block_out_channels[level];
        let x = net.layer_norm("0", x, EPS)?;
        let Some(switch) = &self.config.switch_level else {
            return net.patches("1", x, 2, to, true);
        };
        let x = net.pointwise("1.blocks.0", x, to, With::default())?;
        if !switch[level - 1] {
            return Ok(x);
        }
        net.op("1.blocks.1", Resample { height: x.shape.h / 2, width: x.shape.w / 2 }, &[slot(x)])
    }

    /// Upscales from level `level` to `level − 1`.
    fn upscale(&self, net: &mut Net<'_>, x: Slot, level: usize) -> Result<Slot> {
        let (from, to) = (x.shape.c, self.config.block_out_channels[level - 1]);
        let mut x = net.layer_norm("0", x, EPS)?;
        let Some(switch) = &self.config.switch_level else {
            let weight = net.weight("1.weight", &[from, to, 2, 2])?;
            let bias = net.weight("1.bias", &[to])?;
            return net.op("1", ConvTranspose2d { stride: 2, padding: 0 }, &[slot(x), weight, bias]);
        };
        if switch[level - 1] {
            x = net.op("1.blocks.0", Resample { height: x.shape.h * 2, width: x.shape.w * 2 }, &[slot(x)])?;
        }
        net.pointwise("1.blocks.1", x, to, With::default())
    }
}
