// Keys and values of an attention: the image's own tokens, then those of the context. src/ops/attention.rs
#pragma once
#include "common.cuh"

enum AttentionOperand : u32 { X, CONTEXT, KEY_LEN };

// One head of one image.
struct Head {
    u32 channels, dim, tokens, own, context, stride; // stride: from a token of x to the next
    bool causal;
    const float *queries, *keys, *context_keys; // values lie `channels` behind their keys

    DEVICE Head(const Args& a, u32 head, u32 image)
        : channels(a.out.c), dim(a.constant[1]), tokens(a.out.tokens()), own(a.constant[2] ? tokens : 0),
          context(a.has(CONTEXT) ? a.shape[CONTEXT].tokens() : 0), stride(a.shape[X].c), causal(a.constant[3] != 0) {
        if (a.has(KEY_LEN)) own = min_of(own, a.index(KEY_LEN)[image]);
        queries = a.real(X) + image * tokens * stride + head * dim;
        keys = queries + channels;
        context_keys = a.real(CONTEXT) + image * context * 2 * channels + head * dim;
    }
    DEVICE u32 count() const { return own + context; }
    DEVICE const float* query(u32 token) const { return queries + token * stride; }
    DEVICE const float* key(u32 i) const {
        return i < own ? keys + i * stride : context_keys + (i - own) * 2 * channels;
    }
    // Whether the query of `token` sees key i.
    DEVICE bool sees(u32 token, u32 i) const { return i < count() && (!causal || i >= own || i <= token); }
};
