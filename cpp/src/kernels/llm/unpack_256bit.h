// Cells of packed weights (kernels/llm/pack.h) into 256-bit registers: what the gemv and gemm kernels for
// AVX2 and AVX-VNNI share. Included between BLUELM_TARGET_BEGIN and BLUELM_TARGET_END, after all other
// headers.
//
// A vector of 32-bit lanes is 8 outputs, half a panel: side 0 or 1.
#ifndef BLUELM_LLM_UNPACK_256BIT_H
#define BLUELM_LLM_UNPACK_256BIT_H

namespace bluelm {
namespace {

inline __m256i load(const uint8_t* at) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(at)); }
inline void store(uint8_t* at, __m256i v) { _mm256_store_si256(reinterpret_cast<__m256i*>(at), v); }

// Outputs 8 * side .. of a cell's eight vectors: uint8 [8 outputs][4 inputs].
template <LlmType type>
inline void cell_values(const uint8_t* cell, int64_t side, __m256i (&q)[8]) {
    cell += side * 32;
    if constexpr (type == LlmType::q8_0) {
#pragma GCC unroll 8
        for (int g = 0; g < 8; ++g) q[g] = load(cell + 64 * g);
    } else {
        const __m256i low = _mm256_set1_epi8(15);
#pragma GCC unroll 4
        for (int h = 0; h < 4; ++h) {
            const __m256i v = load(cell + 64 * h);
            q[2 * h] = _mm256_and_si256(v, low);
            q[2 * h + 1] = _mm256_and_si256(_mm256_srli_epi16(v, 4), low);
        }
        if constexpr (type == LlmType::q6_K) {
            const __m256i high = _mm256_set1_epi8(0x30);
#pragma GCC unroll 2
            for (int e = 0; e < 2; ++e) {
                const __m256i v = load(cell + 256 + 64 * e);
                q[4 * e] = _mm256_or_si256(q[4 * e], _mm256_and_si256(_mm256_slli_epi16(v, 4), high));
                q[4 * e + 1] = _mm256_or_si256(q[4 * e + 1], _mm256_and_si256(_mm256_slli_epi16(v, 2), high));
                q[4 * e + 2] = _mm256_or_si256(q[4 * e + 2], _mm256_and_si256(v, high));
                q[4 * e + 3] = _mm256_or_si256(q[4 * e + 3], _mm256_and_si256(_mm256_srli_epi16(v, 2), high));
            }
        }
    }
}

inline __m256 load_halfs(const uint8_t* at) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
}

// Eight bytes to floats.
inline __m256 unsigned_floats(__m128i bytes) { return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)); }

// Scales of a cell, a vector of 8 outputs per half (the same one twice but for Q6_K).
template <LlmType type>
inline void cell_scales(const uint8_t* scales, int64_t cell, int64_t side, __m256 (&scale)[2],
                        __m256 (&offset)[2]) {
    if constexpr (type == LlmType::q4_0 || type == LlmType::q8_0) {
        scale[0] = scale[1] = load_halfs(scales + cell * 32 + side * 16);
        offset[0] = offset[1] =
            _mm256_mul_ps(scale[0], _mm256_set1_ps(type == LlmType::q4_0 ? -8.0f : -128.0f));
    } else if constexpr (type == LlmType::q4_K) {
        const uint8_t* super = scales + cell / 8 * 256;
        const uint8_t* bits = super + 64 + cell % 8 * 24;
        const __m128i four = _mm_set1_epi8(15), two = _mm_set1_epi8(0x30);
        const __m128i low = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(bits + side * 8));
        const __m128i both = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(bits + 16));
        // output i's high bits are the low nibbles, output i+8's the high ones; here in bits 4..7 of a byte
        const __m128i high = side ? both : _mm_slli_epi16(both, 4);
        const __m128i s = _mm_or_si128(_mm_and_si128(low, four), _mm_and_si128(high, two));
        const __m128i m = _mm_or_si128(_mm_and_si128(_mm_srli_epi16(low, 4), four),
                                       _mm_and_si128(_mm_srli_epi16(high, 2), two));
        scale[0] = scale[1] = _mm256_mul_ps(load_halfs(super + side * 16), unsigned_floats(s));
        offset[0] = offset[1] =
            _mm256_fnmadd_ps(load_halfs(super + 32 + side * 16), unsigned_floats(m), _mm256_setzero_ps());
    } else {
        const uint8_t* super = scales + cell / 8 * 288;
        const __m256 d = load_halfs(super + side * 16);
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
            const uint8_t* at = super + 32 + cell % 8 * 32 + half * 16 + side * 8;
            const __m128i s = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(at));
            scale[half] = _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(s)));
            offset[half] = _mm256_mul_ps(scale[half], _mm256_set1_ps(-32.0f));
        }
    }
}

inline __m256i four_of(const int8_t* q) {
    int32_t four;
    std::memcpy(&four, q, sizeof four);
    return _mm256_set1_epi32(four);
}

}  // namespace
}  // namespace bluelm

#endif  // BLUELM_LLM_UNPACK_256BIT_H
