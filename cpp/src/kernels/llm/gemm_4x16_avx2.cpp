// Gemm at AVX2: 4 rows x 16 outputs a step (kernels/llm/gemm_256bit.h).
//
// AVX2 has no 8-bit dot product of four: vpmaddubsw multiplies uint8 with int8 and adds pairs into 16 bits
// (gemv_4x16_avx2.cpp says what fits).
//
// Sums of 16 bits are what makes 4-bit weights twice as fast as 8-bit ones, so a panel is unpacked to the
// values of the file, and their scales to integers that share a float S per group of 128 inputs: scale = s *
// S, offset = o * S with |s| <= 4000, |o| <= 32000. vpmaddwd multiplies the sums of a part (the inputs with
// one scale) with s and widens them to 32 bits. A group adds up to at most 128 * 127 * (15 * 4000 + 32000) <
// 2^31; with the 6 bits of Q6_K, whose o is -32 s and s therefore at most 1000, to less. Activations have one
// scale per group. Unpacked, a panel is
//
//     uint8 [n_in/4][16 outputs][4 inputs]   values
//     int16 [groups][parts][16][2]           s, twice
//     int16 [groups][parts/2][16][2]         o of two parts
//     float [groups][16]                     S
//
// Q8_0 has groups of one cell: int8 values, then its scales.
#if defined(__x86_64__) && defined(__GNUC__)

#include <algorithm>
#include <cstring>

#include "kernels/llm/matmul.h"
#include "kernels/target.h"

BLUELM_TARGET_BEGIN("avx2,fma,f16c")

#include "kernels/llm/gemm_256bit.h"

namespace bluelm {
namespace {

#define BLUELM_EACH_ROW(DO) DO(0) DO(1) DO(2) DO(3)

struct Avx2 {
    static constexpr int64_t kRows = 4;
    template <LlmType type>
    static constexpr int64_t group = type == LlmType::q8_0 ? 32 : 128;
    template <LlmType type>
    static constexpr int64_t part = type == LlmType::q6_K ? 16 : 32;

    // The pieces of an unpacked panel.
    template <LlmType type>
    struct Panel {
        static constexpr int64_t kParts = group<type> / part<type>;
        static size_t bytes(int64_t n_in) {
            return static_cast<size_t>(kPanelOutputs *
                                       (n_in + groups_of(n_in, group<type>) * (6 * kParts + 4)));
        }
        uint8_t* values;
        uint8_t* scales;
        uint8_t* offsets;
        float* units;  // S
        Panel(uint8_t* scratch, int64_t n_in) : values(scratch), scales(scratch + n_in * kPanelOutputs) {
            const int64_t n_parts = groups_of(n_in, group<type>) * kParts;
            offsets = scales + n_parts * kPanelOutputs * 4;
            units = reinterpret_cast<float*>(offsets + n_parts * kPanelOutputs * 2);
        }
    };

    template <LlmType type>
    static size_t scratch_bytes(int64_t n_in) {
        return Panel<type>::bytes(n_in);
    }

    // Outputs 8 * side .. of a panel.
    template <LlmType type>
    static void unpack_side(const uint8_t* packed, int64_t n_in, int64_t side, const Panel<type>& to) {
        constexpr int64_t kCells = group<type> / kCellInputs, kPerCell = kCellInputs / part<type>;
        const int64_t n_cells = n_in / kCellInputs;
        const uint8_t* packed_scales = packed + static_cast<size_t>(n_cells) * llm_cell_bytes(type);
        const __m256i low16 = _mm256_set1_epi32(0xFFFF);
        const __m256 sign = _mm256_set1_ps(-0.0f);
        __m256 scale[2], offset[2];
        for (int64_t first = 0, g = 0; first < n_cells; first += kCells, ++g) {
            const int64_t last = std::min(first + kCells, n_cells);
            __m256 unit = _mm256_setzero_ps();
            for (int64_t cell = first; cell < last; ++cell) {
                cell_scales<type>(packed_scales, cell, side, scale, offset);
                for (int64_t h = 0; h < kPerCell; ++h) {
                    const __m256 s = _mm256_mul_ps(scale[h], _mm256_set1_ps(1.0f / 4000));
                    const __m256 o = _mm256_mul_ps(offset[h], _mm256_set1_ps(1.0f / 32000));
                    unit = _mm256_max_ps(unit,
                                         _mm256_max_ps(_mm256_andnot_ps(sign, s), _mm256_andnot_ps(sign, o)));
                }
            }
            _mm256_store_ps(to.units + g * kPanelOutputs + side * 8, unit);
            const __m256 is_some = _mm256_cmp_ps(unit, _mm256_set1_ps(1e-34f), _CMP_GT_OQ);
            const __m256 inverse = _mm256_and_ps(is_some, _mm256_div_ps(_mm256_set1_ps(1.0f), unit));
            // Offsets of a last group that is not whole: those of parts that are not there are zero.
            uint8_t* pairs = to.offsets + g * Panel<type>::kParts * kPanelOutputs * 2 + side * 32;
            for (int64_t p = 0; p < Panel<type>::kParts / 2; ++p)
                store(pairs + p * 64, _mm256_setzero_si256());
            for (int64_t cell = first; cell < last; ++cell) {
                cell_scales<type>(packed_scales, cell, side, scale, offset);
                for (int64_t h = 0; h < kPerCell; ++h) {
                    const int64_t p = (cell - first) * kPerCell + h;
                    const __m256i s =
                        _mm256_and_si256(_mm256_cvtps_epi32(_mm256_mul_ps(scale[h], inverse)), low16);
                    store(to.scales + (g * Panel<type>::kParts + p) * 64 + side * 32,
                          _mm256_or_si256(s, _mm256_slli_epi32(s, 16)));
                    const __m256i o =
                        _mm256_and_si256(_mm256_cvtps_epi32(_mm256_mul_ps(offset[h], inverse)), low16);
                    store(pairs + p / 2 * 64,
                          p % 2 ? _mm256_or_si256(load(pairs + p / 2 * 64), _mm256_slli_epi32(o, 16)) : o);
                }
                unpack_cell<type>(packed, cell, side, to.values);
            }
        }
    }

    template <LlmType type>
    static void unpack_cell(const uint8_t* packed, int64_t cell, int64_t side, uint8_t* values) {
        __m256i q[8];
        cell_values<type>(packed + static_cast<size_t>(cell) * llm_cell_bytes(type), side, q);
        const __m256i middle = _mm256_set1_epi8(type == LlmType::q8_0 ? -128 : 0);
#pragma GCC unroll 8
        for (int g = 0; g < 8; ++g)
            store(values + (cell * 8 + g) * 64 + side * 32, _mm256_xor_si256(q[g], middle));
    }

    template <LlmType type>
    static void unpack_panel(const uint8_t* packed, int64_t n_in, uint8_t* scratch) {
        const Panel<type> to(scratch, n_in);
        for (int64_t side = 0; side < 2; ++side) {
            if constexpr (type != LlmType::q8_0) {
                unpack_side<type>(packed, n_in, side, to);
            } else {
                const int64_t n_cells = n_in / kCellInputs;
                const uint8_t* scales = packed + static_cast<size_t>(n_cells) * llm_cell_bytes(type);
                for (int64_t cell = 0; cell < n_cells; ++cell) {
                    unpack_cell<type>(packed, cell, side, to.values);
                    _mm256_store_ps(to.units + cell * kPanelOutputs + side * 8,
                                    load_halfs(scales + cell * 32 + side * 16));
                }
            }
        }
    }

    // Adds 4 rows times the panel to `sums` [4][16].
    template <LlmType type>
    static void multiply(const RowBlock<Avx2, type>& x, int64_t n_in, uint8_t* scratch, float* sums) {
        const Panel<type> panel(scratch, n_in);
        const int64_t n_groups = groups_of(n_in, group<type>);
        const uint8_t* w = panel.values;
        const int8_t* q = x.values;
        for (int64_t g = 0; g < n_groups; ++g) {
            const int64_t n = std::min(group<type>, n_in - g * group<type>);
            alignas(32) int32_t dots[kRows * kPanelOutputs];
            if constexpr (type == LlmType::q8_0) {
                dots_of_8_bits(q, w, dots);
            } else {
                start<type>(x.sums + g * kRows * panel.kParts,
                            panel.offsets + g * panel.kParts * kPanelOutputs * 2, dots);
                dots_of_parts<type>(q, w, n, panel.scales + g * panel.kParts * kPanelOutputs * 4, dots);
            }
            q += n * kRows;
            w += n * kPanelOutputs;
            for (int64_t side = 0; side < 2; ++side) {
                const __m256 unit = _mm256_load_ps(panel.units + g * kPanelOutputs + side * 8);
#pragma GCC unroll 4
                for (int64_t r = 0; r < kRows; ++r) {
                    float* sum = sums + r * kPanelOutputs + side * 8;
                    const __m256i dot = load(reinterpret_cast<uint8_t*>(dots + r * kPanelOutputs + side * 8));
                    const __m256 scale = _mm256_mul_ps(unit, _mm256_set1_ps(x.scales[g * kRows + r]));
                    _mm256_store_ps(sum,
                                    _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scale, _mm256_load_ps(sum)));
                }
            }
        }
    }

    // Sums of a group's activations times offsets.
    template <LlmType type>
    static inline void start(const int16_t* part_sums, const uint8_t* offsets, int32_t* dots) {
        constexpr int64_t kParts = Panel<type>::kParts;
        for (int64_t side = 0; side < 2; ++side) {
#pragma GCC unroll 4
            for (int64_t r = 0; r < kRows; ++r) {
                __m256i sum = _mm256_setzero_si256();
#pragma GCC unroll 4
                for (int64_t p = 0; p < kParts / 2; ++p) {
                    const __m256i two = _mm256_set1_epi32(dword(part_sums + r * kParts + 2 * p));
                    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(two, load(offsets + p * 64 + side * 32)));
                }
                store(reinterpret_cast<uint8_t*>(dots + r * kPanelOutputs + side * 8), sum);
            }
        }
    }

    // Adds n inputs: kSteps steps of four are summed in 16 bits, then multiplied with their part's scale.
    template <LlmType type>
    static inline void dots_of_parts(const int8_t* q, const uint8_t* w, int64_t n, const uint8_t* scales,
                                     int32_t* dots) {
        constexpr int64_t kSteps = type == LlmType::q6_K ? 2 : 8;
        for (int64_t i = 0; i < n; i += 4 * kSteps) {
            __m256i wa = load(w), wb = load(w + 32);
#define BLUELM_FIRST(r)                                    \
    __m256i four##r = _mm256_set1_epi32(dword(q + 4 * r)); \
    __m256i dot##r##a = _mm256_maddubs_epi16(wa, four##r), dot##r##b = _mm256_maddubs_epi16(wb, four##r);
            BLUELM_EACH_ROW(BLUELM_FIRST)
#pragma GCC unroll 7
            for (int64_t step = 1; step < kSteps; ++step) {
                wa = load(w + step * 64);
                wb = load(w + step * 64 + 32);
#define BLUELM_DOT(r)                                                           \
    four##r = _mm256_set1_epi32(dword(q + (step * kRows + r) * 4));             \
    dot##r##a = _mm256_add_epi16(dot##r##a, _mm256_maddubs_epi16(wa, four##r)); \
    dot##r##b = _mm256_add_epi16(dot##r##b, _mm256_maddubs_epi16(wb, four##r));
                BLUELM_EACH_ROW(BLUELM_DOT)
            }
            const uint8_t* at = scales + i / part<type> * 64;
            const __m256i sa = load(at), sb = load(at + 32);
#define BLUELM_ADD(r)                                                                      \
    {                                                                                      \
        auto* to = reinterpret_cast<uint8_t*>(dots + r * kPanelOutputs);                   \
        store(to, _mm256_add_epi32(load(to), _mm256_madd_epi16(dot##r##a, sa)));           \
        store(to + 32, _mm256_add_epi32(load(to + 32), _mm256_madd_epi16(dot##r##b, sb))); \
    }
            BLUELM_EACH_ROW(BLUELM_ADD)
            q += 4 * kSteps * kRows;
            w += kSteps * 64;
        }
    }

    // A cell of signed values of 8 bits: magnitude of the weight times activation with the weight's sign.
    static inline void dots_of_8_bits(const int8_t* q, const uint8_t* w, int32_t* dots) {
        const __m256i ones = _mm256_set1_epi16(1);
#define BLUELM_ZERO(r) __m256i dot##r##a = _mm256_setzero_si256(), dot##r##b = dot##r##a;
        BLUELM_EACH_ROW(BLUELM_ZERO)
        for (int64_t step = 0; step < 8; ++step, w += 64) {
            const __m256i wa = load(w), wb = load(w + 32);
            const __m256i ua = _mm256_abs_epi8(wa), ub = _mm256_abs_epi8(wb);
#define BLUELM_DOT_8(r)                                                               \
    {                                                                                 \
        const __m256i four = _mm256_set1_epi32(dword(q + (step * kRows + r) * 4));    \
        const __m256i pairs_a = _mm256_maddubs_epi16(ua, _mm256_sign_epi8(four, wa)); \
        const __m256i pairs_b = _mm256_maddubs_epi16(ub, _mm256_sign_epi8(four, wb)); \
        dot##r##a = _mm256_add_epi32(dot##r##a, _mm256_madd_epi16(pairs_a, ones));    \
        dot##r##b = _mm256_add_epi32(dot##r##b, _mm256_madd_epi16(pairs_b, ones));    \
    }
            BLUELM_EACH_ROW(BLUELM_DOT_8)
        }
#define BLUELM_STORE(r)                                                     \
    store(reinterpret_cast<uint8_t*>(dots + r * kPanelOutputs), dot##r##a); \
    store(reinterpret_cast<uint8_t*>(dots + r * kPanelOutputs + 8), dot##r##b);
        BLUELM_EACH_ROW(BLUELM_STORE)
    }
};

#undef BLUELM_EACH_ROW
#undef BLUELM_FIRST
#undef BLUELM_DOT
#undef BLUELM_ADD
#undef BLUELM_ZERO
#undef BLUELM_DOT_8
#undef BLUELM_STORE

}  // namespace

const LlmGemm kLlmGemm4x16Avx2 = gemm_with<Avx2>();

}  // namespace bluelm

BLUELM_TARGET_END

#endif
