// The encoder's matmul at AVX2: float32 6 rows x 16 outputs a call, int8 4 x 16 (matmul_x86.h).
#if defined(__x86_64__) && defined(__GNUC__)

#include <cstring>

#include "kernels/encoder/matmul.h"
#include "kernels/target.h"

BLUELM_TARGET_BEGIN("avx2,fma")

#include "kernels/encoder/matmul_x86.h"

namespace bluelm {
namespace {

#define DOT(sum, value, weights) \
    _mm256_castps_si256(         \
        _mm256_fmadd_ps(_mm256_castsi256_ps(value), _mm256_castsi256_ps(weights), _mm256_castsi256_ps(sum)))
BLUELM_KERNEL_256(multiply_f32, 4, false, BLUELM_EACH_OF_6)
#undef DOT
// |x| times (w with the sign of x): pairs are at most 2 * 127 * 127 = 32258 and do not saturate int16.
#define DOT(sum, value, weights)                                                                    \
    _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(value),            \
                                                                 _mm256_sign_epi8(weights, value)), \
                                            _mm256_set1_epi16(1)))
BLUELM_KERNEL_256(multiply_int8, 1, false, BLUELM_EACH_OF_4)
#undef DOT

}  // namespace

const MatmulKernel kMatmulInt8Avx2 = {"avx2 int8", 4, 16, 4, 0, multiply_int8, nullptr, nullptr};
const MatmulKernel kMatmulF32Avx2 = {"avx2 f32", 6, 16, 1, 0, multiply_f32, nullptr, nullptr};

}  // namespace bluelm

BLUELM_TARGET_END

#endif
