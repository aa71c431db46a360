// feed_forward: y = x + g5 (W2 gelu(W0 (LN(x) (1 + g3) + g4) + b0) + b2), g = gammas, on tensor cores
//
// Operands as in feed_forward.cu, but
// scratch  [n, h, w, c] bf16: the normed rows; [n, h, w, m] bf16: the hidden activations; c and m are padded with zeros to
//          multiples of CHUNK
//
// Launch     feed_forward_mma_norm: one warp per row, NORM_ROWS per block; then
//            feed_forward_mma_up: one block per TILE_N hidden channels and TILE_M rows; then
//            feed_forward_mma: one block per TILE_N channels and TILE_M rows.
//            Neighbouring blocks share rows; the weights stay in L2.
// Shared     48 KiB: three pipeline stages of each operand.
// Memory     reads x once for the norm (twice more from L1) and once for the residual; writes and reads the normed rows
//            and hidden activations in 16 bits; writes y. For 256 x 256 pixels of 384 channels: 0.8 GB, 0.24 ms of an
//            H100's memory bandwidth; the GEMMs are 155 GFLOP, 0.16 ms at its peak. From L2 the tiles read the normed
//            rows 12 times and the hidden ones 3 times, 1.2 GB, and the weights 512 times, 1.2 GB.
//            Keeping the hidden activations in shared memory would save 0.5 GB of memory traffic and most of the 1.2 GB
//            from L2. But 384 accumulators per row leave room for 64 to 128 rows per block, so the 2.4 MB of weights
//            would cost 1.2 to 2.4 GB from L2 again; and warps that share so few rows read the operands 4 to 8 times
//            from shared memory, which takes 0.35 ms or more. So hidden activations go through scratch memory.
// Numerics   the operands of both GEMMs, hidden activations included, are rounded to bf16; the norm, the accumulation and
//            everything else is f32.
// Needs      sm_80: cp.async, ldmatrix, mma.sync on bf16.
// Tunables   TILE_M, TILE_N.
// Reference  src/ops/feed_forward.rs
#include "feed_forward.cuh"

constexpr u32 TILE_M = 128;
constexpr u32 TILE_N = 128;
constexpr u32 NORM_ROWS = 8;
constexpr u32 WORDS = 4; // 32-bit words per chunk
#include "gemm_mma.cuh"
static_assert(THREADS == 32 * NORM_ROWS && WORDS * sizeof(u32) == CHUNK * sizeof(u16), "one warp per row, whole words");

// The two tensors in scratch memory, whose rows are padded to whole chunks.
struct Scratch {
    u32 rows, normed_stride, hidden_stride;
    u16 *normed, *hidden;
    DEVICE Scratch(const Args& a) : rows(a.out.rows()) {
        normed_stride = div_up(a.out.c, CHUNK) * CHUNK, hidden_stride = div_up(a.shape[B0].c, CHUNK) * CHUNK;
        normed = static_cast<u16*>(a.scratch_at), hidden = normed + rows * normed_stride;
    }
};

KERNEL(feed_forward_mma_norm) {
    const Scratch scratch(a);
    const u32 row = blockIdx.x * NORM_ROWS + warp(), c = a.out.c, stride = scratch.normed_stride;
    if (row >= scratch.rows) return; // the whole warp, so no shuffle misses a lane
    const Norm<32> norm(a, row, lane());
    for (u32 k = lane(); k < stride; k += 32) {
        scratch.normed[row * stride + k] = u16(to_bf16(k < c ? norm(norm.x[k]) : 0.0f, 0.0f));
    }
}

KERNEL(feed_forward_mma_up, 2) {
    SHARED(OperandTiles, s);
    const Scratch scratch(a);
    const u32 row = blockIdx.y * TILE_M, column = blockIdx.x * TILE_N, hidden = a.shape[B0].c;
    Accumulator acc;
    const Bf16Matrix normed{scratch.normed, row, scratch.rows, scratch.normed_stride};
    gemm_tile(s, acc, a.out.c, normed, a.tensor(W0), column, hidden);
    const Tensor bias = a.tensor(B0);
    acc.each(s, [&](u32 r, u32 c, float(&v)[CHUNK]) {
        const u32 o = column + c;
        if (row + r >= scratch.rows || o >= hidden) return;
        float b[CHUNK];
        load_tensor(b, bias, o, hidden - o, true);
        // Columns beyond the last hidden channel of the chunk are zero, and gelu(0) = 0.
        for (u32 i = 0; i < CHUNK; ++i) v[i] = apply(GELU_ERF, v[i] + b[i]);
        *reinterpret_cast<uint4*>(scratch.hidden + (row + r) * scratch.hidden_stride + o) = round_chunk(v);
    });
}

KERNEL(feed_forward_mma, 2) {
    SHARED(OperandTiles, s);
    const Scratch scratch(a);
    const u32 row = blockIdx.y * TILE_M, column = blockIdx.x * TILE_N;
    Accumulator acc;
    const Bf16Matrix hidden{scratch.hidden, row, scratch.rows, scratch.hidden_stride};
    gemm_tile(s, acc, a.shape[B0].c, hidden, a.tensor(W2), column, a.out.c);
    const Tensor bias = a.tensor(B2);
    const float factor = a.tensor(GAMMAS)[5];
    acc.each(s, [&](u32 r, u32 c, float(&v)[CHUNK]) {
        const u32 o = column + c, channels = a.out.c, at = (row + r) * channels + o;
        if (row + r >= a.out.rows() || o >= channels) return;
        float b[CHUNK], x[CHUNK];
        load_tensor(b, bias, o, channels - o, true);
        load_reals(x, a.real(X) + at, channels - o, channels % CHUNK == 0);
        for (u32 i = 0; i < CHUNK; ++i) v[i] = x[i] + factor * (v[i] + b[i]);
        store_result(a, at, channels - o, v, channels % CHUNK == 0);
    });
}
