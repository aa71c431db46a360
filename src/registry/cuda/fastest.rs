//! Which kernel of an op takes the least time on a Hopper GPU with so many SMs, where several differ in nothing but how they
//! share out the work.
//!
//! What a kernel's blocks do is read from the numbers of its source, which states them and nobody else does.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::{ROWS, Tiling};
use crate::ops::{Attention, Op};
use crate::plan::Node;
use crate::registry::{Fit, Kernel, Launch};

/// Whether none of the rows of its op with [`Fit::Fastest`] takes less time than `kernel`. Of equals, the first is used.
pub(in crate::registry) fn is_fastest(kernel: &Kernel, node: &Node, sms: usize) -> bool {
    let rows = ROWS.iter().filter(|row| row.op == kernel.op && row.fit.contains(&Fit::Fastest));
    let best = rows.min_by_key(|row| Work::of(row).time(node, sms));
    best.is_some_and(|best| best.name == kernel.name)
}

/// What the blocks of a kernel do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Each multiplies a tile of a linear layer or of a transposed convolution.
    Tiles(Tiling),
    /// Each takes so many queries of a head; an SM runs one block at a time.
    Queries(usize),
}

impl Work {
    /// Read from the kernel's source when it is first asked for.
    fn of(kernel: &Kernel) -> Work {
        static ALL: LazyLock<HashMap<&'static str, Work>> = LazyLock::new(|| {
            let rows = ROWS.iter().filter(|row| row.fit.contains(&Fit::Fastest));
            rows.map(|row| (row.name, Work::stated_by(row))).collect()
        });
        ALL[kernel.name]
    }

    fn stated_by(kernel: &Kernel) -> Work {
        let Launch::Cuda(cuda) = kernel.launch else { unreachable!("rows of CUDA are CUDA") };
        let tiles = || Tiling::stated_by(&cuda).map(Work::Tiles);
        let work = cuda.number("QUERIES").map(|queries| Work::Queries(queries as usize)).or_else(tiles);
        work.unwrap_or_else(|| panic!("{} states neither its queries nor its tiling", kernel.name))
    }

    /// Something that grows with the time that a node takes.
    fn time(&self, node: &Node, sms: usize) -> usize {
        match (*self, &node.op) {
            (Work::Tiles(tiling), Op::Linear(_) | Op::ConvTranspose2d(_)) => {
                tiling.of(node, sms).map_or(usize::MAX, |cycles| cycles.all())
            }
            (Work::Queries(queries), Op::Attention(Attention { heads, .. })) => {
                let out = node.output.shape;
                of_busiest(queries, out.n * heads, out.tokens(), sms)
            }
            _ => unreachable!("rows are chosen by the op's name"),
        }
    }
}

/// Queries of the SM that has most, for so many heads of all images and so many queries a block.
fn of_busiest(queries: usize, heads: usize, tokens: usize, sms: usize) -> usize {
    (heads * tokens.div_ceil(queries)).div_ceil(sms) * queries
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Function;
    use crate::registry::cuda::H100_SMS;

    /// The rows of an op among which the fastest is chosen.
    fn rows(op: &str) -> impl Iterator<Item = &'static Kernel> {
        ROWS.iter().filter(move |row| row.op == op && row.fit.contains(&Fit::Fastest))
    }

    /// The tiling of an op that is the fastest for a GEMM, and the share of the tensor cores' time that it uses.
    fn tiling(op: &str, [rows_of_x, channels, k]: [usize; 3], sms: usize) -> (Tiling, f64) {
        let function = if channels == 4 * k { Function::GeluErf } else { Function::Identity };
        let tilings = rows(op).map(|row| match Work::of(row) {
            Work::Tiles(tiling) => tiling,
            other => panic!("{} has {other:?}", row.name),
        });
        let cycles = |tiling: &Tiling| tiling.cycles(rows_of_x, channels, k, function, sms).all();
        let best = tilings.min_by_key(cycles).unwrap();
        (best, (rows_of_x * channels * k / 2048) as f64 / (cycles(&best) * sms) as f64)
    }

    fn linear(rows_of_x: usize, channels: usize, k: usize, sms: usize) -> (usize, usize, usize) {
        let (best, _) = tiling("linear", [rows_of_x, channels, k], sms);
        (best.rows, best.channels, best.splits)
    }

    /// Columns of the tiles of a transposed convolution from `c` to `o` channels.
    fn upsample(pixels: usize, c: usize, o: usize, sms: usize) -> usize {
        tiling("conv_transpose2d", [pixels, 4 * o, c], sms).0.channels
    }

    fn attention(heads: usize, tokens: usize, sms: usize) -> usize {
        let queries = rows("attention").map(|row| match Work::of(row) {
            Work::Queries(queries) => queries,
            other => panic!("{} has {other:?}", row.name),
        });
        queries.min_by_key(|queries| of_busiest(*queries, heads, tokens, sms)).unwrap()
    }

    #[test]
    fn tiles_leave_few_sms_idle() {
        let best = |rows, channels, k| linear(rows, channels, k, H100_SMS);
        // Stage C with guidance, 1024 pixels a side: up, down, Q, K and V together, out.
        assert_eq!(best(1152, 8192, 2048), (192, 192, 1));
        assert_eq!(best(1152, 2048, 8192), (192, 192, 2));
        assert_eq!(best(1152, 6144, 2048), (192, 144, 1));
        assert_eq!(best(1152, 2048, 2048), (192, 192, 2));
        // Without guidance.
        assert_eq!(best(576, 8192, 2048), (192, 192, 1));
        // Stage B: 32 x 32 pixels, up and down; and the few rows of 16 x 16, whose K is split.
        assert_eq!(best(1024, 5120, 1280), (128, 160, 1));
        assert_eq!(best(1024, 1280, 5120), (128, 160, 2));
        assert_eq!(best(1024, 3840, 1280), (128, 240, 1));
        assert_eq!(best(256, 1280, 5120), (128, 80, 4));
        // The text of two prompts, and pooled images beside it: keys and values.
        assert_eq!(best(154, 3840, 1280), (192, 96, 3));
        assert_eq!(best(170, 4096, 2048), (192, 96, 3));
        assert_eq!(best(170, 2048, 2048), (192, 64, 4));
        // A small K and many rows.
        assert_eq!(best(16384, 1280, 320), (128, 256, 1));
    }

    #[test]
    fn queries_leave_few_sms_idle() {
        let best = |heads, tokens| attention(heads, tokens, H100_SMS);
        // Stage C with guidance, 1024 pixels a side: 128 blocks, where 192 queries would make 192.
        assert_eq!(best(2 * 32, 576), 320);
        // Without guidance; with two pictures.
        assert_eq!(best(32, 576), 192);
        assert_eq!(best(4 * 32, 576), 192);
        // Stage B.
        assert_eq!(best(20, 1024), 192);
        assert_eq!(best(20, 256), 192);
    }

    /// On the SMs of an H100 PCIe, of an H20 and of MIG slices of an H100, the work is shared out otherwise.
    #[test]
    fn the_number_of_sms_is_taken_into_account() {
        let sms = [H100_SMS, 114, 78];
        assert_eq!(sms.map(|sms| attention(2 * 32, 576, sms)), [320, 192, 192]);
        assert_eq!(sms.map(|sms| attention(32, 576, sms)), [192, 192, 320]);
        assert_eq!(sms.map(|sms| linear(1152, 8192, 2048, sms)), [(192, 192, 1), (128, 256, 1), (192, 192, 1)]);
        assert_eq!(sms.map(|sms| linear(1024, 5120, 1280, sms)), [(128, 160, 1), (192, 144, 1), (192, 144, 1)]);
        assert_eq!(sms.map(|sms| linear(1024, 1280, 5120, sms)), [(128, 160, 2), (192, 192, 2), (128, 160, 1)]);
        assert_eq!(sms.map(|sms| upsample(256, 1280, 1280, sms)), [96, 96, 160]);
        assert_eq!(sms.map(|sms| upsample(1024, 1280, 640, sms)), [160, 96, 160]);
        let slices = [60, 32, 16];
        assert_eq!(slices.map(|sms| linear(256, 1280, 5120, sms)), [(128, 160, 2), (128, 160, 2), (128, 160, 1)]);
        assert_eq!(slices.map(|sms| upsample(256, 1280, 1280, sms)), [96, 160, 160]);
    }

    /// Whatever the number, the large layers of Stages C and B use most of the tensor cores.
    #[test]
    fn tiles_fill_gpus_of_any_size() {
        for sms in [H100_SMS, 114, 78, 60, 32, 16] {
            for shape in
                [[1152, 8192, 2048], [1152, 2048, 8192], [1152, 6144, 2048], [1024, 5120, 1280], [1024, 1280, 5120]]
            {
                let (best, share) = tiling("linear", shape, sms);
                assert!((0.5..1.0).contains(&share), "{shape:?} on {sms} SMs: {best:?} uses {share:.2}");
            }
        }
    }
}
