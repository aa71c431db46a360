//! From a node to the CPU kernel that computes it: for each op, a function that unpacks its operands.

use super::call::Kernel;
use super::linear::Residual;
use super::{Isa, attention, conv, depthwise, elementwise, feed_forward, grn, group_norm, linear, norm};
use crate::ops::{Affine, Op, Shapes};
use crate::shape::Shape;
use crate::tensor::Tensor;

fn threads() -> usize {
    rayon::current_num_threads()
}

fn extent(s: Shape) -> [usize; 4] {
    [s.n, s.h, s.w, s.c]
}

fn shape(inputs: Shapes<'_>, i: usize) -> Shape {
    inputs.get(i).copied().flatten().unwrap_or(Shape::vector(0))
}

/// Makes a [`Kernel`] of op `$Op` from the body of its launch and its scratch.
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
    |op, call| {
        let x = call.inputs[0].expect("x");
        // One image's `(a, b)` lie side by side; those of several are gathered.
        let (gathered, scratch) = call.scratch.split_at_mut(gathered(call.inputs.get(6).copied().flatten().map(|t| t.shape)));
        let modulate = match (call.inputs[6], call.inputs[7]) {
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
            bias: call.inputs[2].map(|t| t.weight()),
            function: op.function,
            residual: match (call.aliased, call.inputs[3]) {
                (Some(_), _) => Residual::InPlace,
                (None, Some(residual)) => Residual::Slice(residual.f32()),
                (None, None) => Residual::None,
            },
            scale: call.inputs[4].map(|t| t.f32()),
            shift: call.inputs[5].map(|t| t.weight()),
            modulate,
            ..linear::Linear::new(x.f32(), call.inputs[1].expect("weight").weight())
        };
        linear::linear(call.isa, &args, call.out, scratch)
    },
    |_op, inputs, out| {
        gathered(inputs.get(6).copied().flatten())
            + linear::linear_scratch(out.rows(), out.c, shape(inputs, 0).c, threads())
    }
);

/// Scratch in which the rows of a modulation table of several images are gathered.
fn gathered(table: Option<Shape>) -> usize {
    table.filter(|t| t.n > 1).map_or(0, |t| t.n * t.c)
}

kernel!(
    /// [`attention::attention`]
    attention, Attention,
    |op, call| {
        let (x, c) = (call.inputs[0].expect("x"), op.channels());
        let kv = |t: Tensor<'_>, at: usize| t.f32().len().min(at);
        let own = op.self_part.then(|| attention::KeyValue {
            k: &x.f32()[kv(x, c)..],
            v: &x.f32()[kv(x, 2 * c)..],
            stride: 3 * c,
            rows: call.shape.tokens(),
        });
        let context = call.inputs[1].map(|t| attention::KeyValue {
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
            key_len: call.inputs[2].map(|t| t.u32()),
        };
        attention::attention(call.isa, &args, call.out, call.scratch)
    },
    |op, inputs, _out| {
        let own = if op.self_part { shape(inputs, 0).tokens() } else { 0 };
        attention::attention_scratch(own + shape(inputs, 1).tokens(), op.head_dim, threads())
    }
);

kernel!(
    /// [`depthwise::depthwise_norm`]
    depthwise_norm, DepthwiseNorm,
    |op, call| {
        let [x, weight, bias] = [0, 1, 2].map(|i| call.inputs[i].expect("every operand"));
        depthwise::depthwise_norm(
            call.isa, x.f32(), extent(x.shape), weight.weight(), Some(bias.weight()), op.eps, call.out, call.scratch,
        )
    },
    |_op, inputs, out| depthwise::depthwise_scratch(out.c, shape(inputs, 1).w)
);

kernel!(
    /// [`depthwise::depthwise_residual`]
    depthwise_residual, DepthwiseResidual,
    |_op, call| {
        if let Some(x) = call.inputs[0] {
            call.out.copy_from_slice(x.f32());
        }
        let [t, weight, bias, gammas] = [1, 2, 3, 4].map(|i| call.inputs[i].expect("every operand"));
        let g = gammas.weight().row(0, 6).get(2);
        depthwise::depthwise_residual(
            call.isa, t.f32(), extent(t.shape), weight.weight(), Some(bias.weight()), g, call.out, call.scratch,
        )
    },
    |_op, inputs, out| depthwise::depthwise_scratch(out.c, shape(inputs, 2).w)
);

kernel!(
    /// [`grn::grn_scale`]
    grn_scale, GrnScale,
    |_op, call| {
        let (x, gamma) = (call.inputs[0].expect("x"), call.inputs[1].expect("gamma"));
        grn::grn_scale(call.isa, x.f32(), gamma.weight(), x.shape.tokens(), call.out, call.scratch)
    },
    |_op, inputs, out| grn::grn_scale_scratch(out.n, shape(inputs, 0).tokens(), out.c)
);

kernel!(
    /// [`norm::layer_norm`]
    layer_norm, LayerNorm,
    |op, call| {
        let affine = match op.affine {
            Affine::None => norm::Affine::None,
            Affine::Channels => {
                norm::Affine::Weights(call.inputs[1].expect("weight").weight(), call.inputs[2].expect("bias").weight())
            }
            Affine::Gammas => {
                let gammas = call.inputs[1].expect("gammas").weight().row(0, 6);
                norm::Affine::Scalars(gammas.get(0), gammas.get(1))
            }
        };
        let x = call.inputs[0].map(|x| x.f32());
        norm::layer_norm(call.isa, x, call.shape.c, op.eps, affine, call.out, call.scratch)
    },
    |_op, _inputs, out| norm::layer_norm_scratch(out.c)
);

kernel!(
    /// [`elementwise::add`]
    add, Add,
    |_op, call| {
        let b = call.inputs[1].expect("b").f32();
        for (i, out) in call.out.chunks_mut(b.len()).enumerate() {
            match call.inputs[0] {
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
        let x = call.inputs[0].expect("x");
        elementwise::resample(call.isa, x.f32(), extent(x.shape), [op.height, op.width], false, call.out)
    },
    |_op, _inputs, _out| 0
);

kernel!(
    /// [`elementwise::pixel_unshuffle`]
    pixel_unshuffle, PixelUnshuffle,
    |op, call| {
        let x = call.inputs[0].expect("x");
        elementwise::pixel_unshuffle(x.f32(), extent(x.shape), op.patch, call.out)
    },
    |_op, _inputs, _out| 0
);

kernel!(
    /// [`conv::conv2d`]
    conv2d, Conv2d,
    |op, call| {
        let (x, weight) = (call.inputs[0].expect("x"), call.inputs[1].expect("weight").weight());
        let steps = conv::Steps { stride: op.stride, padding: op.padding };
        let bias = call.inputs[2].map(|t| t.weight());
        conv::conv2d(call.isa, x.f32(), extent(x.shape), weight, bias, steps, call.out, call.scratch)
    },
    |_op, inputs, out| conv::conv_scratch(out.rows(), &extent(shape(inputs, 1)), false, threads())
);

kernel!(
    /// [`conv::conv_transpose2d`]
    conv_transpose2d, ConvTranspose2d,
    |op, call| {
        let (x, weight) = (call.inputs[0].expect("x"), call.inputs[1].expect("weight").weight());
        let steps = conv::Steps { stride: op.stride, padding: op.padding };
        let bias = call.inputs[2].map(|t| t.weight());
        conv::conv_transpose2d(call.isa, x.f32(), extent(x.shape), weight, bias, steps, call.out, call.scratch)
    },
    |_op, inputs, out| conv::conv_scratch(out.rows(), &extent(shape(inputs, 1)), true, threads())
);

kernel!(
    /// [`feed_forward::feed_forward`]
    feed_forward, FeedForward,
    |op, call| {
        if let Some(x) = call.inputs[0] {
            call.out.copy_from_slice(x.f32());
        }
        let weight = |i: usize| call.inputs[i].expect("every operand").weight();
        let g = |i| weight(1).row(0, 6).get(i);
        let args = feed_forward::FeedForward {
            eps: op.eps,
            gammas: [g(3), g(4), g(5)],
            up: weight(2),
            up_bias: weight(3),
            down: weight(4),
            down_bias: weight(5),
        };
        feed_forward::feed_forward(call.isa, &args, call.out, call.scratch)
    },
    |_op, inputs, out| feed_forward::feed_forward_scratch(out.c, shape(inputs, 2).w, threads())
);

kernel!(
    /// [`group_norm::group_norm`]
    group_norm,
    GroupNorm,
    |op, call| {
        let [x, weight, bias] = [0, 1, 2].map(|i| call.inputs[i].expect("every operand"));
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
