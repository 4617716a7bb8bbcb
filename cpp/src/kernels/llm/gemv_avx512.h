// The product for few rows with AVX-512 VNNI (kernels/llm/kernels.h has the contract).
#ifndef BLUELM_LLM_SMALL_AVX512_H
#define BLUELM_LLM_SMALL_AVX512_H

#include "kernels/llm/kernels.h"

namespace bluelm {

void llm_quantise_avx512(const float* x, int64_t n_in, int64_t first, int64_t last, uint8_t* row);
void llm_small_avx512(LlmType type, const uint8_t* panel, int64_t n_in, const uint8_t* rows,
                      size_t row_stride, int64_t n_rows, float* out, int64_t out_stride, int64_t n_valid);

}  // namespace bluelm

#endif  // BLUELM_LLM_SMALL_AVX512_H
