// Gemm at AMX: 32 rows x 32 outputs a step. Weights are unpacked to bf16 tiles in cache and multiplied with
// bf16 activations.
//
// Both roundings (8 bits of mantissa each) are smaller than the error of 8-bit activations, and nothing has
// to be scaled inside the product. Activations lie in tiles of 16 rows x 32 inputs (1 KiB), tile after tile
// along the inputs. A cell of 16 outputs x 32 inputs is one tile as well, [16 pairs of inputs][16
// outputs][2]. One step multiplies 2 x 2 tiles; sums stay in the four tile registers for kDepth cells and in
// `out` between.
#if defined(__x86_64__) && defined(__GNUC__)

#include <algorithm>
#include <cstring>

#include "kernels/amx_tiles.h"
#include "kernels/llm/matmul.h"
#include "kernels/target.h"

BLUELM_TARGET_BEGIN(
    "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c,avx512bf16,amx-tile,amx-bf16")

#include "kernels/llm/unpack_512bit.h"

namespace bluelm {
namespace {

constexpr int64_t kTileRows = 16;
constexpr size_t kTileBytes = 1024;
constexpr int64_t kDepth = 8;       // cells whose tiles (of two panels: 16 KiB) are unpacked at a time
constexpr int64_t kMaxRows = 512;   // rows of activations in the second-level cache: 256 KiB for kDepth cells
constexpr int64_t kMaxPanels = 16;  // whose sums stay there as well: 512 KiB

size_t x_bytes(LlmType, int64_t n_rows, int64_t n_in) {
    return static_cast<size_t>(round_up(n_rows, 2 * kTileRows) * n_in) * 2;
}

size_t scratch_bytes(LlmType, int64_t) {
    return 2 * kDepth * kTileBytes + kMaxRows / kTileRows * kMaxPanels * kTileBytes;  // weights, sums
}

// To bf16 in tiles; a group is 32 rows.
void pack_x(LlmType, const StridedRows& x, int64_t n_rows, int64_t n_in, int64_t first, int64_t last,
            uint8_t* activations) {
    const int64_t n_cells = n_in / kCellInputs;
    for (int64_t r = first * 32; r < last * 32; ++r) {
        uint8_t* to = activations + static_cast<size_t>(r / kTileRows * n_cells) * kTileBytes +
                      static_cast<size_t>(r % kTileRows) * 64;
        const float* in = r < n_rows ? x[r] : nullptr;
        for (int64_t cell = 0; cell < n_cells; ++cell, to += kTileBytes) {
            if (!in) {
                _mm512_store_si512(to, _mm512_setzero_si512());
                continue;
            }
            const __m512bh pair =
                _mm512_cvtne2ps_pbh(_mm512_loadu_ps(in + cell * 32 + 16), _mm512_loadu_ps(in + cell * 32));
            _mm512_store_si512(to, (__m512i)pair);
        }
    }
}

// A cell to a tile of bf16. Rounds half away from zero, which no result depends on.
template <LlmType type>
__attribute__((always_inline)) inline void unpack_panel(const PanelAt<type>& at, int64_t cell,
                                                        uint8_t* tile) {
    __m512i q[8];
    cell_values<type>(at.cell(cell), q);
    __m512 scale[2], offset[2];
    cell_scales<type>(at.scales, cell, scale, offset);
    const __m512i byte = _mm512_set1_epi32(255), half = _mm512_set1_epi32(0x8000);
    const __m512i high = _mm512_set1_epi32(static_cast<int>(0xFFFF0000u));
#pragma GCC unroll 8
    for (int g = 0; g < 8; ++g) {
        const __m512 s = scale[g / 4], o = offset[g / 4];
#define BLUELM_WEIGHT(integer) \
    _mm512_add_epi32(_mm512_castps_si512(_mm512_fmadd_ps(_mm512_cvtepi32_ps(integer), s, o)), half)
        const __m512i w0 = BLUELM_WEIGHT(_mm512_and_si512(q[g], byte));
        const __m512i w1 = BLUELM_WEIGHT(_mm512_and_si512(_mm512_srli_epi32(q[g], 8), byte));
        const __m512i w2 = BLUELM_WEIGHT(_mm512_and_si512(_mm512_srli_epi32(q[g], 16), byte));
        const __m512i w3 = BLUELM_WEIGHT(_mm512_srli_epi32(q[g], 24));
#undef BLUELM_WEIGHT
        // (w1 & high) | (w0 >> 16), 0xEA = (a & b) | c
        _mm512_store_si512(tile + 128 * g,
                           _mm512_ternarylogic_epi32(w1, high, _mm512_srli_epi32(w0, 16), 0xEA));
        _mm512_store_si512(tile + 128 * g + 64,
                           _mm512_ternarylogic_epi32(w3, high, _mm512_srli_epi32(w2, 16), 0xEA));
    }
}

// 32 rows x 32 outputs (16 where there is no second panel) over `depth` cells, added to `sums`: four tiles,
// the rows' upper half first.
template <bool two>
void multiply(const uint8_t* a0, const uint8_t* a1, const uint8_t* b, int64_t depth, float* sums,
              bool is_first) {
    if (is_first) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        _tile_loadd(0, sums, 64);
        _tile_loadd(2, sums + 512, 64);
        if (two) {
            _tile_loadd(1, sums + 256, 64);
            _tile_loadd(3, sums + 768, 64);
        }
    }
    for (int64_t i = 0; i < depth; ++i, a0 += kTileBytes, a1 += kTileBytes, b += 2 * kTileBytes) {
        _tile_loadd(6, b, 64);
        _tile_loadd(4, a0, 64);
        _tile_loadd(5, a1, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(2, 5, 6);
        if (two) {
            _tile_loadd(7, b + kTileBytes, 64);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, sums, 64);
    _tile_stored(2, sums + 512, 64);
    if (two) {
        _tile_stored(1, sums + 256, 64);
        _tile_stored(3, sums + 768, 64);
    }
}

// Four tiles of sums to rows of the result.
void write_out(const float* sums, float* out, int64_t stride, int64_t n_rows, int64_t n_outs) {
    const auto left = static_cast<__mmask16>(n_outs >= 16 ? 0xFFFF : (1 << n_outs) - 1);
    const auto right = static_cast<__mmask16>(n_outs >= 32  ? 0xFFFF
                                              : n_outs > 16 ? (1 << (n_outs - 16)) - 1
                                                            : 0);
    for (int64_t r = 0; r < n_rows; ++r) {
        const float* row = sums + r / kTileRows * 512 + r % kTileRows * 16;
        _mm512_mask_storeu_ps(out + r * stride, left, _mm512_load_ps(row));
        if (right) _mm512_mask_storeu_ps(out + r * stride + 16, right, _mm512_load_ps(row + 256));
    }
}

// At most kMaxRows rows from `rows` on and kMaxPanels panels from `first` on.
template <LlmType type>
void block_of(const LlmGemmTask& s, int64_t rows, int64_t first, int64_t last) {
    const int64_t n_cells = s.n_in / kCellInputs, rows_end = std::min(rows + kMaxRows, s.n_rows);
    const size_t panel_bytes = llm_panel_bytes(type, s.n_in);
    uint8_t* weights = s.scratch;
    for (int64_t cell = 0; cell < n_cells; cell += kDepth) {
        const int64_t depth = std::min(kDepth, n_cells - cell);
        auto* sums = reinterpret_cast<float*>(s.scratch + 2 * kDepth * kTileBytes);
        for (int64_t panel = first; panel < last; panel += 2) {
            const bool two = panel + 1 < last;
            for (int64_t p = 0; p < (two ? 2 : 1); ++p) {
                const PanelAt<type> at(s.packed + static_cast<size_t>(panel + p) * panel_bytes, s.n_in);
                for (int64_t i = 0; i < depth; ++i)
                    unpack_panel<type>(at, cell + i, weights + static_cast<size_t>(2 * i + p) * kTileBytes);
            }
            const int64_t first_out = panel * kPanelOutputs;
            const int64_t n_outs = std::min<int64_t>(two ? 32 : 16, s.n_out - first_out);
            for (int64_t r = rows; r < rows_end; r += 2 * kTileRows, sums += 1024) {
                const uint8_t* a = s.x + static_cast<size_t>(r / kTileRows * n_cells + cell) * kTileBytes;
                const uint8_t* below = a + static_cast<size_t>(n_cells) * kTileBytes;
                if (two)
                    multiply<true>(a, below, weights, depth, sums, cell == 0);
                else
                    multiply<false>(a, below, weights, depth, sums, cell == 0);
                if (cell + depth == n_cells) {
                    write_out(sums, s.out + r * s.n_out + first_out, s.n_out,
                              std::min<int64_t>(32, s.n_rows - r), n_outs);
                }
            }
        }
    }
}

template <LlmType type>
void gemm_of(const LlmGemmTask& s) {
    for (int64_t rows = 0; rows < s.n_rows; rows += kMaxRows) {
        for (int64_t first = s.first_panel; first < s.last_panel; first += kMaxPanels)
            block_of<type>(s, rows, first, std::min(first + kMaxPanels, s.last_panel));
    }
}

void gemm(const LlmGemmTask& task) {
    const TileConfig config;
    load_config(config);
    switch (task.type) {
        case LlmType::q4_0: gemm_of<LlmType::q4_0>(task); break;
        case LlmType::q4_K: gemm_of<LlmType::q4_K>(task); break;
        case LlmType::q6_K: gemm_of<LlmType::q6_K>(task); break;
        case LlmType::q8_0: gemm_of<LlmType::q8_0>(task); break;
    }
    release_tiles();
}

}  // namespace

const LlmGemm kLlmGemm32x32Amx = {16, 32, 2, x_bytes, scratch_bytes, pack_x, gemm};

}  // namespace bluelm

BLUELM_TARGET_END

#endif
