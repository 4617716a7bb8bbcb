// What row_ops_body.h asks for, with NEON's vectors.
#ifndef BLUELM_ROW_OPS_128BIT_H
#define BLUELM_ROW_OPS_128BIT_H

#define BLUELM_HAS_RECIPROCAL 1
#define BLUELM_LANES 4
#define BLUELM_RECIPROCAL(x) ((Vec)reciprocal((float32x4_t)(x)))
// NaN where either is.
#define BLUELM_MAX(a, b) ((Vec)vmaxq_f32((float32x4_t)(a), (float32x4_t)(b)))
#define BLUELM_MIN(a, b) ((Vec)vminq_f32((float32x4_t)(a), (float32x4_t)(b)))
#define BLUELM_LOW_BYTES(x) low_bytes((uint32x4_t)(x))
#define BLUELM_LOW_HALVES(x) ((VecH)vmovn_u32((uint32x4_t)(x)))
#define BLUELM_SIGNED_BYTES(x) ((VecI)signed_bytes(x))
#define BLUELM_FROM_BF16(x) ((Vec)vshll_n_u16((uint16x4_t)(x), 16))

namespace {

// The estimate has 8 bits, a step of Newton's doubles them.
__attribute__((always_inline)) inline float32x4_t reciprocal(float32x4_t x) {
    const float32x4_t y = vrecpeq_f32(x);
    return vmulq_f32(y, vrecpsq_f32(x, y));
}
typedef uint8_t FourBytes __attribute__((vector_size(4)));
__attribute__((always_inline)) inline FourBytes low_bytes(uint32x4_t x) {
    const uint16x4_t halves = vmovn_u32(x);
    const uint32_t bytes = vget_lane_u32(vreinterpret_u32_u8(vmovn_u16(vcombine_u16(halves, halves))), 0);
    FourBytes result;
    __builtin_memcpy(&result, &bytes, sizeof result);
    return result;
}
__attribute__((always_inline)) inline int32x4_t signed_bytes(FourBytes x) {
    uint32_t bytes;
    __builtin_memcpy(&bytes, &x, sizeof bytes);
    const int8x8_t b = vreinterpret_s8_u32(vdup_n_u32(bytes));
    return vmovl_s16(vget_low_s16(vmovl_s8(b)));
}

}  // namespace

#endif  // BLUELM_ROW_OPS_128BIT_H
