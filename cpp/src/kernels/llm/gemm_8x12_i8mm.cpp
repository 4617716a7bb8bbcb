// Gemm with Arm's matrix instructions (kernels/llm/gemm_8x12_arm.h): smmla multiplies eight inputs of two
// rows with those of two outputs. The inner loop is written out: four vectors that lie together come with one
// instruction, which compilers do not use, and no register is spare.
//
//   v0 .. v3    activations of 8 inputs: [rows 0 1] [rows 2 3] [rows 4 5] [rows 6 7]
//   v4 .. v7    weights: two outputs each
//   v8 .. v31   sums: v(8 + 6i + j) of rows 2i, 2i + 1 and outputs 2j, 2j + 1:
//               [row 2i output 2j | row 2i output 2j + 1 | row 2i + 1 output 2j | row 2i + 1 output 2j + 1]
#if defined(__aarch64__) && defined(__GNUC__)

#include <algorithm>
#include <cstring>

#include "kernels/llm/matmul.h"
#include "kernels/target.h"

BLUELM_TARGET_BEGIN("arch=armv8.2-a+dotprod+i8mm")

#include "kernels/llm/gemm_8x12_arm.h"

namespace bluelm {
namespace {

#define BLUELM_DOT(sum, x, w) "smmla v" #sum ".4s, v" #x ".16b, v" #w ".16b\n"
#define BLUELM_TWO_OUTPUTS(w, a, b, c, d) \
    BLUELM_DOT(a, 0, w) BLUELM_DOT(b, 1, w) BLUELM_DOT(c, 2, w) BLUELM_DOT(d, 3, w)
#define BLUELM_OUTPUTS_01(w) BLUELM_TWO_OUTPUTS(w, 8, 14, 20, 26)
#define BLUELM_OUTPUTS_23(w) BLUELM_TWO_OUTPUTS(w, 9, 15, 21, 27)
#define BLUELM_OUTPUTS_45(w) BLUELM_TWO_OUTPUTS(w, 10, 16, 22, 28)
#define BLUELM_OUTPUTS_67(w) BLUELM_TWO_OUTPUTS(w, 11, 17, 23, 29)
#define BLUELM_OUTPUTS_89(w) BLUELM_TWO_OUTPUTS(w, 12, 18, 24, 30)
#define BLUELM_OUTPUTS_AB(w) BLUELM_TWO_OUTPUTS(w, 13, 19, 25, 31)
#define BLUELM_LOAD_X "ld1 {v0.16b, v1.16b, v2.16b, v3.16b}, [%[x]], #64\n"
#define BLUELM_LOAD_W "ld1 {v4.16b, v5.16b, v6.16b, v7.16b}, [%[w]], #64\n"
// clang-format off
// Two groups of eight inputs are 12 vectors of weights: three loads.
#define BLUELM_SIXTEEN_INPUTS                                                           \
    BLUELM_LOAD_X BLUELM_LOAD_W                                                         \
    BLUELM_OUTPUTS_01(4) BLUELM_OUTPUTS_23(5) BLUELM_OUTPUTS_45(6) BLUELM_OUTPUTS_67(7) \
    BLUELM_LOAD_W BLUELM_OUTPUTS_89(4) BLUELM_OUTPUTS_AB(5)                             \
    BLUELM_LOAD_X BLUELM_OUTPUTS_01(6) BLUELM_OUTPUTS_23(7)                             \
    BLUELM_LOAD_W                                                                       \
    BLUELM_OUTPUTS_45(4) BLUELM_OUTPUTS_67(5) BLUELM_OUTPUTS_89(6) BLUELM_OUTPUTS_AB(7)
#define BLUELM_TO_FLOAT(sum) "scvtf v" #sum ".4s, v" #sum ".4s\n"
// Two sums of the same outputs times these's scale w, and the rows' x, y; added to those in memory.
#define BLUELM_ADD(a, b, w, x, y)               \
    "fmul v" #a ".4s, v" #a ".4s, v" #w ".4s\n" \
    "fmul v" #b ".4s, v" #b ".4s, v" #w ".4s\n" \
    "ldp q6, q7, [%[sums]]\n"                   \
    "fmla v6.4s, v" #a ".4s, v" #x ".4s\n"      \
    "fmla v7.4s, v" #b ".4s, v" #y ".4s\n"      \
    "stp q6, q7, [%[sums]], #32\n"
// clang-format on
#define BLUELM_ADD_TWO(w, a, b, c, d) BLUELM_ADD(a, b, w, 0, 1) BLUELM_ADD(c, d, w, 2, 3)
#define BLUELM_LOAD_SCALES "ldp q4, q5, [%[ws]], #32\n"

struct I8mm {
    static constexpr int64_t kDepth = 8, kRowScales = 16, kOutputScales = 24;

    // As the sums want them: [row 0, 0, 1, 1] .., [output 0, 1, 0, 1] ..
    static void put_row_scale(float* scales, int64_t row, float scale) {
        scales[row * 2] = scales[row * 2 + 1] = scale;
    }
    static void put_output_scales(float* scales, int64_t place, float32x4_t s) {
        vst1q_f32(scales + place * 8, vcombine_f32(vget_low_f32(s), vget_low_f32(s)));
        vst1q_f32(scales + place * 8 + 4, vcombine_f32(vget_high_f32(s), vget_high_f32(s)));
    }
    // Four inputs and the next four of an output side by side.
    static void put_values(int8_t* out, const int8x16_t (&v)[8]) {
#pragma GCC unroll 4
        for (int h = 0; h < 4; ++h) {
            const int32x4_t a = vreinterpretq_s32_s8(v[2 * h]), b = vreinterpretq_s32_s8(v[2 * h + 1]);
            vst1q_s8(out + h * kOutputs * 8, vreinterpretq_s8_s32(vzip1q_s32(a, b)));
            vst1q_s8(out + h * kOutputs * 8 + 16, vreinterpretq_s8_s32(vzip2q_s32(a, b)));
        }
    }

    // n times 32 inputs of 8 rows and 12 outputs, with one scale each; sums [6 j][4 i][4].
    static void multiply(const int8_t*& x, const int8_t*& w, int64_t n, float* sums, const float*& row_scales,
                         const float*& output_scales) {
        // clang-format off
        __asm__ volatile(
            BLUELM_EACH_SUM(BLUELM_ZERO)
            "1:\n"
            BLUELM_SIXTEEN_INPUTS
            BLUELM_SIXTEEN_INPUTS
            "subs %[n], %[n], #1\n"
            "b.ne 1b\n"
            "ld1 {v0.4s, v1.4s, v2.4s, v3.4s}, [%[xs]], #64\n"
            BLUELM_EACH_SUM(BLUELM_TO_FLOAT)
            BLUELM_LOAD_SCALES BLUELM_ADD_TWO(4, 8, 14, 20, 26) BLUELM_ADD_TWO(5, 9, 15, 21, 27)
            BLUELM_LOAD_SCALES BLUELM_ADD_TWO(4, 10, 16, 22, 28) BLUELM_ADD_TWO(5, 11, 17, 23, 29)
            BLUELM_LOAD_SCALES BLUELM_ADD_TWO(4, 12, 18, 24, 30) BLUELM_ADD_TWO(5, 13, 19, 25, 31)
            : [x] "+r"(x), [w] "+r"(w), [n] "+r"(n), [sums] "+r"(sums), [xs] "+r"(row_scales),
              [ws] "+r"(output_scales)
            :
            : "memory", "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12",
              "v13", "v14", "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26",
              "v27", "v28", "v29", "v30", "v31");
        // clang-format on
    }

    // Two sums side by side are four outputs of one row: the lower halves of the even row, the upper of the
    // odd.
    static void store(const float* sums, float* out, int64_t out_stride) {
        for (int64_t j = 0; j < 6; j += 2) {
            for (int64_t i = 0; i < 4; ++i) {
                const float64x2_t a = vreinterpretq_f64_f32(vld1q_f32(sums + (j * 4 + i) * 4)),
                                  b = vreinterpretq_f64_f32(vld1q_f32(sums + (j * 4 + 4 + i) * 4));
                float* at = out + 2 * i * out_stride + 2 * j;
                vst1q_f32(at, vreinterpretq_f32_f64(vzip1q_f64(a, b)));
                vst1q_f32(at + out_stride, vreinterpretq_f32_f64(vzip2q_f64(a, b)));
            }
        }
    }
};

}  // namespace

const LlmGemm kLlmGemm8x12I8mm = gemm_with<I8mm>();

}  // namespace bluelm

BLUELM_TARGET_END

#endif
