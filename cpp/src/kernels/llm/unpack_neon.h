// What the gemv and gemm kernels for Arm share: scales of packed weights (kernels/llm/pack.h), and
// activations to 8 bits. Included between BLUELM_TARGET_BEGIN and BLUELM_TARGET_END, after all other headers.
#ifndef BLUELM_LLM_UNPACK_NEON_H
#define BLUELM_LLM_UNPACK_NEON_H

namespace bluelm {

namespace {

inline float32x4_t load_halfs(const uint8_t* at) { return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(at))); }

// Four bytes to floats: those of quarter q of a vector.
inline float32x4_t unsigned_floats(uint8x16_t bytes, int q) {
    const uint16x8_t wide = q < 2 ? vmovl_u8(vget_low_u8(bytes)) : vmovl_u8(vget_high_u8(bytes));
    return vcvtq_f32_u32(vmovl_u16(q % 2 ? vget_high_u16(wide) : vget_low_u16(wide)));
}
inline float32x4_t signed_floats(int8x16_t bytes, int q) {
    const int16x8_t wide = q < 2 ? vmovl_s8(vget_low_s8(bytes)) : vmovl_s8(vget_high_s8(bytes));
    return vcvtq_f32_s32(vmovl_s16(q % 2 ? vget_high_s16(wide) : vget_low_s16(wide)));
}

// Scales of a cell's half, of the outputs 4q..4q+3; offsets of Q4_K, whose values have no middle.
template <LlmType type>
inline void cell_scales(const uint8_t* scales, int64_t cell, int half, int q, float32x4_t& scale,
                        float32x4_t& offset) {
    if constexpr (type == LlmType::q4_0 || type == LlmType::q8_0) {
        scale = load_halfs(scales + cell * 32 + q * 8);
    } else if constexpr (type == LlmType::q4_K) {
        const uint8_t* super = scales + cell / 8 * 256;
        const uint8_t* bits = super + 64 + cell % 8 * 24;
        const uint8x16_t low = vld1q_u8(bits);
        const uint8x8_t eight = vld1_u8(bits + 16);
        const uint8x16_t high = vcombine_u8(eight, vshr_n_u8(eight, 4)), two = vdupq_n_u8(0x30);
        // scale: bits 0..3 of low, 0..1 of high; minimum: bits 4..7 of low, 2..3 of high
        const uint8x16_t s = vorrq_u8(vandq_u8(low, vdupq_n_u8(15)), vandq_u8(vshlq_n_u8(high, 4), two));
        const uint8x16_t m = vorrq_u8(vshrq_n_u8(low, 4), vandq_u8(vshlq_n_u8(high, 2), two));
        scale = vmulq_f32(load_halfs(super + q * 8), unsigned_floats(s, q));
        offset = vnegq_f32(vmulq_f32(load_halfs(super + 32 + q * 8), unsigned_floats(m, q)));
    } else {
        const uint8_t* super = scales + cell / 8 * 288;
        const int8x16_t s = vreinterpretq_s8_u8(vld1q_u8(super + 32 + cell % 8 * 32 + half * 16));
        scale = vmulq_f32(load_halfs(super + q * 8), signed_floats(s, q));
    }
}

// The largest magnitude of n floats as bits, where NaN > infinity > every number. n: a multiple of 16.
inline uint32_t largest_bits(const float* x, int64_t n) {
    const uint32x4_t magnitude = vdupq_n_u32(0x7FFFFFFF);
    uint32x4_t most[2] = {vdupq_n_u32(0), vdupq_n_u32(0)};
    for (int64_t i = 0; i < n; i += 8) {
        most[0] = vmaxq_u32(most[0], vandq_u32(vreinterpretq_u32_f32(vld1q_f32(x + i)), magnitude));
        most[1] = vmaxq_u32(most[1], vandq_u32(vreinterpretq_u32_f32(vld1q_f32(x + i + 4)), magnitude));
    }
    return vmaxvq_u32(vmaxq_u32(most[0], most[1]));
}

// Sixteen floats times `inverse`, rounded.
inline int8x16_t quantise_16(const float* x, float32x4_t inverse) {
    const auto four = [&](int i) { return vcvtnq_s32_f32(vmulq_f32(vld1q_f32(x + 4 * i), inverse)); };
    return vcombine_s8(vmovn_s16(vcombine_s16(vmovn_s32(four(0)), vmovn_s32(four(1)))),
                       vmovn_s16(vcombine_s16(vmovn_s32(four(2)), vmovn_s32(four(3)))));
}

// What a group of activations becomes: its scale, and what to multiply with (0 for a group of zeros, and for
// one with NaN or infinity, whose scale is NaN). See kernels/llm/gemv_reference.cpp.
inline float group_scale(const float* x, int64_t n, float* inverse) {
    const uint32_t bits = largest_bits(x, n);
    float largest;
    std::memcpy(&largest, &bits, sizeof largest);
    const bool is_finite = bits < 0x7F800000u, is_zero = largest < 1e-30f;
    *inverse = is_finite && !is_zero ? 127.0f / largest : 0.0f;
    return !is_finite ? __builtin_nanf("") : is_zero ? 0.0f : largest / 127.0f;
}

}  // namespace
}  // namespace bluelm

#endif  // BLUELM_LLM_UNPACK_NEON_H
