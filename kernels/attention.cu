// attention: softmax(Q K^T / sqrt(d)) V for each head; keys and values of the image and of its context
//
// x        [n, h, w, 3c] f32 or bf16: Q, K, V side by side; or Q alone, [n, h, w, c]
// context  [n, 1, s, 2c] f32 or bf16: K, V; or absent
// key_len  [1, 1, 1, n] u32, or absent: how many of its own keys an image attends to
// out      [n, h, w, c] f32 or bf16
//
// Launch     one block per QUERIES queries of a head (y) of an image (z).
// Shared     12.2 KiB.
// Memory     reads K and V once per QUERIES queries; scores stay on chip.
// Numerics   f32, online softmax: the running maximum is subtracted before exp, and accumulators are rescaled when it
//            grows. A head of more than CHANNELS channels is done CHANNELS at a time, each time recomputing the scores.
// Needs      nothing.
// Tunables   QUERIES, CHANNELS, THREADS.
// Reference  src/ops/attention.rs
#include "attention.cuh"

constexpr u32 QUERIES = 32;
constexpr u32 CHANNELS = 128;
constexpr u32 THREADS = 128;
constexpr u32 KEYS = 32;                      // per iteration, one per lane
constexpr u32 PART = 32;                      // channels per iteration
constexpr u32 QUERIES_PER_WARP = QUERIES / (THREADS / 32); // queries per warp

struct Tiles {
    float query[QUERIES][PART];
    float key[KEYS][PART + 1]; // padded, because lanes read different rows of the same column
    float score[QUERIES][KEYS];
};

KERNEL(attention) {
    SHARED(Tiles, s);
    const Head head(a, blockIdx.y, blockIdx.z);
    const u32 first = blockIdx.x * QUERIES, first_of_warp = warp() * QUERIES_PER_WARP, count = head.count();
    const float factor = 1.0f / sqrtf(float(head.dim));

    for (u32 from = 0; from < head.dim; from += CHANNELS) {
        float acc[QUERIES_PER_WARP][CHANNELS / PART] = {}, total[QUERIES_PER_WARP] = {}, largest[QUERIES_PER_WARP];
        for (u32 q = 0; q < QUERIES_PER_WARP; ++q) largest[q] = -INFINITY;

        for (u32 block = 0; block < count; block += KEYS) {
            float scores[QUERIES_PER_WARP] = {};
            for (u32 part = 0; part < head.dim; part += PART) {
                __syncthreads(); // the previous tile has been consumed
                for (u32 i = threadIdx.x; i < KEYS * PART; i += THREADS) {
                    const u32 row = i / PART, ch = part + i % PART;
                    const bool inside = ch < head.dim;
                    s.key[row][i % PART] = inside && block + row < count ? head.key(block + row)[ch] : 0.0f;
                    s.query[row][i % PART] = inside && first + row < head.tokens ? head.query(first + row)[ch] : 0.0f;
                }
                __syncthreads();
                for (u32 ch = 0; ch < PART; ++ch) {
                    for (u32 q = 0; q < QUERIES_PER_WARP; ++q) scores[q] += s.query[first_of_warp + q][ch] * s.key[lane()][ch];
                }
            }
            for (u32 q = 0; q < QUERIES_PER_WARP; ++q) {
                const bool seen = head.sees(first + first_of_warp + q, block + lane());
                const float score = seen ? scores[q] * factor : -INFINITY;
                const float maximum = fmaxf(largest[q], warp_max(score));
                // If no key has been visible yet, there is nothing to rescale.
                const float rescale = maximum == -INFINITY ? 0.0f : expf(largest[q] - maximum);
                const float weight = seen ? expf(score - maximum) : 0.0f;
                largest[q] = maximum;
                total[q] = total[q] * rescale + warp_sum(weight);
                for (float& sum : acc[q]) sum *= rescale;
                s.score[first_of_warp + q][lane()] = weight;
            }
            for (u32 part = 0; part < CHANNELS / PART && from + part * PART < head.dim; ++part) {
                __syncthreads();
                for (u32 i = threadIdx.x; i < KEYS * PART; i += THREADS) {
                    const u32 row = block + i / PART, ch = from + part * PART + i % PART;
                    const bool inside = ch < head.dim && row < count;
                    s.key[i / PART][i % PART] = inside ? head.value(row)[ch] : 0.0f;
                }
                __syncthreads();
#pragma unroll
                for (u32 fixed = 0; fixed < CHANNELS / PART; ++fixed) { // a compile-time index keeps sums in registers
                    if (fixed != part) continue;
                    for (u32 key = 0; key < KEYS; ++key) {
                        for (u32 q = 0; q < QUERIES_PER_WARP; ++q) {
                            acc[q][fixed] += s.score[first_of_warp + q][key] * s.key[key][lane()];
                        }
                    }
                }
            }
        }

        for (u32 q = 0; q < QUERIES_PER_WARP; ++q) {
            const u32 token = first + first_of_warp + q;
            if (token >= head.tokens) continue;
            const u32 y = (blockIdx.z * head.tokens + token) * head.channels + blockIdx.y * head.dim;
            for (u32 part = 0; part < CHANNELS / PART; ++part) {
                const u32 ch = from + part * PART + lane();
                if (ch < head.dim) a.store(y + ch, acc[q][part] / total[q]);
            }
        }
    }
}
