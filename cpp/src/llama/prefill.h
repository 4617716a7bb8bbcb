// Chunked prefill into a llama_context that the caller owns (paper section 3.4).
#ifndef BLUELM_PREFILL_H
#define BLUELM_PREFILL_H

#include <cstdint>

#include "bluelm.h"

namespace bluelm {

// What is prefilled: either tokens [n] or embeddings [n, n_embd] is set, the other is NULL.
struct PrefillInput {
    const int32_t* tokens = nullptr;
    const float* embd = nullptr;
    int64_t n = 0;
    int32_t n_embd = 0;                  // with embd
    const int32_t* positions = nullptr;  // with embd: [4, n] for M-RoPE; NULL: pos0, pos0 + 1, ...
    bool non_causal = false;             // all of it in one llama_decode, attending in both directions

    // In the KV cache as a whole or not at all.
    bool is_whole() const { return positions || non_causal; }
};

// Decodes the input at positions pos0.. in chunks; *n_done counts the positions that are in the KV cache,
// whatever happens. Throws Error as bluelm_prefill_tokens documents.
void prefill(llama_context* ctx, const bluelm_prefill_params& params, const PrefillInput& input, int32_t pos0,
             bool want_logits, bluelm_progress callback, void* user_data, int64_t* n_done);

}  // namespace bluelm

#endif  // BLUELM_PREFILL_H
