// The fibers behind device.h, and the one function that a test calls.
#include "../common.cuh"

#include <cstdio>
#include <cstdlib>
#include <memory>

namespace host {

thread_local Launch launch;
thread_local Block* block;
thread_local Fiber* fiber;

namespace {

constexpr std::size_t STACK = 64 << 10;

thread_local void* scheduler; // its stack, while a fiber runs
thread_local const Args* arguments;
thread_local const void* tensor_maps;
thread_local void (*body)(Args, const void*);

#if defined(__x86_64__)
// Saves this stack and switches to another. Only the registers that a call preserves need saving.
extern "C" void cascade_switch(void** save, void* to);
asm(R"(
.text
.globl cascade_switch
cascade_switch:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
)");
constexpr unsigned SAVED = 6;
#elif defined(__aarch64__)
extern "C" void cascade_switch(void** save, void* to);
asm(R"(
.text
.globl cascade_switch
cascade_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x2, sp
    str x2, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
)");
#else
#error "no switch of stacks for this architecture"
#endif

[[noreturn]] void run_fiber() {
    body(*arguments, tensor_maps);
    if (!fiber->waited) fail("a thread that has not waited for the previous launch");
    if (!fiber->remote.empty()) fail("a place in a block that never sees what was stored there");
    fiber->done = true;
    --block->running;
    for (;;) yield();
}

// A stack on which cascade_switch finds run_fiber to return to.
void* prepare(unsigned char* stack) {
    void** top = reinterpret_cast<void**>(stack + STACK);
#if defined(__x86_64__)
    *--top = nullptr; // keeps the stack aligned as after a call
    *--top = reinterpret_cast<void*>(run_fiber);
    for (unsigned i = 0; i < SAVED; ++i) *--top = nullptr;
#else
    top -= 20;
    for (unsigned i = 0; i < 20; ++i) top[i] = nullptr;
    top[11] = reinterpret_cast<void*>(run_fiber); // x30
#endif
    return top;
}

void begin(Block& b, unsigned char* stacks) {
    b.running = launch.threads;
    b.shared_filled = false;
    b.barrier = Barrier{};
    for (auto& barrier : b.named_barriers) barrier = Barrier{};
    b.phases.clear();
    b.free_registers = 0;
    const unsigned registers = REGISTERS / launch.threads / 8 * 8;
    for (auto& warp : b.warps) warp.barrier = Barrier{}, warp.mmas = Wgmmas{}, warp.mmas.registers = registers;
    for (unsigned i = 0; i < launch.threads; ++i) {
        Fiber& f = b.fibers[i];
        f.of = &b;
        f.thread = {i, 0, 0};
        f.index = i;
        f.waited = f.done = false;
        f.waits_for = nullptr;
        f.exchanges = 0;
        f.open.clear();
        f.groups.clear();
        f.remote.clear();
        f.rows_read.clear();
        f.stopped_at = prepare(stacks + i * STACK);
    }
}

// Runs the fibers of a warp until none can run; returns whether any did.
bool run_warp(Block& b, unsigned first, bool downwards) {
    const unsigned lanes = launch.threads - first < LANES ? launch.threads - first : LANES;
    bool ran = false;
    for (bool again = true; again && !launch.fault;) {
        again = false;
        for (unsigned k = 0; k < lanes && !launch.fault; ++k) {
            Fiber& f = b.fibers[first + (downwards ? lanes - 1 - k : k)];
            if (f.done || (f.waits_for && !f.waits_for->holds())) continue;
            block = &b;
            fiber = &f;
            launch.idle = false;
            cascade_switch(&scheduler, f.stopped_at);
            again = ran = true;
        }
    }
    return ran;
}

void run_cluster(Cluster& cluster, bool downwards) {
    const unsigned warps = (launch.threads + LANES - 1) / LANES;
    // A block, like a warp, runs as far as it can before the next one does.
    const auto run_block = [&](Block& b) {
        bool ran = false;
        for (bool again = true; again && !launch.fault;) {
            again = false;
            for (unsigned k = 0; k < warps; ++k) again |= run_warp(b, (downwards ? warps - 1 - k : k) * LANES, downwards);
            ran |= again;
        }
        return ran;
    };
    for (bool ran = true; (ran || !launch.idle) && !launch.fault;) {
        launch.idle = !ran; // then a warp that waits for MMAs goes on
        ran = false;
        for (unsigned k = 0; k < cluster.size; ++k) ran |= run_block(*cluster.blocks[downwards ? cluster.size - 1 - k : k]);
    }
    for (unsigned r = 0; r < cluster.size && !launch.fault; ++r) {
        const Block& b = *cluster.blocks[r];
        for (unsigned i = 0; i < launch.threads && !launch.fault; ++i) {
            const Fiber& f = b.fibers[i];
            if (!f.done) launch.fault = f.waits_for->missing();
            if (f.done && (!f.open.empty() || !f.groups.empty())) launch.fault = "copies that nobody waits for";
        }
        for (const auto& [at, phase] : b.phases) {
            if (!launch.fault && !phase.flying.empty()) launch.fault = "copies that nobody waits for";
        }
        for (const auto& warp : b.warps) {
            if (!launch.fault && !warp.mmas.committed.empty()) launch.fault = "MMAs that nobody waits for";
        }
    }
}

} // namespace

void yield() { cascade_switch(&fiber->stopped_at, scheduler); }

void fail(const char* message) {
    launch.fault = message;
    for (;;) yield();
}

void wait_for(const Condition& condition) {
    if (condition.holds()) return;
    fiber->waits_for = &condition;
    yield();
    fiber->waits_for = nullptr;
}

unsigned arrive(Barrier& barrier, unsigned threads) {
    const unsigned generation = barrier.generation;
    if (++barrier.arrived == threads) {
        barrier.arrived = 0;
        ++barrier.generation;
    }
    return generation;
}

void pass(const Barrier& barrier, unsigned generation) {
    struct Passed final : Condition {
        const Barrier& barrier;
        const unsigned generation;
        Passed(const Barrier& b, unsigned which) : barrier(b), generation(which) {}
        bool holds() const override { return barrier.generation != generation; }
        const char* missing() const override { return "a barrier that not all threads reach"; }
    };
    wait_for(Passed(barrier, generation));
}

void* shared_memory(std::size_t bytes) {
    if (bytes > launch.shared_limit) fail("more shared memory than a block has");
    if (!block->shared_filled) std::memset(block->shared, 0xff, bytes); // NaN
    block->shared_filled = true;
    return block->shared;
}

} // namespace host

// Made by build.rs, from every KERNEL(name).
struct Entry {
    const char* name;
    void (*run)(Args, const void*);
};
extern const Entry cascade_kernels[];

// Runs a kernel, cluster after cluster and thread after thread, in ascending or descending order. `written` is the memory that
// launches write. Returns null, or what went wrong.
extern "C" const char* cascade_launch(const char* name, const unsigned* grid, const unsigned* cluster, unsigned threads,
                                      unsigned shared, const Args* args, const void* maps, bool downwards,
                                      const host::Range* written, unsigned ranges) {
    using namespace host;
    const Entry* entry = cascade_kernels;
    while (entry->name && std::strcmp(entry->name, name) != 0) ++entry;
    if (!entry->name) return "no such kernel";
    if (threads == 0 || threads > MAX_THREADS || shared > MAX_SHARED) return "a block larger than a GPU allows";
    const unsigned size = cluster[0] * cluster[1];
    if (size == 0 || size > MAX_BLOCKS) return "a cluster larger than the emulator allows";
    if (grid[0] % cluster[0] != 0 || grid[1] % cluster[1] != 0) return "a grid that is not whole clusters";
    static thread_local std::unique_ptr<Block> blocks[MAX_BLOCKS];
    static thread_local std::unique_ptr<unsigned char, void (*)(void*)> stacks{nullptr, std::free};
    if (!stacks) stacks.reset(static_cast<unsigned char*>(std::aligned_alloc(64, MAX_BLOCKS * MAX_THREADS * STACK)));
    launch = {{grid[0], grid[1], grid[2]}, {threads, 1, 1}, threads, shared > 0 ? shared : STATIC_SHARED, written, ranges,
              downwards, false, nullptr};
    body = entry->run;
    arguments = args;
    tensor_maps = maps;
    Cluster all{{}, size, {}};
    const unsigned columns = grid[0] / cluster[0], rows = grid[1] / cluster[1];
    const std::uint64_t clusters = std::uint64_t(columns) * rows * grid[2];
    for (std::uint64_t k = 0; k < clusters && !launch.fault; ++k) {
        const std::uint64_t c = downwards ? clusters - 1 - k : k;
        const unsigned x = unsigned(c % columns), y = unsigned(c / columns % rows), z = unsigned(c / columns / rows);
        all.barrier = Barrier{};
        for (unsigned r = 0; r < size; ++r) {
            if (!blocks[r]) blocks[r].reset(new Block);
            all.blocks[r] = blocks[r].get();
            blocks[r]->cluster = &all;
            blocks[r]->rank = r;
            blocks[r]->index = {x * cluster[0] + r % cluster[0], y * cluster[1] + r / cluster[0], z};
            begin(*blocks[r], stacks.get() + r * MAX_THREADS * STACK);
        }
        run_cluster(all, downwards);
    }
    return launch.fault;
}
