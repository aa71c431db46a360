// feed_forward: y = x + g5 (W2 gelu(W0 (LN(x) (1 + g3) + g4) + b0) + b2), g = gammas, on tensor cores
//
// Operands as in feed_forward.cu, but
// scratch  [n, h, w, m rounded up to a multiple of PAIR] bf16: the hidden values
//
// Launch     feed_forward_mma_up: one block for every TILE_M rows and TILE_N hidden values; then
//            feed_forward_mma: one block for every TILE_M rows and TILE_N channels.
// Shared     48 KiB: three tiles of either factor.
// Memory     writes and reads the hidden values, the largest tensor there is, in 16 bits.
// Numerics   the factors of both products are rounded to bf16, hidden values among them; the norm, sums and
//            all the rest in f32.
// Needs      sm_80: cp.async, ldmatrix, mma.sync on bf16.
// Tunables   TILE_M, TILE_N.
// Reference  src/ops/feed_forward.rs
#include "feed_forward.cuh"

constexpr u32 TILE_M = 128;
constexpr u32 TILE_N = 128;
constexpr u32 PAIR = 2; // hidden values in a place of 32 bits
#include "tensor.cuh"
static_assert(CHUNKS_M == 2 && CHUNKS == 4, "a thread has two rows, and shares each with three");

DEVICE u32 hidden_stride(const Args& a) { return div_up(a.shape[B0].c, PAIR) * PAIR; }

struct Normed {
    static constexpr bool ASYNC = false;
    const Args& a;
    Norm rows[CHUNKS_M];
    u32 first;
    DEVICE void load(float (&to)[CHUNK], u32 i, u32 k) const {
        const u32 c = a.out.c, count = first + chunk_row(i) < a.out.rows() && k < c ? c - k : 0;
        load_reals(to, rows[i].x + k, count, c % 4 == 0);
        for (u32 j = 0; j < CHUNK; ++j) to[j] = j < count ? rows[i](to[j]) : 0.0f;
    }
};

KERNEL(feed_forward_mma_up, 2) {
    SHARED(Factors, s);
    const u32 row = blockIdx.x * TILE_M, column = blockIdx.y * TILE_N, rows = a.out.rows(), hidden = a.shape[B0].c;
    const auto norm = [&](u32 i) { return Norm(a, min_of(row + chunk_row(i), rows - 1), threadIdx.x % CHUNKS); };
    Sums sums;
    product(s, sums, a.out.c, Normed{a, {norm(0), norm(1)}, row}, a.tensor(W0), column, hidden);
    const Tensor bias = a.tensor(B0);
    u16* to = reinterpret_cast<u16*>(a.scratch());
    sums.each(s, [&](u32 r, u32 c, float(&v)[CHUNK]) {
        const u32 o = column + c;
        if (row + r >= rows || o >= hidden) return;
        float ride[CHUNK];
        load_tensor(ride, bias, o, hidden - o, true);
        for (u32 i = 0; i < CHUNK; ++i) v[i] = apply(GELU_ERF, v[i] + ride[i]);
        const uint4 bits = round_chunk(v);
        u16* at = to + (row + r) * hidden_stride(a) + o;
        if (hidden % CHUNK == 0) {
            *reinterpret_cast<uint4*>(at) = bits;
        } else {
            const u32 pairs[CHUNK / 2] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
            for (u32 i = 0; i < CHUNK; ++i) {
                if (o + i < hidden) at[i] = u16(pairs[i / 2] >> (i % 2 * 16));
            }
        }
    });
}

struct Hidden {
    static constexpr bool ASYNC = false;
    const Args& a;
    u32 first;
    DEVICE void load(float (&to)[CHUNK], u32 i, u32 k) const {
        const u32 row = first + chunk_row(i), hidden = a.shape[B0].c;
        const u32 count = row < a.out.rows() && k < hidden ? hidden - k : 0;
        load_tensor(to, Tensor{a.scratch(), BF16}, row * hidden_stride(a) + k, count, hidden % CHUNK == 0);
    }
};

KERNEL(feed_forward_mma, 2) {
    SHARED(Factors, s);
    const u32 row = blockIdx.x * TILE_M, column = blockIdx.y * TILE_N;
    Sums sums;
    product(s, sums, a.shape[B0].c, Hidden{a, row}, a.tensor(W2), column, a.out.c);
    const Tensor bias = a.tensor(B2);
    const float factor = a.tensor(GAMMAS)[5];
    sums.each(s, [&](u32 r, u32 c, float(&v)[CHUNK]) {
        const u32 o = column + c, channels = a.out.c, at = (row + r) * channels + o;
        if (row + r >= a.out.rows() || o >= channels) return;
        float ride[CHUNK], x[CHUNK];
        load_tensor(ride, bias, o, channels - o, true);
        load_reals(x, a.real(X) + at, channels - o, channels % CHUNK == 0);
        for (u32 i = 0; i < CHUNK; ++i) v[i] = x[i] + factor * (v[i] + ride[i]);
        store_result(a, at, channels - o, v, channels % CHUNK == 0);
    });
}
