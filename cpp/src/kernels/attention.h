// Attention over one tile's tokens for x86 CPUs with AVX-512: ggml's kernel transposes the keys anew for
// every 64 queries, element by element, and spends half its time on that.
#ifndef BLUELM_ATTENTION_H
#define BLUELM_ATTENTION_H

#include <cstdint>

#include "ggml.h"
#include "vision_weights.h"

namespace bluelm {

// Whether this CPU has the instructions and the head size suits (up to 96).
bool attention_runs(int64_t head_dim);

// softmax(Q K^T / sqrt(head_dim)) V for each tile and head, all in F32. q, k, v: [B * n_tokens, n_head *
// head_dim], F32, contiguous; the result has the same shape. It does not depend on B or on the number of
// threads. `config` gives n_tokens and n_head and has to outlive the graph.
ggml_tensor* attention(ggml_context* ctx, ggml_tensor* q, ggml_tensor* k, ggml_tensor* v,
                       const VisionConfig& config);

}  // namespace bluelm

#endif  // BLUELM_ATTENTION_H
