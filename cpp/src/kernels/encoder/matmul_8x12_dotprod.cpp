// The encoder's matmul at dotprod, int8, 8 rows x 12 outputs a call: sdot multiplies four dwords of the panel
// with one dword of x.
#if defined(__aarch64__) && defined(__GNUC__)

#include "kernels/encoder/matmul_8x12_arm.h"
#include "kernels/target.h"

BLUELM_TARGET_BEGIN("arch=armv8.2-a+dotprod")

namespace bluelm {
namespace {

#define SUM int32x4_t
#define VECTOR int8x16_t
#define LOAD(at) vld1q_s8(at)
#define STORE(at, v) vst1q_s32(at, v)
#define DOT(sum, w, x, lane) vdotq_laneq_s32(sum, w, x, lane)
BLUELM_KERNEL_8X12(multiply_int8, int8_t, int32_t)

}  // namespace

const MatmulKernel kMatmulInt8Dotprod = {"dotprod int8", 8,       12,      16, 0,
                                         multiply_int8,  nullptr, nullptr, 4,  true};

}  // namespace bluelm

BLUELM_TARGET_END

#endif
