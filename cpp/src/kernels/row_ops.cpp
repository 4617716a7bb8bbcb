#include "kernels/row_ops.h"

#include <type_traits>

#if defined(__x86_64__) && defined(__GNUC__)
#if !defined(__clang__)
// GCC 12 warns about its own headers' placeholders for masked-out lanes.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
#endif

// Vectors are handed to always_inline functions only: there is no ABI to agree on.
#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

namespace bluelm {

#define BLUELM_TABLE(NAME)                           \
    constexpr RowOps kOps = {NAME,                   \
                             layer_norm,             \
                             quantise_row<float>,    \
                             quantise_row<uint16_t>, \
                             to_bf16,                \
                             to_float,               \
                             multiply_row<float>,    \
                             multiply_row<uint16_t>, \
                             EndsOf<int32_t>::kEnds, \
                             EndsOf<float>::kEnds,   \
                             softmax_f32,            \
                             softmax_bf16};

namespace generic {
#define BLUELM_TARGET
#define BLUELM_LANES 4
#define BLUELM_HAS_RECIPROCAL 0
#define BLUELM_RECIPROCAL(x) (1.0f / (x))
#include "kernels/row_ops_body.h"
BLUELM_TABLE("generic")
#undef BLUELM_TARGET
#undef BLUELM_LANES
#undef BLUELM_HAS_RECIPROCAL
#undef BLUELM_RECIPROCAL
#undef BLUELM_INLINE
}  // namespace generic

#if defined(__x86_64__) && defined(__GNUC__)

namespace avx2 {
#define BLUELM_TARGET __attribute__((target("avx2,fma")))
#define BLUELM_LANES 8
#define BLUELM_HAS_RECIPROCAL 1
#define BLUELM_RECIPROCAL(x) ((Vec)_mm256_rcp_ps((__m256)(x)))
#include "kernels/row_ops_body.h"
BLUELM_TABLE("avx2")
#undef BLUELM_TARGET
#undef BLUELM_LANES
#undef BLUELM_RECIPROCAL
#undef BLUELM_INLINE
}  // namespace avx2

namespace avx512 {
#define BLUELM_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma")))
#define BLUELM_LANES 16
#define BLUELM_RECIPROCAL(x) ((Vec)_mm512_rcp14_ps((__m512)(x)))
#include "kernels/row_ops_body.h"
BLUELM_TABLE("avx512")
}  // namespace avx512

#endif

const RowOps& row_ops(CpuLevel level) {
    switch (level) {
#if defined(__x86_64__) && defined(__GNUC__)
        case CpuLevel::kAvx2:
        case CpuLevel::kAvxVnni: return avx2::kOps;
        case CpuLevel::kAvx512Vnni:
        case CpuLevel::kAvx512Bf16:
        case CpuLevel::kAmx: return avx512::kOps;
#endif
        default: return generic::kOps;
    }
}

}  // namespace bluelm
