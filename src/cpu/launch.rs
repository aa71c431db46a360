//! For each op, a function that unpacks a node's operands and calls the CPU kernel.

use super::call::{Call, Kernel};
use super::linear::Residual;
use super::{Isa, attention, conv, depthwise, elementwise, feed_forward, grn, group_norm, linear, norm};
use crate::ops::{
    Add, Affine, Attention, Conv2d, ConvTranspose2d, DepthwiseNorm, DepthwiseResidual, FeedForward, GrnScale,
    GroupNorm, LayerNorm, Linear, Op, PixelUnshuffle, Resample, Shapes,
};
use crate::shape::Shape;
use crate::tensor::Tensor;

fn threads() -> usize {
    rayon::current_num_threads()
}

fn extent(s: Shape) -> [usize; 4] {
    [s.n, s.h, s.w, s.c]
}

/// The shape of an operand; an empty one if the operand is absent.
fn shape(inputs: Shapes<'_>, operand: usize) -> Shape {
    inputs[operand].unwrap_or(Shape::vector(0))
}

/// Defines a [`Kernel`] of op `$Op` by an expression that computes it and one for the size of its scratch memory.
macro_rules! kernel {
    ($(#[$doc:meta])* $name:ident, $Op:ident, |$op:ident, $call:ident| $run:expr, |$sop:ident, $inputs:ident, $out:ident| $scratch:expr) => {
        $(#[$doc])*
        pub const fn $name(isa: Isa) -> Kernel {
            Kernel {
                isa,
                run: |$call| {
                    let Op::$Op($op) = $call.op else { unreachable!("rows are chosen by the op's name") };
                    $run
                },
                scratch: |op, $inputs, $out| {
                    let Op::$Op($sop) = op else { unreachable!("rows are chosen by the op's name") };
                    $scratch
                },
            }
        }
    };
}

kernel!(
    /// [`linear::linear`]
    linear, Linear,
    |op, call| run_linear(op, call, linear::linear),
    |_op, inputs, out| {
        gathered(inputs[Linear::TABLE])
            + linear::linear_scratch(out.rows(), out.c, shape(inputs, Linear::X).c, threads())
    }
);

kernel!(
    /// [`linear::linear`], with [`Isa::INT8`].
    linear_int8, Linear,
    |op, call| run_linear(op, call, linear::linear),
    |_op, inputs, out| {
        gathered(inputs[Linear::TABLE])
            + linear::linear_int8_scratch(out.rows(), out.c, shape(inputs, Linear::X).c, threads())
    }
);

kernel!(
    /// [`linear::linear_few`]
    linear_few, Linear,
    |op, call| run_linear(op, call, linear::linear_few),
    |_op, inputs, out| {
        gathered(inputs[Linear::TABLE])
            + linear::linear_few_scratch(out.rows(), out.c, shape(inputs, Linear::X).c, threads())
    }
);

/// Calls `run` with the operands of a node.
fn run_linear(op: &Linear, call: Call<'_>, run: fn(Isa, &linear::Linear<'_>, &mut [f32], &mut [f32])) {
    let (x, weight) = (call.tensor(Linear::X), call.tensor(Linear::WEIGHT).weight());
    // The kernel needs the current step's rows of all images to be contiguous. With several images they are copied
    // to scratch memory.
    let (gathered, scratch) = call.scratch.split_at_mut(gathered(call.inputs[Linear::TABLE].map(|t| t.shape)));
    let modulate = match (call.inputs[Linear::TABLE], call.inputs[Linear::COUNTER]) {
        (Some(table), Some(counter)) => {
            let (row, step) = (table.shape.c, counter.u32()[0] as usize);
            let at = |image: usize| &table.f32()[(image * table.shape.w + step) * row..][..row];
            if table.shape.n == 1 {
                Some(at(0))
            } else {
                gathered.chunks_mut(row).enumerate().for_each(|(image, to)| to.copy_from_slice(at(image)));
                Some(&*gathered)
            }
        }
        _ => None,
    };
    let args = linear::Linear {
        bias: call.inputs[Linear::BIAS].map(|t| t.weight()),
        function: op.function,
        residual: match (call.aliased, call.inputs[Linear::RESIDUAL]) {
            (Some(_), _) => Residual::InPlace,
            (None, Some(residual)) => Residual::Slice(residual.f32()),
            (None, None) => Residual::None,
        },
        scale: call.inputs[Linear::SCALE].map(|t| t.f32()),
        shift: call.inputs[Linear::SHIFT].map(|t| t.weight()),
        modulate,
        ..linear::Linear::new(x.f32(), weight)
    };
    run(call.isa, &args, call.out, scratch)
}

/// f32 of scratch for the rows of a modulation table of several images.
fn gathered(table: Option<Shape>) -> usize {
    table.filter(|t| t.n > 1).map_or(0, |t| t.n * t.c)
}

kernel!(
    /// [`attention::attention`]
    attention, Attention,
    |op, call| {
        let (x, c) = (call.tensor(Attention::X), op.channels());
        let kv = |t: Tensor<'_>, at: usize| t.f32().len().min(at);
        let own = op.self_part.then(|| attention::KeyValue {
            k: &x.f32()[kv(x, c)..],
            v: &x.f32()[kv(x, 2 * c)..],
            stride: 3 * c,
            rows: call.shape.tokens(),
        });
        let context = call.inputs[Attention::CONTEXT].map(|t| attention::KeyValue {
            k: t.f32(),
            v: &t.f32()[kv(t, c)..],
            stride: 2 * c,
            rows: t.shape.tokens(),
        });
        let args = attention::Attention {
            images: call.shape.n,
            heads: op.heads,
            head_dim: op.head_dim,
            q: x.f32(),
            q_stride: x.shape.c,
            q_rows: call.shape.tokens(),
            own,
            context,
            causal: op.causal,
            key_len: call.inputs[Attention::KEY_LEN].map(|t| t.u32()),
        };
        attention::attention(call.isa, &args, call.out, call.scratch)
    },
    |op, inputs, _out| {
        let own = if op.self_part { shape(inputs, Attention::X).tokens() } else { 0 };
        attention::attention_scratch(own + shape(inputs, Attention::CONTEXT).tokens(), op.head_dim, threads())
    }
);

kernel!(
    /// [`depthwise::depthwise_norm`]
    depthwise_norm, DepthwiseNorm,
    |op, call| {
        let x = call.tensor(DepthwiseNorm::X);
        let weight = call.tensor(DepthwiseNorm::WEIGHT).weight();
        let bias = Some(call.tensor(DepthwiseNorm::BIAS).weight());
        depthwise::depthwise_norm(call.isa, x.f32(), extent(x.shape), weight, bias, op.eps, call.out, call.scratch)
    },
    |_op, inputs, out| depthwise::depthwise_scratch(out.c, shape(inputs, DepthwiseNorm::WEIGHT).w)
);

kernel!(
    /// [`depthwise::depthwise_residual`]
    depthwise_residual, DepthwiseResidual,
    |_op, call| {
        if let Some(x) = call.inputs[DepthwiseResidual::X] {
            call.out.copy_from_slice(x.f32());
        }
        let t = call.tensor(DepthwiseResidual::T);
        let weight = call.tensor(DepthwiseResidual::WEIGHT).weight();
        let bias = Some(call.tensor(DepthwiseResidual::BIAS).weight());
        let g = call.tensor(DepthwiseResidual::GAMMAS).weight().row(0, 6).get(2);
        depthwise::depthwise_residual(call.isa, t.f32(), extent(t.shape), weight, bias, g, call.out, call.scratch)
    },
    |_op, inputs, out| depthwise::depthwise_scratch(out.c, shape(inputs, DepthwiseResidual::WEIGHT).w)
);

kernel!(
    /// [`grn::grn_scale`]
    grn_scale, GrnScale,
    |_op, call| {
        let (x, gamma) = (call.tensor(GrnScale::X), call.tensor(GrnScale::GAMMA));
        grn::grn_scale(call.isa, x.f32(), gamma.weight(), x.shape.tokens(), call.out, call.scratch)
    },
    |_op, inputs, out| grn::grn_scale_scratch(out.n, shape(inputs, GrnScale::X).tokens(), out.c)
);

kernel!(
    /// [`norm::layer_norm`]
    layer_norm, LayerNorm,
    |op, call| {
        let affine = match op.affine {
            Affine::None => norm::Affine::None,
            Affine::Channels => {
                let [weight, bias] = [LayerNorm::WEIGHT, LayerNorm::BIAS].map(|i| call.tensor(i).weight());
                norm::Affine::Weights(weight, bias)
            }
            Affine::Gammas => {
                let gammas = call.tensor(LayerNorm::GAMMAS).weight().row(0, 6);
                norm::Affine::Scalars(gammas.get(0), gammas.get(1))
            }
        };
        let x = call.inputs[LayerNorm::X].map(|x| x.f32());
        norm::layer_norm(call.isa, x, call.shape.c, op.eps, affine, call.out, call.scratch)
    },
    |_op, _inputs, out| norm::layer_norm_scratch(out.c)
);

kernel!(
    /// [`elementwise::add`]
    add, Add,
    |_op, call| {
        let b = call.tensor(Add::B).f32();
        for (i, out) in call.out.chunks_mut(b.len()).enumerate() {
            match call.inputs[Add::A] {
                Some(a) => elementwise::add(call.isa, &a.f32()[i * b.len()..][..b.len()], b, out),
                None => elementwise::add_in_place(call.isa, b, out),
            }
        }
    },
    |_op, _inputs, _out| 0
);

kernel!(
    /// [`elementwise::resample`]
    resample, Resample,
    |op, call| {
        let x = call.tensor(Resample::X);
        elementwise::resample(call.isa, x.f32(), extent(x.shape), [op.height, op.width], call.out)
    },
    |_op, _inputs, _out| 0
);

kernel!(
    /// [`elementwise::pixel_unshuffle`]
    pixel_unshuffle, PixelUnshuffle,
    |op, call| {
        let x = call.tensor(PixelUnshuffle::X);
        elementwise::pixel_unshuffle(x.f32(), extent(x.shape), op.patch, call.out)
    },
    |_op, _inputs, _out| 0
);

kernel!(
    /// [`conv::conv2d`]
    conv2d, Conv2d,
    |op, call| {
        let (x, weight) = (call.tensor(Conv2d::X), call.tensor(Conv2d::WEIGHT).weight());
        let params = conv::ConvParams { stride: op.stride, padding: op.padding };
        let bias = call.inputs[Conv2d::BIAS].map(|t| t.weight());
        conv::conv2d(call.isa, x.f32(), extent(x.shape), weight, bias, params, call.out, call.scratch)
    },
    |_op, inputs, out| conv::conv_scratch(out.rows(), &extent(shape(inputs, Conv2d::WEIGHT)), false, threads())
);

kernel!(
    /// [`conv::conv_transpose2d`]
    conv_transpose2d, ConvTranspose2d,
    |op, call| {
        let (x, weight) = (call.tensor(ConvTranspose2d::X), call.tensor(ConvTranspose2d::WEIGHT).weight());
        let params = conv::ConvParams { stride: op.stride, padding: op.padding };
        let bias = call.inputs[ConvTranspose2d::BIAS].map(|t| t.weight());
        conv::conv_transpose2d(call.isa, x.f32(), extent(x.shape), weight, bias, params, call.out, call.scratch)
    },
    |_op, inputs, out| conv::conv_scratch(out.rows(), &extent(shape(inputs, ConvTranspose2d::WEIGHT)), true, threads())
);

kernel!(
    /// [`feed_forward::feed_forward`]
    feed_forward, FeedForward,
    |op, call| {
        if let Some(x) = call.inputs[FeedForward::X] {
            call.out.copy_from_slice(x.f32());
        }
        let weight = |i: usize| call.tensor(i).weight();
        let g = |i| weight(FeedForward::GAMMAS).row(0, 6).get(i);
        let args = feed_forward::FeedForward {
            eps: op.eps,
            gammas: [g(3), g(4), g(5)],
            up: weight(FeedForward::W0),
            up_bias: weight(FeedForward::B0),
            down: weight(FeedForward::W2),
            down_bias: weight(FeedForward::B2),
        };
        feed_forward::feed_forward(call.isa, &args, call.out, call.scratch)
    },
    |_op, inputs, out| feed_forward::feed_forward_scratch(out.c, shape(inputs, FeedForward::W0).w, threads())
);

kernel!(
    /// [`group_norm::group_norm`]
    group_norm,
    GroupNorm,
    |op, call| {
        let [x, weight, bias] = [GroupNorm::X, GroupNorm::WEIGHT, GroupNorm::BIAS].map(|i| call.tensor(i));
        let args = group_norm::GroupNorm {
            x: x.f32(),
            pixels: x.shape.tokens(),
            groups: op.groups,
            eps: op.eps,
            weight: weight.weight(),
            bias: bias.weight(),
            function: op.function,
        };
        group_norm::group_norm(call.isa, &args, call.out, call.scratch)
    },
    |_op, _inputs, out| group_norm::group_norm_scratch(out.tokens(), out.c)
);
