// Attention with AVX2, in float32: attention_gemv.h for few lanes, attention_gemm.h for many.
#if defined(__x86_64__) && defined(__GNUC__)

#include <algorithm>
#include <cmath>
#include <cstring>

#include "ggml.h"
#include "kernels/llm/attention.h"
#include "kernels/target.h"

BLUELM_TARGET_BEGIN("avx2,fma,f16c")

#include "kernels/llm/attention_gemm.h"
#include "kernels/llm/attention_gemv.h"

namespace bluelm {
namespace {

struct Vector256 {
    using T = __m256;
    static constexpr int64_t kN = 8, kVectors = 2, kKeyTile = 6, kLaneTile = 6, kColumns = 2;
    static constexpr bool kPairs = false;

    static T load(const float* p) { return _mm256_load_ps(p); }
    static T loadu(const float* p) { return _mm256_loadu_ps(p); }
    static void store(float* p, T x) { _mm256_store_ps(p, x); }
    static void storeu(float* p, T x) { _mm256_storeu_ps(p, x); }
    static T set(float x) { return _mm256_set1_ps(x); }
    static T add(T a, T b) { return _mm256_add_ps(a, b); }
    static T sub(T a, T b) { return _mm256_sub_ps(a, b); }
    static T mul(T a, T b) { return _mm256_mul_ps(a, b); }
    static T fma(T a, T b, T c) { return _mm256_fmadd_ps(a, b, c); }
    static T add_weighted(T weight, T value, T sum) { return fma(weight, value, sum); }
    static T max(T a, T b) { return _mm256_max_ps(a, b); }  // b if one is NaN
    static T where_equal(T a, T b, T yes, T no) {
        return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_EQ_OQ));
    }
    static bool all_equal(T a, T b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_EQ_OQ)) == 0xFF; }
    static T halfs(const char* at) {
        return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
    }

    // 8 elements of a Q8_0 row from i on (a multiple of 8).
    static T q8_0(const char* row, int64_t i) {
        const char* block = row + i / 32 * 34;  // fp16 scale, 32 int8
        uint16_t scale;
        std::memcpy(&scale, block, sizeof scale);
        const __m128i q = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(block + 2 + i % 32));
        return mul(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q)), set(_cvtsh_ss(scale)));
    }

    // e^x for x <= 0, NaN for NaN; as in attention_512bit.h. Below -87 it is e^-87: 2^n must be a normal
    // number.
    static T exp(T x) {
        const T t = mul(max(set(-87.0f), x), set(1.44269504f));
        const T n = _mm256_round_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        const T f = mul(sub(t, n), set(0.69314718f));
        T p = set(1.0f / 720);
        p = fma(p, f, set(1.0f / 120));
        p = fma(p, f, set(1.0f / 24));
        p = fma(p, f, set(1.0f / 6));
        p = fma(p, f, set(0.5f));
        p = fma(p, f, set(1.0f));
        p = fma(p, f, set(1.0f));
        const __m256i power = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
        return mul(p, _mm256_castsi256_ps(_mm256_slli_epi32(power, 23)));
    }

    static T sums(const T (&x)[kN]) {
        const T a = _mm256_hadd_ps(_mm256_hadd_ps(x[0], x[1]), _mm256_hadd_ps(x[2], x[3]));
        const T b = _mm256_hadd_ps(_mm256_hadd_ps(x[4], x[5]), _mm256_hadd_ps(x[6], x[7]));
        return add(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
    }
};

using Gemm = AttentionGemm<Vector256>;

}  // namespace

const LlmAttentionKernel kAttentionGemvAvx2 = {attention_gemv<Vector256>, attention_gemv_scratch, 1, false,
                                               8};
const LlmAttentionKernel kAttentionGemmAvx2 = {Gemm::run, Gemm::scratch, Gemm::kLanes, false, 128};

}  // namespace bluelm

BLUELM_TARGET_END

#endif
