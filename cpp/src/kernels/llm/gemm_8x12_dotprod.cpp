// Gemm with Arm's dot products (kernels/llm/gemm_8x12_arm.h): sdot multiplies four inputs of four outputs
// with those of one row. The inner loop is written out: three vectors that lie together come with one
// instruction, which compilers do not use, and no register is spare.
//
//   v0 v1, v2 v3   activations of 8 rows, of four inputs and of the next four
//   v4 .. v6       weights of 12 outputs
//   v8 .. v31      sums: v(8 + 3 row + i) outputs 4i .. 4i + 3
#if defined(__aarch64__) && defined(__GNUC__)

#include <algorithm>
#include <cstring>

#include "kernels/llm/matmul.h"
#include "kernels/target.h"

BLUELM_TARGET_BEGIN("arch=armv8.2-a+dotprod")

#include "kernels/llm/gemm_8x12_arm.h"

namespace bluelm {
namespace {

#define BLUELM_DOT(sum, w, x, lane) "sdot v" #sum ".4s, v" #w ".16b, v" #x ".4b[" #lane "]\n"
// clang-format off
#define BLUELM_ROW(a, b, c, x, lane) \
    BLUELM_DOT(a, 4, x, lane) BLUELM_DOT(b, 5, x, lane) BLUELM_DOT(c, 6, x, lane)
#define BLUELM_FOUR_INPUTS(low, high)                                   \
    "ld1 {v4.16b, v5.16b, v6.16b}, [%[w]], #48\n"                       \
    BLUELM_ROW(8, 9, 10, low, 0) BLUELM_ROW(11, 12, 13, low, 1)         \
    BLUELM_ROW(14, 15, 16, low, 2) BLUELM_ROW(17, 18, 19, low, 3)       \
    BLUELM_ROW(20, 21, 22, high, 0) BLUELM_ROW(23, 24, 25, high, 1)     \
    BLUELM_ROW(26, 27, 28, high, 2) BLUELM_ROW(29, 30, 31, high, 3)
#define BLUELM_EIGHT_INPUTS                               \
    "ld1 {v0.16b, v1.16b, v2.16b, v3.16b}, [%[x]], #64\n" \
    BLUELM_FOUR_INPUTS(0, 1) BLUELM_FOUR_INPUTS(2, 3)
#define BLUELM_TO_FLOAT(sum) "scvtf v" #sum ".4s, v" #sum ".4s\n"
// Two sums times the outputs' scales sa, sb and the rows' xa, xb, added to those in memory.
#define BLUELM_ADD(a, sa, xa, b, sb, xb)         \
    "fmul v" #a ".4s, v" #a ".4s, v" #sa ".4s\n" \
    "fmul v" #b ".4s, v" #b ".4s, v" #sb ".4s\n" \
    "ldp q2, q3, [%[sums]]\n"                    \
    "fmla v2.4s, v" #a ".4s, " xa "\n"           \
    "fmla v3.4s, v" #b ".4s, " xb "\n"           \
    "stp q2, q3, [%[sums]], #32\n"
// clang-format on
#define BLUELM_ADD_TWO_ROWS(a, b, c, d, e, f, x, y) \
    BLUELM_ADD(a, 4, x, b, 5, x) BLUELM_ADD(c, 6, x, d, 4, y) BLUELM_ADD(e, 5, y, f, 6, y)

struct Dotprod {
    static constexpr int64_t kDepth = 4, kRowScales = 8, kOutputScales = 12;

    static void put_row_scale(float* scales, int64_t row, float scale) { scales[row] = scale; }
    static void put_output_scales(float* scales, int64_t place, float32x4_t s) {
        vst1q_f32(scales + place * 4, s);
    }
    static void put_values(int8_t* out, const int8x16_t (&v)[8]) {
#pragma GCC unroll 8
        for (int g = 0; g < 8; ++g) vst1q_s8(out + g * kOutputs * 4, v[g]);
    }

    // n times 32 inputs of 8 rows and 12 outputs, with one scale each; sums [8][12].
    static void multiply(const int8_t*& x, const int8_t*& w, int64_t n, float* sums, const float*& row_scales,
                         const float*& output_scales) {
        // clang-format off
        __asm__ volatile(
            BLUELM_EACH_SUM(BLUELM_ZERO)
            "1:\n"
            BLUELM_EIGHT_INPUTS BLUELM_EIGHT_INPUTS BLUELM_EIGHT_INPUTS BLUELM_EIGHT_INPUTS
            "subs %[n], %[n], #1\n"
            "b.ne 1b\n"
            "ld1 {v0.4s, v1.4s}, [%[xs]], #32\n"
            "ld1 {v4.4s, v5.4s, v6.4s}, [%[ws]], #48\n"
            BLUELM_EACH_SUM(BLUELM_TO_FLOAT)
            BLUELM_ADD_TWO_ROWS(8, 9, 10, 11, 12, 13, "v0.s[0]", "v0.s[1]")
            BLUELM_ADD_TWO_ROWS(14, 15, 16, 17, 18, 19, "v0.s[2]", "v0.s[3]")
            BLUELM_ADD_TWO_ROWS(20, 21, 22, 23, 24, 25, "v1.s[0]", "v1.s[1]")
            BLUELM_ADD_TWO_ROWS(26, 27, 28, 29, 30, 31, "v1.s[2]", "v1.s[3]")
            : [x] "+r"(x), [w] "+r"(w), [n] "+r"(n), [sums] "+r"(sums), [xs] "+r"(row_scales),
              [ws] "+r"(output_scales)
            :
            : "memory", "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v8", "v9", "v10", "v11", "v12", "v13",
              "v14", "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27",
              "v28", "v29", "v30", "v31");
        // clang-format on
    }

    static void store(const float* sums, float* out, int64_t out_stride) {
        for (int64_t r = 0; r < kRows; ++r)
            std::memcpy(out + r * out_stride, sums + r * kOutputs, kOutputs * 4);
    }
};

}  // namespace

const LlmGemm kLlmGemm8x12Dotprod = gemm_with<Dotprod>();

}  // namespace bluelm

BLUELM_TARGET_END

#endif
