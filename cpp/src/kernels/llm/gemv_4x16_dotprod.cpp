// Gemv with Arm's dot products: up to 4 rows x a panel of 16 outputs. The weights stream through once, at the
// bits they are stored with. A vector of 32-bit lanes is 4 outputs, a quarter of a panel; sdot multiplies
// four inputs of each with four activations.
//
// One row takes all four quarters at once, so that a cell's activations and scale are loaded once. More rows,
// up to four, take one quarter at a time: a cell is unpacked once for them.
#if defined(__aarch64__) && defined(__GNUC__)
#include <cstring>

#include "kernels/llm/matmul.h"
#include "kernels/target.h"

BLUELM_TARGET_BEGIN("arch=armv8.2-a+dotprod")

#include "kernels/llm/unpack_neon.h"

namespace bluelm {
namespace {

// Inputs 4g..4g+3 of four outputs, g = first.. first + 3, unsigned but for Q8_0: half a cell of a quarter.
template <LlmType type>
inline void half_cell(const uint8_t* cell, int half, int8x16_t (&w)[4]) {
    if constexpr (type == LlmType::q8_0) {
#pragma GCC unroll 4
        for (int g = 0; g < 4; ++g)
            w[g] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(cell + (half * 4 + g) * 64), vdupq_n_u8(0x80)));
    } else {
        const uint8x16_t low = vdupq_n_u8(15);
        uint8x16_t v[4];
#pragma GCC unroll 2
        for (int h = 0; h < 2; ++h) {
            const uint8x16_t both = vld1q_u8(cell + (half * 2 + h) * 64);
            v[2 * h] = vandq_u8(both, low);
            v[2 * h + 1] = vshrq_n_u8(both, 4);
        }
        if constexpr (type == LlmType::q6_K) {
            const uint8x16_t bits = vld1q_u8(cell + 256 + half * 64), high = vdupq_n_u8(0x30);
            v[0] = vbslq_u8(high, vshlq_n_u8(bits, 4), v[0]);
            v[1] = vbslq_u8(high, vshlq_n_u8(bits, 2), v[1]);
            v[2] = vbslq_u8(high, bits, v[2]);
            v[3] = vbslq_u8(high, vshrq_n_u8(bits, 2), v[3]);
        }
#pragma GCC unroll 4
        for (int g = 0; g < 4; ++g) w[g] = vreinterpretq_s8_u8(v[g]);
    }
}

inline int32x4_t dot_of(int32x4_t sum, const int8x16_t (&w)[4], int8x16_t x) {
    sum = vdotq_laneq_s32(sum, w[0], x, 0);
    sum = vdotq_laneq_s32(sum, w[1], x, 1);
    sum = vdotq_laneq_s32(sum, w[2], x, 2);
    return vdotq_laneq_s32(sum, w[3], x, 3);
}

// Quarters first .. first + quarters - 1 of a panel for `rows` rows.
template <LlmType type, int rows, int quarters>
inline void quarters_times_rows(const uint8_t* panel, int64_t n_in, int first, const uint8_t* x,
                                size_t stride, float* out, int64_t out_stride, int64_t n_valid) {
    constexpr bool kHalves = type == LlmType::q6_K;
    const int64_t n_cells = n_in / kCellInputs;
    const uint8_t* scales = panel + static_cast<size_t>(n_cells) * llm_cell_bytes(type);
    LlmQ8Row row[rows];
    float32x4_t total[rows][quarters];
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) {
        row[r] = llm_q8_row(x + static_cast<size_t>(r) * stride, n_in);
#pragma GCC unroll 4
        for (int q = 0; q < quarters; ++q) total[r][q] = vdupq_n_f32(0);
    }
    for (int64_t cell = 0; cell < n_cells; ++cell, panel += llm_cell_bytes(type)) {
#pragma GCC unroll 4
        for (int q = 0; q < quarters; ++q) {
            int8x16_t w[2][4];
            half_cell<type>(panel + (first + q) * 16, 0, w[0]);
            half_cell<type>(panel + (first + q) * 16, 1, w[1]);
            float32x4_t scale[2], offset = vdupq_n_f32(0);
            cell_scales<type>(scales, cell, 0, first + q, scale[0], offset);
            if constexpr (kHalves) cell_scales<type>(scales, cell, 1, first + q, scale[1], offset);
#pragma GCC unroll 4
            for (int r = 0; r < rows; ++r) {
                const int8x16_t a = vld1q_s8(row[r].q + cell * 32), b = vld1q_s8(row[r].q + cell * 32 + 16);
                const float d = row[r].scale[cell];
                const float32x2_t sums = vld1_f32(row[r].sum + 2 * cell);
                const int32x4_t zero = vdupq_n_s32(0);
                float32x4_t t = total[r][q];
                if constexpr (kHalves) {
                    // scale * (d * dot - 32 * sum)
                    const float32x2_t shift = vmul_n_f32(sums, -32.0f);
                    t = vfmaq_f32(
                        t, scale[0],
                        vfmaq_n_f32(vdupq_lane_f32(shift, 0), vcvtq_f32_s32(dot_of(zero, w[0], a)), d));
                    t = vfmaq_f32(
                        t, scale[1],
                        vfmaq_n_f32(vdupq_lane_f32(shift, 1), vcvtq_f32_s32(dot_of(zero, w[1], b)), d));
                } else {
                    const float32x4_t dot = vcvtq_f32_s32(dot_of(dot_of(zero, w[0], a), w[1], b));
                    const float sum = vaddv_f32(sums);
                    if constexpr (type == LlmType::q8_0) {
                        t = vfmaq_f32(t, dot, vmulq_n_f32(scale[0], d));
                    } else if constexpr (type == LlmType::q4_0) {
                        t = vfmaq_f32(t, scale[0], vfmaq_n_f32(vdupq_n_f32(-8.0f * sum), dot, d));
                    } else {
                        t = vfmaq_n_f32(vfmaq_f32(t, dot, vmulq_n_f32(scale[0], d)), offset, sum);
                    }
                }
                total[r][q] = t;
            }
        }
    }
    for (int r = 0; r < rows; ++r) {
        float values[4 * quarters];
        for (int q = 0; q < quarters; ++q) vst1q_f32(values + 4 * q, total[r][q]);
        for (int o = 0; o < 4 * quarters && first * 4 + o < n_valid; ++o)
            out[r * out_stride + first * 4 + o] = values[o];
    }
}

template <LlmType type, int rows>
inline void panel_times_rows(const uint8_t* panel, int64_t n_in, const uint8_t* x, size_t stride, float* out,
                             int64_t out_stride, int64_t n_valid) {
    if constexpr (rows == 1) {
        quarters_times_rows<type, 1, 4>(panel, n_in, 0, x, stride, out, out_stride, n_valid);
    } else {
        for (int first = 0; first * 4 < n_valid; ++first)
            quarters_times_rows<type, rows, 1>(panel, n_in, first, x, stride, out, out_stride, n_valid);
    }
}

template <LlmType type>
void panel_times(const uint8_t* panel, int64_t n_in, const uint8_t* x, size_t stride, int64_t n, float* out,
                 int64_t out_stride, int64_t n_valid) {
    for (; n >= 4; n -= 4, x += 4 * stride, out += 4 * out_stride)
        panel_times_rows<type, 4>(panel, n_in, x, stride, out, out_stride, n_valid);
    if (n == 3) panel_times_rows<type, 3>(panel, n_in, x, stride, out, out_stride, n_valid);
    if (n == 2) panel_times_rows<type, 2>(panel, n_in, x, stride, out, out_stride, n_valid);
    if (n == 1) panel_times_rows<type, 1>(panel, n_in, x, stride, out, out_stride, n_valid);
}

void pack_x(const float* x, int64_t n_in, int64_t first, int64_t last, uint8_t* row) {
    auto* q = reinterpret_cast<int8_t*>(row);
    auto* scale = reinterpret_cast<float*>(row + n_in);
    float* sum = scale + n_in / 32;
    for (int64_t cell = first; cell < last; ++cell) {
        float inverse;
        const float s = group_scale(x + cell * 32, 32, &inverse);
        scale[cell] = s;
        for (int half = 0; half < 2; ++half) {
            const int64_t at = cell * 32 + half * 16;
            const int8x16_t v = inverse != 0 ? quantise_16(x + at, vdupq_n_f32(inverse)) : vdupq_n_s8(0);
            vst1q_s8(q + at, v);
            sum[2 * cell + half] = s * static_cast<float>(vaddlvq_s8(v));
        }
    }
}

void gemv(LlmType type, const uint8_t* panel, int64_t n_in, const uint8_t* rows, size_t row_stride,
          int64_t n_rows, float* out, int64_t out_stride, int64_t n_valid) {
    switch (type) {
        case LlmType::q4_0:
            return panel_times<LlmType::q4_0>(panel, n_in, rows, row_stride, n_rows, out, out_stride,
                                              n_valid);
        case LlmType::q4_K:
            return panel_times<LlmType::q4_K>(panel, n_in, rows, row_stride, n_rows, out, out_stride,
                                              n_valid);
        case LlmType::q6_K:
            return panel_times<LlmType::q6_K>(panel, n_in, rows, row_stride, n_rows, out, out_stride,
                                              n_valid);
        case LlmType::q8_0:
            return panel_times<LlmType::q8_0>(panel, n_in, rows, row_stride, n_rows, out, out_stride,
                                              n_valid);
    }
}

}  // namespace

// At i8mm too: matrix instructions gain nothing where a row is alone.
const LlmGemv kLlmGemv4x16Dotprod = {pack_x, gemv};

}  // namespace bluelm

BLUELM_TARGET_END

#endif
