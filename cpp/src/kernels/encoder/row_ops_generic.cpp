// Row operations in plain C++ (row_ops_body.h).
#include <type_traits>

#include "kernels/encoder/row_ops.h"

namespace bluelm {

#define BLUELM_LANES 4
#define BLUELM_HAS_RECIPROCAL 0
#define BLUELM_RECIPROCAL(x) (1.0f / (x))
#define BLUELM_MAX(a, b) ((a) > (b) ? (a) : (b))
#define BLUELM_MIN(a, b) ((a) < (b) ? (a) : (b))
#define BLUELM_LOW_BYTES(x) __builtin_convertvector(x, VecB)
#define BLUELM_LOW_HALVES(x) __builtin_convertvector(x, VecH)
#define BLUELM_SIGNED_BYTES(x) ((VecI)(__builtin_convertvector(x, VecU) << 24) >> 24)
#include "kernels/encoder/row_ops_body.h"

const RowOps kRowOpsGeneric = row_ops_named("generic");

}  // namespace bluelm
