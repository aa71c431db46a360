//! Which tiles a product is cut into on a Hopper GPU: an estimate of how long each takes, as data.

use crate::ops::{Function, Linear, Op};
use crate::plan::Node;

/// Processors of an H100 or H200.
pub(super) const PROCESSORS: usize = 132;

/// What the tensor cores of a processor multiply in a clock, as terms of bf16.
const TERMS_PER_CLOCK: usize = 2048;

/// Bytes that copies of tiles bring a processor from the L2 cache in a clock, if all ask: what products of others get whose
/// tiles of 128 x 256 are not shared, 700 TFLOP/s.
const BYTES_PER_CLOCK: usize = 36;

/// The same, if few ask.
const MOST_BYTES_PER_CLOCK: usize = 64;

/// Bytes that a processor's shared memory takes or gives in a clock.
const SHARED_PER_CLOCK: usize = 128;

/// Terms of a stage.
const STAGE: usize = 64;

/// Bytes of a stage's row.
const ROW: usize = 2 * STAGE;

/// Rows that a group of warps multiplies.
const GROUP: usize = 64;

/// Rows of each of its warps.
const WARP_ROWS: usize = 16;

/// Clocks from a block's begin to its first product.
const BEGIN: usize = 1800;

/// How a kernel cuts a product into tiles, one a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiling {
    /// Rows of a tile.
    pub rows: usize,
    /// Channels of a tile.
    pub channels: usize,
    /// Blocks of a cluster along rows, which share the weight's tile, and along channels, which share that of x.
    pub cluster: (usize, usize),
    /// Parts that the terms are split into, each in a block of its own.
    pub splits: usize,
}

/// All tilings of linear layers, one for each `kernels/linear.*.sm90a.cu`. Of equals, the first is used.
pub(super) static LINEAR: [Tiling; 12] = [
    Tiling { rows: 192, channels: 192, cluster: (1, 2), splits: 1 },
    Tiling { rows: 192, channels: 144, cluster: (1, 2), splits: 1 },
    Tiling { rows: 192, channels: 96, cluster: (1, 2), splits: 1 },
    Tiling { rows: 128, channels: 256, cluster: (2, 1), splits: 1 },
    Tiling { rows: 128, channels: 240, cluster: (2, 1), splits: 1 },
    Tiling { rows: 128, channels: 160, cluster: (2, 1), splits: 1 },
    Tiling { rows: 128, channels: 80, cluster: (1, 2), splits: 1 },
    Tiling { rows: 192, channels: 192, cluster: (2, 1), splits: 2 },
    Tiling { rows: 192, channels: 96, cluster: (1, 2), splits: 3 },
    Tiling { rows: 192, channels: 64, cluster: (1, 2), splits: 4 },
    Tiling { rows: 128, channels: 160, cluster: (2, 1), splits: 2 },
    Tiling { rows: 128, channels: 80, cluster: (1, 2), splits: 4 },
];

/// What a product takes, clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// While factors move and are multiplied, by count of bytes and terms: idle processors of the last turn included.
    pub products: usize,
    /// While a block begins, and while its sums become results, by count of instructions.
    pub ends: usize,
}

impl Clocks {
    /// Both.
    pub fn all(&self) -> usize {
        self.products + self.ends
    }
}

impl Tiling {
    /// Whether none of the tilings takes less time for a linear layer.
    pub(super) fn is_best(&self, node: &Node) -> bool {
        let clocks = |tiling: &Tiling| tiling.of(node).map_or(usize::MAX, |clocks| clocks.all());
        LINEAR.iter().min_by_key(|tiling| clocks(tiling)) == Some(self)
    }

    /// What a linear layer takes.
    pub fn of(&self, node: &Node) -> Option<Clocks> {
        let Op::Linear(Linear { function }) = node.op else { return None };
        let x = node.inputs.first().copied().flatten()?.shape();
        Some(self.clocks(x.rows(), node.output.shape.c, x.c, function))
    }

    /// The same by an estimate that is good for comparing tilings. Nothing in it has been measured.
    pub fn clocks(&self, rows: usize, channels: usize, terms: usize, function: Function) -> Clocks {
        let across = |count: usize, tile: usize, cluster: usize| count.div_ceil(tile).next_multiple_of(cluster);
        let blocks = across(rows, self.rows, self.cluster.0) * across(channels, self.channels, self.cluster.1);
        let blocks = blocks * self.splits;
        let turns = blocks.div_ceil(PROCESSORS);
        // A stage takes as long as its products; or as its tiles take to arrive; or as shared memory takes to give every
        // group its rows of x and the weight's tile, and to take the next tiles.
        let products = self.rows * self.channels * STAGE / TERMS_PER_CLOCK;
        let arriving = (self.rows / self.cluster.1 + self.channels / self.cluster.0) * ROW / BYTES_PER_CLOCK;
        let shared = (2 * self.rows + self.channels * (self.rows / GROUP + 1)) * ROW / SHARED_PER_CLOCK;
        let stages = terms.div_ceil(STAGE).div_ceil(self.splits);
        // Instructions for a result, of which a processor does 128 in a clock: 11 are the function.
        let results = if function == Function::GeluErf { 5 } else { 9 };
        let ends = BEGIN + self.rows * self.channels / results / self.splits;
        // Blocks that end together write all of a tile's parts but one each, as far as warps have rows, and read as much: from
        // L2, which gives a processor more if not all ask.
        let written = rows.next_multiple_of(WARP_ROWS).min(self.rows);
        let parts = 2 * 4 * written * self.channels * (self.splits - 1) / self.splits;
        let rate = (PROCESSORS * BYTES_PER_CLOCK / blocks.min(PROCESSORS)).min(MOST_BYTES_PER_CLOCK);
        let adding = parts / rate;
        Clocks { products: turns * (stages * products.max(arriving).max(shared) + adding), ends: turns * ends }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(rows: usize, channels: usize, terms: usize) -> (usize, usize, usize) {
        let function = if channels == 4 * terms { Function::GeluErf } else { Function::Identity };
        let tiling = LINEAR.iter().min_by_key(|tiling| tiling.clocks(rows, channels, terms, function).all()).unwrap();
        (tiling.rows, tiling.channels, tiling.splits)
    }

    #[test]
    fn tiles_leave_few_processors_idle() {
        // Stage C with guidance, 1024 pixels a side: up, down, Q, K and V together, out.
        assert_eq!(best(1152, 8192, 2048), (192, 192, 1));
        assert_eq!(best(1152, 2048, 8192), (192, 192, 2));
        assert_eq!(best(1152, 6144, 2048), (192, 144, 1));
        assert_eq!(best(1152, 2048, 2048), (192, 192, 2));
        // Without guidance.
        assert_eq!(best(576, 8192, 2048), (192, 192, 1));
        // Stage B: 32 x 32 pixels, up and down; and the few rows of 16 x 16, whose depth is split up.
        assert_eq!(best(1024, 5120, 1280), (128, 160, 1));
        assert_eq!(best(1024, 1280, 5120), (128, 160, 2));
        assert_eq!(best(1024, 3840, 1280), (128, 240, 1));
        assert_eq!(best(256, 1280, 5120), (128, 80, 4));
        // The text of two prompts, and pooled images beside it: keys and values.
        assert_eq!(best(154, 3840, 1280), (192, 96, 3));
        assert_eq!(best(170, 4096, 2048), (192, 96, 3));
        assert_eq!(best(170, 2048, 2048), (192, 64, 4));
        // Few terms and many rows.
        assert_eq!(best(16384, 1280, 320), (128, 256, 1));
    }
}
