// mean: y[c] = sum of x[h, w, c] / (h w)
//
// x       [n, h, w, c] f32
// out     [n, 1, 1, c] f32 or bf16
//
// Launch     one block per CHANNELS channels of each image.
// Shared     1 KiB.
// Memory     reads x once.
// Numerics   accumulates in f32, in eight partial sums per channel.
// Needs      nothing.
// Tunables   CHANNELS, THREADS (channels.cuh).
// Reference  src/ops/mean.rs
#include "channels.cuh"

KERNEL(mean) {
    SHARED(Strips, s);
    const Shape& shape = a.shape[0];
    const float sum = sum_of_channel(s, a.tensor(0), shape, [](float v) { return v; });
    const u32 channel = blockIdx.x * CHANNELS + lane();
    if (warp() == 0 && channel < shape.c) a.store(blockIdx.y * shape.c + channel, sum / float(shape.tokens()));
}
