// What the encoder does to rows between matmuls: LayerNorm, quantising, bias, GELU, residual, softmax; and to
// rows of weights when it loads them. One source (row_ops_body.h), written with the compilers' vector types,
// is compiled for each instruction set.
//
// Rows are independent of each other, so a result does not depend on how rows are shared out. A row with a
// NaN or an infinite value quantises to a NaN scale: everything computed from it is NaN, as in float
// arithmetic.
#ifndef BLUELM_ROW_OPS_H
#define BLUELM_ROW_OPS_H

#include <cstddef>
#include <cstdint>

#include "kernels/cpu_level.h"

namespace bluelm {

// Sums of a matmul, [n_rows, n] with c_stride elements from row to row, and what makes numbers of them:
// value = sum * row_scale[row] * column_scale[column] + bias[column]. For float sums both scales are NULL.
// Rows quantised around a middle of their own (quantise_around) add row_middle[row] * column_sum[column];
// row_middle is NULL for all others.
struct Sums {
    const void* c;
    size_t c_stride;
    int n_rows, n;
    const float* row_scale;
    const float* column_scale;
    const float* bias;
    const float* row_middle;
    const float* column_sum;
};

struct RowOps {
    const char* name;

    // out = (x - mean) / sqrt(var + eps) * w + b over n values, biased variance, as torch's LayerNorm.
    void (*layer_norm)(const float* x, const float* w, const float* b, float eps, int64_t n, float* out);

    // out = x / sqrt(mean of x^2 + eps) * w over n values.
    void (*rms_norm)(const float* x, const float* w, float eps, int64_t n, float* out);

    // x[0..n) -> int8 (q ^ flip), zeros up to n_padded (times flip); x = q * result, |q| <= 127.
    float (*quantise)(const float* x, int64_t n, int64_t n_padded, uint8_t flip, int8_t* out);
    float (*quantise_bf16)(const uint16_t* x, int64_t n, int64_t n_padded, uint8_t flip, int8_t* out);

    // The same around the middle between the smallest and the largest value, for rows that lie to one side of
    // zero, as GELU's do: x = q * result + *middle. What lies behind n counts for nothing.
    float (*quantise_around)(const float* x, int64_t n, int64_t n_padded, uint8_t flip, int8_t* out,
                             float* middle);
    float (*quantise_around_bf16)(const uint16_t* x, int64_t n, int64_t n_padded, uint8_t flip, int8_t* out,
                                  float* middle);

    // Nearest, ties to even; zeros up to n_padded.
    void (*to_bf16)(const float* x, int64_t n, int64_t n_padded, uint16_t* out);
    void (*to_float)(const uint16_t* x, int64_t n, float* out);

    // out = x * factor over n values.
    void (*multiply_f32)(const float* x, float factor, int64_t n, float* out);
    void (*multiply_bf16)(const float* x, float factor, int64_t n, uint16_t* out);

    // The epilogues of matmuls; int32 or float sums, stored as float or bf16 with out_stride elements from
    // row to row, n a multiple of nothing. gelu: tanh form, times `multiply`[column] unless NULL. erf: exact
    // GELU. residual: x += value, the only one that knows of middles.
    struct Epilogues {
        void (*store_f32)(const Sums&, float* out, size_t out_stride);
        void (*store_bf16)(const Sums&, uint16_t* out, size_t out_stride);
        void (*gelu_f32)(const Sums&, const float* multiply, float* out, size_t out_stride);
        void (*gelu_bf16)(const Sums&, const float* multiply, uint16_t* out, size_t out_stride);
        void (*gelu_erf_f32)(const Sums&, const float* multiply, float* out, size_t out_stride);
        void (*gelu_erf_bf16)(const Sums&, const float* multiply, uint16_t* out, size_t out_stride);
        void (*gelu_quick_f32)(const Sums&, const float* multiply, float* out, size_t out_stride);
        void (*gelu_quick_bf16)(const Sums&, const float* multiply, uint16_t* out, size_t out_stride);
        void (*residual)(const Sums&, float* x, size_t x_stride);
    };
    Epilogues of_int32, of_float;

    // s[0..n) = s * scale + mask, half precision; returns the largest.
    float (*add_mask)(float* s, const uint16_t* mask, float scale, int64_t n);

    // s[0..n) -> exp(scale * (s - max)), zeros up to n_padded; returns their sum. In place as float, or as
    // bf16 into `out`, where the sum is that of the rounded values.
    float (*softmax_f32)(float* s, int64_t n, int64_t n_padded, float scale);
    float (*softmax_bf16)(const float* s, int64_t n, int64_t n_padded, float scale, uint16_t* out);

    // Rows of weights. ggml's Q8_0: blocks of 32 bytes behind a half-precision scale; n a multiple of 32.
    void (*q8_0_to_float)(const void* x, int64_t n, float* out);
    // maxima[i] = max(maxima[i], |x[i]|)
    void (*max_magnitudes)(const float* x, int64_t n, float* maxima);
    // *squares = sum of (x w)^2, *sum = sum of x b
    void (*products)(const float* x, const float* w, const float* b, int64_t n, float* squares, float* sum);
    // x[i] *= by[i] * factor
    void (*multiply_each)(float* x, const float* by, float factor, int64_t n);
    int32_t (*add_up_int8)(const int8_t* x, int64_t n);
};

// One file each, row_ops_*.cpp.
extern const RowOps kRowOpsGeneric;
#if defined(__x86_64__) && defined(__GNUC__)
extern const RowOps kRowOpsAvx2, kRowOpsAvx512, kRowOpsAvx512Bf16;
#elif defined(__aarch64__) && defined(__GNUC__)
extern const RowOps kRowOpsNeon, kRowOpsNeonBf16;
#endif

// Generic where a level has none of its own.
const RowOps& row_ops(CpuLevel level);

}  // namespace bluelm

#endif  // BLUELM_ROW_OPS_H
