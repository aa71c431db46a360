// Of hopper.h: products.
#include "../common.cuh"

namespace host {

namespace {

constexpr unsigned WARPS = 4; // of a group

// Where a factor lies in shared memory, as its 64 bits say: PTX ISA, "Asynchronous Warpgroup Level Matrix Shared Memory
// Layout". This is read from there, not from how wgmma.cuh makes it.
struct Layout {
    unsigned start, leading, stride, pitch; // bytes; the last of a row, over which it is swizzled
    explicit Layout(std::uint64_t bits)
        : start(field(bits, 0)), leading(field(bits, 16)), stride(field(bits, 32)), pitch(bits >> 62 == 1 ? 128 : 64) {
        if (bits >> 62 != 1 && bits >> 62 != 2) fail("a factor that is not read as it is swizzled");
        // With a base offset of zero, the swizzle's pattern begins at multiples of eight rows.
        if ((bits >> 49 & 7) != 0 || start % 32 != 0 || start / pitch % 8 != 0) fail("a factor that is not aligned");
    }
    // 16 bytes of the factor: eight terms of a row, or one term of eight rows where the rows lie side by side.
    void read(void* to, unsigned row, unsigned term, bool transposed) const {
        unsigned at = start;
        at += transposed ? row / (pitch / 2) * leading + row % (pitch / 2) * 2 + term / 8 * stride + term % 8 * pitch
                         : row / 8 * stride + row % 8 * pitch + term * 2;
        at = unsigned(swizzled(at, pitch));
        if (at < SYSTEM_SHARED || at + 16 > SYSTEM_SHARED + launch.shared_limit) fail("a factor beyond shared memory");
        std::memcpy(to, block->shared + (at - SYSTEM_SHARED), 16);
    }

  private:
    static unsigned field(std::uint64_t bits, unsigned from) { return unsigned(bits >> from & 0x3fff) << 4; }
};

// 16 terms of each of `rows` rows of a factor from row `first` on, row by row.
std::vector<std::uint16_t> terms(std::uint64_t bits, unsigned first, unsigned rows, bool transposed) {
    const Layout layout(bits);
    std::vector<std::uint16_t> values(rows * 16);
    for (unsigned r = 0; r < rows; r += transposed ? 8 : 1) {
        for (unsigned k = 0; k < 16; k += transposed ? 1 : 8) {
            std::uint16_t chunk[8];
            layout.read(chunk, first + r, k, transposed);
            for (unsigned i = 0; i < 8; ++i) values[transposed ? (r + i) * 16 + k : r * 16 + k + i] = chunk[i];
        }
    }
    return values;
}

// Rows of a that a warp multiplies, from shared memory or from what its lanes hold.
std::vector<std::uint16_t> left_factor(const Product& p, unsigned warp) {
    if (!p.fragments[0]) return terms(p.a, warp % WARPS * 16, 16, false);
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
    return terms(p.b, 0, p.columns, p.transposed);
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

void product_start(Product product, float* sums, unsigned count, const std::uint32_t* fragments) {
    struct Lane {
        float* sums;
        const std::uint32_t* fragments;
        std::uint64_t a, b;
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
            if (!launch.idle) return false;
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

} // namespace host
