// The encoder's matmul at AVX-512 VNNI, int8 and float32: 8 rows x 48 outputs a call (matmul_x86.h).
#if defined(__x86_64__) && defined(__GNUC__)

#include <cstring>

#include "kernels/encoder/matmul.h"
#include "kernels/target.h"

BLUELM_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")

#include "kernels/encoder/matmul_x86.h"

namespace bluelm {
namespace {

#define DOT(sum, value, weights) _mm512_dpbusd_epi32(sum, value, weights)
BLUELM_KERNEL_512(multiply_int8, 1, true)
#undef DOT
#define DOT(sum, value, weights) \
    _mm512_castps_si512(         \
        _mm512_fmadd_ps(_mm512_castsi512_ps(value), _mm512_castsi512_ps(weights), _mm512_castsi512_ps(sum)))
BLUELM_KERNEL_512(multiply_f32, 4, false)
#undef DOT

}  // namespace

const MatmulKernel kMatmulInt8Avx512Vnni = {"avx512-vnni int8", 8,       48,     4, 0x80,
                                            multiply_int8,      nullptr, nullptr};
const MatmulKernel kMatmulF32Avx512 = {"avx512 f32", 8, 48, 1, 0, multiply_f32, nullptr, nullptr};

}  // namespace bluelm

BLUELM_TARGET_END

#endif
