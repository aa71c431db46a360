// The fibers behind device.h, and the one function that a test calls.
#include "../common.cuh"

#include <cstdio>
#include <cstdlib>
#include <memory>

namespace host {

thread_local Block* block;
thread_local Fiber* fiber;

namespace {

constexpr std::size_t STACK = 64 << 10;

// The scheduler's stack pointer, and each fiber's while it does not run.
thread_local void* scheduler;
thread_local void* stopped_at[MAX_THREADS];
thread_local const Args* arguments;
thread_local void (*body)(Args);

#if defined(__x86_64__)
// Saves this stack and goes on with another: the registers that a call preserves are all there is.
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
#error "no switch of stacks for this processor"
#endif

[[noreturn]] void run_fiber() {
    body(*arguments);
    fiber->done = true;
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

void run_block(unsigned char* stacks, bool downwards) {
    block->shared_filled = false;
    block->barrier = Barrier{};
    for (auto& warp : block->warps) warp.barrier = Barrier{};
    for (unsigned i = 0; i < block->threads; ++i) {
        Fiber& f = block->fibers[i];
        f.thread = {i, 0, 0};
        f.index = i;
        f.done = false;
        f.waits_for = nullptr;
        f.exchanges = 0;
        f.open.clear();
        f.groups.clear();
        stopped_at[i] = prepare(stacks + i * STACK);
    }
    // Runs what can of a warp, until nothing can; says whether anything did.
    const auto run_warp = [&](unsigned first) {
        const unsigned lanes = block->threads - first < LANES ? block->threads - first : LANES;
        bool ran = false;
        for (bool again = true; again && !block->fault;) {
            again = false;
            for (unsigned k = 0; k < lanes && !block->fault; ++k) {
                const unsigned i = first + (downwards ? lanes - 1 - k : k);
                Fiber& f = block->fibers[i];
                if (f.done || (f.waits_for && f.waits_for->generation == f.generation)) continue;
                fiber = &f;
                cascade_switch(&scheduler, stopped_at[i]);
                again = ran = true;
            }
        }
        return ran;
    };
    const unsigned warps = (block->threads + LANES - 1) / LANES;
    for (bool again = true; again && !block->fault;) {
        again = false;
        for (unsigned k = 0; k < warps; ++k) again |= run_warp((downwards ? warps - 1 - k : k) * LANES);
    }
    for (unsigned i = 0; i < block->threads && !block->fault; ++i) {
        if (!block->fibers[i].done) block->fault = "a barrier that not all threads reach";
    }
    for (unsigned i = 0; i < block->threads && !block->fault; ++i) {
        const Fiber& f = block->fibers[i];
        if (!f.open.empty() || !f.groups.empty()) block->fault = "copies that nobody waits for";
    }
}

} // namespace

void yield() { cascade_switch(&stopped_at[fiber->index], scheduler); }

void fail(const char* message) {
    block->fault = message;
    for (;;) yield();
}

void wait(Barrier& barrier, unsigned threads) {
    if (++barrier.arrived == threads) {
        barrier.arrived = 0;
        ++barrier.generation;
    } else {
        fiber->waits_for = &barrier;
        fiber->generation = barrier.generation;
        yield();
        fiber->waits_for = nullptr;
    }
}

void* shared_memory(std::size_t bytes) {
    if (bytes > block->shared_limit) fail("more shared memory than a block has");
    if (!block->shared_filled) std::memset(block->shared, 0xff, bytes); // NaN
    block->shared_filled = true;
    return block->shared;
}

} // namespace host

// Made by build.rs, from every KERNEL(name).
struct Entry {
    const char* name;
    void (*run)(Args);
};
extern const Entry cascade_kernels[];

// Runs a kernel, block after block and thread after thread, upwards or downwards. Null, or what went wrong.
extern "C" const char* cascade_launch(const char* name, const unsigned* grid, unsigned threads, unsigned shared,
                                      const Args* args, bool downwards) {
    using namespace host;
    const Entry* entry = cascade_kernels;
    while (entry->name && std::strcmp(entry->name, name) != 0) ++entry;
    if (!entry->name) return "no such kernel";
    if (threads == 0 || threads > MAX_THREADS || shared > MAX_SHARED) return "a block larger than a GPU allows";
    static thread_local std::unique_ptr<Block> the_block;
    static thread_local std::unique_ptr<unsigned char, void (*)(void*)> stacks{nullptr, std::free};
    if (!the_block) {
        the_block.reset(new Block);
        stacks.reset(static_cast<unsigned char*>(std::aligned_alloc(64, MAX_THREADS * STACK)));
    }
    block = the_block.get();
    block->size = {threads, 1, 1};
    block->grid = {grid[0], grid[1], grid[2]};
    block->threads = threads;
    block->shared_limit = shared > 0 ? shared : STATIC_SHARED;
    block->fault = nullptr;
    body = entry->run;
    arguments = args;
    const std::uint64_t blocks = std::uint64_t(grid[0]) * grid[1] * grid[2];
    for (std::uint64_t k = 0; k < blocks && !block->fault; ++k) {
        const std::uint64_t b = downwards ? blocks - 1 - k : k;
        block->index = {unsigned(b % grid[0]), unsigned(b / grid[0] % grid[1]), unsigned(b / grid[0] / grid[1])};
        run_block(stacks.get(), downwards);
    }
    return block->fault;
}
