// grn_scale: G[c] = sqrt(sum of x[h, w, c]^2), y[c] = 1 + gamma[c] G[c] / (mean(G) + eps)
//
// x       [n, h, w, c] f32 or bf16
// gamma   [c] any type
// out     [n, 1, 1, c] f32 or bf16
// scratch [n, 1, 1, c] f32: G
//
// Launch     grn_scale_norms: one block per CHANNELS channels of each image; then
//            grn_scale: one block per image.
// Shared     1 KiB.
// Memory     reads x once.
// Numerics   accumulates in f32, in eight partial sums per channel.
// Needs      nothing.
// Tunables   CHANNELS, THREADS (channels.cuh).
// Reference  src/ops/grn_scale.rs
#include "channels.cuh"

KERNEL(grn_scale_norms) {
    SHARED(Strips, s);
    const Shape& shape = a.shape[0];
    const float squares = sum_of_channel(s, a.tensor(0), shape, [](float v) { return v * v; });
    const u32 channel = blockIdx.x * CHANNELS + lane();
    if (warp() == 0 && channel < shape.c) a.scratch()[blockIdx.y * shape.c + channel] = sqrtf(squares);
}

struct Sums {
    float parts[THREADS / 32];
};

KERNEL(grn_scale) {
    SHARED(Sums, s);
    const u32 c = a.out.c;
    const float* norms = a.scratch() + blockIdx.x * c;
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < c; i += THREADS) sum += norms[i];
    const float per_norm = 1.0f / (block_sum(sum, s.parts) / float(c) + a.number(0));
    const Tensor gamma = a.tensor(1);
    for (u32 i = threadIdx.x; i < c; i += THREADS) a.store(blockIdx.x * c + i, 1.0f + gamma[i] * norms[i] * per_norm);
}
