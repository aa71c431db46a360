// feed_forward: y = x + g5 (W2 gelu(W0 (LN(x) (1 + g3) + g4) + b0) + b2), g = gammas, on tensor cores
//
// Operands as in feed_forward.cu, but
// scratch  [n, h, w, c] bf16: the normed values; [n, h, w, m] bf16: the hidden ones; c and m rounded up to whole
//          chunks, with zeros
//
// Launch     feed_forward_mma_norm: one warp a row, NORM_ROWS a block; then
//            feed_forward_mma_up: one block for every TILE_N hidden values and TILE_M rows; then
//            feed_forward_mma: one block for every TILE_N channels and TILE_M rows.
//            Neighbouring blocks have rows in common: the weights are what stays in L2.
// Shared     48 KiB: three tiles of either factor.
// Memory     reads x for the norm once and twice more from L1, and once to add to; writes and reads normed and hidden
//            values, in 16 bits; writes y. Of 256 x 256 pixels and 384 channels: 0.8 GB, 0.24 ms of an H100's memory,
//            where the products take 155 GFLOP, 0.16 ms at its peak. Each product tile copies its factors from L2:
//            12 times the normed and 3 times the hidden values, 1.2 GB, and 512 times the weights, 1.2 GB.
//            Hidden values kept in shared memory would spare 0.5 GB of memory and most of the 1.2 GB from L2; but
//            384 sums of each row leave room for 64 to 128 rows, whose 2.4 MB of weights are 1.2 to 2.4 GB from L2
//            again, and warps that share so few rows read the factors 4 to 8 times from shared memory, which then takes
//            0.35 ms or more. So they go through scratch.
// Numerics   the factors of both products are rounded to bf16, hidden values among them; the norm, sums and
//            all the rest in f32.
// Needs      sm_80: cp.async, ldmatrix, mma.sync on bf16.
// Tunables   TILE_M, TILE_N.
// Reference  src/ops/feed_forward.rs
#include "feed_forward.cuh"

constexpr u32 TILE_M = 128;
constexpr u32 TILE_N = 128;
constexpr u32 NORM_ROWS = 8;
constexpr u32 WORDS = 4; // of 32 bits, in a chunk
#include "tensor.cuh"
static_assert(THREADS == 32 * NORM_ROWS && WORDS * sizeof(u32) == CHUNK * sizeof(u16), "one warp a row, whole words");

// The scratch, whose rows have whole chunks.
struct Between {
    u32 rows, normed_stride, hidden_stride;
    u16 *normed, *hidden;
    DEVICE Between(const Args& a) : rows(a.out.rows()) {
        normed_stride = div_up(a.out.c, CHUNK) * CHUNK, hidden_stride = div_up(a.shape[B0].c, CHUNK) * CHUNK;
        normed = static_cast<u16*>(a.scratch_at), hidden = normed + rows * normed_stride;
    }
};

KERNEL(feed_forward_mma_norm) {
    const Between between(a);
    const u32 row = blockIdx.x * NORM_ROWS + warp(), c = a.out.c, stride = between.normed_stride;
    if (row >= between.rows) return; // a whole warp leaves
    const Norm<32> norm(a, row, lane());
    for (u32 k = lane(); k < stride; k += 32) {
        between.normed[row * stride + k] = u16(to_bf16(k < c ? norm(norm.x[k]) : 0.0f, 0.0f));
    }
}

KERNEL(feed_forward_mma_up, 2) {
    SHARED(Factors, s);
    const Between between(a);
    const u32 row = blockIdx.y * TILE_M, column = blockIdx.x * TILE_N, hidden = a.shape[B0].c;
    Sums sums;
    const Bf16Matrix normed{between.normed, row, between.rows, between.normed_stride};
    product(s, sums, a.out.c, normed, a.tensor(W0), column, hidden);
    const Tensor bias = a.tensor(B0);
    sums.each(s, [&](u32 r, u32 c, float(&v)[CHUNK]) {
        const u32 o = column + c;
        if (row + r >= between.rows || o >= hidden) return;
        float ride[CHUNK];
        load_tensor(ride, bias, o, hidden - o, true);
        // Beyond the last hidden value all is zero, and stays so.
        for (u32 i = 0; i < CHUNK; ++i) v[i] = apply(GELU_ERF, v[i] + ride[i]);
        *reinterpret_cast<uint4*>(between.hidden + (row + r) * between.hidden_stride + o) = round_chunk(v);
    });
}

KERNEL(feed_forward_mma, 2) {
    SHARED(Factors, s);
    const Between between(a);
    const u32 row = blockIdx.y * TILE_M, column = blockIdx.x * TILE_N;
    Sums sums;
    const Bf16Matrix hidden{between.hidden, row, between.rows, between.hidden_stride};
    product(s, sums, a.shape[B0].c, hidden, a.tensor(W2), column, a.out.c);
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
