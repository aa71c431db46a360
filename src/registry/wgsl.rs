//! Rows of shaders. The file of a row is `shaders/<name>.wgsl`.

use super::grid::{elements, main};
use super::{Caps, Kernel, Lang, Launch, Shader};

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

#[rustfmt::skip]
pub(super) static ROWS: &[Kernel] = &[
    shader!("add", "add", Caps::NONE, [main(elements("WG"))]),
];
