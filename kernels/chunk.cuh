// Chunks: eight neighbouring values, 16 bytes once rounded to bf16.
#pragma once
#include "common.cuh"

constexpr u32 CHUNK = 8;

// The values rounded to bf16.
DEVICE uint4 round_chunk(const float (&values)[CHUNK]) {
    uint4 bits;
    bits.x = to_bf16(values[0], values[1]);
    bits.y = to_bf16(values[2], values[3]);
    bits.z = to_bf16(values[4], values[5]);
    bits.w = to_bf16(values[6], values[7]);
    return bits;
}

// Loads eight values from x on, zeros after the first `count`; two vector loads if x is `aligned` to 16 bytes.
DEVICE void load_reals(float (&to)[CHUNK], const float* x, u32 count, bool aligned) {
    if (aligned && count >= CHUNK) {
        const float4 first = reinterpret_cast<const float4*>(x)[0], second = reinterpret_cast<const float4*>(x)[1];
        to[0] = first.x, to[1] = first.y, to[2] = first.z, to[3] = first.w;
        to[4] = second.x, to[5] = second.y, to[6] = second.z, to[7] = second.w;
    } else {
        for (u32 i = 0; i < CHUNK; ++i) to[i] = i < count ? x[i] : 0.0f;
    }
}

// The same for a tensor of any storage type, from element `first` on; `aligned` if `first` is a multiple of eight.
DEVICE void load_tensor(float (&to)[CHUNK], const Tensor& x, u32 first, u32 count, bool aligned) {
    if (x.kind == F32) {
        load_reals(to, static_cast<const float*>(x.at) + first, count, aligned);
        return;
    }
    const u16* at = static_cast<const u16*>(x.at) + first;
    u32 pairs[CHUNK / 2] = {};
    if (aligned && count >= CHUNK) {
        const uint4 all = *reinterpret_cast<const uint4*>(at);
        pairs[0] = all.x, pairs[1] = all.y, pairs[2] = all.z, pairs[3] = all.w;
    } else {
        for (u32 i = 0; i < CHUNK; ++i) pairs[i / 2] |= i < count ? u32(at[i]) << (i % 2 * 16) : 0;
    }
    // The type is tested once per chunk, not once per element.
    if (x.kind == BF16) {
        for (u32 i = 0; i < CHUNK; ++i) to[i] = from_bf16(u16(pairs[i / 2] >> (i % 2 * 16)));
    } else {
        for (u32 i = 0; i < CHUNK; ++i) to[i] = from_f16(u16(pairs[i / 2] >> (i % 2 * 16)));
    }
}

// Stores `count` elements of the result from `first` on; `aligned` if `first` is a multiple of eight.
DEVICE void store_result(const Args& a, u32 first, u32 count, const float (&values)[CHUNK], bool aligned) {
    if (!aligned || count < CHUNK) {
        for (u32 i = 0; i < min_of(count, CHUNK); ++i) a.store(first + i, values[i]);
    } else if (a.out_kind == BF16) {
        *reinterpret_cast<uint4*>(static_cast<u16*>(a.out_at) + first) = round_chunk(values);
    } else {
        float4* to = reinterpret_cast<float4*>(static_cast<float*>(a.out_at) + first);
        to[0] = {values[0], values[1], values[2], values[3]};
        to[1] = {values[4], values[5], values[6], values[7]};
    }
}
