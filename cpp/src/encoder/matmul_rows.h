// Rows of activations through a linear layer (packed_weights.h), a block of sums at a time.
#ifndef BLUELM_MATMUL_ROWS_H
#define BLUELM_MATMUL_ROWS_H

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "encoder/packed_weights.h"
#include "kernels/encoder/matmul.h"
#include "kernels/encoder/row_ops.h"

namespace bluelm {

// Rows as a matmul reads them: of a layer's type, padded with zeros to its k.
struct MatmulRows {
    char* data = nullptr;
    size_t stride = 0;        // bytes
    float* scale = nullptr;   // int8 only
    float* middle = nullptr;  // int8 rows quantised around one
};

// Bytes of n rows for a layer; what a kernel reads behind the last one is in it.
size_t rows_bytes(const PackedLinear& linear, int64_t n);
// Bytes of a block of sums.
size_t sums_bytes(const PackedLinear& linear);

// Row r for `linear` from n_in() floats.
void put_row(const PackedLinear& linear, const RowOps& ops, const float* from, const MatmulRows& rows,
             int64_t r);
// The same from bf16, for layers of int8 or bf16.
void put_row(const PackedLinear& linear, const RowOps& ops, const uint16_t* from, const MatmulRows& rows,
             int64_t r);

// n rows x the weights in `memory`. Each block of sums is handed to end(sums, first row, first output) while
// it lies in the first-level cache, at sums_memory. False: stopping(), asked after every panel, was true.
template <class Stopping, class End>
bool multiply_rows(const PackedLinear& linear, const char* memory, const MatmulRows& rows, int64_t n,
                   char* sums_memory, Stopping&& stopping, End&& end) {
    const MatmulKernel& kernel = linear.kernel();
    const bool quantised = linear.type() == MatmulType::kInt8;
    matmul_pack_rows(kernel, linear.type(), rows.data, rows.stride, n, linear.k());
    Sums sums = {};
    sums.c = sums_memory;
    sums.c_stride = static_cast<size_t>(kernel.columns);
    for (int64_t panel = 0; panel < linear.n_panels(); ++panel) {
        const int64_t first = panel * kernel.columns;
        sums.n = static_cast<int>(std::min<int64_t>(kernel.columns, linear.n_out() - first));
        sums.column_scale = linear.scales(memory) + first;
        sums.bias = linear.biases(memory) + first;
        sums.column_sum = linear.sums(memory) + first;
        for (int64_t r = 0; r < n; r += kernel.rows) {
            sums.n_rows = static_cast<int>(std::min<int64_t>(kernel.rows, n - r));
            sums.row_scale = quantised ? rows.scale + r : nullptr;
            sums.row_middle = quantised && rows.middle ? rows.middle + r : nullptr;
            kernel.multiply(rows.data + static_cast<size_t>(r) * rows.stride, rows.stride,
                            linear.panel(memory, panel), linear.k(), sums_memory, sums.c_stride, sums.n_rows);
            end(sums, r, first);
        }
        if (stopping()) return false;
    }
    return true;
}

}  // namespace bluelm

#endif  // BLUELM_MATMUL_ROWS_H
