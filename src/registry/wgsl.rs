//! Rows of shaders. The file of a row is `shaders/<name>.wgsl`.

use super::grid::{elements, main, rows, tiles};
use super::{Axis, Caps, Count, Grid, Kernel, Lang, Launch, Of, Pass, Shader};

/// `shader!("op", "op.variant", needs, [passes…])`, then `.with_scratch(…)` and the like where needed.
macro_rules! shader {
    ($op:literal, $name:literal, $needs:expr, [$($pass:expr),+ $(,)?]) => {
        row($op, $name, $needs, Shader {
            source: include_str!(concat!("../../shaders/", $name, ".wgsl")),
            passes: const { &[$($pass),+] },
            scratch: &[],
            tunables: &[],
        })
    };
}

const fn row(op: &'static str, name: &'static str, needs: Caps, shader: Shader) -> Kernel {
    Kernel { op, name, lang: Lang::Wgsl, needs, fit: &[], launch: Launch::Wgsl(shader) }
}

impl Kernel {
    /// Elements of memory that a shader's passes share, as the product of these.
    const fn with_scratch(self, scratch: &'static [Axis]) -> Kernel {
        match self.launch {
            Launch::Wgsl(shader) => Kernel { launch: Launch::Wgsl(Shader { scratch, ..shader }), ..self },
            Launch::Cpu(_) => panic!("a shader"),
        }
    }
}

/// What `linear.coop` needs; it rounds factors to f16, which keeps more than bf16 does.
const COOPERATIVE: Caps = Caps::COOPERATIVE.and(Caps::F16).and(Caps::SUBGROUP).and(Caps::ROUND_BF16);

/// One workgroup for every tile of queries, head and image.
const QUERIES: Grid =
    [Axis::every(Count::Tokens(Of::Out), "TILE_Q"), Axis::each(Count::Constant(0)), Axis::each(Count::Images(Of::Out))];

#[rustfmt::skip]
pub(super) static ROWS: &[Kernel] = &[
    shader!("add", "add", Caps::NONE, [main(elements("WG"))]),
    shader!("attention", "attention", Caps::NONE, [main(QUERIES)]),
    shader!("conv2d", "conv2d", Caps::NONE, [main(tiles("TILE_N", "TILE_M"))]),
    shader!("conv_transpose2d", "conv_transpose2d", Caps::NONE, [main(tiles("TILE_N", "TILE_M"))]),
    shader!("feed_forward", "feed_forward", Caps::NONE, [main(rows("ROWS"))]),
    shader!("linear", "linear.coop", COOPERATIVE, [
        Pass { entry: "ranges", grid: [Axis::each(Count::Rows(Of::Out)), Axis::ONE, Axis::ONE] },
        main(tiles("TILE_N", "TILE_M")),
    ]).with_scratch(&[Axis::each(Count::Rows(Of::Out))]),
    shader!("linear", "linear.subgroup", Caps::SUBGROUP.and(Caps::SOFTWARE), [main(tiles("TILE_N", "TILE_M"))]),
    shader!("linear", "linear", Caps::NONE, [main(tiles("TILE_N", "TILE_M"))]),
];
