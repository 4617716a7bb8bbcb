// Gemm on Arm, 8 rows x 12 outputs a step, for kernels/llm/gemm_8x12_dotprod.cpp and
// kernels/llm/gemm_8x12_i8mm.cpp, which differ in the inner loop and in how it wants four outputs and rows
// side by side (included after all other headers: each compiles it for its own instructions). As in
// kernels/llm/gemm_6x32_avx512_vnni.cpp, weights are unpacked to 8 bits in cache, and multiplied with
// activations of 8 bits.
//
// Scales per 32 weights cost more than half the speed here: 24 sums have to be converted, scaled twice and
// added to sums in memory. So a group of kGroup inputs shares one scale: each weight w = scale * value +
// offset becomes round(w / S) with S = max |w| / 127 over the group and output. What that rounds away is
// below what 4 bits rounded away before, and not quite below what 6 bits did: tests/cpp/test_llm_noise.cpp.
// Activations get one scale per group and row, as Q8_K has in ggml. Q8_0 keeps groups of 32, without any
// rounding of weights.
//
// A strip is three panels, 48 outputs in four blocks of 12; its weights are unpacked kChunk inputs at a
// time, which stay in the second-level cache while all rows pass over them. Float sums of 8 rows x 12 outputs
// wait in memory between two groups. With Form::kDepth inputs side by side (4 for sdot, 8 for smmla):
//
//   values, a block         [chunk / kDepth][12 outputs][kDepth] int8
//   activations, 8 rows     [n_in / kDepth][8 rows][kDepth] int8, then their scales [groups][kRowScales]
//   float
#ifndef BLUELM_LLM_GEMM_8X12_ARM_H
#define BLUELM_LLM_GEMM_8X12_ARM_H

#include "kernels/llm/unpack_neon.h"

// In the assembler of both: the sums are v8 .. v31.
#define BLUELM_ZERO(sum) "movi v" #sum ".4s, #0\n"
#define BLUELM_EIGHT(DO, a, b, c, d, e, f, g, h) DO(a) DO(b) DO(c) DO(d) DO(e) DO(f) DO(g) DO(h)
#define BLUELM_EACH_SUM(DO)                        \
    BLUELM_EIGHT(DO, 8, 9, 10, 11, 12, 13, 14, 15) \
    BLUELM_EIGHT(DO, 16, 17, 18, 19, 20, 21, 22, 23) BLUELM_EIGHT(DO, 24, 25, 26, 27, 28, 29, 30, 31)

namespace bluelm {
namespace {

constexpr int64_t kRows = 8, kOutputs = 12, kBlocks = 4, kPanels = 3;
constexpr int64_t kGroup = 256, kChunk = 1024;
constexpr int64_t kMaxRows =
    512;  // that pass over a strip at once: their sums stay in the second-level cache

constexpr int64_t group_of(LlmType type) { return type == LlmType::q8_0 ? 32 : kGroup; }
constexpr int64_t groups_of(LlmType type, int64_t n_in) {
    return (n_in + group_of(type) - 1) / group_of(type);
}

// ------------------------------------------------------------------------------------------- the activations

template <class Form>
size_t block_bytes(LlmType type, int64_t n_in) {
    return static_cast<size_t>(kRows * n_in + groups_of(type, n_in) * Form::kRowScales * 4 + 63) / 64 * 64;
}

template <class Form>
size_t x_bytes(LlmType type, int64_t n_rows, int64_t n_in) {
    return static_cast<size_t>((n_rows + kRows - 1) / kRows) * block_bytes<Form>(type, n_in);
}

template <class Form>
void pack_x(LlmType type, const StridedRows& x, int64_t n_rows, int64_t n_in, int64_t first, int64_t last,
            uint8_t* activations) {
    const int64_t n_groups = groups_of(type, n_in), group = group_of(type);
    for (int64_t b = first; b < last; ++b) {
        uint8_t* block = activations + static_cast<size_t>(b) * block_bytes<Form>(type, n_in);
        auto* scales = reinterpret_cast<float*>(block + kRows * n_in);
        if ((b + 1) * kRows > n_rows) std::memset(block, 0, block_bytes<Form>(type, n_in));
        for (int64_t r = 0; r < std::min(kRows, n_rows - b * kRows); ++r) {
            const float* in = x[b * kRows + r];
            for (int64_t g = 0; g < n_groups; ++g) {
                const int64_t end = std::min((g + 1) * group, n_in);
                float inverse;
                const float scale = group_scale(in + g * group, end - g * group, &inverse);
                Form::put_row_scale(scales + g * Form::kRowScales, r, scale);
                for (int64_t i = g * group; i < end; i += 16) {
                    const int8x16_t q =
                        inverse != 0 ? quantise_16(in + i, vdupq_n_f32(inverse)) : vdupq_n_s8(0);
                    int8_t bytes[16];
                    vst1q_s8(bytes, q);
                    for (int64_t j = 0; j < 16; j += Form::kDepth)
                        std::memcpy(block + (i + j) * kRows + r * Form::kDepth, bytes + j, Form::kDepth);
                }
            }
        }
    }
}

// ----------------------------------------------------------------------------------------------- the weights

// Bytes of an unpacked strip: values, then scales [4 blocks][groups of a chunk][Form::kOutputScales].
constexpr int64_t kBlockValues = kOutputs * kChunk;
constexpr int64_t chunk_groups(LlmType type) { return kChunk / group_of(type); }

// Four outputs' vectors g of a cell (inputs 4g..4g+3), around the middle of their range and as large as 8
// bits allow: (value - 8) * 16, (value - 32) * 4, or value - 128.
template <LlmType type>
inline void centred_cell(const uint8_t* cell, int8x16_t (&v)[8]) {
    const uint8x16_t middle = vdupq_n_u8(type == LlmType::q4_0 || type == LlmType::q4_K ? 0x88 : 0x80),
                     upper = vdupq_n_u8(0xF0);
#pragma GCC unroll 4
    for (int h = 0; h < 4; ++h) {
        if constexpr (type == LlmType::q8_0) {
            v[2 * h] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(cell + h * 128), middle));
            v[2 * h + 1] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(cell + h * 128 + 64), middle));
        } else if constexpr (type == LlmType::q6_K) {
            const uint8x16_t both = vld1q_u8(cell + h * 64), bits = vld1q_u8(cell + 256 + h / 2 * 64);
            const uint8x16_t two = vdupq_n_u8(0xC0), four = vdupq_n_u8(0x3C);
            const uint8x16_t low = vandq_u8(vshlq_n_u8(both, 2), four),
                             high = vandq_u8(vshrq_n_u8(both, 2), four);
            const uint8x16_t a = h % 2 ? vshlq_n_u8(bits, 2) : vshlq_n_u8(bits, 6),
                             b = h % 2 ? bits : vshlq_n_u8(bits, 4);
            v[2 * h] = vreinterpretq_s8_u8(veorq_u8(vorrq_u8(low, vandq_u8(a, two)), middle));
            v[2 * h + 1] = vreinterpretq_s8_u8(veorq_u8(vorrq_u8(high, vandq_u8(b, two)), middle));
        } else {
            const uint8x16_t both = veorq_u8(vld1q_u8(cell + h * 64), middle);
            v[2 * h] = vreinterpretq_s8_u8(vshlq_n_u8(both, 4));
            v[2 * h + 1] = vreinterpretq_s8_u8(vandq_u8(both, upper));
        }
    }
}

// Four outputs' 8-bit numbers from floats, each four times in a row.
inline int8x16_t four_times_8(float32x4_t x) {
    const uint8x16_t index = {0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12};
    return vqtbl1q_s8(vreinterpretq_s8_s32(vcvtnq_s32_f32(x)), index);
}
inline int16x8_t four_times_16(int32x4_t x, bool upper) {
    const uint8x16_t low = {0, 1, 0, 1, 0, 1, 0, 1, 4, 5, 4, 5, 4, 5, 4, 5};
    return vreinterpretq_s16_s8(
        vqtbl1q_s8(vreinterpretq_s8_s32(x), upper ? vaddq_u8(low, vdupq_n_u8(8)) : low));
}

// Inputs first..last of one panel; values and scales of its first output in the strip's first block.
//
// w / S comes from one 8-bit multiplication: value (16 or 4 times too large) times m, and for Q4_K what the
// middle of the range stands for.
// m is rounded: by at most half of one in up to 127, for Q4_K in up to 68.
template <class Form, LlmType type>
void unpack_panel(const uint8_t* panel, int64_t n_in, int64_t first, int64_t last, int64_t panel_of_strip,
                  int8_t* values, float* scales) {
    constexpr int64_t kCells = group_of(type) / kCellInputs;
    const uint8_t* packed_scales = panel + static_cast<size_t>(n_in / kCellInputs) * llm_cell_bytes(type);
    for (int q = 0; q < 4; ++q) {
        const int64_t four = panel_of_strip * 4 + q, block = four / 3, place = four % 3;  // four outputs
        int8_t* out = values + block * kBlockValues + place * 4 * Form::kDepth;
        float* s_out = scales + block * chunk_groups(type) * Form::kOutputScales;
        for (int64_t cell = first / kCellInputs; cell * kCellInputs < last; s_out += Form::kOutputScales) {
            const int64_t end = std::min(cell + kCells, last / kCellInputs);
            float32x4_t scale, offset = vdupq_n_f32(0), most = vdupq_n_f32(0), inverse = most;
            if constexpr (type == LlmType::q8_0) {
                cell_scales<type>(packed_scales, cell, 0, q, most, offset);
            } else {
                for (int64_t c = cell; c < end; ++c) {
                    for (int half = 0; half < (type == LlmType::q6_K ? 2 : 1); ++half) {
                        cell_scales<type>(packed_scales, c, half, q, scale, offset);
                        if constexpr (type == LlmType::q4_K) {
                            const float32x4_t top = vfmaq_n_f32(offset, scale, 15);
                            most = vmaxq_f32(most, vmaxq_f32(vabsq_f32(offset), vabsq_f32(top)));
                        } else {
                            most = vmaxq_f32(most, vabsq_f32(scale));
                        }
                    }
                }
                constexpr float kMiddle = type == LlmType::q4_0 ? 8 : type == LlmType::q6_K ? 32 : 1;
                const uint32x4_t is_some = vcgtq_f32(most, vdupq_n_f32(1e-30f));
                // 127 / (the largest weight), in the fixed point of the multiplication
                constexpr float kOne = type == LlmType::q4_K ? 127 * 4 : 127;
                inverse = vreinterpretq_f32_u32(
                    vandq_u32(is_some, vreinterpretq_u32_f32(vdivq_f32(vdupq_n_f32(kOne), most))));
                most = vmulq_n_f32(most, kMiddle / 127);
            }
            Form::put_output_scales(s_out, place, most);
            for (; cell < end; ++cell) {
                int8x16_t v[8];
                centred_cell<type>(panel + static_cast<size_t>(cell) * llm_cell_bytes(type) + q * 16, v);
                if constexpr (type != LlmType::q8_0) {
#pragma GCC unroll 2
                    for (int half = 0; half < 2; ++half) {
                        if (half == 0 || type == LlmType::q6_K)
                            cell_scales<type>(packed_scales, cell, half, q, scale, offset);
                        const int8x16_t m = four_times_8(vmulq_f32(scale, inverse));
                        int16x8_t o[2] = {};
                        if constexpr (type == LlmType::q4_K) {
                            // 16 times the weight in the middle, in 16 bits
                            const int32x4_t at = vcvtnq_s32_f32(
                                vmulq_n_f32(vmulq_f32(vfmaq_n_f32(offset, scale, 8), inverse), 16));
                            o[0] = four_times_16(at, false);
                            o[1] = four_times_16(at, true);
                        }
#pragma GCC unroll 4
                        for (int g = half * 4; g < half * 4 + 4; ++g) {
                            if constexpr (type == LlmType::q4_K) {
                                const int16x8_t a = vmlal_s8(o[0], vget_low_s8(v[g]), vget_low_s8(m)),
                                                b = vmlal_high_s8(o[1], v[g], m);
                                v[g] = vqrshrn_high_n_s16(vqrshrn_n_s16(a, 6), b, 6);
                            } else {
                                const int16x8_t a = vmull_s8(vget_low_s8(v[g]), vget_low_s8(m)),
                                                b = vmull_high_s8(v[g], m);
                                v[g] = vqrshrn_high_n_s16(vqrshrn_n_s16(a, 7), b, 7);
                            }
                        }
                    }
                }
                Form::put_values(out + (cell * kCellInputs - first) * kOutputs, v);
            }
        }
    }
}

// ----------------------------------------------------------------------------------------------- the product

template <class Form>
size_t scratch_bytes(LlmType type, int64_t) {
    return static_cast<size_t>(kBlocks * (kBlockValues + chunk_groups(type) * Form::kOutputScales * 4) +
                               kMaxRows * kBlocks * kOutputs * 4);
}

template <class Form, LlmType type>
void three_panels(const LlmGemmTask& s, int64_t panel, int64_t rows, int64_t rows_end) {
    const int64_t n_panels = std::min(kPanels, s.last_panel - panel), first_out = panel * kPanelOutputs;
    const int64_t n_outs = std::min(n_panels * kPanelOutputs, s.n_out - first_out);
    const int64_t n_blocks = (n_outs + kOutputs - 1) / kOutputs;
    auto* values = reinterpret_cast<int8_t*>(s.scratch);
    auto* scales = reinterpret_cast<float*>(values + kBlocks * kBlockValues);
    float* sums = scales + kBlocks * chunk_groups(type) * Form::kOutputScales;
    constexpr int64_t kBlockSums = kRows * kOutputs;
    const int64_t n_row_blocks = (rows_end - rows + kRows - 1) / kRows;
    std::fill_n(sums, n_row_blocks * n_blocks * kBlockSums, 0.0f);

    for (int64_t first = 0; first < s.n_in; first += kChunk) {
        const int64_t last = std::min(first + kChunk, s.n_in);
        for (int64_t p = 0; p < n_panels; ++p) {
            unpack_panel<Form, type>(
                s.packed + static_cast<size_t>(panel + p) * llm_panel_bytes(type, s.n_in), s.n_in, first,
                last, p, values, scales);
        }
        float* sum = sums;
        for (int64_t row = rows; row < rows_end; row += kRows) {
            const uint8_t* block = s.x + static_cast<size_t>(row / kRows) * block_bytes<Form>(type, s.n_in);
            const auto* row_scales = reinterpret_cast<const float*>(block + kRows * s.n_in) +
                                     first / group_of(type) * Form::kRowScales;
            for (int64_t b = 0; b < n_blocks; ++b, sum += kBlockSums) {
                const auto* x = reinterpret_cast<const int8_t*>(block) + first * kRows;
                const int8_t* w = values + b * kBlockValues;
                const float *xs = row_scales, *ws = scales + b * chunk_groups(type) * Form::kOutputScales;
                for (int64_t at = first; at < last; at += group_of(type))
                    Form::multiply(x, w, std::min(group_of(type), last - at) / 32, sum, xs, ws);
            }
        }
    }

    const float* sum = sums;
    for (int64_t row = rows; row < rows_end; row += kRows) {
        for (int64_t b = 0; b < n_blocks; ++b, sum += kBlockSums) {
            float* out = s.out + row * s.n_out + first_out + b * kOutputs;
            const int64_t n_rows = std::min(kRows, s.n_rows - row),
                          n = std::min(kOutputs, n_outs - b * kOutputs);
            if (n_rows == kRows && n == kOutputs) {
                Form::store(sum, out, s.n_out);
                continue;
            }
            float edge[kBlockSums];
            Form::store(sum, edge, kOutputs);
            for (int64_t i = 0; i < n_rows; ++i) std::copy_n(edge + i * kOutputs, n, out + i * s.n_out);
        }
    }
}

template <class Form, LlmType type>
void gemm_of(const LlmGemmTask& s) {
    for (int64_t rows = 0; rows < s.n_rows; rows += kMaxRows)
        for (int64_t panel = s.first_panel; panel < s.last_panel; panel += kPanels)
            three_panels<Form, type>(s, panel, rows, std::min(rows + kMaxRows, s.n_rows));
}

template <class Form>
void gemm(const LlmGemmTask& task) {
    switch (task.type) {
        case LlmType::q4_0: return gemm_of<Form, LlmType::q4_0>(task);
        case LlmType::q4_K: return gemm_of<Form, LlmType::q4_K>(task);
        case LlmType::q6_K: return gemm_of<Form, LlmType::q6_K>(task);
        case LlmType::q8_0: return gemm_of<Form, LlmType::q8_0>(task);
    }
}

template <class Form>
constexpr LlmGemm gemm_with() {
    // From eight rows on: below, unpacking costs more than it saves.
    return {8, kRows, kPanels, x_bytes<Form>, scratch_bytes<Form>, pack_x<Form>, gemm<Form>};
}

}  // namespace
}  // namespace bluelm

#endif  // BLUELM_LLM_GEMM_8X12_ARM_H
