//! The ops: everything a network can ask a device to do.
//!
//! An op's file holds its definition (documentation, shape rule, and a plain
//! loop that computes it, [`Define::reference`]) and the [test cases](Case) that
//! every kernel of the op must pass. Kernels live elsewhere and are looked up in
//! the [`registry`](crate::registry).

use crate::shape::Shape;
use crate::tensor::Tensor;

/// Shapes of an op's operands, in the order its documentation gives;
/// `None` where an optional operand is absent.
pub type Shapes<'a> = &'a [Option<Shape>];

/// Values of an op's operands, in the same order.
pub type Operands<'a> = &'a [Option<Tensor<'a>>];

/// The element type of a slot. The host always reads and writes 4 bytes per element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// A real number.
    F32,
    /// A real number that only GEMMs read. A device whose GEMMs take bf16 inputs may store it as bf16,
    /// because the GEMM would round it anyway.
    GemmInput,
    /// An index, a counter or a packed pixel.
    U32,
}

/// The work an op does, for a roofline comparison with the device's limits.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Cost {
    /// Floating-point operations; a multiply-add counts as two.
    pub flops: u64,
    /// Compulsory traffic: every byte read or written, counted once. Activations count as the device stores them,
    /// weights as the file stores them.
    pub bytes: u64,
}

/// The definition of an op.
pub trait Define: std::fmt::Debug {
    /// The op's usual name, which is also the stem of its kernels' file names.
    fn name(&self) -> &'static str;

    /// Shape of the result, or a description of the operands the op accepts if `inputs` do not fit.
    fn shape(&self, inputs: Shapes<'_>) -> Result<Shape, String>;

    /// The op's constants in the order of its fields, f32 as bits. A GPU kernel receives them beside the shapes.
    fn constants(&self) -> Vec<u32> {
        Vec::new()
    }

    /// Element type of the result: f32 or u32. Whether it can be stored as a GEMM input is decided by the plan,
    /// which knows the readers.
    fn element(&self) -> Element {
        Element::F32
    }

    /// The operand that the result may overwrite. Kernels must read each of its elements before they write
    /// the result's element at the same index, and never after.
    fn in_place(&self) -> Option<usize> {
        None
    }

    /// Whether operand `i` (an activation or a weight) is read only as a GEMM input. Ops that merely move data,
    /// such as a concat, answer `feeds_gemm`, which says whether their own result is read only by GEMMs.
    fn feeds_gemm(&self, _i: usize, _feeds_gemm: bool) -> bool {
        false
    }

    /// Floating-point operations; zero for an op that only moves data.
    fn flops(&self, _inputs: Shapes<'_>, _out: Shape) -> u64 {
        0
    }

    /// How many elements of operand `i`, which has this shape, are read at all: of a lookup table, only a few.
    fn reads(&self, _i: usize, shape: Shape, _out: Shape) -> usize {
        shape.elements()
    }

    /// Computes the op with a plain loop. A u32 result is written as bits.
    fn reference(&self, inputs: Operands<'_>, out: &mut [f32], shape: Shape);
}

/// One configuration on which every kernel of an op is tested and benchmarked.
#[derive(Debug, Clone)]
pub struct Case {
    /// The op with its constants.
    pub op: Op,
    /// Its operands.
    pub inputs: Vec<Option<Operand>>,
    /// Largest allowed `|got − want| / (1 + |want|)` for a kernel that computes in f32.
    pub tolerance: f32,
    /// The same for kernels that round GEMM inputs to bf16.
    pub tolerance_bf16: f32,
    /// The same for kernels that round what they multiply int8 weights by to int8.
    pub tolerance_int8: f32,
}

/// What a test case fills an operand with.
#[derive(Debug, Clone)]
pub enum Operand {
    /// Random activations whose mean is not zero.
    Slot(Shape),
    /// Random weights with these PyTorch dimensions. Successive weights are f32, f16 and bf16.
    Weight(Vec<usize>),
    /// Indices.
    Index(Shape, Vec<u32>),
    /// Activations with exactly these values.
    Values(Shape, Vec<f32>),
}

impl Operand {
    /// The operand's extent.
    pub fn shape(&self) -> Shape {
        match self {
            Operand::Slot(shape) | Operand::Index(shape, _) | Operand::Values(shape, _) => *shape,
            Operand::Weight(dims) => crate::tensor::shape_of_dims(dims),
        }
    }
}

impl Case {
    fn new(op: impl Into<Op>, inputs: Vec<Option<Operand>>) -> Self {
        Self { op: op.into(), inputs, tolerance: 2e-5, tolerance_bf16: 2e-5, tolerance_int8: 2e-5 }
    }

    fn bf16(self, tolerance_bf16: f32) -> Self {
        Self { tolerance_bf16, ..self }
    }

    fn int8(self, tolerance_int8: f32) -> Self {
        Self { tolerance_int8, ..self }
    }
}

fn slot(n: usize, h: usize, w: usize, c: usize) -> Option<Operand> {
    Some(Operand::Slot(Shape::new(n, h, w, c)))
}

fn weight(dims: &[usize]) -> Option<Operand> {
    Some(Operand::Weight(dims.to_vec()))
}

fn index(values: &[u32]) -> Option<Operand> {
    Some(Operand::Index(Shape::vector(values.len()), values.to_vec()))
}

/// Activations that repeat `pattern`.
fn values(n: usize, h: usize, w: usize, c: usize, pattern: &[f32]) -> Option<Operand> {
    let shape = Shape::new(n, h, w, c);
    Some(Operand::Values(shape, pattern.iter().copied().cycle().take(shape.elements()).collect()))
}

/// `operands!(Op { X, WEIGHT })` defines a constant with the index of each operand: `Op::X` is 0, `Op::WEIGHT` is 1.
macro_rules! operands {
    ($Op:ident { $($NAME:ident),+ }) => { impl $Op { positions!("operands" 0; $($NAME)+); } };
}

/// The same for the indices of the op's [constants](Define::constants).
macro_rules! constants {
    ($Op:ident { $($NAME:ident),+ }) => { impl $Op { positions!("constants" 0; $($NAME)+); } };
}

macro_rules! positions {
    ($of:literal $at:expr; $NAME:ident $($rest:ident)*) => {
        #[doc = concat!("Position of `", stringify!($NAME), "` among the op's ", $of, ".")]
        pub const $NAME: usize = $at;
        positions!($of $at + 1; $($rest)*);
    };
    ($of:literal $at:expr;) => {};
}

macro_rules! ops {
    ($($module:ident::$Op:ident),* $(,)?) => {
        $(mod $module; pub use $module::$Op;)*

        /// An op with its constants: plain data, as a plan records it.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Op {
            $(#[doc = concat!("[`", stringify!($Op), "`]")] $Op($Op),)*
        }

        $(impl From<$Op> for Op { fn from(op: $Op) -> Op { Op::$Op(op) } })*

        impl std::ops::Deref for Op {
            type Target = dyn Define;
            fn deref(&self) -> &(dyn Define + 'static) {
                match self { $(Op::$Op(op) => op,)* }
            }
        }

        /// Every op's test cases; the first case of an op is its most important use.
        pub fn cases() -> Vec<Case> {
            [$($module::cases(),)*].concat()
        }

        /// The names of all ops.
        pub const NAMES: &[&str] = &[$(stringify!($module),)*];
    };
}

ops! {
    activation::Activation,
    add::Add,
    advance::Advance,
    attention::Attention,
    batch_norm::BatchNorm,
    concat::Concat,
    conv2d::Conv2d,
    conv_transpose2d::ConvTranspose2d,
    count_non_finite::CountNonFinite,
    denoise::Denoise,
    depthwise_conv::DepthwiseConv,
    depthwise_norm::DepthwiseNorm,
    depthwise_residual::DepthwiseResidual,
    embed::Embed,
    feed_forward::FeedForward,
    gate::Gate,
    gather::Gather,
    grn_scale::GrnScale,
    group_norm::GroupNorm,
    guide::Guide,
    guide_projected::GuideProjected,
    layer_norm::LayerNorm,
    leaky_relu::LeakyRelu,
    linear::Linear,
    mean::Mean,
    modulate::Modulate,
    nearest_code::NearestCode,
    philox::Philox,
    pixel_shuffle::PixelShuffle,
    pixel_unshuffle::PixelUnshuffle,
    resample::Resample,
    scale::Scale,
    to_rgb8::ToRgb8,
}

pub use layer_norm::Affine;

/// An element-wise activation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// `x`.
    Identity,
    /// `x/2 · (1 + erf(x/√2))`, the exact GELU.
    GeluErf,
    /// `x · sigmoid(1.702 x)`, as CLIP uses it.
    QuickGelu,
    /// `x · sigmoid(x)`.
    Silu,
}

impl Function {
    /// The function's value, computed in f64.
    pub fn apply(self, x: f32) -> f32 {
        let v = f64::from(x);
        let y = match self {
            Function::Identity => return x,
            Function::GeluErf => 0.5 * v * (1.0 + libm::erf(v / std::f64::consts::SQRT_2)),
            Function::QuickGelu => v / (1.0 + (-1.702 * v).exp()),
            Function::Silu => v / (1.0 + (-v).exp()),
        };
        y as f32
    }
}

/// Mean and `1 / sqrt(variance + eps)` of `xs`, with the population variance, in two passes.
fn mean_rstd(xs: impl Iterator<Item = f32> + Clone, count: usize, eps: f32) -> (f64, f64) {
    let mean = xs.clone().map(f64::from).sum::<f64>() / count as f64;
    let variance = xs.map(|x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count as f64;
    (mean, (variance + f64::from(eps)).sqrt().recip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_lie_where_their_names_say() {
        let attention = Attention { heads: 3, head_dim: 8, self_part: true, causal: false }.constants();
        let named = [Attention::HEADS, Attention::HEAD_DIM, Attention::SELF_PART, Attention::CAUSAL];
        assert_eq!(named.map(|i| attention[i]), [3, 8, 1, 0]);
        let conv = ConvTranspose2d { stride: 2, padding: 1 }.constants();
        assert_eq!([ConvTranspose2d::STRIDE, ConvTranspose2d::PADDING].map(|i| conv[i]), [2, 1]);
        let norm = GroupNorm { groups: 4, eps: 0.5, function: Function::Silu }.constants();
        let named = [GroupNorm::GROUPS, GroupNorm::EPS, GroupNorm::FUNCTION];
        assert_eq!(named.map(|i| norm[i]), [4, 0.5f32.to_bits(), Function::Silu as u32]);
        assert_eq!(PixelUnshuffle { patch: 2 }.constants()[PixelUnshuffle::PATCH], 2);
    }

    #[test]
    fn every_op_has_cases_whose_shapes_fit() {
        for name in NAMES {
            assert!(cases().iter().any(|case| case.op.name() == *name), "{name} has no case");
        }
        for case in cases() {
            let shapes: Vec<_> = case.inputs.iter().map(|i| i.as_ref().map(Operand::shape)).collect();
            case.op.shape(&shapes).unwrap_or_else(|e| panic!("{:?}: takes {e}, got {shapes:?}", case.op));
        }
    }
}
