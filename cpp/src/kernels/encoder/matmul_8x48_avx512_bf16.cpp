// The encoder's matmul at AVX512_BF16: 8 rows x 48 outputs a call (matmul_x86.h).
#if defined(__x86_64__) && defined(__GNUC__)

#include <cstring>

#include "kernels/encoder/matmul.h"
#include "kernels/target.h"

BLUELM_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

#include "kernels/encoder/matmul_x86.h"

namespace bluelm {
namespace {

#define DOT(sum, value, weights) \
    _mm512_castps_si512(_mm512_dpbf16_ps(_mm512_castsi512_ps(sum), (__m512bh)(value), (__m512bh)(weights)))
BLUELM_KERNEL_512(multiply_bf16, 2, false)
#undef DOT

}  // namespace

const MatmulKernel kMatmulBf16Avx512 = {"avx512-bf16", 8, 48, 2, 0, multiply_bf16, nullptr, nullptr};

}  // namespace bluelm

BLUELM_TARGET_END

#endif
