//! How a GEMM is cut into tiles on a Hopper GPU, and an estimate of how long that takes.

use super::Cuda;
use crate::ops::{ConvTranspose2d, Function, Linear, Op};
use crate::plan::Node;

/// Multiply-adds of bf16 that the tensor cores of an SM do in a cycle.
const MULTIPLY_ADDS_PER_CYCLE: usize = 2048;

/// Bytes that copies of tiles bring an SM from the L2 cache in a cycle if all SMs ask: what others' GEMMs get whose
/// tiles of 128 x 256 are not shared, 700 TFLOP/s on 132 SMs.
const BYTES_PER_CYCLE: usize = 36;

/// The same, if few ask.
const MOST_BYTES_PER_CYCLE: usize = 64;

/// Bytes that an SM's shared memory takes or gives in a cycle.
const SHARED_PER_CYCLE: usize = 128;

/// Extent of a pipeline stage along the K dimension.
const STAGE: usize = 64;

/// Bytes of a stage's row.
const ROW: usize = 2 * STAGE;

/// Rows that a warpgroup multiplies.
const WARPGROUP: usize = 64;

/// Rows of each of its warps.
const WARP_ROWS: usize = 16;

/// How a kernel cuts a GEMM into tiles, one a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiling {
    /// Rows of a tile. Of a transposed convolution they are [pixels](Self::pixels) of x.
    pub rows: usize,
    /// Channels of a tile.
    pub channels: usize,
    /// Blocks of a cluster along rows, which share the weight's tile, and along channels, which share that of x.
    pub cluster: (usize, usize),
    /// Split-K: parts of the K dimension, each multiplied by a block of its own.
    pub splits: usize,
    /// Lines and columns of the rectangle of pixels that a tile of a transposed convolution has; one line elsewhere.
    pub pixels: (usize, usize),
}

/// What a GEMM takes, in cycles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cycles {
    /// While operands move and are multiplied, by count of bytes and multiply-adds: the idle SMs of the last wave included.
    pub gemm: usize,
    /// While a block begins, and while its accumulators become results, by count of instructions.
    pub ends: usize,
}

impl Cycles {
    /// Both.
    pub fn all(&self) -> usize {
        self.gemm + self.ends
    }
}

impl Tiling {
    /// Cycles from a block's begin to its first MMA.
    pub const BEGIN: usize = 1800;

    /// The tiling that a kernel's source states: TILE_M, TILE_N, CLUSTER_X, CLUSTER_Y and, where K is split, SPLITS; for a
    /// transposed convolution, TILE_H and TILE_W instead of TILE_M.
    pub fn stated_by(cuda: &Cuda) -> Option<Tiling> {
        let number = |name| cuda.number(name).map(|value| value as usize);
        let (channels, across, along) = (number("TILE_N")?, number("CLUSTER_X")?, number("CLUSTER_Y")?);
        Some(match (number("TILE_H"), number("TILE_W")) {
            // Its grid has channels along x.
            (Some(h), Some(w)) => Tiling { rows: h * w, channels, cluster: (along, across), splits: 1, pixels: (h, w) },
            _ => {
                let (rows, splits) = (number("TILE_M")?, number("SPLITS").unwrap_or(1));
                Tiling { rows, channels, cluster: (across, along), splits, pixels: (1, rows) }
            }
        })
    }

    /// What a linear layer, or a transposed convolution of stride 2, takes on a GPU of so many SMs; `None` for other ops.
    pub fn of(&self, node: &Node, sms: usize) -> Option<Cycles> {
        match node.op {
            Op::Linear(Linear { function }) => {
                let x = node.inputs[Linear::X]?.shape();
                Some(self.cycles(x.rows(), node.output.shape.c, x.c, function, sms))
            }
            // A GEMM of the pixels of whole tiles with the columns of all four classes.
            Op::ConvTranspose2d(_) => {
                let (x, weight) =
                    (node.inputs[ConvTranspose2d::X]?.shape(), node.inputs[ConvTranspose2d::WEIGHT]?.shape());
                let rows = x.n * x.h.next_multiple_of(self.pixels.0) * x.w.next_multiple_of(self.pixels.1);
                let columns = 4 * node.output.shape.c;
                Some(self.cycles(rows, columns, weight.elements() / columns, Function::Identity, sms))
            }
            _ => None,
        }
    }

    /// What a GEMM of `[rows, k]` and `[channels, k]` takes, by an estimate that is good for comparing tilings. Nothing in
    /// it has been measured.
    pub fn cycles(&self, rows: usize, channels: usize, k: usize, function: Function, sms: usize) -> Cycles {
        let across = |count: usize, tile: usize, cluster: usize| count.div_ceil(tile).next_multiple_of(cluster);
        let blocks = across(rows, self.rows, self.cluster.0) * across(channels, self.channels, self.cluster.1);
        let blocks = blocks * self.splits;
        let waves = blocks.div_ceil(sms);
        // A stage takes as long as its MMAs; or as its tiles take to arrive; or as shared memory takes to give every
        // warpgroup its rows of x and the weight's tile, and to take the next tiles.
        let mma = self.rows * self.channels * STAGE / MULTIPLY_ADDS_PER_CYCLE;
        let arriving = (self.rows / self.cluster.1 + self.channels / self.cluster.0) * ROW / BYTES_PER_CYCLE;
        let shared = (2 * self.rows + self.channels * (self.rows / WARPGROUP + 1)) * ROW / SHARED_PER_CYCLE;
        let stages = k.div_ceil(STAGE).div_ceil(self.splits);
        // Instructions for a result, of which an SM does 128 in a cycle: 11 are the function.
        let results = if function == Function::GeluErf { 5 } else { 9 };
        let ends = Self::BEGIN + self.rows * self.channels / results / self.splits;
        // Blocks that end together write all of a tile's split-K partials but one each, as far as warps have rows, and
        // read as much: from L2, which gives an SM more if not all ask.
        let written = rows.next_multiple_of(WARP_ROWS).min(self.rows);
        let partials = 2 * 4 * written * self.channels * (self.splits - 1) / self.splits;
        let rate = (sms * BYTES_PER_CYCLE / blocks.min(sms)).min(MOST_BYTES_PER_CYCLE);
        let adding = partials / rate;
        Cycles { gemm: waves * (stages * mma.max(arriving).max(shared) + adding), ends: waves * ends }
    }
}
