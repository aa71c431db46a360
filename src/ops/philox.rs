use super::{Case, Define, Operands, Shapes, index};
use crate::noise;
use crate::shape::Shape;

/// Standard normal noise from a counter-based generator, so that any device can compute any element at any
/// time. [`noise::Philox`] defines it.
///
/// Operands:
/// 0. `seed [1, 1, 1, 2]` (u32): low and high half of the first image's seed; image `k` uses that seed plus `k`,
///    wrapping
/// 1. `counter [1, 1, 1, 1]` (u32), optional: the step, whose noise is draw `1 + step`. Without it the result is
///    draw 0, the start latents.
///
/// Every kernel draws the same random integers. The normals made of them are within 2e-6 of the definition's,
/// because `ln`, `sin`, `cos` and `sqrt` in f32 differ between devices.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Philox {
    /// Extent of the noise.
    pub shape: Shape,
    /// Third word of the Philox counter. Samplers that share a seed use different streams.
    pub stream: u32,
}

operands!(Philox { SEED, COUNTER });

impl Define for Philox {
    fn name(&self) -> &'static str {
        "philox"
    }

    fn shape(&self, inputs: Shapes<'_>) -> Result<Shape, String> {
        match *inputs {
            [Some(seed), counter]
                if seed == Shape::vector(2) && counter.is_none_or(|counter| counter == Shape::vector(1)) =>
            {
                Ok(self.shape)
            }
            _ => Err("seed [1, 1, 1, 2] and, except for the start latents, counter [1, 1, 1, 1]".into()),
        }
    }

    fn constants(&self) -> Vec<u32> {
        vec![self.stream]
    }

    fn reference(&self, inputs: Operands<'_>, out: &mut [f32], shape: Shape) {
        let seed = inputs[Self::SEED].expect("seed").u32();
        let seed = u64::from(seed[0]) | u64::from(seed[1]) << 32;
        let draw = inputs[Self::COUNTER].map_or(0, |counter| counter.u32()[0].wrapping_add(1));
        for (k, image) in out.chunks_mut((shape.tokens() * shape.c).max(1)).enumerate() {
            noise::Philox::new(seed.wrapping_add(k as u64)).fill(self.stream, draw, image);
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let case = |shape, stream, seed: &[u32], counter: Option<u32>| {
        let counter = counter.and_then(|step| index(&[step]));
        Case {
            tolerance: 2e-6,
            tolerance_bf16: 2e-6,
            ..Case::new(Philox { shape, stream }, vec![index(seed), counter])
        }
    };
    vec![
        case(Shape::new(2, 64, 64, 4), 1, &[42, 0], Some(7)),
        case(Shape::new(1, 24, 24, 16), 0, &[0, 0], None),
        // Images whose size is not a multiple of four, and a seed whose low half overflows into the high half.
        case(Shape::new(3, 3, 5, 3), 0, &[u32::MAX, 7], Some(0)),
        case(Shape::new(1, 1, 1, 1), 1, &[u32::MAX, u32::MAX], Some(19)),
    ]
}
