// Which row operations a CPU level gets.
#include "kernels/encoder/row_ops.h"

namespace bluelm {

const RowOps& row_ops(CpuLevel level) {
    switch (level) {
#if defined(__x86_64__) && defined(__GNUC__)
        case CpuLevel::kAvx2:
        case CpuLevel::kAvxVnni: return kRowOpsAvx2;
        case CpuLevel::kAvx512Vnni: return kRowOpsAvx512;
        case CpuLevel::kAvx512Bf16:
        case CpuLevel::kAmx: return kRowOpsAvx512Bf16;
#elif defined(__aarch64__) && defined(__GNUC__)
        case CpuLevel::kNeon:
        case CpuLevel::kDotprod: return kRowOpsNeon;
        case CpuLevel::kI8mm: return cpu_has_arm_bf16() ? kRowOpsNeonBf16 : kRowOpsNeon;
#endif
        default: return kRowOpsGeneric;
    }
}

}  // namespace bluelm
