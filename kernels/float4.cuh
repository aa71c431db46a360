// Vectorised access to four neighbouring channels: 16 bytes of f32, or 8 bytes of bf16 or f16, per load or store. A warp
// whose lanes take neighbouring vectors moves whole cache lines.
#pragma once
#include "common.cuh"

constexpr u32 VEC = 4;

struct Float4 {
    float at[VEC];
    DEVICE float& operator[](u32 i) { return at[i]; }
    DEVICE float operator[](u32 i) const { return at[i]; }
    DEVICE float sum() const { return (at[0] + at[1]) + (at[2] + at[3]); }
};

DEVICE Float4 load_float4(const float* x, u32 i) {
    const float4 v = *reinterpret_cast<const float4*>(x + i);
    return {{v.x, v.y, v.z, v.w}};
}

// Loads elements i to i + 3 of a tensor of this storage type; i is a multiple of four.
template <u32 KIND> DEVICE Float4 load_float4(const void* x, u32 i) {
    if (KIND != BF16 && KIND != F16) return load_float4(static_cast<const float*>(x), i);
    const uint2 v = *reinterpret_cast<const uint2*>(static_cast<const u16*>(x) + i);
    const auto value = [](u32 bits) { return KIND == BF16 ? from_bf16(u16(bits)) : from_f16(u16(bits)); };
    return {{value(v.x), value(v.x >> 16), value(v.y), value(v.y >> 16)}};
}

// The same for a tensor whose storage type is known at run time.
DEVICE Float4 load_float4(const Tensor& x, u32 i) {
    if (x.kind == BF16) return load_float4<BF16>(x.at, i);
    if (x.kind == F16) return load_float4<F16>(x.at, i);
    return load_float4<F32>(x.at, i);
}

// Loads COUNT consecutive vectors from element i on. The storage type is tested once, so that all loads are issued back to
// back instead of each waiting behind a branch.
template <u32 KIND, u32 COUNT> DEVICE void load_float4s(Float4 (&to)[COUNT], const void* x, u32 i) {
#pragma unroll
    for (u32 q = 0; q < COUNT; ++q) to[q] = load_float4<KIND>(x, i + q * VEC);
}
template <u32 COUNT> DEVICE void load_float4s(Float4 (&to)[COUNT], const Tensor& x, u32 i) {
    if (x.kind == BF16) {
        load_float4s<BF16>(to, x.at, i);
    } else if (x.kind == F16) {
        load_float4s<F16>(to, x.at, i);
    } else {
        load_float4s<F32>(to, x.at, i);
    }
}

// Stores elements i to i + 3 of the result; i is a multiple of four.
DEVICE void store_float4(const Args& a, u32 i, const Float4& y) {
    if (a.out_kind == BF16) {
        *reinterpret_cast<uint2*>(static_cast<u16*>(a.out_at) + i) = make_uint2(to_bf16(y[0], y[1]), to_bf16(y[2], y[3]));
    } else {
        *reinterpret_cast<float4*>(static_cast<float*>(a.out_at) + i) = float4{y[0], y[1], y[2], y[3]};
    }
}
