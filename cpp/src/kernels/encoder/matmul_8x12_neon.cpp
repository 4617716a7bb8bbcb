// The encoder's matmul for every armv8-a: float32 8 rows x 12 outputs a call, int8 4 x 12.
#if defined(__aarch64__) && defined(__GNUC__)

#include "kernels/encoder/matmul_8x12_arm.h"
#include "kernels/target.h"

namespace bluelm {
namespace {

#define SUM float32x4_t
#define VECTOR float32x4_t
#define LOAD(at) vld1q_f32(at)
#define STORE(at, v) vst1q_f32(at, v)
#define DOT(sum, w, x, lane) vfmaq_laneq_f32(sum, w, x, lane)
BLUELM_KERNEL_8X12(multiply_f32, float, float)

// int8 without dot products: 4 rows x 4 outputs at a time, three times. A group is 16 k of a row or an
// output:
//
//   products of k 0..7   int16 x 8   smull      | at most 2 * 127 * 127 = 32258: fits
//   + those of k 8..15   int16 x 8   smlal2     |
//   pairs added to       int32 x 4   sadalp     four parts of one sum, added up at the end
#define BLUELM_OF_ROW(DO, r) DO(r, 0) DO(r, 1) DO(r, 2) DO(r, 3)
#define BLUELM_EACH(DO) BLUELM_OF_ROW(DO, 0) BLUELM_OF_ROW(DO, 1) BLUELM_OF_ROW(DO, 2) BLUELM_OF_ROW(DO, 3)
#define BLUELM_BEGIN(r, c) int32x4_t sum##r##c = vdupq_n_s32(0);
#define BLUELM_ADD(r, c) \
    sum##r##c =          \
        vpadalq_s16(sum##r##c, vmlal_high_s8(vmull_s8(vget_low_s8(x##r), vget_low_s8(w##c)), x##r, w##c));
#define BLUELM_END(r)                     \
    vst1q_s32(out + r * c_stride + first, \
              vpaddq_s32(vpaddq_s32(sum##r##0, sum##r##1), vpaddq_s32(sum##r##2, sum##r##3)));

void multiply_int8(const void* x_packed, size_t, const void* panel, int64_t k, void* c, size_t c_stride,
                   int) {
    int32_t* out = static_cast<int32_t*>(c);
    for (int64_t first = 0; first < 12; first += 4) {
        const int8_t *x = static_cast<const int8_t*>(x_packed),
                     *w = static_cast<const int8_t*>(panel) + first * 16;
        BLUELM_EACH(BLUELM_BEGIN)
        for (int64_t n = k / 16; n > 0; --n, x += 4 * 16, w += 12 * 16) {
            const int8x16_t x0 = vld1q_s8(x), x1 = vld1q_s8(x + 16), x2 = vld1q_s8(x + 32),
                            x3 = vld1q_s8(x + 48);
            const int8x16_t w0 = vld1q_s8(w), w1 = vld1q_s8(w + 16), w2 = vld1q_s8(w + 32),
                            w3 = vld1q_s8(w + 48);
            BLUELM_EACH(BLUELM_ADD)
        }
        BLUELM_END(0) BLUELM_END(1) BLUELM_END(2) BLUELM_END(3)
    }
}

}  // namespace

const MatmulKernel kMatmulF32Neon = {"neon f32", 8, 12, 4, 0, multiply_f32, nullptr, nullptr, 4, true};
const MatmulKernel kMatmulInt8Neon = {"neon int8", 4, 12, 16, 0, multiply_int8, nullptr, nullptr, 16, true};

}  // namespace bluelm

#endif
