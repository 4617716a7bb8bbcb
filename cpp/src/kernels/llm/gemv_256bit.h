// Gemv with 256-bit vectors, for gemv_4x16_avx2.cpp and gemv_4x16_avx_vnni.cpp: they differ in the dot
// product of 8-bit values alone, and in the instructions that all of this is compiled with (so it is included
// between BLUELM_TARGET_BEGIN and BLUELM_TARGET_END, after all other headers).
//
// Four rows at a time pass over a panel, whose cells are unpacked each time into registers.
#ifndef BLUELM_LLM_GEMV_256BIT_H
#define BLUELM_LLM_GEMV_256BIT_H

#include "kernels/llm/unpack_256bit.h"

namespace bluelm {
namespace {

constexpr int64_t kRows = 4;

template <class Dot, LlmType type, int rows>
void panel_times_rows(const uint8_t* panel, int64_t n_in, const uint8_t* x, size_t stride, float* out,
                      int64_t out_stride, int64_t n_valid) {
    const int64_t n_cells = n_in / kCellInputs;
    const uint8_t* scales = panel + static_cast<size_t>(n_cells) * llm_cell_bytes(type);
    const uint8_t* next = panel + llm_panel_bytes(type, n_in);
    LlmQ8Row row[rows];
    for (int r = 0; r < rows; ++r) row[r] = llm_q8_row(x + static_cast<size_t>(r) * stride, n_in);
    for (int64_t side = 0; side < 2; ++side) {
        __m256 total[rows];
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) total[r] = _mm256_setzero_ps();
        for (int64_t cell = 0; cell < n_cells; ++cell) {
            prefetch_cell<type, 2>(next, n_in, cell, side);
            __m256i q[8];
            cell_values<type>(panel + static_cast<size_t>(cell) * llm_cell_bytes(type), side, q);
            __m256 scale[2], offset[2];
            cell_scales<type>(scales, cell, side, scale, offset);
#pragma GCC unroll 4
            for (int r = 0; r < rows; ++r) {
                const int8_t* a = row[r].q + cell * 32;
                const __m256 d = _mm256_set1_ps(row[r].scale[cell]);
                const float* sum = row[r].sum + 2 * cell;
                if constexpr (type == LlmType::q6_K) {
#pragma GCC unroll 2
                    for (int half = 0; half < 2; ++half) {
                        const __m256i dot = Dot::template of<type, 4>(q + 4 * half, a + 16 * half);
                        total[r] =
                            _mm256_fmadd_ps(_mm256_mul_ps(scale[half], d), _mm256_cvtepi32_ps(dot), total[r]);
                        total[r] = _mm256_fmadd_ps(offset[half], _mm256_set1_ps(sum[half]), total[r]);
                    }
                } else {
                    const __m256i dot = Dot::template of<type, 8>(q, a);
                    total[r] = _mm256_fmadd_ps(_mm256_mul_ps(scale[0], d), _mm256_cvtepi32_ps(dot), total[r]);
                    if constexpr (type != LlmType::q8_0 || !Dot::kCentres8Bits)
                        total[r] = _mm256_fmadd_ps(offset[0], _mm256_set1_ps(sum[0] + sum[1]), total[r]);
                }
            }
        }
        for (int r = 0; r < rows; ++r) {
            float values[8];
            _mm256_storeu_ps(values, total[r]);
            for (int64_t o = 0; o < 8 && side * 8 + o < n_valid; ++o)
                out[r * out_stride + side * 8 + o] = values[o];
        }
    }
}

template <class Dot, LlmType type>
void panel_times(const uint8_t* panel, int64_t n_in, const uint8_t* x, size_t stride, int64_t n, float* out,
                 int64_t out_stride, int64_t n_valid) {
    for (; n >= kRows; n -= kRows, x += kRows * stride, out += kRows * out_stride)
        panel_times_rows<Dot, type, kRows>(panel, n_in, x, stride, out, out_stride, n_valid);
    if (n == 3) panel_times_rows<Dot, type, 3>(panel, n_in, x, stride, out, out_stride, n_valid);
    if (n == 2) panel_times_rows<Dot, type, 2>(panel, n_in, x, stride, out, out_stride, n_valid);
    if (n == 1) panel_times_rows<Dot, type, 1>(panel, n_in, x, stride, out, out_stride, n_valid);
}

template <class Dot>
void gemv(LlmType type, const uint8_t* panel, int64_t n_in, const uint8_t* x, size_t stride, int64_t n,
          float* out, int64_t out_stride, int64_t n_valid) {
    switch (type) {
        case LlmType::q4_0:
            return panel_times<Dot, LlmType::q4_0>(panel, n_in, x, stride, n, out, out_stride, n_valid);
        case LlmType::q4_K:
            return panel_times<Dot, LlmType::q4_K>(panel, n_in, x, stride, n, out, out_stride, n_valid);
        case LlmType::q6_K:
            return panel_times<Dot, LlmType::q6_K>(panel, n_in, x, stride, n, out, out_stride, n_valid);
        case LlmType::q8_0:
            return panel_times<Dot, LlmType::q8_0>(panel, n_in, x, stride, n, out, out_stride, n_valid);
    }
}

inline int total_of(__m256i v) {
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xB1)));
}

inline void pack_x(const float* x, int64_t n_in, int64_t first, int64_t last, uint8_t* row) {
    auto* q = reinterpret_cast<int8_t*>(row);
    auto* scale = reinterpret_cast<float*>(row + n_in);
    float* sum = scale + n_in / 32;
    const __m256i magnitude = _mm256_set1_epi32(0x7FFFFFFF);
    for (int64_t cell = first; cell < last; ++cell) {
        __m256 in[4];
        __m256i most = _mm256_setzero_si256();
        for (int i = 0; i < 4; ++i) {
            in[i] = _mm256_loadu_ps(x + cell * 32 + i * 8);
            // As integers NaN > infinity > every number.
            most = _mm256_max_epu32(most, _mm256_and_si256(_mm256_castps_si256(in[i]), magnitude));
        }
        uint32_t bits[8], largest_bits = 0;
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(bits), most);
        for (const uint32_t b : bits) largest_bits = b > largest_bits ? b : largest_bits;
        float largest;
        std::memcpy(&largest, &largest_bits, sizeof largest);
        const bool is_finite = largest_bits < 0x7F800000u, is_zero = largest < 1e-30f;
        const __m256 inverse = _mm256_set1_ps(is_finite && !is_zero ? 127.0f / largest : 0.0f);
        __m256i v[4];
        for (int i = 0; i < 4; ++i)
            v[i] = is_finite ? _mm256_cvtps_epi32(_mm256_mul_ps(in[i], inverse)) : _mm256_setzero_si256();
        // Packing works on 128-bit halves; the permutation puts the groups of four back in order.
        const __m256i bytes =
            _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(q + cell * 32),
                            _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
        const float s = !is_finite ? __builtin_nanf("") : is_zero ? 0.0f : largest / 127.0f;
        scale[cell] = s;
        sum[2 * cell] = s * static_cast<float>(total_of(_mm256_add_epi32(v[0], v[1])));
        sum[2 * cell + 1] = s * static_cast<float>(total_of(_mm256_add_epi32(v[2], v[3])));
    }
}

}  // namespace
}  // namespace bluelm

#endif  // BLUELM_LLM_GEMV_256BIT_H
