//! How a CUDA kernel is launched: what its row says besides needs, fits and grid.

use super::source;
use crate::registry::{Axis, Kernel, Launch, Pass};

/// A CUDA file and how its kernels are launched.
#[derive(Debug, Clone, Copy)]
pub struct Cuda {
    /// Text of the file, for the [numbers](Cuda::number) that it calls `constexpr u32`. `THREADS`
    /// is the size of a block; `SHARED`, if there is one, the bytes of shared memory beyond 48 KiB
    /// that a block is given.
    pub source: &'static str,
    /// Kernels, run one after the other.
    pub passes: &'static [Pass],
    /// Elements of memory that the passes share, as the product of these; empty if they need none.
    pub scratch: &'static [Axis],
    /// Counters that its blocks share, as the product of these; empty for none. They are zero before and after a launch.
    pub counters: &'static [Axis],
    /// What [a pass](Cuda::tiled_pass) copies tile by tile. It is then launched in clusters of CLUSTER_X by CLUSTER_Y blocks,
    /// and it alone is given `SHARED`.
    pub tiles: &'static [Tile],
    /// What the kernel can do with the squares of its result or of its operand.
    pub squares: Squares,
}

impl Cuda {
    /// The number that the file, or one that it includes, calls `constexpr u32 <name>`.
    pub fn number(&self, name: &str) -> Option<u64> {
        source::number(self.source, name)
    }

    /// The pass that copies tiles, if one does: the first, or the one after that which lays them out.
    pub fn tiled_pass(&self) -> Option<usize> {
        let laid_out = |tile: &Tile| matches!(tile, Tile::Columns { laid_out: Some(_), .. });
        (!self.tiles.is_empty()).then(|| self.tiles.iter().any(laid_out).into())
    }
}

/// How a kernel spares another one reading a large tensor only for sums of its squares; see `kernels/grn_squares.cuh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Squares {
    /// It does not.
    Unused,
    /// It can leave those of its result.
    Left,
    /// It can take those of its first operand, where they have been left.
    Taken,
}

/// What a CUDA kernel copies of an operand in 16 bits, `[n, h, w, c]`, at a time; zeros beyond its end. Sizes are numbers of the
/// kernel's source, by their names there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tile {
    /// 64 channels of rows.
    Rows {
        /// The operand.
        operand: usize,
        /// Whether a tile's rows are of one image, zeros beyond its last; else rows go on through all images.
        per_image: bool,
        /// Rows.
        rows: &'static str,
        /// Copies that share these rows; empty for 1.
        among: &'static str,
    },
    /// 64 channels of a rectangle of pixels, TILE_H lines of TILE_W, zeros outside of the picture.
    Pixels {
        /// The operand.
        operand: usize,
        /// Copies that share the lines.
        among: &'static str,
    },
    /// 64 rows of TILE_N columns of a matrix, in strips of 32 columns.
    Columns {
        /// A weight, whose first extent is the matrix's rows.
        operand: usize,
        /// Where another pass has laid the weight out in memory that passes share: rows for each of the first extent.
        laid_out: Option<usize>,
        /// Copies that share the rows.
        among: &'static str,
    },
}

impl Tile {
    /// The operand.
    pub fn operand(&self) -> usize {
        match *self {
            Tile::Rows { operand, .. } | Tile::Pixels { operand, .. } | Tile::Columns { operand, .. } => operand,
        }
    }

    /// The numbers of the kernel's source that it names.
    pub fn numbers(&self) -> Vec<&'static str> {
        let numbers: &[&str] = match self {
            Tile::Rows { rows, among, .. } => &[rows, among],
            Tile::Pixels { among, .. } => &["TILE_H", "TILE_W", among],
            Tile::Columns { among, .. } => &["TILE_N", among],
        };
        numbers.iter().copied().filter(|name| !name.is_empty()).collect()
    }
}

impl Kernel {
    /// Counters that the blocks of a CUDA kernel share, as the product of these.
    pub(super) const fn with_counters(self, counters: &'static [Axis]) -> Kernel {
        let Launch::Cuda(cuda) = self.launch else { panic!("blocks of CUDA kernels count") };
        Kernel { launch: Launch::Cuda(Cuda { counters, ..cuda }), ..self }
    }

    /// What a pass of a CUDA kernel copies tile by tile.
    pub(super) const fn with_tiles(self, tiles: &'static [Tile]) -> Kernel {
        let Launch::Cuda(cuda) = self.launch else { panic!("tiles are copied by CUDA kernels") };
        Kernel { launch: Launch::Cuda(Cuda { tiles, ..cuda }), ..self }
    }

    /// A CUDA kernel that leaves or takes sums of squares.
    pub(super) const fn with_squares(self, squares: Squares) -> Kernel {
        let Launch::Cuda(cuda) = self.launch else { panic!("sums of squares are passed on by CUDA kernels") };
        Kernel { launch: Launch::Cuda(Cuda { squares, ..cuda }), ..self }
    }
}
