// Gemv at AVX2: up to 4 rows x a panel of 16 outputs (kernels/llm/gemv_256bit.h).
//
// AVX2 has no 8-bit dot product of four: vpmaddubsw multiplies uint8 with int8 and adds pairs into 16 bits,
// saturating. With values up to 15 the pairs of all 32 inputs fit (8 * 2 * 15 * 127 = 30480), with values up
// to 63 those of 8 inputs; values of 8 bits go in as sign and magnitude (2 * 128 * 127 = 32512).
#if defined(__x86_64__) && defined(__GNUC__)

#include <algorithm>
#include <cstring>

#include "kernels/llm/matmul.h"
#include "kernels/llm/prefetch.h"
#include "kernels/target.h"

BLUELM_TARGET_BEGIN("avx2,fma,f16c")

#include "kernels/llm/gemv_256bit.h"

namespace bluelm {
namespace {

// Products of 4 * count inputs, summed per output.
struct PairsOf16 {
    template <LlmType type, int count>
    static inline __m256i of(const __m256i* q, const int8_t* a) {
        const __m256i ones = _mm256_set1_epi16(1);
        __m256i sum = _mm256_setzero_si256();
        if constexpr (type == LlmType::q4_0 || type == LlmType::q4_K) {
#pragma GCC unroll 8
            for (int g = 0; g < count; ++g)
                sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(q[g], four_of(a + 4 * g)));
            return _mm256_madd_epi16(sum, ones);
        } else if constexpr (type == LlmType::q6_K) {
#pragma GCC unroll 4
            for (int g = 0; g < count; g += 2) {
                const __m256i pairs =
                    _mm256_add_epi16(_mm256_maddubs_epi16(q[g], four_of(a + 4 * g)),
                                     _mm256_maddubs_epi16(q[g + 1], four_of(a + 4 * g + 4)));
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
            }
            return sum;
        } else {
            const __m256i middle = _mm256_set1_epi8(-128);
#pragma GCC unroll 8
            for (int g = 0; g < count; ++g) {
                const __m256i w = _mm256_xor_si256(q[g], middle);  // int8
                const __m256i pairs =
                    _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(four_of(a + 4 * g), w));
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
            }
            return sum;
        }
    }
    static constexpr bool kCentres8Bits = true;  // 8-bit values are signed already: no offset
};

}  // namespace

const LlmGemv kLlmGemv4x16Avx2 = {pack_x, gemv<PairsOf16>};

}  // namespace bluelm

BLUELM_TARGET_END

#endif
