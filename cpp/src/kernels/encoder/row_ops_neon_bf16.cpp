// Row operations at i8mm where the CPU has bf16: as NEON, and bfcvtn rounds to bf16 (row_ops_body.h).
#if defined(__aarch64__) && defined(__GNUC__)

#include <type_traits>

#include "kernels/encoder/row_ops.h"
#include "kernels/target.h"

BLUELM_TARGET_BEGIN("arch=armv8.2-a+bf16")

namespace bluelm {

#include "kernels/encoder/row_ops_128bit.h"
#define BLUELM_TO_BF16(x) ((VecH)vreinterpret_u16_bf16(vcvt_bf16_f32((float32x4_t)(x))))
#include "kernels/encoder/row_ops_body.h"

const RowOps kRowOpsNeonBf16 = row_ops_named("neon-bf16");

}  // namespace bluelm

BLUELM_TARGET_END

#endif
