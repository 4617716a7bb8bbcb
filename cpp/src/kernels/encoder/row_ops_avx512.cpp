// Row operations at AVX-512 (row_ops_body.h).
#if defined(__x86_64__) && defined(__GNUC__)

#include <type_traits>

#include "kernels/encoder/row_ops.h"
#include "kernels/target.h"

BLUELM_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,fma")

namespace bluelm {

#include "kernels/encoder/row_ops_512bit.h"
#include "kernels/encoder/row_ops_body.h"

const RowOps kRowOpsAvx512 = row_ops_named("avx512");

}  // namespace bluelm

BLUELM_TARGET_END

#endif
