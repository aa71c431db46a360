//! What the host must know of a CUDA file: its numbers.

/// Files that kernels include and that hold numbers.
const HEADERS: &[(&str, &str)] = &[
    ("attention_tiles.cuh", include_str!("../../../kernels/attention_tiles.cuh")),
    ("channels.cuh", include_str!("../../../kernels/channels.cuh")),
    ("chunk.cuh", include_str!("../../../kernels/chunk.cuh")),
    ("feed_forward_tiles.cuh", include_str!("../../../kernels/feed_forward_tiles.cuh")),
    ("gemm.cuh", include_str!("../../../kernels/gemm.cuh")),
    ("gemm_mma.cuh", include_str!("../../../kernels/gemm_mma.cuh")),
    ("linear_mma.cuh", include_str!("../../../kernels/linear_mma.cuh")),
];

/// The number that a kernel's text, or a file that it includes, calls `constexpr u32 <name>`.
pub(super) fn number(source: &str, name: &str) -> Option<u64> {
    source.lines().find_map(|line| {
        if let Some(rest) = line.strip_prefix("constexpr u32 ") {
            let (found, value) = rest.split_once(" = ")?;
            return if found == name { value.split(';').next()?.parse().ok() } else { None };
        }
        let header = line.strip_prefix("#include \"")?.strip_suffix('"')?;
        HEADERS.iter().find(|(file, _)| *file == header).and_then(|(_, text)| number(text, name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{self, Axis, Count, Lang, Launch};

    #[test]
    fn numbers_are_found() {
        let text = "constexpr u32 ROWS = 8; // of x\nconstexpr u32 BYTES = 4 * ROWS;\n#include \"gemm.cuh\"\n";
        assert_eq!(number(text, "ROWS"), Some(8));
        assert_eq!(number(text, "BYTES"), None);
        assert_eq!(number(text, "TILE_M"), Some(64));
        assert_eq!(number(text, "ROW"), None);
    }

    /// What an axis calls numbers.
    fn names(axis: &Axis) -> Vec<&'static str> {
        let mut names = match axis.count {
            Count::Number(name) => vec![name],
            Count::Sum(axes) | Count::Product(axes) => axes.iter().flat_map(names).collect(),
            _ => Vec::new(),
        };
        names.extend(Some(axis.per).filter(|per| !per.is_empty()));
        names
    }

    #[test]
    fn every_row_has_its_numbers() {
        for kernel in registry::kernels(Lang::Cuda) {
            let Launch::Cuda(cuda) = kernel.launch else { unreachable!("rows of CUDA are CUDA") };
            let axes = cuda.passes.iter().flat_map(|pass| pass.grid.iter().chain(&pass.warps));
            let axes = axes.chain(cuda.scratch).chain(cuda.counters);
            let tiles = cuda
                .tiles
                .iter()
                .flat_map(|tile| tile.numbers().into_iter().chain(["CLUSTER_X", "CLUSTER_Y", "SHARED"]));
            let clusters = cuda.passes.iter().filter(|pass| pass.clusters).flat_map(|_| ["CLUSTER_X", "CLUSTER_Y"]);
            for name in axes.flat_map(names).chain(tiles).chain(clusters).chain(["THREADS"]) {
                assert!(cuda.number(name).is_some_and(|n| n > 0), "{}: no number {name}", kernel.name);
            }
        }
    }
}
