// GGML_OP_FLASH_ATTN_EXT: how the work is divided among ggml's threads.
#ifndef BLUELM_LLM_ATTENTION_OP_H
#define BLUELM_LLM_ATTENTION_OP_H

#include <cstddef>

#include "llama/ggml_cpu_private.h"

namespace bluelm {

// Whether it is an attention that this CPU has a fast form for: queries of one sequence, K and V as F16
// or Q8_0, no position bias, soft cap or sinks.
bool llm_attention_supports(const ggml_tensor* op);

size_t llm_attention_work_size(int n_threads, const ggml_tensor* op);

// Called by every thread of the pool.
void llm_attention(const ggml_compute_params& params, ggml_tensor* op);

}  // namespace bluelm

#endif  // BLUELM_LLM_ATTENTION_OP_H
