#include "kernels/encoder/row_ops.h"

#include <type_traits>

#if defined(__x86_64__) && defined(__GNUC__)
#if !defined(__clang__)
// GCC 12 warns about its own headers' placeholders for masked-out lanes.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
#endif

#if defined(__aarch64__) && defined(__GNUC__)
#include <arm_neon.h>
#endif

// Vectors are handed to always_inline functions only: there is no ABI to agree on.
#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

namespace bluelm {

#define BLUELM_TABLE(NAME)                                  \
    constexpr RowOps kOps = {NAME,                          \
                             layer_norm,                    \
                             quantise_row<float>,           \
                             quantise_row<uint16_t>,        \
                             quantise_row_around<float>,    \
                             quantise_row_around<uint16_t>, \
                             to_bf16,                       \
                             to_float,                      \
                             multiply_row<float>,           \
                             multiply_row<uint16_t>,        \
                             EndsOf<int32_t>::kEnds,        \
                             EndsOf<float>::kEnds,          \
                             softmax_f32,                   \
                             softmax_bf16,                  \
                             q8_0_to_float,                 \
                             max_magnitudes,                \
                             products,                      \
                             multiply_each,                 \
                             add_up_int8};

namespace generic {
#define BLUELM_TARGET
#define BLUELM_LANES 4
#define BLUELM_HAS_RECIPROCAL 0
#define BLUELM_RECIPROCAL(x) (1.0f / (x))
#define BLUELM_MAX(a, b) ((a) > (b) ? (a) : (b))
#define BLUELM_MIN(a, b) ((a) < (b) ? (a) : (b))
#define BLUELM_LOW_BYTES(x) __builtin_convertvector(x, VecB)
#define BLUELM_LOW_HALVES(x) __builtin_convertvector(x, VecH)
#define BLUELM_SIGNED_BYTES(x) ((VecI)(__builtin_convertvector(x, VecU) << 24) >> 24)
#include "kernels/encoder/row_ops_body.h"
BLUELM_TABLE("generic")
#include "kernels/encoder/row_ops_end.h"
}  // namespace generic

#if defined(__x86_64__) && defined(__GNUC__)

namespace avx2 {

typedef uint32_t Words __attribute__((vector_size(32)));
typedef uint16_t Halves __attribute__((vector_size(16)));
typedef uint8_t Bytes __attribute__((vector_size(8)));

__attribute__((target("avx2,fma"), always_inline)) inline Halves low_halves(Words x) {
    const __m256i pairs = _mm256_shuffle_epi8(  // into the lower half of each 128 bits
        (__m256i)x, _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1, 0, 1, 4, 5, 8,
                                     9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1));
    return (Halves)_mm256_castsi256_si128(_mm256_permute4x64_epi64(pairs, 0x08));
}
__attribute__((target("avx2,fma"), always_inline)) inline Bytes low_bytes(Words x) {
    const __m128i halves = (__m128i)low_halves(x);
    const __m128i bytes =
        _mm_shuffle_epi8(halves, _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, -1, -1, -1, -1, -1, -1, -1, -1));
    return (Bytes)_mm_cvtsi128_si64(bytes);
}

#define BLUELM_TARGET __attribute__((target("avx2,fma")))
#define BLUELM_LANES 8
#define BLUELM_HAS_RECIPROCAL 1
#define BLUELM_RECIPROCAL(x) ((Vec)_mm256_rcp_ps((__m256)(x)))
#define BLUELM_MAX(a, b) ((Vec)_mm256_max_ps((__m256)(a), (__m256)(b)))
#define BLUELM_MIN(a, b) ((Vec)_mm256_min_ps((__m256)(a), (__m256)(b)))
#define BLUELM_LOW_BYTES(x) low_bytes(x)
#define BLUELM_LOW_HALVES(x) low_halves(x)
#define BLUELM_SIGNED_BYTES(x) ((VecI)_mm256_cvtepi8_epi32(_mm_cvtsi64_si128((int64_t)(x))))
#include "kernels/encoder/row_ops_body.h"
BLUELM_TABLE("avx2")
#include "kernels/encoder/row_ops_end.h"
}  // namespace avx2

#define BLUELM_LANES_512 16
#define BLUELM_RECIPROCAL_512(x) ((Vec)_mm512_rcp14_ps((__m512)(x)))
#define BLUELM_MAX_512(a, b) ((Vec)_mm512_max_ps((__m512)(a), (__m512)(b)))
#define BLUELM_MIN_512(a, b) ((Vec)_mm512_min_ps((__m512)(a), (__m512)(b)))
#define BLUELM_LOW_BYTES_512(x) ((VecB)_mm512_cvtepi32_epi8((__m512i)(x)))
#define BLUELM_LOW_HALVES_512(x) ((VecH)_mm512_cvtepi32_epi16((__m512i)(x)))
#define BLUELM_SIGNED_BYTES_512(x) ((VecI)_mm512_cvtepi8_epi32((__m128i)(x)))

namespace avx512 {
#define BLUELM_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma")))
#define BLUELM_LANES BLUELM_LANES_512
#define BLUELM_HAS_RECIPROCAL 1
#define BLUELM_RECIPROCAL BLUELM_RECIPROCAL_512
#define BLUELM_MAX BLUELM_MAX_512
#define BLUELM_MIN BLUELM_MIN_512
#define BLUELM_LOW_BYTES BLUELM_LOW_BYTES_512
#define BLUELM_LOW_HALVES BLUELM_LOW_HALVES_512
#define BLUELM_SIGNED_BYTES BLUELM_SIGNED_BYTES_512
#include "kernels/encoder/row_ops_body.h"
BLUELM_TABLE("avx512")
#include "kernels/encoder/row_ops_end.h"
}  // namespace avx512

namespace avx512_bf16 {
#define BLUELM_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")))
#define BLUELM_LANES BLUELM_LANES_512
#define BLUELM_HAS_RECIPROCAL 1
#define BLUELM_RECIPROCAL BLUELM_RECIPROCAL_512
#define BLUELM_MAX BLUELM_MAX_512
#define BLUELM_MIN BLUELM_MIN_512
#define BLUELM_TO_BF16(x) ((VecH)_mm512_cvtneps_pbh((__m512)(x)))
#define BLUELM_LOW_BYTES BLUELM_LOW_BYTES_512
#define BLUELM_LOW_HALVES BLUELM_LOW_HALVES_512
#define BLUELM_SIGNED_BYTES BLUELM_SIGNED_BYTES_512
#include "kernels/encoder/row_ops_body.h"
BLUELM_TABLE("avx512-bf16")
#include "kernels/encoder/row_ops_end.h"
}  // namespace avx512_bf16

#endif

#if defined(__aarch64__) && defined(__GNUC__)

#define BLUELM_LANES_NEON 4
#define BLUELM_RECIPROCAL_NEON(x) ((Vec)reciprocal((float32x4_t)(x)))
// NaN where either is.
#define BLUELM_MAX_NEON(a, b) ((Vec)vmaxq_f32((float32x4_t)(a), (float32x4_t)(b)))
#define BLUELM_MIN_NEON(a, b) ((Vec)vminq_f32((float32x4_t)(a), (float32x4_t)(b)))
#define BLUELM_LOW_BYTES_NEON(x) low_bytes((uint32x4_t)(x))
#define BLUELM_LOW_HALVES_NEON(x) ((VecH)vmovn_u32((uint32x4_t)(x)))
#define BLUELM_SIGNED_BYTES_NEON(x) ((VecI)signed_bytes(x))

#define BLUELM_FROM_BF16_NEON(x) ((Vec)vshll_n_u16((uint16x4_t)(x), 16))

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

namespace neon {
#define BLUELM_TARGET
#define BLUELM_LANES BLUELM_LANES_NEON
#define BLUELM_HAS_RECIPROCAL 1
#define BLUELM_RECIPROCAL BLUELM_RECIPROCAL_NEON
#define BLUELM_MAX BLUELM_MAX_NEON
#define BLUELM_MIN BLUELM_MIN_NEON
#define BLUELM_LOW_BYTES BLUELM_LOW_BYTES_NEON
#define BLUELM_LOW_HALVES BLUELM_LOW_HALVES_NEON
#define BLUELM_SIGNED_BYTES BLUELM_SIGNED_BYTES_NEON
#define BLUELM_FROM_BF16 BLUELM_FROM_BF16_NEON
#include "kernels/encoder/row_ops_body.h"
BLUELM_TABLE("neon")
#include "kernels/encoder/row_ops_end.h"
}  // namespace neon

// As neon, and bfcvtn rounds to bf16. By name: arm_neon.h has it only where the whole file is compiled for
// it.
namespace neon_bf16 {
#if defined(__clang__)
#define BLUELM_TARGET __attribute__((target("bf16")))
#define BLUELM_BFCVTN "bfcvtn %0.4h, %1.4s"
#else
#define BLUELM_TARGET
#define BLUELM_BFCVTN ".arch_extension bf16\n\tbfcvtn %0.4h, %1.4s"
#endif
BLUELM_TARGET __attribute__((always_inline)) inline uint16x4_t to_bf16_neon(float32x4_t x) {
    uint16x4_t result;
    __asm__(BLUELM_BFCVTN : "=w"(result) : "w"(x));
    return result;
}
#define BLUELM_LANES BLUELM_LANES_NEON
#define BLUELM_HAS_RECIPROCAL 1
#define BLUELM_RECIPROCAL BLUELM_RECIPROCAL_NEON
#define BLUELM_MAX BLUELM_MAX_NEON
#define BLUELM_MIN BLUELM_MIN_NEON
#define BLUELM_TO_BF16(x) ((VecH)to_bf16_neon((float32x4_t)(x)))
#define BLUELM_LOW_BYTES BLUELM_LOW_BYTES_NEON
#define BLUELM_LOW_HALVES BLUELM_LOW_HALVES_NEON
#define BLUELM_SIGNED_BYTES BLUELM_SIGNED_BYTES_NEON
#define BLUELM_FROM_BF16 BLUELM_FROM_BF16_NEON
#include "kernels/encoder/row_ops_body.h"
BLUELM_TABLE("neon-bf16")
#include "kernels/encoder/row_ops_end.h"
}  // namespace neon_bf16

#endif

const RowOps& row_ops(CpuLevel level) {
    switch (level) {
#if defined(__aarch64__) && defined(__GNUC__)
        case CpuLevel::kNeon:
        case CpuLevel::kDotprod: return neon::kOps;
        case CpuLevel::kI8mm: return cpu_has_arm_bf16() ? neon_bf16::kOps : neon::kOps;
#endif
#if defined(__x86_64__) && defined(__GNUC__)
        case CpuLevel::kAvx2:
        case CpuLevel::kAvxVnni: return avx2::kOps;
        case CpuLevel::kAvx512Vnni: return avx512::kOps;
        case CpuLevel::kAvx512Bf16:
        case CpuLevel::kAmx: return avx512_bf16::kOps;
#endif
        default: return generic::kOps;
    }
}

}  // namespace bluelm
