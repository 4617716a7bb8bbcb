// GGML_OP_MUL_MAT with packed weights: how the work is divided among ggml's threads.
#ifndef BLUELM_LLM_MUL_MAT_H
#define BLUELM_LLM_MUL_MAT_H

#include <cstddef>

#include "llama/ggml_cpu_private.h"

namespace bluelm {

struct LlmKernels;

// The matmul kernels of this process: those of the level that was in use when they were first asked for.
// Throws Error INVALID_ARGUMENT where BLUELM_CPU_LEVEL names no level of this CPU then.
const LlmKernels& llm_kernels_in_use();

// src0: weights [n_in, n_out] of a type of kernels/llm/pack.h; src1: float32 [n_in, ...]; the result
// contiguous.
bool llm_matmul_supports(const ggml_tensor* op);

size_t llm_matmul_work_size(int n_threads, const ggml_tensor* op);

// Called by every thread of the pool.
void llm_matmul(const ggml_compute_params& params, ggml_tensor* op);

}  // namespace bluelm

#endif  // BLUELM_LLM_MUL_MAT_H
