// Gemv at AVX-VNNI: up to 4 rows x a panel of 16 outputs, with vpdpbusd in 256 bits
// (kernels/llm/gemv_256bit.h).
#if defined(__x86_64__) && defined(__GNUC__)

#include <algorithm>
#include <cstring>

#include "kernels/llm/matmul.h"
#include "kernels/llm/prefetch.h"
#include "kernels/target.h"

BLUELM_TARGET_BEGIN("avx2,fma,f16c,avxvnni")

#include "kernels/llm/gemv_256bit.h"

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

const LlmGemv kLlmGemv4x16AvxVnni = {pack_x, gemv<FourAtOnce>};

}  // namespace bluelm

BLUELM_TARGET_END

#endif
