// Vectorised access to four neighbouring channels: 16 bytes of f32, or 8 bytes of bf16 or f16, per load or store. A warp
// whose lanes take neighbouring vectors moves whole cache lines.
#pragma once
#include "common.cuh"

constexpr u32 QUAD = 4;

struct Quad {
    float at[QUAD];
    DEVICE float& operator[](u32 i) { return at[i]; }
    DEVICE float operator[](u32 i) const { return at[i]; }
    DEVICE float sum() const { return (at[0] + at[1]) + (at[2] + at[3]); }
};

DEVICE Quad load_quad(const float* x, u32 i) {
    const float4 v = *reinterpret_cast<const float4*>(x + i);
    return {{v.x, v.y, v.z, v.w}};
}

// Loads elements i to i + 3 of a tensor of this storage type; i is a multiple of four.
template <u32 KIND> DEVICE Quad load_quad(const void* x, u32 i) {
    if (KIND != BF16 && KIND != F16) return load_quad(static_cast<const float*>(x), i);
    const uint2 v = *reinterpret_cast<const uint2*>(static_cast<const u16*>(x) + i);
    const auto value = [](u32 bits) { return KIND == BF16 ? from_bf16(u16(bits)) : from_f16(u16(bits)); };
    return {{value(v.x), value(v.x >> 16), value(v.y), value(v.y >> 16)}};
}

// The same for a tensor whose storage type is known at run time.
DEVICE Quad load_quad(const Tensor& x, u32 i) {
    if (x.kind == BF16) return load_quad<BF16>(x.at, i);
    if (x.kind == F16) return load_quad<F16>(x.at, i);
    return load_quad<F32>(x.at, i);
}

// Loads COUNT consecutive vectors from element i on. The storage type is tested once, so that all loads are issued back to
// back instead of each waiting behind a branch.
template <u32 KIND, u32 COUNT> DEVICE void load_quads(Quad (&to)[COUNT], const void* x, u32 i) {
#pragma unroll
    for (u32 q = 0; q < COUNT; ++q) to[q] = load_quad<KIND>(x, i + q * QUAD);
}
template <u32 COUNT> DEVICE void load_quads(Quad (&to)[COUNT], const Tensor& x, u32 i) {
    if (x.kind == BF16) {
        load_quads<BF16>(to, x.at, i);
    } else if (x.kind == F16) {
        load_quads<F16>(to, x.at, i);
    } else {
        load_quads<F32>(to, x.at, i);
    }
}

// Stores elements i to i + 3 of the result; i is a multiple of four.
DEVICE void store_quad(const Args& a, u32 i, const Quad& y) {
    if (a.out_kind == BF16) {
        *reinterpret_cast<uint2*>(static_cast<u16*>(a.out_at) + i) = make_uint2(to_bf16(y[0], y[1]), to_bf16(y[2], y[3]));
    } else {
        *reinterpret_cast<float4*>(static_cast<float*>(a.out_at) + i) = float4{y[0], y[1], y[2], y[3]};
    }
}
