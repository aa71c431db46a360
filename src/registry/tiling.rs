//! Which tiles a product is cut into on a Hopper GPU: an estimate of how long each takes, as data.

use crate::plan::Node;

/// Processors of an H100 or H200.
pub(super) const PROCESSORS: usize = 132;

/// What the tensor cores of a processor multiply in a clock, as terms of bf16.
const TERMS_PER_CLOCK: usize = 2048;

/// Bytes that a processor gets from the L2 cache in a clock, about.
const BYTES_PER_CLOCK: usize = 40;

/// Terms of a stage.
const STAGE: usize = 64;

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
pub(super) static LINEAR: [Tiling; 7] = [
    Tiling { rows: 192, channels: 192, cluster: (1, 2), splits: 1 },
    Tiling { rows: 192, channels: 144, cluster: (1, 2), splits: 1 },
    Tiling { rows: 192, channels: 96, cluster: (1, 2), splits: 1 },
    Tiling { rows: 128, channels: 256, cluster: (2, 1), splits: 1 },
    Tiling { rows: 128, channels: 160, cluster: (2, 1), splits: 1 },
    Tiling { rows: 128, channels: 80, cluster: (1, 2), splits: 1 },
    Tiling { rows: 128, channels: 80, cluster: (1, 2), splits: 4 },
];

impl Tiling {
    /// Whether none of the tilings takes less time for a linear layer.
    pub(super) fn is_best(&self, node: &Node) -> bool {
        let Some(x) = node.inputs.first().copied().flatten().map(|x| x.shape()) else { return false };
        let clocks = |tiling: &Tiling| tiling.clocks(x.rows(), node.output.shape.c, x.c);
        LINEAR.iter().min_by_key(|tiling| clocks(tiling)) == Some(self)
    }

    /// Clocks that a linear layer takes, by an estimate that is good for comparing tilings. Nothing in it has been
    /// measured.
    pub fn clocks(&self, rows: usize, channels: usize, terms: usize) -> usize {
        let across = |count: usize, tile: usize, cluster: usize| count.div_ceil(tile).next_multiple_of(cluster);
        let blocks = across(rows, self.rows, self.cluster.0) * across(channels, self.channels, self.cluster.1);
        let waves = (blocks * self.splits).div_ceil(PROCESSORS);
        // A stage takes as long as its products, or as its tiles take to arrive.
        let products = self.rows * self.channels * STAGE / TERMS_PER_CLOCK;
        let bytes = (self.rows / self.cluster.1 + self.channels / self.cluster.0) * STAGE * 2;
        let stages = terms.div_ceil(STAGE).div_ceil(self.splits);
        // A block's begin, until the first stage is there, and its end, in which every sum becomes a result.
        let ends = 1800 + self.rows * self.channels / 6;
        // Parts are written and read, and added up by a launch of its own.
        let adding = match self.splits {
            1 => 0,
            splits => 2500 + 2 * splits * rows * channels * 4 / (PROCESSORS * BYTES_PER_CLOCK / 2),
        };
        waves * (stages * products.max(bytes / BYTES_PER_CLOCK) + ends) + adding
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(rows: usize, channels: usize, terms: usize) -> (usize, usize, usize) {
        let tiling = LINEAR.iter().min_by_key(|tiling| tiling.clocks(rows, channels, terms)).unwrap();
        (tiling.rows, tiling.channels, tiling.splits)
    }

    #[test]
    fn tiles_leave_few_processors_idle() {
        // Stage C with guidance, 1024 pixels a side: up, down, Q, K and V together, out.
        assert_eq!(best(1152, 8192, 2048), (192, 192, 1));
        assert_eq!(best(1152, 2048, 8192), (192, 96, 1));
        assert_eq!(best(1152, 6144, 2048), (192, 144, 1));
        assert_eq!(best(1152, 2048, 2048), (192, 96, 1));
        // Without guidance.
        assert_eq!(best(576, 8192, 2048), (192, 192, 1));
        // Stage B: 32 x 32 pixels, up and down; and the few rows of 16 x 16, whose depth is split up.
        assert_eq!(best(1024, 5120, 1280), (128, 160, 1));
        assert_eq!(best(1024, 1280, 5120), (128, 80, 1));
        assert_eq!(best(256, 1280, 5120), (128, 80, 4));
        // Few terms and many rows.
        assert_eq!(best(16384, 1280, 320), (128, 256, 1));
    }
}
