// The encoder's matmul at AVX-VNNI, int8: 6 rows x 16 outputs a call (matmul_x86.h).
#if defined(__x86_64__) && defined(__GNUC__)

#include <cstring>

#include "kernels/encoder/matmul.h"
#include "kernels/target.h"

BLUELM_TARGET_BEGIN("avx2,fma,avxvnni")

#include "kernels/encoder/matmul_x86.h"

namespace bluelm {
namespace {

#define DOT(sum, value, weights) _mm256_dpbusd_avx_epi32(sum, value, weights)
BLUELM_KERNEL_256(multiply_int8, 1, true, BLUELM_EACH_OF_6)
#undef DOT

}  // namespace

const MatmulKernel kMatmulInt8AvxVnni = {"avx-vnni int8", 6, 16, 4, 0x80, multiply_int8, nullptr, nullptr};

}  // namespace bluelm

BLUELM_TARGET_END

#endif
