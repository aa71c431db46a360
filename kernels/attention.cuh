// Queries, keys and values of an attention: first the image's own tokens, then those of its context. src/ops/attention.rs
#pragma once
#include "common.cuh"

enum AttentionOperand : u32 { X, CONTEXT, KEY_LEN };

// One head's channels of one token.
struct Vector {
    Tensor of;
    u32 first;
    DEVICE float operator[](u32 ch) const { return of[first + ch]; }
};

// One head of one image.
struct Head {
    u32 channels, dim, tokens, own, context, stride; // own, context: numbers of keys; stride: elements between tokens of x
    bool causal;
    Tensor x, context_x;
    u32 queries, context_keys; // offsets; keys lie `channels` after the queries, values after the keys

    DEVICE Head(const Args& a, u32 head, u32 image)
        : channels(a.out.c), dim(a.constant[1]), tokens(a.out.tokens()), own(a.constant[2] ? tokens : 0),
          context(a.has(CONTEXT) ? a.shape[CONTEXT].tokens() : 0), stride(a.shape[X].c), causal(a.constant[3] != 0), x(a.tensor(X)),
          context_x(a.tensor(CONTEXT)) {
        if (a.has(KEY_LEN)) own = min_of(own, a.index(KEY_LEN)[image]);
        queries = image * tokens * stride + head * dim;
        context_keys = image * context * 2 * channels + head * dim;
    }
    DEVICE u32 count() const { return own + context; }
    DEVICE Vector query(u32 token) const { return {x, queries + token * stride}; }
    DEVICE Vector key(u32 i) const {
        if (i < own) return {x, queries + channels + i * stride};
        return {context_x, context_keys + (i - own) * 2 * channels};
    }
    DEVICE Vector value(u32 i) const {
        const Vector k = key(i);
        return {k.of, k.first + channels};
    }
    // Whether the query of `token` attends to key i.
    DEVICE bool sees(u32 token, u32 i) const { return i < count() && (!causal || i >= own || i <= token); }
};
