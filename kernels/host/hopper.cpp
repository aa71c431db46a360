// The parts of hopper.h that emulate mbarriers, TMA copies and clusters; wgmma is in wgmma.cpp.
#include "../common.cuh"

namespace host {

namespace {

// Offset in this block's shared memory.
std::size_t place(const void* at) {
    const auto* byte = static_cast<const unsigned char*>(at);
    if (byte < block->shared || byte >= block->shared + sizeof block->shared) fail("an address outside of shared memory");
    return std::size_t(byte - block->shared);
}

// The mbarrier at an offset in a block's shared memory.
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

void land(const TileCopy& copy) {
    const TensorMap& m = *copy.map;
    for (unsigned r = 0; r < m.rows(); ++r) {
        std::uint64_t row = m.address;
        bool inside = true;
        for (unsigned d = 1, left = r; d < m.rank; left /= m.tile[d++]) {
            const auto at = std::uint64_t(copy.at[d] + long(left % m.tile[d]));
            inside = inside && at < m.extent[d];
            row += at * m.stride[d - 1];
        }
        for (unsigned c = 0; c < m.tile[0]; c += 8) {
            std::uint16_t values[8] = {};
            for (unsigned e = 0; e < 8; ++e) {
                const auto at = std::uint64_t(copy.at[0] + long(c + e));
                if (!inside || at >= m.extent[0]) continue; // zero
                std::memcpy(&values[e], reinterpret_cast<const void*>(row + at * 2), 2);
            }
            const auto to = reinterpret_cast<std::uintptr_t>(copy.to + r * m.row() + c * 2);
            std::memcpy(reinterpret_cast<void*>(swizzled(to, m.row())), values, 16);
        }
    }
}

// A copy is not ordered after a thread's loads, unless that thread has executed a proxy fence.
void must_not_be_read(const Block& b, const unsigned char* to, unsigned bytes) {
    for (unsigned i = 0; i < launch.threads; ++i) {
        for (const unsigned char* row : b.fibers[i].rows_read) {
            if (row >= to && row < to + bytes) fail("a copy to where others have read, without a fence of theirs");
        }
    }
}

} // namespace

unsigned shared_address(const void* at) { return block->rank << 24 | unsigned(SYSTEM_SHARED + place(at)); }

void proxy_fence() { fiber->rows_read.clear(); }

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

void tile_copy(void* to, const TensorMap& map, const std::vector<int>& first, const void* barrier, unsigned ranks) {
    must_be_aligned(to, map.row() * 8); // where the swizzle begins
    must_not_be_in_flight(reinterpret_cast<const void*>(map.address));
    if (map.rank != first.size()) fail("a place of other dimensions than the tensor");
    if (map.row() != 128 && map.row() != 64) fail("a tile that cannot be copied at once");
    for (unsigned d = 1; d < map.rank; ++d) {
        if (map.stride[d - 1] % 16 != 0 || map.address % 16 != 0) fail("a tensor that is not aligned");
        if (map.tile[d] == 0 || map.tile[d] > 256) fail("a tile that cannot be copied at once");
    }
    if (ranks == 0 || ranks >> block->cluster->size != 0) fail("a block that the cluster does not have");
    const unsigned bytes = map.rows() * map.row();
    const std::size_t at = place(to);
    if (at + bytes > launch.shared_limit) fail("a tile beyond shared memory");
    for (unsigned r = 0; r < block->cluster->size; ++r) {
        if (!(ranks >> r & 1)) continue;
        Block& b = *block->cluster->blocks[r];
        Phase& p = phase(b, place(barrier));
        if (!p.visible) fail("a barrier that copies cannot see yet");
        must_not_be_read(b, b.shared + at, bytes);
        p.flying.push_back({&map, {}, b.shared + at, bytes});
        std::copy(first.begin(), first.end(), p.flying.back().at);
        if (launch.eager) land(p.flying.back());
    }
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
        unsigned& mine = warp().mmas.registers;
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

void cluster_barrier(bool releases) {
    if (releases) {
        for (const auto& store : fiber->remote) *store.to = store.value;
        fiber->remote.clear();
    }
    wait(block->cluster->barrier, block->cluster->size * launch.threads);
}

void* place_in_cluster(unsigned rank, const void* at) {
    if (rank >= block->cluster->size) fail("a block that the cluster does not have");
    if (block->cluster->barrier.generation == 0) fail("a place in a block that may not have begun");
    Block& b = *block->cluster->blocks[rank];
    if (b.running == 0) fail("a place in a block that has ended");
    return b.shared + place(at);
}

} // namespace host
