// Row operations at AVX2 (row_ops_body.h).
#if defined(__x86_64__) && defined(__GNUC__)

#include <type_traits>

#include "kernels/encoder/row_ops.h"
#include "kernels/target.h"

BLUELM_TARGET_BEGIN("avx2,fma")

namespace bluelm {

namespace {

typedef uint32_t Words __attribute__((vector_size(32)));
typedef uint16_t Halves __attribute__((vector_size(16)));
typedef uint8_t Bytes __attribute__((vector_size(8)));

__attribute__((always_inline)) inline Halves low_halves(Words x) {
    const __m256i pairs = _mm256_shuffle_epi8(  // into the lower half of each 128 bits
        (__m256i)x, _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1, 0, 1, 4, 5, 8,
                                     9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1));
    return (Halves)_mm256_castsi256_si128(_mm256_permute4x64_epi64(pairs, 0x08));
}
__attribute__((always_inline)) inline Bytes low_bytes(Words x) {
    const __m128i halves = (__m128i)low_halves(x);
    const __m128i bytes =
        _mm_shuffle_epi8(halves, _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, -1, -1, -1, -1, -1, -1, -1, -1));
    return (Bytes)_mm_cvtsi128_si64(bytes);
}

}  // namespace

#define BLUELM_LANES 8
#define BLUELM_HAS_RECIPROCAL 1
#define BLUELM_RECIPROCAL(x) ((Vec)_mm256_rcp_ps((__m256)(x)))
#define BLUELM_MAX(a, b) ((Vec)_mm256_max_ps((__m256)(a), (__m256)(b)))
#define BLUELM_MIN(a, b) ((Vec)_mm256_min_ps((__m256)(a), (__m256)(b)))
#define BLUELM_LOW_BYTES(x) low_bytes(x)
#define BLUELM_LOW_HALVES(x) low_halves(x)
#define BLUELM_SIGNED_BYTES(x) ((VecI)_mm256_cvtepi8_epi32(_mm_cvtsi64_si128((int64_t)(x))))
#include "kernels/encoder/row_ops_body.h"

const RowOps kRowOpsAvx2 = row_ops_named("avx2");

}  // namespace bluelm

BLUELM_TARGET_END

#endif
