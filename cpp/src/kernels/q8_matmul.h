// Matmul of Q8_0 weights with 8-bit activations for x86 CPUs with AVX-512 VNNI: ggml repacks Q8_0 for Arm
// only, and its plain x86 kernel spends most of its time on sign tricks and horizontal sums.
//
// The arithmetic is that of ggml's Q8_0: activations are quantised in blocks of 32 along the row, with one
// scale each; a block's dot product is exact in int32, and blocks are added in float32. (ggml rounds the
// activations' scales to half precision, here they stay float32.) The result does not depend on the number of
// rows or threads.
//
// Packed weights [N, K]: panels of 32 outputs; in a panel, for each block of 32 inputs, 8 groups of 4 inputs,
// each [32 outputs][4 inputs] of (weight + 128) as uint8 (what vpdpbusd multiplies with int8), then the 32
// scales as float.
#ifndef BLUELM_Q8_MATMUL_H
#define BLUELM_Q8_MATMUL_H

#include <cstddef>
#include <cstdint>

#include "ggml.h"

namespace bluelm {

constexpr int64_t kQ8PanelOutputs = 32;

// Whether this CPU has the instructions and the shape suits: n_out and n_in multiples of 32.
bool q8_matmul_runs(int64_t n_out, int64_t n_in);

// The shape of the packed weights, as rows of bytes: [n_out / 32, q8_panel_bytes(n_in)].
size_t q8_panel_bytes(int64_t n_in);

// From a Q8_0 tensor's data to packed weights (64-byte aligned).
void q8_pack(const void* q8_0, int64_t n_out, int64_t n_in, uint8_t* packed);

// x [n, n_in] (F32, contiguous) times packed weights -> [n, n_out] F32.
ggml_tensor* q8_matmul(ggml_context* ctx, ggml_tensor* packed, ggml_tensor* x);

}  // namespace bluelm

#endif  // BLUELM_Q8_MATMUL_H
