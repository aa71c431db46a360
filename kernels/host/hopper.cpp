// The bodies of hopper.h.
#include "../common.cuh"

namespace host {

namespace {

constexpr unsigned WARPS = 4; // of a group

// Where something in this block's shared memory lies there.
std::size_t place(const void* at) {
    const auto* byte = static_cast<const unsigned char*>(at);
    if (byte < block->shared || byte >= block->shared + sizeof block->shared) fail("an address outside of shared memory");
    return std::size_t(byte - block->shared);
}

// The barrier at a place of a block's.
Phase& phase(Block& b, std::size_t at) {
    const auto found = b.phases.find(at);
    if (found == b.phases.end()) fail("a barrier that has not been made");
    if (b.running == 0) fail("a barrier of a block that has ended");
    if (&b != block && !found->second.visible) fail("a barrier that other blocks cannot see yet");
    return found->second;
}

void advance(Phase& p) {
    p.missing = p.arrivals;
    p.expected = 0;
    ++p.number;
}

// 16 bytes of a swizzled tile: chunk of a row, whose places depend on the row's address.
const unsigned char* chunk_at(const unsigned char* row, unsigned chunk) {
    return row + (chunk ^ reinterpret_cast<std::uintptr_t>(row) / ROW % 8) * 16;
}

void land(const TileCopy& copy) {
    const TensorMap& m = *copy.map;
    for (unsigned r = 0; r < m.tile[1]; ++r) {
        unsigned char* to = copy.to + r * ROW;
        for (unsigned c = 0; c < ROW / 16; ++c) {
            std::uint16_t values[8] = {};
            for (unsigned e = 0; e < 8; ++e) {
                const std::uint64_t at[3] = {std::uint64_t(copy.at[0] + long(c * 8 + e)), std::uint64_t(copy.at[1] + long(r)),
                                             std::uint64_t(copy.at[2])};
                if (at[0] >= m.extent[0] || at[1] >= m.extent[1] || at[2] >= m.extent[2]) continue; // zero
                const std::uint64_t from = m.address + at[2] * m.stride[1] + at[1] * m.stride[0] + at[0] * 2;
                std::memcpy(&values[e], reinterpret_cast<const void*>(from), 2);
            }
            std::memcpy(const_cast<unsigned char*>(chunk_at(to, c)), values, 16);
        }
    }
}

// 16 terms of `rows` rows of a factor, row by row, from a tile of rows of 64 terms. Terms begin where `at`
// points into a row, and swizzled or not, that is where they would lie in row 0.
std::vector<std::uint16_t> terms(const void* at, unsigned rows) {
    const auto address = reinterpret_cast<std::uintptr_t>(at);
    if (address % 32 != 0 || address / ROW % 8 != 0) fail("a factor that is not aligned");
    const unsigned first = address % ROW / 16;
    const auto* tile = static_cast<const unsigned char*>(at) - address % ROW;
    std::vector<std::uint16_t> values(rows * 16);
    for (unsigned r = 0; r < rows; ++r) {
        for (unsigned c = 0; c < 2; ++c) std::memcpy(&values[r * 16 + c * 8], chunk_at(tile + r * ROW, first + c), 16);
    }
    return values;
}

// The same of a factor whose rows lie along the terms: 16 terms of 64 rows.
std::vector<std::uint16_t> terms_transposed(const void* at, unsigned rows) {
    if (reinterpret_cast<std::uintptr_t>(at) % 1024 != 0) fail("a factor that is not aligned");
    if (rows != 64) fail("a transposed factor wider than its tile");
    std::vector<std::uint16_t> values(rows * 16);
    for (unsigned k = 0; k < 16; ++k) {
        const auto* row = static_cast<const unsigned char*>(at) + k * ROW;
        for (unsigned r = 0; r < rows; ++r) std::memcpy(&values[r * 16 + k], chunk_at(row, r / 8) + r % 8 * 2, 2);
    }
    return values;
}

// Rows of a that a warp multiplies, from shared memory or from what its lanes hold.
std::vector<std::uint16_t> left_factor(const Product& p, unsigned warp) {
    if (p.a) return terms(static_cast<const unsigned char*>(p.a) + warp % WARPS * 16 * ROW, 16);
    std::vector<std::uint16_t> values(16 * 16);
    for (unsigned l = 0; l < LANES; ++l) {
        for (unsigned i = 0; i < 8; ++i) {
            const unsigned row = l / 4 + i / 2 % 2 * 8, term = l % 4 * 2 + i % 2 + i / 4 * 8;
            values[row * 16 + term] = std::uint16_t(p.fragments[l][i / 2] >> (i % 2 * 16));
        }
    }
    return values;
}

std::vector<std::uint16_t> right_factor(const Product& p) {
    return p.transposed ? terms_transposed(p.b, p.columns) : terms(p.b, p.columns);
}

// Of the bits of a warp's sums.
std::uint64_t fingerprint(const Product& p) {
    std::uint64_t value = p.columns;
    for (const float* sums : p.sums) {
        for (unsigned i = 0; i < p.columns / 2; ++i) value = (value ^ __float_as_uint(sums[i])) * 0x100000001b3;
    }
    return value;
}

void compute(const Product& p, unsigned warp) {
    if (left_factor(p, warp) != p.left || right_factor(p) != p.right) fail("a factor that changes while it is multiplied");
    if (fingerprint(p) != p.before) fail("sums that change while products are added to them");
    std::vector<float> b(16 * p.columns), sums(p.columns);
    for (unsigned k = 0; k < 16; ++k) {
        for (unsigned c = 0; c < p.columns; ++c) b[k * p.columns + c] = from_bf16(p.right[c * 16 + k]);
    }
    for (unsigned row = 0; row < 16; ++row) {
        const auto at = [&](unsigned c) -> float& { return p.sums[row % 8 * 4 + c % 8 / 2][c / 8 * 4 + row / 8 * 2 + c % 2]; };
        for (unsigned c = 0; c < p.columns; ++c) sums[c] = p.add ? at(c) : 0.0f;
        for (unsigned k = 0; k < 16; ++k) {
            const float x = from_bf16(p.left[row * 16 + k]);
            const float* y = &b[k * p.columns];
            for (unsigned c = 0; c < p.columns; ++c) sums[c] += x * y[c];
        }
        for (unsigned c = 0; c < p.columns; ++c) at(c) = sums[c];
    }
}

// Of the same sums, those that are left see what has been added.
void update(Products& products, const Product& done) {
    const auto see = [&](std::vector<Product>& group) {
        for (auto& p : group) {
            if (p.sums[0] == done.sums[0]) p.before = fingerprint(p);
        }
    };
    for (auto& group : products.pending) see(group);
    see(products.open);
}

} // namespace

bool Phase::complete() const {
    long bytes = 0;
    for (const auto& copy : flying) bytes += copy.bytes;
    return missing == 0 && bytes == expected;
}

void barrier_init(const void* at, unsigned arrivals) {
    must_be_aligned(at, 8);
    Phase made{};
    made.arrivals = made.missing = arrivals;
    block->phases[place(at)] = made;
}

void barriers_show() {
    for (auto& [at, made] : block->phases) made.visible = true;
}

void barrier_arrive(const void* at, unsigned rank, long bytes) {
    if (rank >= block->cluster->size) fail("a block that the cluster does not have");
    Phase& p = phase(*block->cluster->blocks[rank], place(at));
    if (p.missing == 0) fail("more arrivals at a barrier than it counts");
    --p.missing;
    p.expected += bytes;
    if (p.missing == 0 && p.expected == 0 && p.flying.empty()) advance(p);
}

void barrier_wait(const void* at, unsigned parity) {
    struct Over final : Condition {
        const Phase& p;
        const unsigned parity;
        Over(const Phase& phase, unsigned which) : p(phase), parity(which) {}
        bool holds() const override { return p.number % 2 != parity || p.complete(); }
        const char* missing() const override {
            return p.missing > 0 ? "a barrier that too few arrive at" : "a barrier that expects other bytes than are copied";
        }
    };
    Phase& p = phase(*block, place(at));
    wait_for(Over(p, parity));
    if (p.number % 2 != parity) return;
    for (const auto& copy : p.flying) {
        if (!launch.eager) land(copy);
    }
    p.flying.clear();
    advance(p);
}

void tile_copy(void* to, const TensorMap& map, int channel, int row, int image, const void* barrier, unsigned ranks) {
    must_be_aligned(to, 1024); // where the swizzle begins
    if (map.address % 16 != 0 || map.stride[0] % 16 != 0 || map.stride[1] % 16 != 0) fail("a tensor that is not aligned");
    if (map.tile[0] * 2 != ROW || map.tile[1] > 256 || map.tile[2] != 1) fail("a tile that cannot be copied at once");
    if (ranks == 0 || ranks >> block->cluster->size != 0) fail("a block that the cluster does not have");
    const unsigned bytes = map.tile[1] * ROW;
    const std::size_t at = place(to);
    if (at + bytes > launch.shared_limit) fail("a tile beyond shared memory");
    for (unsigned r = 0; r < block->cluster->size; ++r) {
        if (!(ranks >> r & 1)) continue;
        Block& b = *block->cluster->blocks[r];
        Phase& p = phase(b, place(barrier));
        if (!p.visible) fail("a barrier that copies cannot see yet");
        p.flying.push_back({&map, {channel, row, image}, b.shared + at, bytes});
        if (launch.eager) land(p.flying.back());
    }
}

void product_start(Product product, float* sums, unsigned count, const std::uint32_t* fragments) {
    struct Lane {
        float* sums;
        const std::uint32_t* fragments;
        const void *a, *b;
    };
    const auto& all = exchange(Lane{sums, fragments, product.a, product.b});
    if (lane() != 0) return;
    Products& mine = warp().products;
    if (!mine.fenced) fail("products without a fence before them");
    for (unsigned l = 0; l < LANES; ++l) {
        if (all[l].a != product.a || all[l].b != product.b) fail("lanes that multiply different things");
        product.sums[l] = all[l].sums;
        product.fragments[l] = all[l].fragments;
    }
    product.columns = 2 * count;
    product.left = left_factor(product, fiber->index / LANES);
    product.right = right_factor(product);
    product.before = fingerprint(product);
    ++mine.started;
    mine.open.push_back(std::move(product));
}

void products_fence() { warp().products.fenced = true; }

void products_commit() {
    if (lane() != 0) return;
    Products& mine = warp().products;
    mine.pending.push_back(std::move(mine.open));
    mine.open.clear();
}

void products_wait(unsigned left) {
    struct Together final : Condition {
        const Warp* group = &block->warps[fiber->index / LANES / WARPS * WARPS];
        const unsigned started = warp().products.started;
        bool holds() const override {
            for (unsigned w = 0; w < WARPS; ++w) {
                if (group[w].products.started < started) return false;
            }
            return true;
        }
        const char* missing() const override { return "a product that not all warps of a group start"; }
    };
    wait_warp(); // all lanes have started theirs
    if (lane() == 0) {
        wait_for(Together());
        Products& mine = warp().products;
        while (mine.pending.size() > left) {
            // One after the other, so that each sees the sums of those before.
            auto& group = mine.pending.front();
            while (!group.empty()) {
                const Product p = std::move(group.front());
                group.erase(group.begin());
                compute(p, fiber->index / LANES);
                update(mine, p);
            }
            mine.pending.erase(mine.pending.begin());
        }
        mine.fenced = false;
    }
    wait_warp();
}

void registers_change(unsigned to, bool more) {
    struct Enough final : Condition {
        const unsigned wanted;
        const Block* of = block;
        explicit Enough(unsigned count) : wanted(count) {}
        bool holds() const override { return of->free_registers >= wanted; }
        const char* missing() const override { return "registers that nobody gives back"; }
    };
    wait_warp();
    if (lane() == 0) {
        unsigned& mine = warp().products.registers;
        if (to % 8 != 0 || to < 24 || to > 256 || (more ? to < mine : to > mine)) fail("registers that cannot be set so");
        if (more) {
            wait_for(Enough((to - mine) * LANES));
            block->free_registers -= (to - mine) * LANES;
        } else {
            block->free_registers += (mine - to) * LANES;
        }
        mine = to;
    }
    wait_warp();
}

unsigned cluster_rank() { return block->rank; }

void cluster_wait() { wait(block->cluster->barrier, block->cluster->size * launch.threads); }

void* place_in_cluster(unsigned rank, const void* at) {
    if (rank >= block->cluster->size) fail("a block that the cluster does not have");
    if (block->cluster->barrier.generation == 0) fail("a place in a block that may not have begun");
    Block& b = *block->cluster->blocks[rank];
    if (b.running == 0) fail("a place in a block that has ended");
    return b.shared + place(at);
}

} // namespace host
