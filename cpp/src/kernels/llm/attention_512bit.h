// What the attention kernels with AVX-512 share. Included between BLUELM_TARGET_BEGIN and BLUELM_TARGET_END,
// after all other headers.
#ifndef BLUELM_LLM_ATTENTION_512BIT_H
#define BLUELM_LLM_ATTENTION_512BIT_H

namespace bluelm {
namespace {

inline __m512 halfs(const char* at) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
}

// 16 elements of a row of K or V, from i on (a multiple of 16).
inline __m512 elements(const char* row, int64_t i, bool is_q8_0) {
    if (!is_q8_0) return halfs(row + i * 2);
    const char* block = row + i / 32 * 34;  // fp16 scale, 32 int8
    uint16_t scale;
    std::memcpy(&scale, block, sizeof scale);
    const __m128i q = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block + 2 + i % 32));
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(q)), _mm512_set1_ps(_cvtsh_ss(scale)));
}

// e^x for x <= 0; 0 for -infinity, NaN stays NaN. 2^n * 2^f with |f| <= 1/2, a polynomial of degree 6
// (relative error below 1e-7).
inline __m512 exponential(__m512 x) {
    const __m512 t = _mm512_mul_ps(_mm512_max_ps(_mm512_set1_ps(-100.0f), x), _mm512_set1_ps(1.44269504f));
    const __m512 n = _mm512_roundscale_ps(t, 0);
    const __m512 f = _mm512_mul_ps(_mm512_sub_ps(t, n), _mm512_set1_ps(0.69314718f));
    __m512 p = _mm512_set1_ps(1.0f / 720);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f / 120));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f / 24));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f / 6));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}

struct Vector512 {
    using T = __m512;
    static constexpr int64_t kN = 16, kVectors = 2, kKeyTile = 12, kLaneTile = 6, kColumns = 4;
    static constexpr bool kPairs = false;

    static T load(const float* p) { return _mm512_load_ps(p); }
    static T loadu(const float* p) { return _mm512_loadu_ps(p); }
    static void store(float* p, T x) { _mm512_store_ps(p, x); }
    static void storeu(float* p, T x) { _mm512_storeu_ps(p, x); }
    static T set(float x) { return _mm512_set1_ps(x); }
    static T add(T a, T b) { return _mm512_add_ps(a, b); }
    static T sub(T a, T b) { return _mm512_sub_ps(a, b); }
    static T mul(T a, T b) { return _mm512_mul_ps(a, b); }
    static T fma(T a, T b, T c) { return _mm512_fmadd_ps(a, b, c); }
    static T add_weighted(T weight, T value, T sum) { return fma(weight, value, sum); }
    static T max(T a, T b) { return _mm512_max_ps(a, b); }  // b if one is NaN
    static T exp(T x) { return exponential(x); }
    static T where_equal(T a, T b, T yes, T no) {
        return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ), no, yes);
    }
    static bool all_equal(T a, T b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ) == 0xFFFF; }
    static T halfs(const char* at) { return bluelm::halfs(at); }
    static T q8_0(const char* row, int64_t i) { return elements(row, i, true); }

    static T sums(const T (&x)[kN]) {
        T eight[8], four[4];
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i) {  // 8 sums of 2 elements, those of x[i] below those of x[i + 8]
            const T low = _mm512_shuffle_f32x4(x[i], x[i + 8], 0x44),
                    high = _mm512_shuffle_f32x4(x[i], x[i + 8], 0xEE);
            eight[i] = add(low, high);
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {  // quarters: x[i], x[i + 4], x[i + 8], x[i + 12]
            const T low = _mm512_shuffle_f32x4(eight[i], eight[i + 4], 0x88);
            const T high = _mm512_shuffle_f32x4(eight[i], eight[i + 4], 0xDD);
            four[i] = add(low, high);
        }
        // Quarter by quarter: those of x[i], x[i + 8], x[i + 4], x[i + 12].
        const T a = add(_mm512_unpacklo_ps(four[0], four[1]), _mm512_unpackhi_ps(four[0], four[1]));
        const T b = add(_mm512_unpacklo_ps(four[2], four[3]), _mm512_unpackhi_ps(four[2], four[3]));
        const T all = add(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xEE));
        return _mm512_shuffle_f32x4(all, all, 0xD8);
    }
};

}  // namespace
}  // namespace bluelm

#endif  // BLUELM_LLM_ATTENTION_512BIT_H
