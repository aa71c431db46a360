// The part of hopper.h that emulates wgmma.
#include "../common.cuh"

namespace host {

namespace {

constexpr unsigned WARPS = 4; // of a warpgroup

// Where an operand lies in shared memory by its matrix descriptor: PTX ISA, "Asynchronous Warpgroup Level Matrix Shared Memory
// Layout". It is written after that text, not after how wgmma.cuh encodes descriptors, so that it can find an error there.
struct Layout {
    unsigned start, leading, stride, pitch; // bytes; the pitch is that of a row, within which chunks are swizzled
    explicit Layout(std::uint64_t bits)
        : start(field(bits, 0)), leading(field(bits, 16)), stride(field(bits, 32)), pitch(bits >> 62 == 1 ? 128 : 64) {
        if (bits >> 62 != 1 && bits >> 62 != 2) fail("an operand that is not read as it is swizzled");
        // With a base offset of zero, the swizzle's pattern begins at multiples of eight rows.
        if ((bits >> 49 & 7) != 0 || start % 32 != 0 || start / pitch % 8 != 0) fail("an operand that is not aligned");
    }
    // 16 bytes of the operand: eight k of a row or, transposed, one k of eight rows.
    void read(void* to, unsigned row, unsigned k, bool transposed) const {
        unsigned at = start;
        at += transposed ? row / (pitch / 2) * leading + row % (pitch / 2) * 2 + k / 8 * stride + k % 8 * pitch
                         : row / 8 * stride + row % 8 * pitch + k * 2;
        at = unsigned(swizzled(at, pitch));
        if (at < SYSTEM_SHARED || at + 16 > SYSTEM_SHARED + launch.shared_limit) fail("an operand beyond shared memory");
        std::memcpy(to, block->shared + (at - SYSTEM_SHARED), 16);
    }

  private:
    static unsigned field(std::uint64_t bits, unsigned from) { return unsigned(bits >> from & 0x3fff) << 4; }
};

// The 16 k of each of `rows` rows of an operand from row `first` on, row by row.
std::vector<std::uint16_t> tile(std::uint64_t bits, unsigned first, unsigned rows, bool transposed) {
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

// The rows of A that a warp multiplies, from shared memory or from its lanes' fragments.
std::vector<std::uint16_t> operand_a(const Wgmma& p, unsigned warp) {
    if (!p.fragments[0]) return tile(p.a, warp % WARPS * 16, 16, false);
    std::vector<std::uint16_t> values(16 * 16);
    for (unsigned l = 0; l < LANES; ++l) {
        for (unsigned i = 0; i < 8; ++i) {
            const unsigned row = l / 4 + i / 2 % 2 * 8, k = l % 4 * 2 + i % 2 + i / 4 * 8;
            values[row * 16 + k] = std::uint16_t(p.fragments[l][i / 2] >> (i % 2 * 16));
        }
    }
    return values;
}

std::vector<std::uint16_t> operand_b(const Wgmma& p) {
    return tile(p.b, 0, p.columns, p.transposed);
}

// Of the bits of a warp's accumulators.
std::uint64_t fingerprint(const Wgmma& p) {
    std::uint64_t value = p.columns;
    for (const float* acc : p.acc) {
        for (unsigned i = 0; i < p.columns / 2; ++i) value = (value ^ __float_as_uint(acc[i])) * 0x100000001b3;
    }
    return value;
}

void compute(const Wgmma& p, unsigned warp) {
    // Whatever wrote these in between would be read half the time on a GPU, and half the time not.
    if (operand_a(p, warp) != p.left) {
        fail(p.fragments[0] ? "fragments of A that change while wgmma reads them" : "a tile that changes while wgmma reads it");
    }
    if (operand_b(p) != p.right) fail("a tile that changes while wgmma reads it");
    if (fingerprint(p) != p.before) fail("accumulators that change while wgmma adds to them");
    std::vector<float> b(16 * p.columns), sums(p.columns);
    for (unsigned k = 0; k < 16; ++k) {
        for (unsigned c = 0; c < p.columns; ++c) b[k * p.columns + c] = from_bf16(p.right[c * 16 + k]);
    }
    for (unsigned row = 0; row < 16; ++row) {
        const auto at = [&](unsigned c) -> float& { return p.acc[row % 8 * 4 + c % 8 / 2][c / 8 * 4 + row / 8 * 2 + c % 2]; };
        for (unsigned c = 0; c < p.columns; ++c) sums[c] = p.add ? at(c) : 0.0f;
        for (unsigned k = 0; k < 16; ++k) {
            const float x = from_bf16(p.left[row * 16 + k]);
            const float* y = &b[k * p.columns];
            for (unsigned c = 0; c < p.columns; ++c) sums[c] += x * y[c];
        }
        for (unsigned c = 0; c < p.columns; ++c) at(c) = sums[c];
    }
}

// Lets the MMAs that are still in flight on the same accumulators see what has been added.
void update(Wgmmas& mmas, const Wgmma& done) {
    const auto see = [&](std::vector<Wgmma>& group) {
        for (auto& p : group) {
            if (p.acc[0] == done.acc[0]) p.before = fingerprint(p);
        }
    };
    for (auto& group : mmas.committed) see(group);
    see(mmas.open);
}

} // namespace

void wgmma_start(Wgmma mma, float* acc, unsigned count, const std::uint32_t* fragments) {
    struct Lane {
        float* acc;
        const std::uint32_t* fragments;
        std::uint64_t a, b;
    };
    const auto& all = exchange(Lane{acc, fragments, mma.a, mma.b});
    if (lane() != 0) return;
    Wgmmas& mine = warp().mmas;
    if (!mine.fenced) fail("MMAs without a fence before them");
    for (unsigned l = 0; l < LANES; ++l) {
        if (all[l].a != mma.a || all[l].b != mma.b) fail("lanes that multiply different things");
        mma.acc[l] = all[l].acc;
        mma.fragments[l] = all[l].fragments;
    }
    mma.columns = 2 * count;
    mma.left = operand_a(mma, fiber->index / LANES);
    mma.right = operand_b(mma);
    mma.before = fingerprint(mma);
    ++mine.started;
    mine.open.push_back(std::move(mma));
}

void wgmma_fence() { warp().mmas.fenced = true; }

void wgmma_commit() {
    if (lane() != 0) return;
    Wgmmas& mine = warp().mmas;
    mine.committed.push_back(std::move(mine.open));
    mine.open.clear();
}

void wgmma_wait(unsigned left) {
    struct Together final : Condition {
        const Warp* group = &block->warps[fiber->index / LANES / WARPS * WARPS];
        const unsigned started = warp().mmas.started;
        bool holds() const override {
            if (!launch.idle) return false;
            for (unsigned w = 0; w < WARPS; ++w) {
                if (group[w].mmas.started < started) return false;
            }
            return true;
        }
        const char* missing() const override { return "an MMA that not all warps of a warpgroup start"; }
    };
    wait_warp(); // all lanes have started theirs
    if (lane() == 0) {
        wait_for(Together());
        Wgmmas& mine = warp().mmas;
        while (mine.committed.size() > left) {
            // One after the other, so that each adds to what those before have added.
            auto& group = mine.committed.front();
            while (!group.empty()) {
                const Wgmma p = std::move(group.front());
                group.erase(group.begin());
                compute(p, fiber->index / LANES);
                update(mine, p);
            }
            mine.committed.erase(mine.committed.begin());
        }
        mine.fenced = false;
    }
    wait_warp();
}

} // namespace host
