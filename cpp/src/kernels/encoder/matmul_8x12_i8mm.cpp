// The encoder's matmul at i8mm, int8 and bf16, with Arm's matrix instructions: smmla and bfmmla multiply 8
// bytes of k of two rows with those of two outputs. 8 rows x 12 outputs are 24 sums:
//
//   x, a group of 8 bytes of k    [r0 | r1]  [r2 | r3]  [r4 | r5]  [r6 | r7]          4 vectors
//   weights                       [o0 | o1]  [o2 | o3]  ..             [o10 | o11]    6 vectors
//   sum of vectors i and j        [r(2i) o(2j), r(2i) o(2j+1), r(2i+1) o(2j), r(2i+1) o(2j+1)]
//
// Sums are named variables, not arrays, which GCC would keep in memory.
#if defined(__aarch64__) && defined(__GNUC__)

#include "kernels/encoder/matmul_8x12_arm.h"
#include "kernels/target.h"

BLUELM_TARGET_BEGIN("arch=armv8.2-a+i8mm+bf16")

namespace bluelm {
namespace {

#define BLUELM_EACH_PAIR(DO) DO(0) DO(1) DO(2) DO(3)
#undef BLUELM_ZERO
#define BLUELM_ZERO(i) SUM s##i##0 = {}, s##i##1 = {}, s##i##2 = {}, s##i##3 = {}, s##i##4 = {}, s##i##5 = {};
#define BLUELM_TWO(i, a, b)           \
    s##i##a = DOT(s##i##a, x##i, wa); \
    s##i##b = DOT(s##i##b, x##i, wb);
// Two sums side by side are four outputs of one row: the lower halves of the even row, the upper of the odd.
#define BLUELM_STORE_TWO(i, a, b, at)                            \
    STORE(out + 2 * i * c_stride + at, LOWER(s##i##a, s##i##b)); \
    STORE(out + (2 * i + 1) * c_stride + at, UPPER(s##i##a, s##i##b));
#undef BLUELM_STORE
#define BLUELM_STORE(i) BLUELM_STORE_TWO(i, 0, 1, 0) BLUELM_STORE_TWO(i, 2, 3, 4) BLUELM_STORE_TWO(i, 4, 5, 8)
#define BLUELM_PAIRS(a, b, at)                                                          \
    {                                                                                   \
        const VECTOR wa = LOAD(w + (at)), wb = LOAD(w + (at) + 16);                     \
        BLUELM_TWO(0, a, b) BLUELM_TWO(1, a, b) BLUELM_TWO(2, a, b) BLUELM_TWO(3, a, b) \
    }
#undef BLUELM_GROUP
#define BLUELM_GROUP(at)                                                                                     \
    {                                                                                                        \
        const VECTOR x0 = LOAD(x + (at) * 64), x1 = LOAD(x + (at) * 64 + 16), x2 = LOAD(x + (at) * 64 + 32), \
                     x3 = LOAD(x + (at) * 64 + 48);                                                          \
        BLUELM_PAIRS(0, 1, (at) * 96) BLUELM_PAIRS(2, 3, (at) * 96 + 32) BLUELM_PAIRS(4, 5, (at) * 96 + 64)  \
    }
#define BLUELM_KERNEL(NAME, ELEMENT_BYTES, C)                                                              \
    void NAME(const void* x_packed, size_t, const void* panel, int64_t k, void* c, size_t c_stride, int) { \
        const char *x = static_cast<const char*>(x_packed), *w = static_cast<const char*>(panel);          \
        BLUELM_EACH_PAIR(BLUELM_ZERO)                                                                      \
        for (int64_t n = k * ELEMENT_BYTES / 16; n > 0; --n, x += 128, w += 192) {                         \
            BLUELM_GROUP(0) BLUELM_GROUP(1)                                                                \
        }                                                                                                  \
        C* out = static_cast<C*>(c);                                                                       \
        BLUELM_EACH_PAIR(BLUELM_STORE)                                                                     \
    }

#define SUM int32x4_t
#define VECTOR int8x16_t
#define LOAD(at) vld1q_s8(reinterpret_cast<const int8_t*>(at))
#define STORE(at, v) vst1q_s32(at, v)
#define LOWER(a, b) vreinterpretq_s32_s64(vzip1q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)))
#define UPPER(a, b) vreinterpretq_s32_s64(vzip2q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)))
#define DOT(sum, values, weights) vmmlaq_s32(sum, values, weights)
BLUELM_KERNEL(multiply_int8, 1, int32_t)
#undef SUM
#undef VECTOR
#undef LOAD
#undef STORE
#undef LOWER
#undef UPPER
#undef DOT

#define SUM float32x4_t
#define VECTOR bfloat16x8_t
#define LOAD(at) vreinterpretq_bf16_u8(vld1q_u8(reinterpret_cast<const uint8_t*>(at)))
#define STORE(at, v) vst1q_f32(at, v)
#define LOWER(a, b) vreinterpretq_f32_f64(vzip1q_f64(vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(b)))
#define UPPER(a, b) vreinterpretq_f32_f64(vzip2q_f64(vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(b)))
#define DOT(sum, values, weights) vbfmmlaq_f32(sum, values, weights)
BLUELM_KERNEL(multiply_bf16, 2, float)

}  // namespace

const MatmulKernel kMatmulInt8I8mm = {"i8mm int8", 8, 12, 16, 0, multiply_int8, nullptr, nullptr, 8, true};
const MatmulKernel kMatmulBf16I8mm = {"bf16", 8, 12, 8, 0, multiply_bf16, nullptr, nullptr, 8, true};

}  // namespace bluelm

BLUELM_TARGET_END

#endif
