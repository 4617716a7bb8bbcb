// Attention of many queries with AVX-512, weights and values in bf16 (attention_gemm.h).
#if defined(__x86_64__) && defined(__GNUC__)

#include <algorithm>
#include <cmath>
#include <cstring>

#include "ggml.h"
#include "kernels/llm/attention.h"
#include "kernels/target.h"

BLUELM_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")

#include "kernels/llm/attention_512bit.h"
#include "kernels/llm/attention_gemm.h"

namespace bluelm {
namespace {

// Two bf16 side by side in 32 bits stand where Vector512 has a float.
struct Pairs512 : Vector512 {
    static constexpr bool kPairs = true;

    static void store_pairs(float* p, T even, T odd) {
        const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(even));
        const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(odd));
        _mm512_store_si512(p, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
    static T add_weighted(T weight, T value, T sum) {
        return _mm512_dpbf16_ps(sum, (__m512bh)weight, (__m512bh)value);
    }
};

using Gemm = AttentionGemm<Pairs512>;

}  // namespace

const LlmAttentionKernel kAttentionGemmAvx512Bf16 = {Gemm::run, Gemm::scratch, Gemm::kLanes, false, 128};

}  // namespace bluelm

BLUELM_TARGET_END

#endif
