//! How many queries of a head a block of attention has on a Hopper GPU, whose processors run one such block at a time.

use super::tiling::PROCESSORS;
use crate::plan::Node;

/// Queries of a block, one number for each `kernels/attention.*.sm90a.cu`. Of equals, the first is used.
const KERNELS: [usize; 2] = [192, 320];

/// Whether no other number of queries takes less time for an attention.
pub(super) fn is_best(queries: usize, node: &Node) -> bool {
    let heads = node.op.constants()[0] as usize;
    let out = node.output.shape;
    best(out.n * heads, out.tokens()) == queries
}

/// The number that leaves the busiest processor fewest queries, for so many heads of all images.
fn best(heads: usize, tokens: usize) -> usize {
    let busiest = |queries: &usize| (heads * tokens.div_ceil(*queries)).div_ceil(PROCESSORS) * queries;
    KERNELS.into_iter().min_by_key(busiest).expect("there are kernels")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cuda::number;
    use crate::registry::{Fit, Lang, Launch, kernels};

    #[test]
    fn blocks_leave_few_processors_idle() {
        // Stage C with guidance, 1024 pixels a side: 128 blocks, where 192 queries would make 192.
        assert_eq!(best(2 * 32, 576), 320);
        // Without guidance; with two pictures.
        assert_eq!(best(32, 576), 192);
        assert_eq!(best(4 * 32, 576), 192);
        // Stage B.
        assert_eq!(best(20, 1024), 192);
        assert_eq!(best(20, 256), 192);
    }

    #[test]
    fn rows_have_the_queries_of_their_kernels() {
        let mut found = Vec::new();
        for kernel in kernels(Lang::Cuda) {
            let Launch::Cuda(cuda) = kernel.launch else { unreachable!("rows of CUDA are CUDA") };
            for fit in kernel.fit {
                let Fit::Queries(queries) = *fit else { continue };
                assert_eq!(number(cuda.source, "QUERIES"), Some(queries as u64), "{}", kernel.name);
                found.push(queries);
            }
        }
        assert_eq!(found, KERNELS);
    }
}
