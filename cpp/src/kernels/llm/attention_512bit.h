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

}  // namespace
}  // namespace bluelm

#endif  // BLUELM_LLM_ATTENTION_512BIT_H
