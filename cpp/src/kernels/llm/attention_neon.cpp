// Attention with NEON, in float32: attention_gemv.h for few lanes, attention_gemm.h for many.
#if defined(__aarch64__) && defined(__GNUC__)

#include <algorithm>
#include <cmath>
#include <cstring>

#include "ggml.h"
#include "kernels/llm/attention.h"
#include "kernels/llm/attention_gemm.h"
#include "kernels/llm/attention_gemv.h"
#include "kernels/target.h"

namespace bluelm {
namespace {

struct Vector128 {
    using T = float32x4_t;
    static constexpr int64_t kN = 4, kVectors = 4, kKeyTile = 6, kLaneTile = 6, kColumns = 4;
    static constexpr bool kPairs = false;

    static T load(const float* p) { return vld1q_f32(p); }
    static T loadu(const float* p) { return vld1q_f32(p); }
    static void store(float* p, T x) { vst1q_f32(p, x); }
    static void storeu(float* p, T x) { vst1q_f32(p, x); }
    static T set(float x) { return vdupq_n_f32(x); }
    static T add(T a, T b) { return vaddq_f32(a, b); }
    static T sub(T a, T b) { return vsubq_f32(a, b); }
    static T mul(T a, T b) { return vmulq_f32(a, b); }
    static T fma(T a, T b, T c) { return vfmaq_f32(c, a, b); }
    static T add_weighted(T weight, T value, T sum) { return fma(weight, value, sum); }
    static T max(T a, T b) { return vmaxnmq_f32(a, b); }  // the other one if one is NaN
    static T where_equal(T a, T b, T yes, T no) { return vbslq_f32(vceqq_f32(a, b), yes, no); }
    static bool all_equal(T a, T b) { return vminvq_u32(vceqq_f32(a, b)) != 0; }
    static T halfs(const char* at) {
        return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(reinterpret_cast<const uint8_t*>(at))));
    }

    // 4 elements of a Q8_0 row from i on (a multiple of 4).
    static T q8_0(const char* row, int64_t i) {
        const char* block = row + i / 32 * 34;  // fp16 scale, 32 int8
        uint16_t scale;
        int32_t four;
        std::memcpy(&scale, block, sizeof scale);
        std::memcpy(&four, block + 2 + i % 32, sizeof four);
        const int8x8_t q = vreinterpret_s8_s32(vdup_n_s32(four));
        const float32x4_t factor = vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(scale)));
        return mul(vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(q)))), factor);
    }

    // e^x for x <= 0, NaN for NaN; as in attention_512bit.h. Below -87 it is e^-87: 2^n must be a normal
    // number.
    static T exp(T x) {
        const T t = mul(vmaxq_f32(set(-87.0f), x), set(1.44269504f));
        const T n = vrndnq_f32(t);
        const T f = mul(sub(t, n), set(0.69314718f));
        T p = set(1.0f / 720);
        p = fma(p, f, set(1.0f / 120));
        p = fma(p, f, set(1.0f / 24));
        p = fma(p, f, set(1.0f / 6));
        p = fma(p, f, set(0.5f));
        p = fma(p, f, set(1.0f));
        p = fma(p, f, set(1.0f));
        const int32x4_t power = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
        return mul(p, vreinterpretq_f32_s32(vshlq_n_s32(power, 23)));
    }

    static T sums(const T (&x)[kN]) { return vpaddq_f32(vpaddq_f32(x[0], x[1]), vpaddq_f32(x[2], x[3])); }
};

using Gemm = AttentionGemm<Vector128>;

}  // namespace

const LlmAttentionKernel kAttentionGemvNeon = {attention_gemv<Vector128>, attention_gemv_scratch, 1, false,
                                               8};
const LlmAttentionKernel kAttentionGemmNeon = {Gemm::run, Gemm::scratch, Gemm::kLanes, false, 128};

}  // namespace bluelm

#endif
