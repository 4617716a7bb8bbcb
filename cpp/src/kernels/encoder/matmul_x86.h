// The blocks of the matmul kernels for AVX2 and AVX-512: a dword of x is broadcast and multiplied with
// vectors of the panel's dwords. Included between BLUELM_TARGET_BEGIN and BLUELM_TARGET_END, after all other
// headers. Each file defines
//
//   DOT(sum, value, weights)   sum + value * weights, lane by lane
//
// Sums are named variables, not arrays, and the files are compiled without two of GCC's passes
// (CMakeLists.txt): GCC 12 spills them otherwise, which halves the speed.
#ifndef BLUELM_MATMUL_X86_H
#define BLUELM_MATMUL_X86_H

namespace bluelm {
namespace {

inline int32_t load_dword(const char* at) {
    int32_t value;
    std::memcpy(&value, at, sizeof value);
    return value;
}

#define BLUELM_EACH_OF_4(DO) DO(0) DO(1) DO(2) DO(3)
#define BLUELM_EACH_OF_6(DO) BLUELM_EACH_OF_4(DO) DO(4) DO(5)
#define BLUELM_EACH_OF_8(DO) BLUELM_EACH_OF_6(DO) DO(6) DO(7)

// Row r of x: two bases and multiples of the stride that addressing modes reach.
#define BLUELM_X0 x0
#define BLUELM_X1 x0 + stride
#define BLUELM_X2 x0 + 2 * stride
#define BLUELM_X3 x0 + stride3
#define BLUELM_X4 x4
#define BLUELM_X5 x4 + stride
#define BLUELM_X6 x4 + 2 * stride
#define BLUELM_X7 x4 + stride3

// 8 rows x 48 outputs with AVX-512: 24 sums, 3 vectors of weights, 1 broadcast.

#define BLUELM_ZERO_512(r) __m512i sum##r##a = start_a, sum##r##b = start_b, sum##r##c = start_c;
#define BLUELM_DOT_512(r)                                                      \
    {                                                                          \
        const __m512i value = _mm512_set1_epi32(load_dword(BLUELM_X##r + at)); \
        sum##r##a = DOT(sum##r##a, value, wa);                                 \
        sum##r##b = DOT(sum##r##b, value, wb);                                 \
        sum##r##c = DOT(sum##r##c, value, wc);                                 \
    }
#define BLUELM_STORE_512(r)                                  \
    _mm512_storeu_si512(out + r * c_stride, sum##r##a);      \
    _mm512_storeu_si512(out + r * c_stride + 16, sum##r##b); \
    _mm512_storeu_si512(out + r * c_stride + 32, sum##r##c);

#define BLUELM_KERNEL_512(NAME, ELEMENT_BYTES, OFFSET)                                                       \
    void NAME(const void* x, size_t x_stride, const void* panel, int64_t k, void* c, size_t c_stride, int) { \
        const char* w = static_cast<const char*>(panel);                                                     \
        __m512i start_a = _mm512_setzero_si512(), start_b = start_a, start_c = start_a;                      \
        if (OFFSET) {                                                                                        \
            start_a = _mm512_load_si512(w);                                                                  \
            start_b = _mm512_load_si512(w + 64);                                                             \
            start_c = _mm512_load_si512(w + 128);                                                            \
            w += 192;                                                                                        \
        }                                                                                                    \
        const ptrdiff_t stride = static_cast<ptrdiff_t>(x_stride), stride3 = 3 * stride;                     \
        const char *x0 = static_cast<const char*>(x), *x4 = x0 + 4 * stride;                                 \
        BLUELM_EACH_OF_8(BLUELM_ZERO_512)                                                                    \
        for (int64_t at = 0, n = k * ELEMENT_BYTES; at < n; at += 4, w += 192) {                             \
            const __m512i wa = _mm512_load_si512(w), wb = _mm512_load_si512(w + 64),                         \
                          wc = _mm512_load_si512(w + 128);                                                   \
            BLUELM_EACH_OF_8(BLUELM_DOT_512)                                                                 \
        }                                                                                                    \
        int32_t* out = static_cast<int32_t*>(c);                                                             \
        BLUELM_EACH_OF_8(BLUELM_STORE_512)                                                                   \
    }

// 6 rows x 16 outputs with AVX2: 12 sums, 2 vectors of weights, 1 broadcast, 1 to spare; or 4 rows.

#define BLUELM_ZERO_256(r) __m256i sum##r##a = start_a, sum##r##b = start_b;
#define BLUELM_DOT_256(r)                                                      \
    {                                                                          \
        const __m256i value = _mm256_set1_epi32(load_dword(BLUELM_X##r + at)); \
        sum##r##a = DOT(sum##r##a, value, wa);                                 \
        sum##r##b = DOT(sum##r##b, value, wb);                                 \
    }
#define BLUELM_STORE_256(r)                                                         \
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + r * c_stride), sum##r##a); \
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + r * c_stride + 8), sum##r##b);

#define BLUELM_LOAD(at) _mm256_load_si256(reinterpret_cast<const __m256i*>(at))
#define BLUELM_KERNEL_256(NAME, ELEMENT_BYTES, OFFSET, EACH_ROW)                                             \
    void NAME(const void* x, size_t x_stride, const void* panel, int64_t k, void* c, size_t c_stride, int) { \
        const char* w = static_cast<const char*>(panel);                                                     \
        __m256i start_a = _mm256_setzero_si256(), start_b = start_a;                                         \
        if (OFFSET) {                                                                                        \
            start_a = BLUELM_LOAD(w);                                                                        \
            start_b = BLUELM_LOAD(w + 32);                                                                   \
            w += 64;                                                                                         \
        }                                                                                                    \
        const ptrdiff_t stride = static_cast<ptrdiff_t>(x_stride), stride3 = 3 * stride;                     \
        const char *x0 = static_cast<const char*>(x), *x4 = x0 + 4 * stride;                                 \
        (void)x4;                                                                                            \
        EACH_ROW(BLUELM_ZERO_256)                                                                            \
        for (int64_t at = 0, n = k * ELEMENT_BYTES; at < n; at += 4, w += 64) {                              \
            const __m256i wa = BLUELM_LOAD(w), wb = BLUELM_LOAD(w + 32);                                     \
            EACH_ROW(BLUELM_DOT_256)                                                                         \
        }                                                                                                    \
        int32_t* out = static_cast<int32_t*>(c);                                                             \
        EACH_ROW(BLUELM_STORE_256)                                                                           \
    }

}  // namespace
}  // namespace bluelm

#endif  // BLUELM_MATMUL_X86_H
