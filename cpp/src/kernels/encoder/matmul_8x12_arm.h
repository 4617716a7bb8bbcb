// The block of the matmul kernels for Arm that multiply with one lane: neon and dotprod.
#ifndef BLUELM_MATMUL_8X12_ARM_H
#define BLUELM_MATMUL_8X12_ARM_H

#include "kernels/encoder/matmul.h"

// A kernel of 8 rows x 12 outputs for instructions that multiply a vector with one lane of another: 24 sums,
// 2 vectors of x, 3 of weights. X and W come packed alike, a group (dword) of k after the other:
//
//            x0 | x1 .. x7     w0 | w1 .. w11          sum0a  rows 0, outputs 0..3
//   k group  [  32 bytes ]     [   48 bytes   ]        sum0b          outputs 4..7     .. sum7c
//
// Sums are named variables, not arrays, which GCC would keep in memory.
//   DOT(sum, w, x, lane)   sum + w * x[lane]
#define BLUELM_EACH_ROW(DO) \
    DO(0, low, 0)           \
    DO(1, low, 1) DO(2, low, 2) DO(3, low, 3) DO(4, high, 0) DO(5, high, 1) DO(6, high, 2) DO(7, high, 3)
#define BLUELM_ZERO(r, half, lane) SUM sum##r##a = {}, sum##r##b = {}, sum##r##c = {};
#define BLUELM_DOT(r, half, lane)               \
    sum##r##a = DOT(sum##r##a, wa, half, lane); \
    sum##r##b = DOT(sum##r##b, wb, half, lane); \
    sum##r##c = DOT(sum##r##c, wc, half, lane);
#define BLUELM_STORE(r, half, lane)           \
    STORE(out + r * c_stride, sum##r##a);     \
    STORE(out + r * c_stride + 4, sum##r##b); \
    STORE(out + r * c_stride + 8, sum##r##c);
#define BLUELM_GROUP(at)                                                                                \
    {                                                                                                   \
        const VECTOR low = LOAD(x + (at) * 8 * kPerGroup), high = LOAD(x + ((at) * 8 + 4) * kPerGroup); \
        const VECTOR wa = LOAD(w + (at) * 12 * kPerGroup), wb = LOAD(w + ((at) * 12 + 4) * kPerGroup),  \
                     wc = LOAD(w + ((at) * 12 + 8) * kPerGroup);                                        \
        BLUELM_EACH_ROW(BLUELM_DOT)                                                                     \
    }
#define BLUELM_KERNEL_8X12(NAME, ELEMENT, C)                                                               \
    void NAME(const void* x_packed, size_t, const void* panel, int64_t k, void* c, size_t c_stride, int) { \
        constexpr int64_t kPerGroup = 4 / static_cast<int64_t>(sizeof(ELEMENT));                           \
        const ELEMENT* x = static_cast<const ELEMENT*>(x_packed);                                          \
        const ELEMENT* w = static_cast<const ELEMENT*>(panel);                                             \
        BLUELM_EACH_ROW(BLUELM_ZERO)                                                                       \
        for (int64_t n = k / (4 * kPerGroup); n > 0; --n, x += 32 * kPerGroup, w += 48 * kPerGroup) {      \
            BLUELM_GROUP(0) BLUELM_GROUP(1) BLUELM_GROUP(2) BLUELM_GROUP(3)                                \
        }                                                                                                  \
        C* out = static_cast<C*>(c);                                                                       \
        BLUELM_EACH_ROW(BLUELM_STORE)                                                                      \
    }

#endif  // BLUELM_MATMUL_8X12_ARM_H
