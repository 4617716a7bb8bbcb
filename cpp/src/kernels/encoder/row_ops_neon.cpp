// Row operations for every armv8-a (row_ops_body.h).
#if defined(__aarch64__) && defined(__GNUC__)

#include <type_traits>

#include "kernels/encoder/row_ops.h"
#include "kernels/target.h"

namespace bluelm {

#include "kernels/encoder/row_ops_128bit.h"
#include "kernels/encoder/row_ops_body.h"

const RowOps kRowOpsNeon = row_ops_named("neon");

}  // namespace bluelm

#endif
