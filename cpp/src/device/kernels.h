// The kernels the device runs at the CPU level in use.
#ifndef BLUELM_DEVICE_KERNELS_H
#define BLUELM_DEVICE_KERNELS_H

#include "kernels/cpu_level.h"
#include "kernels/encoder/matmul.h"
#include "kernels/encoder/row_ops.h"

namespace bluelm {

struct DeviceKernels {
    const RowOps& ops;
    const MatmulKernel* int8;  // never NULL
    const MatmulKernel* wide;  // bf16 where the CPU has it, else float32
    MatmulType wide_type;
    const MatmulKernel* f32;  // never NULL
    bool is_fast;             // false: plain C++, slower than ggml's own

    explicit DeviceKernels(CpuLevel level)
        : ops(row_ops(level)),
          int8(matmul_kernel(MatmulType::kInt8, level)),
          wide(matmul_kernel(MatmulType::kBf16, level)),
          wide_type(MatmulType::kBf16),
          f32(matmul_kernel(MatmulType::kF32, level)),
          is_fast(level != CpuLevel::kGeneric) {
        if (wide) return;
        wide = f32;
        wide_type = MatmulType::kF32;
    }
};

}  // namespace bluelm

#endif  // BLUELM_DEVICE_KERNELS_H
