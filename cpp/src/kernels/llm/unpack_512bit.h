// Cells of packed weights (kernels/llm/pack.h) into 512-bit registers: what the gemv and gemm kernels for
// AVX-512 and AMX share. Included between BLUELM_TARGET_BEGIN and BLUELM_TARGET_END, after all other headers.
#ifndef BLUELM_LLM_UNPACK_512BIT_H
#define BLUELM_LLM_UNPACK_512BIT_H

namespace bluelm {
namespace {

// Where the cells and scales of a panel are.
template <LlmType type>
struct PanelAt {
    const uint8_t* values;
    const uint8_t* scales;
    PanelAt(const uint8_t* panel, int64_t n_in)
        : values(panel), scales(panel + static_cast<size_t>(n_in / kCellInputs) * llm_cell_bytes(type)) {}
    const uint8_t* cell(int64_t i) const { return values + static_cast<size_t>(i) * llm_cell_bytes(type); }
};

// The eight vectors of a cell: uint8 [16 outputs][4 inputs].
template <LlmType type>
__attribute__((always_inline)) inline void cell_values(const uint8_t* cell, __m512i (&q)[8]) {
    if constexpr (type == LlmType::q8_0) {
#pragma GCC unroll 8
        for (int g = 0; g < 8; ++g) q[g] = _mm512_load_si512(cell + 64 * g);
    } else {
        const __m512i low = _mm512_set1_epi8(15);
#pragma GCC unroll 4
        for (int h = 0; h < 4; ++h) {
            const __m512i v = _mm512_load_si512(cell + 64 * h);
            q[2 * h] = _mm512_and_si512(v, low);
            q[2 * h + 1] = _mm512_and_si512(_mm512_srli_epi16(v, 4), low);
        }
        if constexpr (type == LlmType::q6_K) {
            const __m512i high = _mm512_set1_epi8(0x30);
#pragma GCC unroll 2
            for (int e = 0; e < 2; ++e) {
                const __m512i v = _mm512_load_si512(cell + 256 + 64 * e);
                // q | (shifted & high), 0xF8 = a | (b & c)
                q[4 * e] = _mm512_ternarylogic_epi32(q[4 * e], _mm512_slli_epi16(v, 4), high, 0xF8);
                q[4 * e + 1] = _mm512_ternarylogic_epi32(q[4 * e + 1], _mm512_slli_epi16(v, 2), high, 0xF8);
                q[4 * e + 2] = _mm512_ternarylogic_epi32(q[4 * e + 2], v, high, 0xF8);
                q[4 * e + 3] = _mm512_ternarylogic_epi32(q[4 * e + 3], _mm512_srli_epi16(v, 2), high, 0xF8);
            }
        }
    }
}

__attribute__((always_inline)) inline __m512 load_halfs(const uint8_t* at) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
}

// Scales of a cell, one vector of 16 outputs per half (the same one twice but for Q6_K).
template <LlmType type>
__attribute__((always_inline)) inline void cell_scales(const uint8_t* scales, int64_t cell,
                                                       __m512 (&scale)[2], __m512 (&offset)[2]) {
    if constexpr (type == LlmType::q4_0 || type == LlmType::q8_0) {
        scale[0] = scale[1] = load_halfs(scales + cell * 32);
        offset[0] = offset[1] =
            _mm512_mul_ps(scale[0], _mm512_set1_ps(type == LlmType::q4_0 ? -8.0f : -128.0f));
    } else if constexpr (type == LlmType::q4_K) {
        const uint8_t* super = scales + cell / 8 * 256;
        const uint8_t* bits = super + 64 + cell % 8 * 24;
        const __m128i four = _mm_set1_epi8(15), two = _mm_set1_epi8(0x30);
        const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bits));
        const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(bits + 16));
        const __m128i high = _mm_unpacklo_epi64(eight, _mm_srli_epi16(eight, 4));
        // scale: bits 0..3 of low, 0..1 of high; minimum: bits 4..7 of low, 2..3 of high
        const __m128i s =
            _mm_ternarylogic_epi32(_mm_and_si128(low, four), _mm_slli_epi16(high, 4), two, 0xF8);
        const __m128i m = _mm_ternarylogic_epi32(_mm_and_si128(_mm_srli_epi16(low, 4), four),
                                                 _mm_slli_epi16(high, 2), two, 0xF8);
        scale[0] = scale[1] = _mm512_mul_ps(load_halfs(super), _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(s)));
        offset[0] = offset[1] = _mm512_fnmadd_ps(
            load_halfs(super + 32), _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(m)), _mm512_setzero_ps());
    } else {
        const uint8_t* super = scales + cell / 8 * 288;
        const __m512 d = load_halfs(super);
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
            const __m128i s =
                _mm_loadu_si128(reinterpret_cast<const __m128i*>(super + 32 + cell % 8 * 32 + half * 16));
            scale[half] = _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(s)));
            offset[half] = _mm512_mul_ps(scale[half], _mm512_set1_ps(-32.0f));
        }
    }
}

}  // namespace
}  // namespace bluelm

#endif  // BLUELM_LLM_UNPACK_512BIT_H
