// Gemm at AVX-VNNI: 6 rows x 16 outputs a step, with vpdpbusd in 256 bits (kernels/llm/gemm_256bit.h).
//
// As gemm_6x32_avx512_vnni.cpp: a group of inputs shares one scale, weights are rounded to 8 bits with it.
// Unpacked, a panel is uint8 [n_in/4][16 outputs][4 inputs] (value + 128), then scales, float [groups][16]. A
// step has 12 int32 sums in registers; the float sums wait in the first-level cache and are touched once per
// group.
#if defined(__x86_64__) && defined(__GNUC__)

#include <algorithm>
#include <cstring>

#include "kernels/llm/matmul.h"
#include "kernels/target.h"

BLUELM_TARGET_BEGIN("avx2,fma,f16c,avxvnni")

#include "kernels/llm/gemm_256bit.h"

namespace bluelm {
namespace {

struct Vnni256 {
    static constexpr int64_t kRows = 6;
    template <LlmType type>
    static constexpr int64_t group = type == LlmType::q4_0 || type == LlmType::q4_K ? 128 : 32;
    template <LlmType type>
    static constexpr int64_t part = group<type>;

    template <LlmType type>
    static size_t scratch_bytes(int64_t n_in) {
        return static_cast<size_t>(kPanelOutputs * (n_in + 4 * groups_of(n_in, group<type>)));
    }

    // Half a panel's cells, outputs 8 * side ..
    template <LlmType type>
    static void unpack_side(const uint8_t* panel, int64_t n_in, int64_t side, uint8_t* values,
                            float* scales) {
        constexpr int64_t kCells = group<type> / kCellInputs;
        constexpr float kLargest = type == LlmType::q6_K ? 63 : 15;
        const int64_t n_cells = n_in / kCellInputs;
        const uint8_t* packed_scales = panel + static_cast<size_t>(n_cells) * llm_cell_bytes(type);
        const __m256i low16 = _mm256_set1_epi32(0xFFFF), low8 = _mm256_set1_epi16(0x00FF);
        for (int64_t first = 0; first < n_cells; first += kCells) {
            const int64_t last = std::min(first + kCells, n_cells);
            __m256 scale[2], offset[2];
            __m256i q[8];
            if constexpr (type == LlmType::q8_0) {
                cell_scales<type>(packed_scales, first, side, scale, offset);
                _mm256_store_ps(scales + first * kPanelOutputs + side * 8, scale[0]);
                cell_values<type>(panel + static_cast<size_t>(first) * llm_cell_bytes(type), side, q);
#pragma GCC unroll 8
                for (int g = 0; g < 8; ++g) store(values + (first * 8 + g) * 64 + side * 32, q[g]);
                continue;
            }
            const __m256 sign = _mm256_set1_ps(-0.0f);
            __m256 most = _mm256_setzero_ps();
            for (int64_t cell = first; cell < last; ++cell) {
                cell_scales<type>(packed_scales, cell, side, scale, offset);
                for (int h = 0; h < 2; ++h) {
                    const __m256 end = _mm256_fmadd_ps(scale[h], _mm256_set1_ps(kLargest), offset[h]);
                    most = _mm256_max_ps(most, _mm256_andnot_ps(sign, offset[h]));
                    most = _mm256_max_ps(most, _mm256_andnot_ps(sign, end));
                }
            }
            _mm256_store_ps(scales + first / kCells * kPanelOutputs + side * 8,
                            _mm256_mul_ps(most, _mm256_set1_ps(1.0f / 127)));
            // 256 / S, in 16 bits with 8 behind the point: value * m + o, rounded by its upper half
            const __m256 is_some = _mm256_cmp_ps(most, _mm256_set1_ps(1e-30f), _CMP_GT_OQ);
            const __m256 inverse = _mm256_and_ps(is_some, _mm256_div_ps(_mm256_set1_ps(127.0f * 256), most));
            for (int64_t cell = first; cell < last; ++cell) {
                cell_scales<type>(packed_scales, cell, side, scale, offset);
                __m256i m[2], o[2];
                for (int h = 0; h < 2; ++h) {
                    m[h] = _mm256_and_si256(_mm256_cvtps_epi32(_mm256_mul_ps(scale[h], inverse)), low16);
                    m[h] = _mm256_or_si256(m[h], _mm256_slli_epi32(m[h], 16));
                    o[h] = _mm256_add_epi32(_mm256_cvtps_epi32(_mm256_mul_ps(offset[h], inverse)),
                                            _mm256_set1_epi32(0x8000 + 128));
                    o[h] = _mm256_and_si256(o[h], low16);
                    o[h] = _mm256_or_si256(o[h], _mm256_slli_epi32(o[h], 16));
                }
                cell_values<type>(panel + static_cast<size_t>(cell) * llm_cell_bytes(type), side, q);
#pragma GCC unroll 8
                for (int g = 0; g < 8; ++g) {
                    const __m256i even = _mm256_add_epi16(
                        _mm256_mullo_epi16(_mm256_and_si256(q[g], low8), m[g / 4]), o[g / 4]);
                    const __m256i odd =
                        _mm256_add_epi16(_mm256_mullo_epi16(_mm256_srli_epi16(q[g], 8), m[g / 4]), o[g / 4]);
                    store(values + (cell * 8 + g) * 64 + side * 32,
                          _mm256_or_si256(_mm256_srli_epi16(even, 8), _mm256_andnot_si256(low8, odd)));
                }
            }
        }
    }

    template <LlmType type>
    static void unpack_panel(const uint8_t* panel, int64_t n_in, uint8_t* scratch) {
        auto* scales = reinterpret_cast<float*>(scratch + n_in * kPanelOutputs);
        for (int64_t side = 0; side < 2; ++side) unpack_side<type>(panel, n_in, side, scratch, scales);
    }

    // Adds 6 rows times the panel to `sums` [6][16].
    template <LlmType type>
    static void multiply(const RowBlock<Vnni256, type>& x, int64_t n_in, uint8_t* scratch, float* sums) {
        const int64_t n_groups = groups_of(n_in, group<type>);
        const auto* scales = reinterpret_cast<float*>(scratch + n_in * kPanelOutputs);
        const uint8_t* w = scratch;
        const int8_t* q = x.values;
        for (int64_t g = 0; g < n_groups; ++g, scales += kPanelOutputs) {
            const int8_t* end = q + std::min(group<type>, n_in - g * group<type>) * kRows;
#define BLUELM_EACH_ROW(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5)
#define BLUELM_START(r) \
    __m256i dot##r##a = _mm256_set1_epi32(-128 * x.sums[g * kRows + r]), dot##r##b = dot##r##a;
            BLUELM_EACH_ROW(BLUELM_START)
            for (; q != end; q += 4 * kRows, w += 64) {
                const __m256i wa = load(w), wb = load(w + 32);
#define BLUELM_DOT(r)                                             \
    {                                                             \
        const __m256i four = _mm256_set1_epi32(dword(q + 4 * r)); \
        dot##r##a = _mm256_dpbusd_avx_epi32(dot##r##a, wa, four); \
        dot##r##b = _mm256_dpbusd_avx_epi32(dot##r##b, wb, four); \
    }
                BLUELM_EACH_ROW(BLUELM_DOT)
            }
            const __m256 sa = _mm256_load_ps(scales), sb = _mm256_load_ps(scales + 8);
#define BLUELM_ADD(r)                                                                                    \
    {                                                                                                    \
        const __m256 d = _mm256_set1_ps(x.scales[g * kRows + r]);                                        \
        float *a = sums + r * kPanelOutputs, *b = a + 8;                                                 \
        _mm256_store_ps(                                                                                 \
            a, _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot##r##a), _mm256_mul_ps(sa, d), _mm256_load_ps(a))); \
        _mm256_store_ps(                                                                                 \
            b, _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot##r##b), _mm256_mul_ps(sb, d), _mm256_load_ps(b))); \
    }
            BLUELM_EACH_ROW(BLUELM_ADD)
#undef BLUELM_EACH_ROW
#undef BLUELM_START
#undef BLUELM_DOT
#undef BLUELM_ADD
        }
    }
};

}  // namespace

const LlmGemm kLlmGemm6x16AvxVnni = gemm_with<Vnni256>();

}  // namespace bluelm

BLUELM_TARGET_END

#endif
