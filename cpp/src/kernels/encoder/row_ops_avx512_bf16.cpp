// Row operations at AVX512_BF16: as AVX-512, with its rounding to bf16 (row_ops_body.h).
#if defined(__x86_64__) && defined(__GNUC__)

#include <type_traits>

#include "kernels/encoder/row_ops.h"
#include "kernels/target.h"

BLUELM_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")

namespace bluelm {

#include "kernels/encoder/row_ops_512bit.h"
#define BLUELM_TO_BF16(x) ((VecH)_mm512_cvtneps_pbh((__m512)(x)))
#include "kernels/encoder/row_ops_body.h"

const RowOps kRowOpsAvx512Bf16 = row_ops_named("avx512-bf16");

}  // namespace bluelm

BLUELM_TARGET_END

#endif
