// attention: softmax(Q K^T / sqrt(d)) V for each head, keys of the image and of its context, on Hopper's tensor cores
//
// Operands as in attention.cu; x and context are bf16, heads have DIM channels.
//
// Launch     one block for every QUERIES queries of a head (y) of an image (z), THREADS threads: three groups of four
//            warps with 64 queries each, and one that copies.
// Shared     121 KiB: the queries, and six tiles of KEYS keys or their values.
// Memory     reads K and V once for every QUERIES queries; never writes a score.
// Numerics   The weights of the values are rounded to bf16; scores, their softmax and sums are f32. The largest
//            score so far is subtracted before exp, and sums are scaled when it grows.
// Needs      sm_90a: copies of tiles, wgmma.
// Tunables   QUERIES, KEYS, SLOTS.
// Reference  src/ops/attention.rs
#include "attention.cuh"
#include "wgmma.cuh"

constexpr u32 QUERIES = 192;
constexpr u32 KEYS = 128; // of a tile
constexpr u32 COPY = 64;  // rows that are copied at once
constexpr u32 DIM = 64;   // channels of a head
constexpr u32 SLOTS = 6;  // tiles, of keys and of values in turn
constexpr u32 CLUSTER_X = 1;
constexpr u32 CLUSTER_Y = 1;
constexpr u32 THREADS = 512;
constexpr u32 SHARED = 123904;
constexpr u32 CONSUMERS = QUERIES / 64, GROUP = 128;
constexpr u32 CONSUMER_REGISTERS = 160, PRODUCER_REGISTERS = 32;
static_assert(GROUP * (CONSUMERS * CONSUMER_REGISTERS + PRODUCER_REGISTERS) <= block_registers(THREADS), "there are so many");
static_assert(THREADS == GROUP * (CONSUMERS + 1) && DIM == TILE_K, "a group has 64 queries, another one copies");

struct Tiles {
    alignas(1024) u16 queries[QUERIES * DIM];
    alignas(1024) u16 of[SLOTS][KEYS * DIM];
    TileBarrier asked, full[SLOTS], empty[SLOTS]; // asked: the queries are there
};

// Which slot is next, and the parity of the phase in which it is filled.
struct Turn {
    u32 slot = 0, parity = 0;
    DEVICE void next() {
        if (++slot == SLOTS) slot = 0, parity ^= 1;
    }
};

// Copies the queries, then keys and values of the image and of the context. One thread.
DEVICE void produce(Tiles& s, const Maps& maps, const Head& head) {
    const u32 image = blockIdx.z, channel = blockIdx.y * DIM;
    s.asked.arrive_expecting(QUERIES * DIM * sizeof(u16));
    for (u32 i = 0; i < QUERIES; i += COPY) {
        copy_tile(&s.queries[i * DIM], maps.of[X], channel, blockIdx.x * QUERIES + i, image, s.asked);
    }
    Turn turn;
    const auto part = [&](const TensorMap& map, u32 count, u32 keys) {
        for (u32 first = 0; first < count; first += KEYS) {
            for (u32 value = 0; value < 2; ++value, turn.next()) {
                TileBarrier& full = s.full[turn.slot];
                s.empty[turn.slot].wait(turn.parity ^ 1); // the first time, of a phase before the first
                full.arrive_expecting(KEYS * DIM * sizeof(u16));
                for (u32 i = 0; i < KEYS; i += COPY) {
                    const u32 at = keys + value * head.channels;
                    copy_tile(&s.of[turn.slot][i * DIM], map, at, first + i, image, full);
                }
            }
        }
    };
    part(maps.of[X], head.own, head.channels + channel);
    part(maps.of[CONTEXT], head.context, channel);
}

// What a thread has of its two rows, lane() / 4 and 8 rows on.
struct Softmax {
    float sums[DIM / 2], total[2] = {}, largest[2] = {-INFINITY, -INFINITY};

    // From scores to weights; sums so far are scaled to the new largest score.
    DEVICE void weigh(float (&scores)[KEYS / 2], float factor) {
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            float most = largest[half];
#pragma unroll
            for (u32 j = 0; j < KEYS / 4; ++j) most = fmaxf(most, scores[j / 2 * 4 + half * 2 + j % 2]);
            // Every query sees its first key, so that this is finite from the first tile on.
            most = row_max(most);
            const float shrink = power_of_two((largest[half] - most) * factor), offset = most * factor;
            largest[half] = most;
            total[half] *= shrink; // of this lane's keys; lanes are added up at the end
#pragma unroll
            for (u32 j = 0; j < DIM / 4; ++j) sums[j / 2 * 4 + half * 2 + j % 2] *= shrink;
#pragma unroll
            for (u32 j = 0; j < KEYS / 4; ++j) {
                float& score = scores[j / 2 * 4 + half * 2 + j % 2];
                score = power_of_two(score * factor - offset);
                total[half] += score;
            }
        }
    }
};

DEVICE void leave(Tiles& s, u32 slot) {
    __syncwarp();
    if (lane() == 0) s.empty[slot].arrive();
}

// Sets four elements of the result, from a multiple of four on.
DEVICE void store_four(const Args& a, u32 first, const float4& v) {
    if (a.out_kind == BF16) {
        *reinterpret_cast<uint2*>(static_cast<u16*>(a.out_at) + first) = make_uint2(to_bf16(v.x, v.y), to_bf16(v.z, v.w));
    } else {
        *reinterpret_cast<float4*>(static_cast<float*>(a.out_at) + first) = v;
    }
}

// The queries of one group.
DEVICE void consume(const Args& a, Tiles& s, const Head& head, u32 group) {
    const u32 token = blockIdx.x * QUERIES + group * 64 + warp() % 4 * 16 + lane() / 4;
    // Scores are powers of two, which the GPU computes; 1.44… is log2(e).
    const float factor = 1.4426950408889634f / sqrtf(float(DIM));
    Softmax of;
#pragma unroll
    for (u32 i = 0; i < DIM / 2; ++i) of.sums[i] = 0.0f;
    u32 weights[KEYS / 16][4];
    float scores[KEYS / 2];
    Turn turn;
    s.asked.wait(0);
    const u32 own = div_up(head.own, KEYS), tiles = own + div_up(head.context, KEYS);
    for (u32 tile = 0; tile < tiles; ++tile) {
        s.full[turn.slot].wait(turn.parity);
        products_fence();
#pragma unroll
        for (u32 k = 0; k < DIM / 16; ++k) {
            start_product(scores, &s.queries[group * 64 * DIM + k * 16], &s.of[turn.slot][k * 16], k > 0);
        }
        products_commit();
        products_wait<0>();
        pin(scores);
        leave(s, turn.slot);
        turn.next();

        const u32 first = (tile < own ? tile : tile - own) * KEYS, count = tile < own ? head.own : head.context;
        const bool causal = head.causal && tile < own;
        if (causal || count - first < KEYS) {
#pragma unroll
            for (u32 i = 0; i < KEYS / 2; ++i) {
                const u32 key = first + i / 4 * 8 + lane() % 4 * 2 + i % 2;
                if (key >= count || (causal && key > token + i / 2 % 2 * 8)) scores[i] = -INFINITY;
            }
        }
        of.weigh(scores, factor);
#pragma unroll
        for (u32 k = 0; k < KEYS / 16; ++k) {
            for (u32 j = 0; j < 4; ++j) weights[k][j] = to_bf16(scores[k * 8 + j * 2], scores[k * 8 + j * 2 + 1]);
        }

        s.full[turn.slot].wait(turn.parity);
        pin(of.sums);
        products_fence();
#pragma unroll
        for (u32 k = 0; k < KEYS / 16; ++k) {
            start_product<true>(of.sums, weights[k], &s.of[turn.slot][k * 16 * DIM], true);
        }
        products_commit();
        products_wait<0>();
        pin(of.sums);
        leave(s, turn.slot);
        turn.next();
    }

#pragma unroll
    for (u32 half = 0; half < 2; ++half) {
        const float scale = 1.0f / row_sum(of.total[half]);
        const u32 row = token + half * 8;
#pragma unroll
        for (u32 j = 0; j < DIM / 8; j += 2) {
            // Neighbouring lanes exchange halves of two products' columns, so that each has four in a row.
            const bool odd = lane() % 2 != 0;
            const float *mine = &of.sums[4 * j + 2 * half], *next = mine + 4;
            const float first = __shfl_xor_sync(0xffffffffu, odd ? mine[0] : next[0], 1);
            const float second = __shfl_xor_sync(0xffffffffu, odd ? mine[1] : next[1], 1);
            const float4 four = {(odd ? first : mine[0]) * scale, (odd ? second : mine[1]) * scale,
                                 (odd ? next[0] : first) * scale, (odd ? next[1] : second) * scale};
            const u32 column = blockIdx.y * DIM + (j + u32(odd)) * 8 + lane() % 4 / 2 * 4;
            if (row < head.tokens) store_four(a, (blockIdx.z * head.tokens + row) * head.channels + column, four);
        }
    }
}

KERNEL_TILED(attention_sm90a) {
    SHARED_TILES(Tiles, s);
    const Head head(a, blockIdx.y, blockIdx.z);
    if (threadIdx.x == 0) {
        s.asked.init(1);
        for (u32 i = 0; i < SLOTS; ++i) s.full[i].init(1), s.empty[i].init(4 * CONSUMERS);
        show_barriers();
    }
    __syncthreads();
    if (threadIdx.x >= CONSUMERS * GROUP) {
        fewer_registers<PRODUCER_REGISTERS>();
        if (threadIdx.x == CONSUMERS * GROUP) produce(s, maps, head);
    } else {
        more_registers<CONSUMER_REGISTERS>();
        consume(a, s, head, threadIdx.x / GROUP);
    }
}
