// Gemm with 256-bit vectors: what gemm_4x16_avx2.cpp and gemm_6x16_avx_vnni.cpp share. Included between
// BLUELM_TARGET_BEGIN and BLUELM_TARGET_END, after all other headers.
//
// A panel of 16 outputs is unpacked into cache, and all rows pass over it in blocks of `rows`. Activations
// have one scale per group of inputs and row. A block of them is
//
//     int8  [n_in/4][rows][4]        one step of the inner loop after the other
//     float [groups][rows]           scales
//     int16 [groups][rows][parts]    sums of the values of each part of a group
//
// A level gives the number of rows, its groups and parts, and how a panel is unpacked and multiplied.
#ifndef BLUELM_LLM_GEMM_256BIT_H
#define BLUELM_LLM_GEMM_256BIT_H

#include "kernels/llm/unpack_256bit.h"

namespace bluelm {
namespace {

constexpr int64_t kMaxRows =
    480;  // rows that pass over an unpacked panel: they stay in the second-level cache

constexpr int64_t groups_of(int64_t n_in, int64_t group) { return (n_in + group - 1) / group; }

// Where the pieces of a block of rows are.
template <class Level, LlmType type>
struct RowBlock {
    static constexpr int64_t kParts = Level::template group<type> / Level::template part<type>;
    static size_t bytes(int64_t n_in) {
        const int64_t n_groups = groups_of(n_in, Level::template group<type>);
        return whole_lines(static_cast<size_t>(Level::kRows * (n_in + n_groups * (4 + 2 * kParts))));
    }
    int8_t* values;
    float* scales;
    int16_t* sums;
    RowBlock(uint8_t* block, int64_t n_in)
        : values(reinterpret_cast<int8_t*>(block)),
          scales(reinterpret_cast<float*>(block + Level::kRows * n_in)),
          sums(reinterpret_cast<int16_t*>(scales +
                                          Level::kRows * groups_of(n_in, Level::template group<type>))) {}
};

inline int32_t dword(const void* at) {
    int32_t value;
    std::memcpy(&value, at, sizeof value);
    return value;
}

// n values (at most 128, whole cells) to 8 bits with one scale, which is returned: as gemv
// does it.
inline float quantise_group(const float* x, int64_t n, int8_t* q) {
    const __m256i magnitude = _mm256_set1_epi32(0x7FFFFFFF);
    __m256i most = _mm256_setzero_si256();
    for (int64_t i = 0; i < n; i += 8) {
        // As integers NaN > infinity > every number.
        most =
            _mm256_max_epu32(most, _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(x + i)), magnitude));
    }
    uint32_t bits[8], largest_bits = 0;
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(bits), most);
    for (const uint32_t b : bits) largest_bits = b > largest_bits ? b : largest_bits;
    float largest;
    std::memcpy(&largest, &largest_bits, sizeof largest);
    if (largest_bits >= 0x7F800000u || largest < 1e-30f) {  // see kernels/llm/gemv_reference.cpp
        std::fill_n(q, n, int8_t{0});
        return largest_bits >= 0x7F800000u ? __builtin_nanf("") : 0.0f;
    }
    const __m256 inverse = _mm256_set1_ps(127.0f / largest);
    for (int64_t i = 0; i < n; i += 32) {
        __m256i v[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j)
            v[j] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i + 8 * j), inverse));
        const __m256i bytes =
            _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(q + i),
                            _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
    }
    return largest / 127.0f;
}

template <class Level, LlmType type>
void pack_x_blocks(const StridedRows& x, int64_t n_rows, int64_t n_in, int64_t first, int64_t last,
                   uint8_t* activations) {
    using Block = RowBlock<Level, type>;
    constexpr int64_t kGroup = Level::template group<type>, kPart = Level::template part<type>;
    const int64_t n_groups = groups_of(n_in, kGroup);
    for (int64_t b = first; b < last; ++b) {
        const Block block(activations + static_cast<size_t>(b) * Block::bytes(n_in), n_in);
        for (int64_t r = 0; r < Level::kRows; ++r) {
            const bool is_row = b * Level::kRows + r < n_rows;
            const float* in = is_row ? x[b * Level::kRows + r] : nullptr;
            for (int64_t g = 0; g < n_groups; ++g) {
                alignas(32) int8_t q[kGroup] = {};
                const int64_t n = std::min(kGroup, n_in - g * kGroup);
                block.scales[g * Level::kRows + r] = is_row ? quantise_group(in + g * kGroup, n, q) : 0.0f;
                int8_t* to = block.values + (g * kGroup * Level::kRows + r * 4);
                for (int64_t i = 0; i < n; i += 4) std::memcpy(to + i * Level::kRows, q + i, 4);
                int16_t* sums = block.sums + (g * Level::kRows + r) * Block::kParts;
                for (int64_t p = 0; p < Block::kParts; ++p) {
                    int sum = 0;
                    for (int64_t i = p * kPart; i < (p + 1) * kPart; ++i) sum += q[i];
                    sums[p] = static_cast<int16_t>(sum);
                }
            }
        }
    }
}

template <class Level, LlmType type>
void gemm_of(const LlmGemmTask& s) {
    using Block = RowBlock<Level, type>;
    const size_t panel_bytes = llm_panel_bytes(type, s.n_in);
    for (int64_t rows = 0; rows < s.n_rows; rows += kMaxRows) {
        const int64_t rows_end = std::min(rows + kMaxRows, s.n_rows);
        for (int64_t panel = s.first_panel; panel < s.last_panel; ++panel) {
            Level::template unpack_panel<type>(s.packed + static_cast<size_t>(panel) * panel_bytes, s.n_in,
                                               s.scratch);
            const int64_t first_out = panel * kPanelOutputs;
            const int64_t n_outs = std::min(kPanelOutputs, s.n_out - first_out);
            for (int64_t r = rows; r < rows_end; r += Level::kRows) {
                const Block block(
                    const_cast<uint8_t*>(s.x) + static_cast<size_t>(r / Level::kRows) * Block::bytes(s.n_in),
                    s.n_in);
                alignas(32) float sums[Level::kRows * kPanelOutputs] = {};
                Level::template multiply<type>(block, s.n_in, s.scratch, sums);
                float* out = s.out + r * s.n_out + first_out;
                for (int64_t i = 0; i < std::min(Level::kRows, s.n_rows - r); ++i)
                    std::memcpy(out + i * s.n_out, sums + i * kPanelOutputs,
                                static_cast<size_t>(n_outs) * sizeof(float));
            }
        }
    }
}

// The functions of LlmGemm.
#define BLUELM_FOR_TYPE(type, CALL)                     \
    switch (type) {                                     \
        case LlmType::q4_0: return CALL(LlmType::q4_0); \
        case LlmType::q4_K: return CALL(LlmType::q4_K); \
        case LlmType::q6_K: return CALL(LlmType::q6_K); \
        case LlmType::q8_0: return CALL(LlmType::q8_0); \
    }

template <class Level>
size_t x_bytes(LlmType type, int64_t n_rows, int64_t n_in) {
    const auto n_blocks = static_cast<size_t>((n_rows + Level::kRows - 1) / Level::kRows);
#define BLUELM_CALL(T) n_blocks* RowBlock<Level, T>::bytes(n_in)
    BLUELM_FOR_TYPE(type, BLUELM_CALL)
#undef BLUELM_CALL
    return 0;
}

template <class Level>
size_t scratch_bytes(LlmType type, int64_t n_in) {
#define BLUELM_CALL(T) Level::template scratch_bytes<T>(n_in)
    BLUELM_FOR_TYPE(type, BLUELM_CALL)
#undef BLUELM_CALL
    return 0;
}

template <class Level>
void pack_x(LlmType type, const StridedRows& x, int64_t n_rows, int64_t n_in, int64_t first, int64_t last,
            uint8_t* activations) {
#define BLUELM_CALL(T) pack_x_blocks<Level, T>(x, n_rows, n_in, first, last, activations)
    BLUELM_FOR_TYPE(type, BLUELM_CALL)
#undef BLUELM_CALL
}

template <class Level>
void gemm(const LlmGemmTask& s) {
#define BLUELM_CALL(T) gemm_of<Level, T>(s)
    BLUELM_FOR_TYPE(s.type, BLUELM_CALL)
#undef BLUELM_CALL
}

template <class Level>
constexpr LlmGemm gemm_with() {
    return {16, Level::kRows, 2, x_bytes<Level>, scratch_bytes<Level>, pack_x<Level>, gemm<Level>};
}

}  // namespace
}  // namespace bluelm

#endif  // BLUELM_LLM_GEMM_256BIT_H
