// What every kernel uses: launch arguments, tensors of any storage type, activation functions, reductions.
//
// Kernels include no CUDA header and launch nothing, and only ptx.cuh (on Hopper also hopper.cuh and wgmma.cuh) contains
// PTX. So a C++ compiler builds the same files for the emulator, where host/device.h stands in for the GPU.
#pragma once

#ifndef __CUDACC__
#include "host/device.h"
#endif

typedef unsigned short u16;
typedef unsigned int u32;

#define DEVICE __device__ __forceinline__

// This thread's index within its warp, and its warp's index within the block.
DEVICE u32 lane() { return threadIdx.x & 31; }
DEVICE u32 warp() { return threadIdx.x >> 5; }

// A bf16 value as f32, exactly.
DEVICE float from_bf16(u16 bits) { return __uint_as_float(u32(bits) << 16); }

#include "ptx.cuh"

// Defines the __global__ function `entry` and, after the macro, the kernel's body as a device function. The body runs after
// `begin`, and lets the next launch start when it is over (programmatic dependent launch, kernels/README.md).
#define KERNEL_AS(entry, begin, body, parameters, ...)                                                                \
    DEVICE void body parameters;                                                                                      \
    entry {                                                                                                           \
        begin;                                                                                                        \
        body(__VA_ARGS__);                                                                                            \
        allow_next_launch();                                                                                          \
    }                                                                                                                 \
    DEVICE void body parameters

#ifdef __CUDACC__
// KERNEL(name) or KERNEL(name, blocks): a kernel whose block is one row of THREADS threads, THREADS being a constant of
// its file. `blocks` of them must fit on one SM, which bounds the registers per thread. The body runs when the previous
// launch is over.
#define KERNEL(...) KERNEL_OF(__VA_ARGS__, 1)
#define KERNEL_OF(name, blocks, ...)                                                                                  \
    KERNEL_AS(extern "C" __global__ void __launch_bounds__(THREADS, blocks) name(Args a),                              \
              wait_for_previous_launch(), name##_body, (const Args& a), a)
// The block's static shared memory, at most 48 KiB, uninitialised; one such line per kernel.
#define SHARED(Type, name) __shared__ Type name
#endif

// Shape of a tensor [n, h, w, c]: images, rows, columns, channels; channels are contiguous.
struct Shape {
    u32 n, h, w, c;
    DEVICE u32 tokens() const { return h * w; }
    DEVICE u32 rows() const { return n * h * w; }
    DEVICE u32 elements() const { return rows() * c; }
};

// How an operand is stored. IN_PLACE: it shares its memory with the result, and its pointer is the result's.
enum Kind : u32 { ABSENT, F32, F16, BF16, IN_PLACE };

// ops::Function
enum Function : u32 { IDENTITY, GELU_ERF, QUICK_GELU, SILU };

// A tensor of any storage type, read as f32: a weight as the file stores it, or an activation that feeds only GEMMs, which
// may be BF16. All other activations are F32.
struct Tensor {
    const void* at;
    u32 kind;
    DEVICE explicit operator bool() const { return kind != ABSENT; }
    DEVICE float operator[](u32 i) const {
        if (kind == BF16) return from_bf16(static_cast<const u16*>(at)[i]);
        if (kind == F16) return from_f16(static_cast<const u16*>(at)[i]);
        return static_cast<const float*>(at)[i];
    }
};

// The arguments of a kernel, filled in by backend/cuda/args.rs. Operands are in the op's order; an absent one is all zero.
struct Args {
    void* out_at;
    const void* operand_at[8];
    void* scratch_at; // passes data between the launches of one op
    Shape out;
    Shape shape[8];
    u32 kind[8];
    u32 constant[8]; // the op's constants, in the order of its fields
    u32 out_kind;    // F32, or BF16 if only GEMMs read the result
    u32 squares_from; // offset in scratch of the sums of squares that a linear layer leaves for a GRN (grn_squares.cuh); 0 if none
    u32 counters_from; // offset in scratch of the split-K counters: zero when a launch starts, and zero again when it ends
    u32 sms;           // of the GPU, for hints

    // Stores element i of the result.
    DEVICE void store(u32 i, float value) const {
        if (out_kind == BF16) {
            static_cast<u16*>(out_at)[i] = u16(to_bf16(value, 0.0f));
        } else {
            static_cast<float*>(out_at)[i] = value;
        }
    }
    DEVICE float* scratch() const { return static_cast<float*>(scratch_at); }
    DEVICE float* squares() const { return squares_from ? scratch() + squares_from : nullptr; }
    DEVICE u32* counters() const { return static_cast<u32*>(scratch_at) + counters_from; }
    DEVICE const float* real(u32 i) const { return static_cast<const float*>(operand(i)); }
    DEVICE const u32* index(u32 i) const { return static_cast<const u32*>(operand(i)); }
    DEVICE Tensor tensor(u32 i) const { return {operand(i), kind[i]}; }
    DEVICE const void* operand(u32 i) const { return readable(operand_at[i]); }
    DEVICE bool has(u32 i) const { return kind[i] != ABSENT; }
    DEVICE float number(u32 i) const { return __uint_as_float(constant[i]); }
};
static_assert(sizeof(Args) == 304, "as in backend/cuda/args.rs");

// This thread's element in a grid of one thread per element. No tensor has 2^32 elements.
DEVICE u32 this_element() { return blockIdx.x * blockDim.x + threadIdx.x; }

DEVICE u32 min_of(u32 a, u32 b) { return a < b ? a : b; }
DEVICE u32 div_up(u32 a, u32 b) { return (a + b - 1) / b; }

// The exact GELU, x Phi(x), computed without cancellation as max(x, 0) - u Phi(-u) with u = |x|. log2 Phi(-u) is nearly a
// parabola: 2^P(u), with P of degree 8, approximates Phi(-u) to 7e-8 up to u = 5.5 and decays faster beyond. The absolute
// error is at most 1.3e-7 |x|; the relative error of small results, down to x = -5.5, is 4e-5. It takes 11 instructions,
// one of them on the special function unit. erff takes 25, and 1 + erf(x) would cancel for negative x.
DEVICE float gelu(float x) {
    const float u = fabsf(x);
    float p = -7.134496e-7f;
    p = p * u + 1.2372529e-5f;
    p = p * u - 5.1253471e-5f;
    p = p * u - 4.7372872e-4f;
    p = p * u + 7.5078018e-3f;
    p = p * u - 0.05279881f;
    p = p * u - 0.4591122f;
    p = p * u - 1.1511163f;
    p = p * u - 0.99999982f;
    return fmaxf(x, 0.0f) - u * exp2_approx(p);
}

// ops::Function of x. expf may overflow, which is fine: 1 / inf is 0.
DEVICE float apply(u32 function, float x) {
    switch (function) {
    case GELU_ERF: return gelu(x);
    case QUICK_GELU:
    case SILU: return x / (1.0f + expf((function == SILU ? -1.0f : -1.702f) * x));
    default: return x;
    }
}

// The same for an array. Choosing the function once lets the compiler interleave the elements' computations.
template <u32 COUNT> DEVICE void apply_to(float (&v)[COUNT], u32 function) {
    if (function == IDENTITY) return;
    if (function == GELU_ERF) {
        for (u32 i = 0; i < COUNT; ++i) v[i] = gelu(v[i]);
    } else {
        for (u32 i = 0; i < COUNT; ++i) v[i] = apply(function, v[i]);
    }
}

// Sum over a warp, returned in every lane; the order of additions is fixed.
DEVICE float warp_sum(float v) {
    for (u32 step = 16; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
}

// Maximum over a warp, returned in every lane.
DEVICE float warp_max(float v) {
    for (u32 step = 16; step > 0; step /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, step));
    return v;
}

// Maximum and sum over the four lanes that share a row of an MMA accumulator.
DEVICE float row_max(float v) {
    v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 1));
    return fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 2));
}
DEVICE float row_sum(float v) {
    v += __shfl_xor_sync(0xffffffffu, v, 1);
    return v + __shfl_xor_sync(0xffffffffu, v, 2);
}

// Sum over a block, returned in every thread. `parts` is in shared memory.
template <u32 WARPS> DEVICE float block_sum(float v, float (&parts)[WARPS]) {
    v = warp_sum(v);
    __syncthreads(); // the previous sum may still be being read
    if (lane() == 0) parts[warp()] = v;
    __syncthreads();
    float sum = 0.0f;
    for (u32 i = 0; i < WARPS; ++i) sum += parts[i];
    return sum;
}
