// The language model's matmuls with AVX-VNNI (llm_avx2.h): vpdpbusd in 256 bits.
#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#include <cstring>

#include "kernels/llm_kernels.h"
#include "kernels/target.h"

BLUELM_TARGET_BEGIN("avx2,fma,f16c,avxvnni")

#include "kernels/llm_avx2.h"

namespace bluelm {
namespace {

struct FourAtOnce {
    template <LlmType type, int count>
    static inline __m256i of(const __m256i* q, const int8_t* a) {
        __m256i sum = _mm256_setzero_si256();
#pragma GCC unroll 8
        for (int g = 0; g < count; ++g) sum = _mm256_dpbusd_avx_epi32(sum, q[g], four_of(a + 4 * g));
        return sum;
    }
    static constexpr bool kCentres8Bits = false;
};

}  // namespace

const LlmKernels& llm_kernels_avx_vnni() {
    static const LlmKernels kernels = {"avx-vnni", quantise, small<FourAtOnce>, 0,      1,
                                       nullptr,    nullptr,  nullptr,           nullptr};
    return kernels;
}

}  // namespace bluelm

BLUELM_TARGET_END

#endif
