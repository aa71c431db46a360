// attention: softmax(Q K^T / sqrt(d)) V for each head; keys and values of the image and of its context; tensor cores
//
// Operands as in attention.cu; heads have at most DIM channels.
//
// Launch     one block per QUERIES queries of a head (y) of an image (z), 16 per warp.
// Shared     32 KiB: two buffers of KEYS keys and values, which first hold the queries.
// Memory     reads K and V once per QUERIES queries; scores stay on chip.
// Numerics   Q, K, V and the softmax weights are rounded to bf16 (operands stored as bf16 are copied as they are); scores,
//            softmax and accumulators are f32. Online softmax: the running maximum is subtracted before exp, and
//            accumulators are rescaled when it grows.
// Needs      sm_80: cp.async, ldmatrix, mma.sync on bf16.
// Tunables   QUERIES, KEYS.
// Reference  src/ops/attention.rs
#include "attention.cuh"
#include "chunk.cuh"

constexpr u32 QUERIES = 128;
constexpr u32 KEYS = 64; // per iteration
constexpr u32 DIM = 64;  // channels per head; a smaller head is padded with zeros
constexpr u32 THREADS = 256;
constexpr u32 CHUNKS = DIM / CHUNK;
static_assert(QUERIES == THREADS / 32 * 16 && QUERIES == 2 * KEYS, "a warp has 16 queries; queries fill the tiles");

struct Tiles {
    alignas(128) u16 of[2][2][KEYS * DIM]; // double buffer of keys and values; at first it holds the queries
};

// Swizzled offset of a chunk. A row spans all banks once; the exclusive or spreads the same chunk of eight neighbouring rows
// over eight different groups of banks, so that ldmatrix has no conflicts.
DEVICE u32 chunk_at(u32 row, u32 chunk) { return row * DIM + (chunk ^ (row & 7)) * CHUNK; }

// Loads `count` rows of a head, from at(0) on, into shared memory, followed by zeros. bf16 rows have landed after
// copies_wait; others are stored rounded at once.
template <u32 ROWS, class At> DEVICE void load_rows(u16* tile, u32 dim, u32 count, const At& at) {
#pragma unroll
    for (u32 i = threadIdx.x; i < ROWS * CHUNKS; i += THREADS) {
        const u32 row = i / CHUNKS, ch = i % CHUNKS * CHUNK;
        const Vector from = at(min_of(row, count - 1));
        const bool inside = row < count && ch < dim;
        u16* to = &tile[chunk_at(row, i % CHUNKS)];
        if (from.of.kind == BF16 && dim % CHUNK == 0) {
            copy_async(to, static_cast<const u16*>(from.of.at) + from.first + (inside ? ch : 0), inside);
        } else {
            float values[CHUNK];
            load_tensor(values, from.of, from.first + ch, inside ? dim - ch : 0, dim % CHUNK == 0);
            *reinterpret_cast<uint4*>(to) = round_chunk(values);
        }
    }
}

KERNEL(attention_mma, 2) {
    SHARED(Tiles, s);
    const Head head(a, blockIdx.y, blockIdx.z);
    const u32 first = blockIdx.x * QUERIES, count = head.count();
    // exp(s) is computed as 2^(s log2 e), for which the GPU has an instruction; 1.44… is log2(e).
    const float factor = 1.4426950408889634f / sqrtf(float(head.dim));

    u16* all = s.of[0][0];
    load_rows<QUERIES>(all, head.dim, head.tokens - first, [&](u32 row) { return head.query(first + row); });
    copies_commit();
    copies_wait<0>();
    __syncthreads();
    u32 queries[DIM / 16][4];
    for (u32 k = 0; k < DIM / 16; ++k) {
        load_matrices(queries[k], &all[chunk_at(warp() * 16 + lane() % 16, 2 * k + lane() / 16)]);
    }

    // This lane's rows of the fragments: lane() / 4 and, in their second halves, 8 rows further.
    const u32 token = first + warp() * 16 + lane() / 4;
    float acc[DIM / 8][4] = {}, total[2] = {}, largest[2] = {-INFINITY, -INFINITY};
    const auto fetch = [&](u32 block) {
        u16(&to)[2][KEYS * DIM] = s.of[block / KEYS % 2];
        if (block < count) {
            load_rows<KEYS>(to[0], head.dim, count - block, [&](u32 row) { return head.key(block + row); });
            load_rows<KEYS>(to[1], head.dim, count - block, [&](u32 row) { return head.value(block + row); });
        }
        copies_commit(); // even if empty, so that copies_wait can count groups
    };
    __syncthreads(); // every warp has its queries
    fetch(0);
    for (u32 block = 0; block < count; block += KEYS) {
        const u16(&tile)[2][KEYS * DIM] = s.of[block / KEYS % 2];
        fetch(block + KEYS);
        copies_wait<1>();
        __syncthreads(); // the keys and values have landed

        float scores[KEYS / 8][4] = {};
#pragma unroll
        for (u32 k = 0; k < DIM / 16; ++k) {
            for (u32 j = 0; j < KEYS / 8; j += 2) {
                u32 y[4];
                const u32 row = j * 8 + lane() / 16 * 8 + lane() % 8;
                load_matrices(y, &tile[0][chunk_at(row, 2 * k + lane() / 8 % 2)]);
                mma_bf16(scores[j], queries[k], y[0], y[1]);
                mma_bf16(scores[j + 1], queries[k], y[2], y[3]);
            }
        }

        const bool all_seen = !head.causal && block + KEYS <= count;
        float maximum[2] = {largest[0], largest[1]};
        for (u32 j = 0; j < KEYS / 8; ++j) {
            for (u32 i = 0; i < 4; ++i) {
                const bool seen = all_seen || head.sees(token + i / 2 * 8, block + j * 8 + lane() % 4 * 2 + i % 2);
                scores[j][i] = seen ? scores[j][i] * factor : -INFINITY;
                maximum[i / 2] = fmaxf(maximum[i / 2], scores[j][i]);
            }
        }
        for (u32 half = 0; half < 2; ++half) {
            // Every query attends to its first key, so the maximum is finite from the first block on.
            maximum[half] = row_max(maximum[half]);
            const float rescale = exp2_approx(largest[half] - maximum[half]);
            largest[half] = maximum[half];
            total[half] *= rescale; // over this lane's keys; reduced over the lanes at the end
            for (u32 j = 0; j < DIM / 8; ++j) acc[j][2 * half] *= rescale, acc[j][2 * half + 1] *= rescale;
        }
        for (u32 j = 0; j < KEYS / 8; ++j) {
            for (u32 i = 0; i < 4; ++i) {
                scores[j][i] = exp2_approx(scores[j][i] - maximum[i / 2]);
                total[i / 2] += scores[j][i];
            }
        }

#pragma unroll
        for (u32 k = 0; k < KEYS / 16; ++k) {
            // The accumulator layout of two score tiles is the A fragment of the P V product: no shuffle is needed.
            const float(&x)[4] = scores[2 * k], (&next)[4] = scores[2 * k + 1];
            const u32 weights[4] = {to_bf16(x[0], x[1]), to_bf16(x[2], x[3]), to_bf16(next[0], next[1]),
                                    to_bf16(next[2], next[3])};
            for (u32 j = 0; j < DIM / 8; j += 2) {
                u32 y[4];
                load_matrices_transposed(y, &tile[1][chunk_at(k * 16 + lane() % 16, j + lane() / 16)]);
                mma_bf16(acc[j], weights, y[0], y[1]);
                mma_bf16(acc[j + 1], weights, y[2], y[3]);
            }
        }
        __syncthreads(); // this buffer has been consumed; the tile after the next goes there
    }
    copies_wait<0>();

    for (u32 half = 0; half < 2; ++half) {
        const float all = row_sum(total[half]);
        const u32 row = token + half * 8;
        if (row >= head.tokens) continue;
        const u32 y = (blockIdx.z * head.tokens + row) * head.channels + blockIdx.y * head.dim;
        for (u32 j = 0; j < DIM / 8; ++j) {
            for (u32 i = 0; i < 2; ++i) {
                const u32 ch = j * 8 + lane() % 4 * 2 + i;
                if (ch < head.dim) a.store(y + ch, acc[j][2 * half + i] / all);
            }
        }
    }
}
