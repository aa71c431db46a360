//! Grids and counts that several rows of CUDA kernels share.

use crate::ops::{Attention, ConvTranspose2d, FeedForward, GroupNorm};
use crate::registry::grid::elements;
use crate::registry::{Axis, Count, Grid, Of};

pub(super) const ONE: Grid = [Axis::ONE; 3];
pub(super) const THREADS: Grid = elements("THREADS");

/// One block for each group of each image.
pub(super) const GROUPS: Grid =
    [Axis::each(Count::Constant(GroupNorm::GROUPS)), Axis::each(Count::Images(Of::Out)), Axis::ONE];

/// One block for every few pixels and channels of each image.
pub(super) const PARTS: Grid = [
    Axis::every(Count::Tokens(Of::Out), "PIXELS"),
    Axis::every(Count::Channels(Of::Out), "CHANNELS"),
    Axis::each(Count::Images(Of::Out)),
];

/// One block for every few queries of each head of each image.
pub(super) const QUERIES: Grid = [
    Axis::every(Count::Tokens(Of::Out), "QUERIES"),
    Axis::each(Count::Constant(Attention::HEADS)),
    Axis::each(Count::Images(Of::Out)),
];

/// Tiles of a transposed convolution, for each remainder of the rows modulo the stride.
pub(super) const CLASSES: Grid = [
    Axis::every(Count::Rows(Of::Out), "TILE_M"),
    Axis::every(Count::Channels(Of::Out), "TILE_N"),
    Axis::each(Count::Constant(ConvTranspose2d::STRIDE)),
];

/// Tiles of pixels of the first operand.
pub(super) const PIXELS: Axis = Axis::each(Count::Product(&[
    Axis::every(Count::Columns(Of::FIRST), "TILE_W"),
    Axis::every(Count::Lines(Of::FIRST), "TILE_H"),
    Axis::each(Count::Images(Of::Out)),
]));

/// Tiles of pixels, for every few channels of the result.
pub(super) const PIXEL_TILES: Grid = [Axis::every(Count::Channels(Of::Out), "CHANNELS"), PIXELS, Axis::ONE];

/// The same for each of the classes of a transposed convolution of stride 2.
pub(super) const PIXEL_TILES_OF_CLASSES: Grid = [
    Axis::each(Count::Product(&[Axis::each(Count::Exactly(4)), Axis::every(Count::Channels(Of::Out), "CHANNELS")])),
    PIXELS,
    Axis::ONE,
];

/// A cluster of blocks for every tile of TILE_H lines and COLUMNS times as many columns as it has blocks.
pub(super) const TILES: Grid = [
    Axis::every(Count::Columns(Of::Out), "COLUMNS"),
    Axis::every(Count::Lines(Of::Out), "TILE_H"),
    Axis::each(Count::Images(Of::Out)),
];

/// A thread for every four channels (a float4), in whole warps.
pub(super) const WARPS_OF_CHANNELS: Axis = Axis::every(Count::Channels(Of::Out), "WARP_CHANNELS");

/// Tiles of a GEMM, for each part of its K.
pub(super) const SPLIT_GEMM: Grid =
    [Axis::every(Count::Rows(Of::Out), "TILE_M"), Axis::every(Count::Channels(Of::Out), "TILE_N"), SPLITS];

/// Parts of K.
pub(super) const SPLITS: Axis = Axis::each(Count::Number("SPLITS"));

/// The rows of a warp, of a tile's channels.
pub(super) const STRIPS: [Axis; 2] =
    [Axis::every(Count::Rows(Of::Out), "WARP_ROWS"), Axis::every(Count::Channels(Of::Out), "TILE_N")];

/// Hidden values of a feed-forward block: each has a bias.
pub(super) const HIDDEN: Count = Count::Channels(Of::Operand(FeedForward::B0));

/// Values of a transposed convolution's weight.
pub(super) const WEIGHT: Count = Count::Elements(Of::Operand(ConvTranspose2d::WEIGHT));
