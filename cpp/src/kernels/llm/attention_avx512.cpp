// Attention with AVX-512, in float32: attention_gemv.h for few lanes, attention_gemm.h for many.
#if defined(__x86_64__) && defined(__GNUC__)

#include <algorithm>
#include <cmath>
#include <cstring>

#include "ggml.h"
#include "kernels/llm/attention.h"
#include "kernels/target.h"

BLUELM_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")

#include "kernels/llm/attention_512bit.h"
#include "kernels/llm/attention_gemm.h"
#include "kernels/llm/attention_gemv.h"

namespace bluelm {

using Gemm = AttentionGemm<Vector512>;

const LlmAttentionKernel kAttentionGemvAvx512 = {attention_gemv<Vector512>, attention_gemv_scratch, 1, false,
                                                 8};
const LlmAttentionKernel kAttentionGemmAvx512 = {Gemm::run, Gemm::scratch, Gemm::kLanes, false, 128};

}  // namespace bluelm

BLUELM_TARGET_END

#endif
