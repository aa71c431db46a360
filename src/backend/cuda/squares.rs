//! Sums of squares that a linear layer leaves for the GRN after it: `kernels/grn_squares.cuh`.

use crate::ops::GrnScale;
use crate::plan::{Plan, Source};
use crate::registry::cuda::{Cuda, Squares};

/// Rows that one of them is of, all of one image; `PART_ROWS` in the kernels.
const PART_ROWS: usize = 64;

/// For each node, whether its kernel leaves sums for the next node or finds those of the one before; and the
/// elements of memory that this takes.
pub(super) fn passed_on(plan: &Plan, kernels: &[Cuda]) -> (Vec<bool>, u64) {
    let mut passes = vec![false; kernels.len()];
    let mut most = 0;
    for (i, (nodes, kernels)) in plan.nodes.windows(2).zip(kernels.windows(2)).enumerate() {
        let able = [kernels[0].squares, kernels[1].squares] == [Squares::Left, Squares::Taken];
        let result = nodes[0].output;
        let reads = nodes[1].inputs[GrnScale::X] == Some(Source::Slot(result));
        if able && reads && result.shape.tokens().is_multiple_of(PART_ROWS) {
            passes[i..i + 2].fill(true);
            most = most.max(result.shape.rows() / PART_ROWS * result.shape.c);
        }
    }
    (passes, most as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{Element, Function, Linear};
    use crate::plan::Recorder;
    use crate::registry::{self, Caps, Lang, Launch, Target};
    use crate::shape::Shape;
    use crate::tensor::Weight;

    /// What a layer of 32 channels and its norm pass on.
    fn of_images(h: usize, w: usize) -> (Vec<bool>, u64) {
        let mut rec = Recorder::new();
        let weight = Some(rec.weight(Weight::from_f32("weight", &[32, 32], vec![0.5; 1024])));
        let gamma = Some(rec.weight(Weight::from_f32("gamma", &[32], vec![0.5; 32])));
        let x = rec.input(Shape { n: 2, h, w, c: 32 }, Element::F32);
        let mut inputs = vec![Some(Source::Slot(x)), weight];
        inputs.resize(8, None);
        let y = rec.node("layer", Linear { function: Function::GeluErf }, &inputs).unwrap();
        rec.node("norm", GrnScale { eps: 1e-6 }, &[Some(Source::Slot(y)), gamma]).unwrap();
        let plan = rec.finish();
        let row = |node| match registry::choose(node, &plan, Target::new(Lang::Cuda, Caps::ROUND_BF16)).0.launch {
            Launch::Cuda(cuda) => cuda,
            _ => unreachable!("rows of CUDA are CUDA"),
        };
        passed_on(&plan, &plan.nodes.iter().map(row).collect::<Vec<_>>())
    }

    #[test]
    fn whole_parts_of_an_image_are_passed_on() {
        assert_eq!(of_images(16, 16), (vec![true; 2], 2 * 4 * 32));
        assert_eq!(of_images(18, 18), (vec![false; 2], 0), "64 rows would be of two images");
        assert_eq!(of_images(8, 8), (vec![false; 2], 0), "the kernel for few rows leaves nothing");
    }
}
