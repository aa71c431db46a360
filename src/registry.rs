//! The registry: one row per kernel.
//!
//! A row says which op the kernel computes, what the device must have
//! ([`Kernel::needs`]), which shapes it serves (its `fit`) and how it is
//! launched. The first row of an op whose needs and fit are met is used; the
//! last row of every op in a language needs nothing and fits anything. Tests
//! and benches take their lists from here.

mod caps;
mod cpu;
mod cuda;
mod grid;
mod queries;
mod tiling;
mod wgsl;

pub use caps::Caps;
pub use grid::{Axis, Count, Grid, Of, Pass};
pub use tiling::{Clocks, Tiling};

use crate::ops::{Element, Op};
use crate::plan::{Node, Plan, Source};
use crate::shape::Shape;

/// What a kernel is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lang {
    /// Rust, run on the host's cores.
    Cpu,
    /// WGSL, run on any GPU that Vulkan, Metal or DX12 can reach.
    Wgsl,
    /// CUDA C++, run on an NVIDIA GPU of compute capability 8.0 or above.
    Cuda,
}

impl Lang {
    /// Every language.
    pub const ALL: [Lang; 3] = [Lang::Cpu, Lang::Wgsl, Lang::Cuda];
}

/// A condition on shapes, as data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// The window of a convolution, the op's second operand, is at most this wide.
    WindowAtMost(usize),
    /// This operand, a weight, is a window so wide.
    Window(usize, usize),
    /// This operand, a weight, is a matrix of so many rows and columns.
    Matrix(usize, usize, usize),
    /// One of the op's [constants](crate::ops::Define::constants) is this.
    Constant(usize, u32),
    /// The first operand has at most this many channels.
    ChannelsAtMost(usize),
    /// The result's channels are a multiple of this many, and the first operand's.
    ChannelsMultipleOf(usize),
    /// The first operand has at most this many rows (pixels or tokens of all images).
    RowsAtMost(usize),
    /// An attention's heads have at most as many channels.
    HeadDimAtMost(usize),
    /// An attention's heads have as many channels.
    HeadDim(usize),
    /// This operand, learned or not, is read as a factor only, so that a device may have stored it in bf16.
    GemmInput(usize),
    /// The same, or the operand is absent.
    FactorOrAbsent(usize),
    /// No other tiling of the op takes less time.
    Tiling(&'static Tiling),
    /// No other number of queries a block takes less time.
    Queries(usize),
}

impl Fit {
    /// Whether the row could serve nodes that do not meet this, only slower.
    pub fn is_preference(&self) -> bool {
        matches!(self, Fit::Tiling(_) | Fit::Queries(_))
    }

    /// Whether a node of `plan` fits.
    pub fn met(&self, node: &Node, plan: &Plan) -> bool {
        let first = node.inputs.first().copied().flatten().map(|x| x.shape());
        match *self {
            Fit::WindowAtMost(max) => {
                matches!(node.inputs.get(1), Some(Some(Source::Weight(_, shape))) if shape.w.max(shape.c) <= max)
            }
            Fit::Window(i, width) => {
                matches!(node.inputs[i], Some(Source::Weight(_, shape)) if (shape.w, shape.c) == (width, width))
            }
            Fit::Matrix(i, rows, columns) => {
                matches!(node.inputs[i], Some(Source::Weight(_, shape)) if shape == Shape::matrix(rows, columns))
            }
            Fit::Constant(i, value) => node.op.constants()[i] == value,
            Fit::ChannelsAtMost(max) => first.is_some_and(|x| x.c <= max),
            Fit::ChannelsMultipleOf(of) => {
                first.is_some_and(|x| x.c.is_multiple_of(of)) && node.output.shape.c.is_multiple_of(of)
            }
            Fit::RowsAtMost(max) => first.is_some_and(|x| x.rows() <= max),
            Fit::HeadDimAtMost(max) => matches!(&node.op, Op::Attention(attention) if attention.head_dim <= max),
            Fit::HeadDim(dim) => matches!(&node.op, Op::Attention(attention) if attention.head_dim == dim),
            Fit::GemmInput(i) => match node.inputs[i] {
                Some(Source::Slot(slot)) => plan.slots[slot.id()].element == Element::GemmInput,
                Some(Source::Weight(w, _)) => plan.gemm_only[w],
                None => false,
            },
            Fit::FactorOrAbsent(i) => node.inputs[i].is_none() || Fit::GemmInput(i).met(node, plan),
            Fit::Tiling(tiling) => tiling.is_best(node),
            Fit::Queries(queries) => queries::is_best(queries, node),
        }
    }
}

/// One kernel.
#[derive(Debug)]
pub struct Kernel {
    /// The op's name.
    pub op: &'static str,
    /// `<op>.<variant>`, or the file's name.
    pub name: &'static str,
    /// What it is written in.
    pub lang: Lang,
    /// What the device must have.
    pub needs: Caps,
    /// Conditions on shapes, all to be met.
    pub fit: &'static [Fit],
    /// How it is launched.
    pub launch: Launch,
}

/// How a kernel is launched.
#[derive(Debug, Clone, Copy)]
pub enum Launch {
    /// A function that the host calls.
    Cpu(crate::cpu::call::Kernel),
    /// A shader.
    Wgsl(Shader),
    /// Kernels of a CUDA file.
    Cuda(Cuda),
}

/// A shader file and how it is dispatched.
#[derive(Debug, Clone, Copy)]
pub struct Shader {
    /// Text of the file. It may name any tunable `override` or `const`; see [`Axis::per`].
    pub source: &'static str,
    /// Texts that it shares with other shaders, appended to its own.
    pub shared: &'static [&'static str],
    /// Entry points, run one after the other.
    pub passes: &'static [Pass],
    /// Elements of memory that the passes share, as the product of these; empty if they need none.
    pub scratch: &'static [Axis],
    /// Values for the shader's tunables instead of its own.
    pub tunables: &'static [(&'static str, u32)],
}

impl Shader {
    /// What every shader can use.
    const COMMON: &str = include_str!("../shaders/common.wgsl");

    /// The whole text that a device compiles, with `own` as the shader's own. That comes first, so that
    /// the line numbers of messages are those of its file.
    pub fn text(&self, own: &str) -> String {
        format!("{own}\n{}\n{}", self.shared.join("\n"), Self::COMMON)
    }
}

/// A CUDA file and how its kernels are launched.
#[derive(Debug, Clone, Copy)]
pub struct Cuda {
    /// Text of the file, for the numbers that it calls `constexpr u32`, see [`Axis::per`]. `THREADS`
    /// is the size of a block; `SHARED`, if there is one, the bytes of shared memory beyond 48 KiB
    /// that a block is given.
    pub source: &'static str,
    /// What the compiler made of it.
    pub ptx: &'static str,
    /// The same for devices with [`Caps::DEPENDENT_LAUNCH`]: its kernels wait for the launch before.
    pub ptx_sm90: &'static str,
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
    /// The pass that copies tiles, if one does: the first, or the one after that which lays them out.
    pub fn tiled_pass(&self) -> Option<usize> {
        let laid_out = |tile: &Tile| matches!(tile, Tile::Columns { laid_out: Some(_), .. });
        (!self.tiles.is_empty()).then(|| self.tiles.iter().any(laid_out).into())
    }
}

/// How a kernel spares another one reading a large tensor only for sums of its squares; see `kernels/squares.cuh`.
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
    const fn fit(self, fit: &'static [Fit]) -> Kernel {
        Kernel { fit, ..self }
    }

    /// Elements of memory that the passes of a GPU's kernel share, as the product of these.
    const fn with_scratch(self, scratch: &'static [Axis]) -> Kernel {
        let launch = match self.launch {
            Launch::Wgsl(shader) => Launch::Wgsl(Shader { scratch, ..shader }),
            Launch::Cuda(cuda) => Launch::Cuda(Cuda { scratch, ..cuda }),
            Launch::Cpu(_) => panic!("the CPU's kernels say themselves what they need"),
        };
        Kernel { launch, ..self }
    }

    /// Counters that the blocks of a CUDA kernel share, as the product of these.
    const fn with_counters(self, counters: &'static [Axis]) -> Kernel {
        let Launch::Cuda(cuda) = self.launch else { panic!("blocks of CUDA kernels count") };
        Kernel { launch: Launch::Cuda(Cuda { counters, ..cuda }), ..self }
    }

    /// What a pass of a CUDA kernel copies tile by tile.
    const fn with_tiles(self, tiles: &'static [Tile]) -> Kernel {
        let Launch::Cuda(cuda) = self.launch else { panic!("tiles are copied by CUDA kernels") };
        Kernel { launch: Launch::Cuda(Cuda { tiles, ..cuda }), ..self }
    }

    /// A CUDA kernel that leaves or takes sums of squares.
    const fn with_squares(self, squares: Squares) -> Kernel {
        let Launch::Cuda(cuda) = self.launch else { panic!("sums of squares are passed on by CUDA kernels") };
        Kernel { launch: Launch::Cuda(Cuda { squares, ..cuda }), ..self }
    }

    /// Why the row cannot serve a node, if it cannot.
    fn obstacle(&self, node: &Node, plan: &Plan, caps: Caps) -> Option<Reason> {
        if !caps.contains(self.needs) {
            return Some(Reason::Needs(self.needs.without(caps)));
        }
        self.fit.iter().find(|fit| !fit.met(node, plan)).map(|fit| Reason::Fit(*fit))
    }

    /// Whether factors are rounded to bf16, so that the looser tolerance of a case applies.
    pub fn rounds(&self) -> bool {
        self.needs.contains(Caps::ROUND_BF16)
    }
}

/// Why a row was passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The device lacks this.
    Needs(Caps),
    /// The shape does not meet this.
    Fit(Fit),
}

/// The row for a node of `plan`, and the rows passed over before it.
///
/// # Panics
/// If the op has no row in the language, which a test excludes.
pub fn choose(node: &Node, plan: &Plan, lang: Lang, caps: Caps) -> (&'static Kernel, Vec<(&'static Kernel, Reason)>) {
    let mut passed = Vec::new();
    for kernel in kernels(lang).filter(|k| k.op == node.op.name()) {
        match kernel.obstacle(node, plan, caps) {
            Some(reason) => passed.push((kernel, reason)),
            None => return (kernel, passed),
        }
    }
    panic!("{} has a row in {lang:?} that fits anything", node.op.name())
}

/// Every row that could serve a node of `plan`: the one that is chosen, then the others in the registry's order.
pub fn admissible<'a>(
    node: &'a Node,
    plan: &'a Plan,
    lang: Lang,
    caps: Caps,
) -> impl Iterator<Item = &'static Kernel> + 'a {
    let chosen = choose(node, plan, lang, caps).0;
    let others = kernels(lang).filter(move |k| k.op == node.op.name() && !std::ptr::eq(*k, chosen));
    [chosen].into_iter().chain(others.filter(move |k| match k.obstacle(node, plan, caps) {
        Some(Reason::Fit(fit)) => fit.is_preference(),
        obstacle => obstacle.is_none(),
    }))
}

/// All rows of a language. Within an op, the first that can be used is.
pub fn kernels(lang: Lang) -> impl Iterator<Item = &'static Kernel> {
    match lang {
        Lang::Cpu => cpu::ROWS,
        Lang::Wgsl => wgsl::ROWS,
        Lang::Cuda => cuda::ROWS,
    }
    .iter()
}

/// Every kernel there is.
pub fn all() -> impl Iterator<Item = &'static Kernel> {
    Lang::ALL.into_iter().flat_map(kernels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_row_of_every_op_serves_anything() {
        for lang in Lang::ALL {
            for op in crate::ops::NAMES {
                let last = kernels(lang).filter(|k| k.op == *op).last();
                let last = last.unwrap_or_else(|| panic!("{op} has no row in {lang:?}"));
                assert!(last.needs == Caps::NONE && last.fit.is_empty(), "{op}: {}", last.name);
            }
        }
    }

    #[test]
    fn every_row_names_an_op() {
        for kernel in all() {
            assert!(crate::ops::NAMES.contains(&kernel.op), "{}", kernel.op);
        }
    }
}
