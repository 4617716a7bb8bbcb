// Gemm at AVX-512 VNNI: 6 rows x 32 outputs a step. Weights are unpacked to 8 bits in cache and multiplied
// with activations of 8 bits.
//
// Scales per 32 weights cost half the speed (they interrupt the integer sums), so a group of kGroup inputs
// shares one: each weight w = scale * value + offset becomes round(w / S) with S = max |w| / 127 over the
// group and output. What that rounds away is below what 4 bits rounded away before: a step of S/2 against
// steps of 1/16 of each block's range. Activations get one scale per group and row, as Q8_K has in ggml.
// Types of 6 and 8 bits keep groups of 32, for Q8_0 without any rounding.
//
// Unpacked, a strip is [groups][kGroup/4][32 outputs][4 inputs] of uint8 (value + 128), and S as float
// [groups][32]. Activations: rows in blocks of 6, int8 [6][n_in]; then scale and -128 * sum of values, each
// [6][groups]. A step multiplies 6 rows x 32 outputs: 12 int32 and 12 float sums in registers, named one by
// one, since GCC 12 spills arrays.
#if defined(__x86_64__) && defined(__GNUC__)

#include <algorithm>
#include <cstring>

#include "kernels/llm/matmul.h"
#include "kernels/target.h"

BLUELM_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")

#include "kernels/llm/unpack_512bit.h"

namespace bluelm {
namespace {

constexpr int64_t kRows = 6, kOutputs = 32;
constexpr int64_t kMaxRows =
    480;  // rows that pass over an unpacked strip: they stay in the second-level cache

constexpr int64_t group_of(LlmType type) { return type == LlmType::q4_0 || type == LlmType::q4_K ? 128 : 32; }
int64_t groups_of(LlmType type, int64_t n_in) { return (n_in + group_of(type) - 1) / group_of(type); }

// A block of six rows.
size_t block_bytes(LlmType type, int64_t n_in) {
    return (static_cast<size_t>(kRows * n_in) + static_cast<size_t>(kRows * groups_of(type, n_in)) * 8 + 63) /
           64 * 64;
}

size_t x_bytes(LlmType type, int64_t n_rows, int64_t n_in) {
    return static_cast<size_t>((n_rows + kRows - 1) / kRows) * block_bytes(type, n_in);
}

size_t scratch_bytes(LlmType type, int64_t n_in) {
    return static_cast<size_t>(n_in * kOutputs + groups_of(type, n_in) * kOutputs * 4);
}

struct SixRows {
    const int8_t* q;
    const float* scale;
    const int32_t* start;
    SixRows(const uint8_t* block, int64_t n_in, int64_t n_groups)
        : q(reinterpret_cast<const int8_t*>(block)),
          scale(reinterpret_cast<const float*>(block + kRows * n_in)),
          start(reinterpret_cast<const int32_t*>(scale + kRows * n_groups)) {}
};

void pack_x_group(const float* x, int64_t n, int8_t* q, float* scale, int32_t* start) {
    __m512i most = _mm512_setzero_si512();
    for (int64_t i = 0; i < n; i += 16) {
        most = _mm512_max_epu32(most, _mm512_and_si512(_mm512_castps_si512(_mm512_loadu_ps(x + i)),
                                                       _mm512_set1_epi32(0x7FFFFFFF)));
    }
    const uint32_t bits = _mm512_reduce_max_epu32(most);  // as integers NaN > infinity > every number
    float largest;
    std::memcpy(&largest, &bits, sizeof largest);
    if (bits >= 0x7F800000u || largest < 1e-30f) {  // see kernels/llm/gemv_reference.cpp
        std::memset(q, 0, static_cast<size_t>(n));
        *scale = bits >= 0x7F800000u ? __builtin_nanf("") : 0.0f;
        *start = 0;
        return;
    }
    const __m512 inverse = _mm512_set1_ps(127.0f / largest);
    __m512i sum = _mm512_setzero_si512();
    for (int64_t i = 0; i < n; i += 16) {
        const __m512i v = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i), inverse));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(q + i), _mm512_cvtepi32_epi8(v));
        sum = _mm512_add_epi32(sum, v);
    }
    *scale = largest / 127.0f;
    *start = -128 * _mm512_reduce_add_epi32(sum);
}

void pack_x(LlmType type, const StridedRows& x, int64_t n_rows, int64_t n_in, int64_t first, int64_t last,
            uint8_t* activations) {
    const int64_t n_groups = groups_of(type, n_in), group = group_of(type);
    for (int64_t b = first; b < last; ++b) {
        uint8_t* block = activations + static_cast<size_t>(b) * block_bytes(type, n_in);
        auto* scale = reinterpret_cast<float*>(block + kRows * n_in);
        auto* start = reinterpret_cast<int32_t*>(scale + kRows * n_groups);
        for (int64_t r = 0; r < kRows; ++r) {
            auto* q = reinterpret_cast<int8_t*>(block) + r * n_in;
            if (b * kRows + r >= n_rows) {
                std::memset(q, 0, static_cast<size_t>(n_in));
                std::fill_n(scale + r * n_groups, n_groups, 0.0f);
                std::fill_n(start + r * n_groups, n_groups, 0);
                continue;
            }
            const float* in = x[b * kRows + r];
            for (int64_t g = 0; g < n_groups; ++g)
                pack_x_group(in + g * group, std::min(group, n_in - g * group), q + g * group,
                             scale + r * n_groups + g, start + r * n_groups + g);
        }
    }
}

// A panel's cells to 8 bits: half of a strip (`half` 0 or 1 of 64 bytes in each 128).
template <LlmType type>
void unpack_panel(const uint8_t* panel, int64_t n_in, int64_t half, uint8_t* values, float* scales) {
    constexpr int64_t kGroup = group_of(type);
    const PanelAt<type> at(panel, n_in);
    const int64_t n_cells = n_in / kCellInputs;
    constexpr float kLargest = type == LlmType::q8_0 ? 127 : type == LlmType::q6_K ? 63 : 15;
    for (int64_t first = 0; first < n_cells; first += kGroup / kCellInputs) {
        const int64_t last = std::min(first + kGroup / kCellInputs, n_cells);
        __m512 scale[2], offset[2];
        if constexpr (type == LlmType::q8_0) {
            cell_scales<type>(at.scales, first, scale, offset);
            _mm512_storeu_ps(scales + first * kOutputs + half * 16, scale[0]);
            __m512i q[8];
            cell_values<type>(at.cell(first), q);
#pragma GCC unroll 8
            for (int g = 0; g < 8; ++g) _mm512_store_si512(values + (first * 8 + g) * 128 + half * 64, q[g]);
            continue;
        }
        __m512 most = _mm512_setzero_ps();
        for (int64_t cell = first; cell < last; ++cell) {
            cell_scales<type>(at.scales, cell, scale, offset);
            for (int h = 0; h < 2; ++h) {
                most = _mm512_max_ps(most, _mm512_abs_ps(offset[h]));
                most = _mm512_max_ps(
                    most, _mm512_abs_ps(_mm512_fmadd_ps(scale[h], _mm512_set1_ps(kLargest), offset[h])));
            }
        }
        _mm512_storeu_ps(scales + first / (kGroup / kCellInputs) * kOutputs + half * 16,
                         _mm512_mul_ps(most, _mm512_set1_ps(1.0f / 127)));
        // 256 / S, in 16 bits with 8 behind the point: value * m + o, rounded by its upper half
        const __mmask16 is_some = _mm512_cmp_ps_mask(most, _mm512_set1_ps(1e-30f), _CMP_GT_OQ);
        const __m512 inverse = _mm512_maskz_div_ps(is_some, _mm512_set1_ps(127.0f * 256), most);
        for (int64_t cell = first; cell < last; ++cell) {
            cell_scales<type>(at.scales, cell, scale, offset);
            __m512i m[2], o[2];
            for (int h = 0; h < 2; ++h) {
                const __m512i wide = _mm512_and_si512(_mm512_cvtps_epi32(_mm512_mul_ps(scale[h], inverse)),
                                                      _mm512_set1_epi32(0xFFFF));
                m[h] = _mm512_or_si512(wide, _mm512_slli_epi32(wide, 16));
                const __m512i shift =
                    _mm512_and_si512(_mm512_add_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(offset[h], inverse)),
                                                      _mm512_set1_epi32(0x8000 + 128)),
                                     _mm512_set1_epi32(0xFFFF));
                o[h] = _mm512_or_si512(shift, _mm512_slli_epi32(shift, 16));
            }
            __m512i q[8];
            cell_values<type>(at.cell(cell), q);
            const __m512i low = _mm512_set1_epi16(0x00FF);
#pragma GCC unroll 8
            for (int g = 0; g < 8; ++g) {
                const __m512i even =
                    _mm512_add_epi16(_mm512_mullo_epi16(_mm512_and_si512(q[g], low), m[g / 4]), o[g / 4]);
                const __m512i odd =
                    _mm512_add_epi16(_mm512_mullo_epi16(_mm512_srli_epi16(q[g], 8), m[g / 4]), o[g / 4]);
                // (even >> 8) | (odd & ~low), 0xF4 = a | (b & ~c)
                _mm512_store_si512(values + (cell * 8 + g) * 128 + half * 64,
                                   _mm512_ternarylogic_epi32(_mm512_srli_epi16(even, 8), odd, low, 0xF4));
            }
        }
    }
}

// 6 rows of x times a strip of 32 outputs.
template <LlmType type>
void multiply(const SixRows& x, int64_t n_in, const uint8_t* values, const float* scales, float* out,
              int64_t out_stride) {
    constexpr int64_t kGroup = group_of(type);
    const int64_t n_groups = (n_in + kGroup - 1) / kGroup;
#define BLUELM_EACH_ROW(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5)
#define BLUELM_ZERO(r) __m512 sum##r##a = _mm512_setzero_ps(), sum##r##b = sum##r##a;
    BLUELM_EACH_ROW(BLUELM_ZERO)
    for (int64_t group = 0; group < n_groups; ++group, scales += kOutputs) {
        const int8_t* q = x.q + group * kGroup;
        const int64_t n = std::min(kGroup, n_in - group * kGroup);
#define BLUELM_START(r) \
    __m512i dot##r##a = _mm512_set1_epi32(x.start[r * n_groups + group]), dot##r##b = dot##r##a;
        BLUELM_EACH_ROW(BLUELM_START)
        for (int64_t i = 0; i < n; i += 8, values += 256) {
#pragma GCC unroll 2
            for (int64_t j = 0; j < 2; ++j) {
                const __m512i wa = _mm512_load_si512(values + j * 128);
                const __m512i wb = _mm512_load_si512(values + j * 128 + 64);
#define BLUELM_DOT(r)                                                \
    {                                                                \
        int32_t four;                                                \
        std::memcpy(&four, q + r * n_in + i + 4 * j, sizeof four);   \
        const __m512i four_inputs = _mm512_set1_epi32(four);         \
        dot##r##a = _mm512_dpbusd_epi32(dot##r##a, wa, four_inputs); \
        dot##r##b = _mm512_dpbusd_epi32(dot##r##b, wb, four_inputs); \
    }
                BLUELM_EACH_ROW(BLUELM_DOT)
            }
        }
        const __m512 sa = _mm512_loadu_ps(scales), sb = _mm512_loadu_ps(scales + 16);
#define BLUELM_ADD(r)                                                                                    \
    {                                                                                                    \
        const __m512 scale = _mm512_set1_ps(x.scale[r * n_groups + group]);                              \
        sum##r##a = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot##r##a), _mm512_mul_ps(sa, scale), sum##r##a); \
        sum##r##b = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot##r##b), _mm512_mul_ps(sb, scale), sum##r##b); \
    }
        BLUELM_EACH_ROW(BLUELM_ADD)
    }
#define BLUELM_STORE(r)                                \
    _mm512_storeu_ps(out + r * out_stride, sum##r##a); \
    _mm512_storeu_ps(out + r * out_stride + 16, sum##r##b);
    BLUELM_EACH_ROW(BLUELM_STORE)
#undef BLUELM_EACH_ROW
#undef BLUELM_ZERO
#undef BLUELM_START
#undef BLUELM_DOT
#undef BLUELM_ADD
#undef BLUELM_STORE
}

template <LlmType type>
void gemm_of(const LlmGemmTask& s) {
    const int64_t n_groups = groups_of(type, s.n_in);
    const size_t panel_bytes = llm_panel_bytes(type, s.n_in);
    uint8_t* values = s.scratch;
    auto* scales = reinterpret_cast<float*>(values + s.n_in * kOutputs);
    float edge[kRows * kOutputs];
    for (int64_t rows = 0; rows < s.n_rows; rows += kMaxRows) {
        const int64_t rows_end = std::min(rows + kMaxRows, s.n_rows);
        for (int64_t panel = s.first_panel; panel < s.last_panel; panel += 2) {
            // Beyond the last panel stands what was unpacked there before: its results are not stored.
            for (int64_t p = 0; p < std::min<int64_t>(2, s.last_panel - panel); ++p)
                unpack_panel<type>(s.packed + static_cast<size_t>(panel + p) * panel_bytes, s.n_in, p, values,
                                   scales);
            const int64_t first_out = panel * kPanelOutputs;
            const int64_t n_outs =
                std::min(std::min(kOutputs, s.n_out - first_out), (s.last_panel - panel) * kPanelOutputs);
            for (int64_t r = rows; r < rows_end; r += kRows) {
                const SixRows six(s.x + static_cast<size_t>(r / kRows) * block_bytes(type, s.n_in), s.n_in,
                                  n_groups);
                float* out = s.out + r * s.n_out + first_out;
                const int64_t n_rows = std::min(kRows, s.n_rows - r);
                if (n_rows == kRows && n_outs == kOutputs) {
                    multiply<type>(six, s.n_in, values, scales, out, s.n_out);
                    continue;
                }
                multiply<type>(six, s.n_in, values, scales, edge, kOutputs);
                for (int64_t i = 0; i < n_rows; ++i)
                    std::copy_n(edge + i * kOutputs, n_outs, out + i * s.n_out);
            }
        }
    }
}

void gemm(const LlmGemmTask& task) {
    switch (task.type) {
        case LlmType::q4_0: return gemm_of<LlmType::q4_0>(task);
        case LlmType::q4_K: return gemm_of<LlmType::q4_K>(task);
        case LlmType::q6_K: return gemm_of<LlmType::q6_K>(task);
        case LlmType::q8_0: return gemm_of<LlmType::q8_0>(task);
    }
}

}  // namespace

const LlmGemm kLlmGemm6x32Avx512Vnni = {12, kRows, 2, x_bytes, scratch_bytes, pack_x, gemm};

}  // namespace bluelm

BLUELM_TARGET_END

#endif
