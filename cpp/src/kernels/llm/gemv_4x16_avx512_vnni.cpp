// Gemv at AVX-512 VNNI: up to 4 rows x a panel of 16 outputs. The weights stream through once, at the bits
// they are stored with. A vector of 32-bit lanes is 16 outputs; four activations are broadcast to all of
// them. Per cell: 8 vpdpbusd, one conversion and one or two multiply-adds for each row.
#if defined(__x86_64__) && defined(__GNUC__)

#include <algorithm>
#include <cstring>

#include "kernels/llm/matmul.h"
#include "kernels/llm/prefetch.h"
#include "kernels/target.h"

BLUELM_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")

#include "kernels/llm/unpack_512bit.h"

namespace bluelm {
namespace {

__attribute__((always_inline)) inline __m512i four_of(const int8_t* q) {
    int32_t four;
    std::memcpy(&four, q, sizeof four);
    return _mm512_set1_epi32(four);
}

template <LlmType type, int rows>
void panel_times_rows(const uint8_t* panel, int64_t n_in, const uint8_t* x, size_t stride, float* out,
                      int64_t out_stride, __mmask16 valid) {
    const PanelAt<type> at(panel, n_in);
    LlmQ8Row row[rows];
    __m512 total[rows];
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) {
        row[r] = llm_q8_row(x + static_cast<size_t>(r) * stride, n_in);
        total[r] = _mm512_setzero_ps();
    }
    const int64_t n_cells = n_in / kCellInputs;
    const uint8_t* next = panel + llm_panel_bytes(type, n_in);
    for (int64_t cell = 0; cell < n_cells; ++cell) {
        prefetch_cell<type>(next, n_in, cell);
        __m512i q[8];
        cell_values<type>(at.cell(cell), q);
        __m512 scale[2], offset[2];
        cell_scales<type>(at.scales, cell, scale, offset);
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) {
            const int8_t* a = row[r].q + cell * 32;
            const __m512i zero = _mm512_setzero_si512();
            __m512i dot[2] = {zero, zero};  // inputs 0..15 and 16..31
#pragma GCC unroll 4
            for (int g = 0; g < 4; ++g) {
                dot[0] = _mm512_dpbusd_epi32(dot[0], q[g], four_of(a + 4 * g));
                dot[1] = _mm512_dpbusd_epi32(dot[1], q[g + 4], four_of(a + 16 + 4 * g));
            }
            const __m512 d = _mm512_set1_ps(row[r].scale[cell]);
            const float* sum = row[r].sum + 2 * cell;
            if constexpr (type == LlmType::q6_K) {
#pragma GCC unroll 2
                for (int half = 0; half < 2; ++half) {
                    // scale * (d * dot - 32 * sum)
                    const __m512 shift = _mm512_set1_ps(-32.0f * sum[half]);
                    total[r] = _mm512_fmadd_ps(
                        scale[half], _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[half]), d, shift), total[r]);
                }
            } else {
                const __m512 value = _mm512_cvtepi32_ps(_mm512_add_epi32(dot[0], dot[1]));
                const __m512 both = _mm512_set1_ps(sum[0] + sum[1]);
                total[r] = _mm512_fmadd_ps(_mm512_mul_ps(scale[0], d), value, total[r]);
                total[r] = _mm512_fmadd_ps(offset[0], both, total[r]);
            }
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) _mm512_mask_storeu_ps(out + r * out_stride, valid, total[r]);
}

template <LlmType type>
void panel_times(const uint8_t* panel, int64_t n_in, const uint8_t* x, size_t stride, int64_t n, float* out,
                 int64_t out_stride, __mmask16 valid) {
    for (; n >= 4; n -= 4, x += 4 * stride, out += 4 * out_stride)
        panel_times_rows<type, 4>(panel, n_in, x, stride, out, out_stride, valid);
    if (n == 3) panel_times_rows<type, 3>(panel, n_in, x, stride, out, out_stride, valid);
    if (n == 2) panel_times_rows<type, 2>(panel, n_in, x, stride, out, out_stride, valid);
    if (n == 1) panel_times_rows<type, 1>(panel, n_in, x, stride, out, out_stride, valid);
}

void pack_x(const float* x, int64_t n_in, int64_t first, int64_t last, uint8_t* row) {
    auto* q = reinterpret_cast<int8_t*>(row);
    auto* scale = reinterpret_cast<float*>(row + n_in);
    float* sum = scale + n_in / 32;
    const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF);
    for (int64_t cell = first; cell < last; ++cell) {
        const __m512 lo = _mm512_loadu_ps(x + cell * 32), hi = _mm512_loadu_ps(x + cell * 32 + 16);
        // As integers NaN > infinity > every number.
        const uint32_t bits =
            _mm512_reduce_max_epu32(_mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(lo), magnitude),
                                                     _mm512_and_si512(_mm512_castps_si512(hi), magnitude)));
        float largest;
        std::memcpy(&largest, &bits, sizeof largest);
        const bool is_finite = bits < 0x7F800000u, is_zero = largest < 1e-30f;
        const __m512 inverse = _mm512_set1_ps(is_finite && !is_zero ? 127.0f / largest : 0.0f);
        __m512i qlo = _mm512_cvtps_epi32(_mm512_mul_ps(lo, inverse));
        __m512i qhi = _mm512_cvtps_epi32(_mm512_mul_ps(hi, inverse));
        float s = is_zero ? 0.0f : largest / 127.0f;
        if (!is_finite) {
            qlo = qhi = _mm512_setzero_si512();
            s = __builtin_nanf("");
        }
        _mm_storeu_si128(reinterpret_cast<__m128i*>(q + cell * 32), _mm512_cvtepi32_epi8(qlo));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(q + cell * 32 + 16), _mm512_cvtepi32_epi8(qhi));
        scale[cell] = s;
        sum[2 * cell] = s * static_cast<float>(_mm512_reduce_add_epi32(qlo));
        sum[2 * cell + 1] = s * static_cast<float>(_mm512_reduce_add_epi32(qhi));
    }
}

void gemv(LlmType type, const uint8_t* panel, int64_t n_in, const uint8_t* rows, size_t row_stride,
          int64_t n_rows, float* out, int64_t out_stride, int64_t n_valid) {
    const auto valid = static_cast<__mmask16>((1u << n_valid) - 1u);
    switch (type) {
        case LlmType::q4_0:
            return panel_times<LlmType::q4_0>(panel, n_in, rows, row_stride, n_rows, out, out_stride, valid);
        case LlmType::q4_K:
            return panel_times<LlmType::q4_K>(panel, n_in, rows, row_stride, n_rows, out, out_stride, valid);
        case LlmType::q6_K:
            return panel_times<LlmType::q6_K>(panel, n_in, rows, row_stride, n_rows, out, out_stride, valid);
        case LlmType::q8_0:
            return panel_times<LlmType::q8_0>(panel, n_in, rows, row_stride, n_rows, out, out_stride, valid);
    }
}

}  // namespace

const LlmGemv kLlmGemv4x16Avx512Vnni = {pack_x, gemv};

}  // namespace bluelm

BLUELM_TARGET_END

#endif
