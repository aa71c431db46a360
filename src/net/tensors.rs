//! Lists the tensors of a network by a dry run: the network is recorded without weights, and its requests are collected.
//!
//! In this way each network is described only once, by the code that records it. The list is used to check checkpoints
//! and to create synthetic ones.

use std::cell::RefCell;
use std::collections::HashSet;

use super::config::{
    ClipTextConfig, ClipVisionConfig, ControlNetConfig, EffnetConfig, PreviewerConfig, StageAConfig, UNetConfig,
};
use super::unet::{Conditions, UNet};
use super::{Net, clip, controlnet, effnet, previewer, stage_a};
use crate::error::Result;
use crate::files::Location;
use crate::ops::Element;
use crate::plan::{Recorder, Slot};
use crate::shape::Shape;
use crate::weights::Checkpoint;

/// Name and stored dimensions (in PyTorch's order) of each tensor of a network, in the order of the first requests.
pub type Table = Vec<(String, Vec<usize>)>;

/// The tensors that a network has requested.
#[derive(Debug, Default)]
pub(super) struct Listing {
    table: Table,
    known: HashSet<String>,
}

impl Listing {
    /// Adds a tensor unless it is already in the list.
    pub(super) fn note(&mut self, name: String, dims: &[usize]) {
        if self.known.insert(name.clone()) {
            self.table.push((name, dims.to_vec()));
        }
    }
}

/// A network that can be recorded without weights, with inputs of any size.
trait Dry {
    fn record(&self, net: &mut Net<'_>) -> Result<()>;

    /// Its tensors.
    fn list(&self) -> Table {
        self.listing(None).expect("its sizes have been checked").table
    }

    /// Checks that a checkpoint has its tensors, with the right dimensions, and no further blocks.
    fn check(&self, weights: &Checkpoint, source: &str) -> Result<()> {
        let list = self.listing(Some((weights, source)))?;
        weights.expect_no_more(list.known.iter().map(String::as_str), source)
    }

    /// Its tensors. With a checkpoint, it is an error if the checkpoint lacks one of them.
    fn listing(&self, of: Option<(&Checkpoint, &str)>) -> Result<Listing> {
        let (mut rec, list) = (Recorder::new(), RefCell::default());
        self.record(&mut Net::listing(&mut rec, &list, of))?;
        Ok(list.into_inner())
    }
}

/// An input of real numbers.
fn input(net: &mut Net<'_>, shape: Shape) -> Slot {
    net.rec.input(shape, Element::F32)
}

/// An input of indices.
fn index(net: &mut Net<'_>, shape: Shape) -> Slot {
    net.rec.input(shape, Element::U32)
}

impl Dry for UNetConfig {
    fn record(&self, net: &mut Net<'_>) -> Result<()> {
        // The smallest size that can be halved at each level.
        let side = self.patch_size << (self.levels() - 1);
        let x = input(net, Shape::new(1, side, side, self.in_channels));
        let mut vector = |channels| input(net, Shape::vector(channels));
        let conditions = Conditions {
            times: (0..=self.timestep_conditioning_type.len())
                .map(|_| vector(self.timestep_ratio_embedding_dim))
                .collect(),
            pooled: vector(self.clip_text_pooled_in_channels),
            text: self.clip_text_in_channels.map(&mut vector),
            image: self.clip_image_in_channels.map(&mut vector),
            effnet: self.effnet_in_channels.map(&mut vector),
            additions: Vec::new(),
            pixels: self.pixel_mapper_in_channels.map(&mut vector),
        };
        let counter = index(net, Shape::vector(1));
        let unet = UNet { config: self };
        let conditioned = unet.condition(net, &conditions, x.shape)?;
        unet.step(net, x, &conditioned, counter)?;
        Ok(())
    }
}

impl Dry for StageAConfig {
    /// Encoder, codebook, decoder.
    fn record(&self, net: &mut Net<'_>) -> Result<()> {
        let side = self.factor();
        let x = input(net, Shape::new(1, side, side, self.in_channels));
        let z = stage_a::encode(net, self, x)?;
        stage_a::decode(net, self, z, true)?;
        Ok(())
    }
}

impl Dry for ClipTextConfig {
    fn record(&self, net: &mut Net<'_>) -> Result<()> {
        let [ids, key_len, end] = [(); 3].map(|()| index(net, Shape::vector(1)));
        clip::text(net, self, ids, key_len, end)?;
        Ok(())
    }
}

impl Dry for ClipVisionConfig {
    fn record(&self, net: &mut Net<'_>) -> Result<()> {
        let pixels = input(net, Shape::new(1, self.image_size, self.image_size, self.num_channels));
        let [class_ids, class_rows] = [(); 2].map(|()| index(net, Shape::vector(1)));
        let patch_ids = index(net, Shape::new(1, 1, self.patches(), 1));
        clip::vision(net, self, pixels, class_ids, class_rows, patch_ids)?;
        Ok(())
    }
}

impl Dry for EffnetConfig {
    fn record(&self, net: &mut Net<'_>) -> Result<()> {
        let x = input(net, Shape::vector(3));
        effnet::encode(net, self, x)?;
        Ok(())
    }
}

impl Dry for ControlNetConfig {
    fn record(&self, net: &mut Net<'_>) -> Result<()> {
        // As many pixels as an EfficientNet turns into one, and some for its convolution without padding.
        let hint = input(net, Shape::new(1, 64, 64, self.hint_channels));
        controlnet::additions(net, self, hint)?;
        Ok(())
    }
}

impl ControlNetConfig {
    /// The tensors of a network of these sizes, without the batch norms' step counters.
    pub fn tensors(&self) -> Table {
        self.list()
    }

    /// Infers the sizes from `weights`, and checks them against `weights`.
    ///
    /// # Errors
    /// [`Error::Model`](crate::error::Error::Model) or [`Error::Tensor`](crate::error::Error::Tensor) names what does not fit.
    pub fn open(weights: &Checkpoint) -> Result<Self> {
        let config = Self::infer(weights)?;
        config.check(weights, "as the other tensors imply")?;
        Ok(config)
    }
}

impl EffnetConfig {
    /// The tensors of a network of these sizes, without the batch norms' step counters.
    pub fn tensors(&self) -> Table {
        self.list()
    }

    /// Infers the sizes from `weights`, and checks them against `weights`.
    ///
    /// # Errors
    /// [`Error::Model`](crate::error::Error::Model) or [`Error::Tensor`](crate::error::Error::Tensor) names what does not fit.
    pub fn open(weights: &Checkpoint) -> Result<Self> {
        let config = Self::infer(weights)?;
        config.check(weights, "as the other tensors imply")?;
        Ok(config)
    }
}

impl Dry for PreviewerConfig {
    fn record(&self, net: &mut Net<'_>) -> Result<()> {
        let z = input(net, Shape::vector(self.latent_channels()));
        previewer::preview(net, *self, z)?;
        Ok(())
    }
}

impl PreviewerConfig {
    /// The tensors of such a network, without the batch norms' step counters.
    pub fn tensors(self) -> Table {
        self.list()
    }

    /// Infers the kind from `weights`, and checks it against `weights`.
    ///
    /// # Errors
    /// [`Error::Tensor`](crate::error::Error::Tensor) names a tensor that does not fit.
    pub fn open(weights: &Checkpoint) -> Result<Self> {
        let config = Self::infer(weights)?;
        config.check(weights, "as the other tensors imply")?;
        Ok(config)
    }
}

macro_rules! of_config {
    ($Config:ident, $open:literal) => {
        impl $Config {
            /// The tensors of a network of these sizes, with their names in the `diffusers` scheme. The step counters of batch
            /// norms are not included, because they are not weights.
            ///
            /// # Panics
            /// If the sizes contradict each other. Configurations that were read from a file are checked, so theirs do not.
            pub fn tensors(&self) -> Table {
                self.list()
            }

            #[doc = $open]
            ///
            /// # Errors
            /// [`Error::Model`](crate::error::Error::Model) names a field whose value is out of range;
            /// [`Error::Tensor`](crate::error::Error::Tensor) names a tensor that does not fit and the config.
            pub fn open(config: Option<&Location>, weights: &Checkpoint) -> Result<Self> {
                let (read, source) = Self::read_or_infer(config, weights)?;
                read.check(weights, &source)?;
                Ok(read)
            }
        }
    };
}

of_config!(
    UNetConfig,
    "Reads `config.json`, or infers the sizes from `weights` without one, and checks them against `weights`."
);
of_config!(
    StageAConfig,
    "Reads `config.json`, or infers the sizes from `weights` without one, and checks them against `weights`. Files of the \
     original repository and of ComfyUI without a config have a scale of 0.43."
);
of_config!(
    ClipTextConfig,
    "Reads `config.json`, or infers the sizes from `weights` without one (heads of 64, exact GELU: Stable Cascade's tower), \
     and checks them against `weights`."
);
of_config!(
    ClipVisionConfig,
    "Reads `config.json`, or infers the sizes from `weights` without one (heads of 64, quick GELU: ViT-L/14), and checks \
     them against `weights`."
);
