// philox: standard normal noise, counter-based: Philox4x32-10, then Box-Muller
//
// seed     [1, 1, 1, 2] u32: low and high half of the first image's seed; image k has that seed plus k
// counter  [1, 1, 1, 1] u32: the step, whose noise is draw 1 + step; if absent, draw 0
// out      [n, h, w, c] f32
//
// Launch     one thread per element; the four threads that share a Philox counter each compute all its words.
// Shared     none.
// Memory     writes out once.
// Numerics   f32: the definition's polynomials, with fused multiply-adds. The angle is reduced to at most an eighth of a
//            turn in integer arithmetic, so sine and cosine need no further range reduction.
// Needs      nothing.
// Tunables   THREADS.
// Reference  src/ops/philox.rs
#include "common.cuh"

constexpr u32 THREADS = 256;

// ln x for a normal x in (0, 1]; the polynomial of noise/polynomial.rs.
DEVICE float natural_log(float x) {
    const u32 bits = __float_as_uint(x);
    float m = __uint_as_float((bits & 0x007fffffu) | 0x3f000000u); // [0.5, 1)
    const bool low = m < 0.70710678118654752f;
    const float e = float(int(bits >> 23) - 126) - (low ? 1.0f : 0.0f);
    m = (m - 1.0f) + (low ? m : 0.0f);
    const float z = m * m;
    float y = 7.0376836292e-2f;
    y = fmaf(y, m, -1.1514610310e-1f);
    y = fmaf(y, m, 1.1676998740e-1f);
    y = fmaf(y, m, -1.2420140846e-1f);
    y = fmaf(y, m, 1.4249322787e-1f);
    y = fmaf(y, m, -1.6668057665e-1f);
    y = fmaf(y, m, 2.0000714765e-1f);
    y = fmaf(y, m, -2.4999993993e-1f);
    y = fmaf(y, m, 3.3333331174e-1f);
    y = fmaf(y * m, z, e * -2.12194440e-4f);
    return fmaf(e, 0.693359375f, m + fmaf(z, -0.5f, y));
}

KERNEL(philox) {
    const u32 i = this_element();
    if (i >= a.out.elements()) return;
    const u32 size = a.out.tokens() * a.out.c, image = i / size, element = i % size;
    u32 k0 = a.index(0)[0] + image, k1 = a.index(0)[1] + (k0 < image ? 1 : 0);
    u32 x0 = element / 4, x1 = a.has(1) ? a.index(1)[0] + 1 : 0, x2 = a.constant[0], x3 = 0;
    for (u32 round = 0; round < 10; ++round) {
        const unsigned long long p = 0xd2511f53ull * x0, q = 0xcd9e8d57ull * x2;
        x0 = u32(q >> 32) ^ x1 ^ k0;
        x2 = u32(p >> 32) ^ x3 ^ k1;
        x1 = u32(q);
        x3 = u32(p);
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    // Two words give a pair of normals: one is the radius, the other the angle, reduced by its nearest quarter turns.
    const bool second = element & 2;
    const float radius = sqrtf(-2.0f * natural_log(float(((second ? x2 : x0) >> 8) + 1) * 5.9604644775390625e-8f));
    const u32 angle = (second ? x3 : x1) >> 8, quarters = (angle + (1u << 21)) >> 22;
    const float t = float(int(angle) - int(quarters << 22)) * (6.2831855f * 5.9604644775390625e-8f);
    const float z = t * t;
    float c = fmaf(2.443315711809948e-5f, z, -1.388731625493765e-3f);
    c = fmaf(c, z, 4.166664568298827e-2f) * z;
    c = fmaf(c, z, -(0.5f * z)) + 1.0f;
    float s = fmaf(-1.9515295891e-4f, z, 8.3321608736e-3f);
    s = fmaf(s, z, -1.6666654611e-1f) * z;
    s = fmaf(s, t, t);
    const u32 turns = quarters + (element & 1 ? 3 : 0); // sin t = cos(t - a quarter turn)
    const float side = turns & 1 ? s : c;
    a.store(i, radius * ((turns + 1) & 2 ? -side : side));
}
