// Matmul kernels for AVX2, AVX-VNNI and AVX-512: a dword of x is broadcast and multiplied with vectors of the
// panel's dwords. Sums are named variables, not arrays, and this file is compiled without two of GCC's passes
// (CMakeLists.txt): GCC 12 spills them otherwise, which halves the speed.
#include "kernels/encoder/matmul.h"

#if defined(__x86_64__) && defined(__GNUC__)

#if !defined(__clang__)
// GCC 12 warns about its own headers' placeholders for masked-out lanes.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include <cstring>

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

// ------------------------------------------------------------------------------------------------ AVX-512
// 8 rows x 48 outputs: 24 sums, 3 vectors of weights, 1 broadcast.

#define BLUELM_ZERO(r) __m512i sum##r##a = start_a, sum##r##b = start_b, sum##r##c = start_c;
#define BLUELM_DOT(r)                                                          \
    {                                                                          \
        const __m512i value = _mm512_set1_epi32(load_dword(BLUELM_X##r + at)); \
        sum##r##a = DOT(sum##r##a, value, wa);                                 \
        sum##r##b = DOT(sum##r##b, value, wb);                                 \
        sum##r##c = DOT(sum##r##c, value, wc);                                 \
    }
#define BLUELM_STORE(r)                                      \
    _mm512_storeu_si512(out + r * c_stride, sum##r##a);      \
    _mm512_storeu_si512(out + r * c_stride + 16, sum##r##b); \
    _mm512_storeu_si512(out + r * c_stride + 32, sum##r##c);

#define BLUELM_KERNEL_512(NAME, TARGET, ELEMENT_BYTES, OFFSET)                                              \
    __attribute__((target(TARGET))) void NAME(const void* x, size_t x_stride, const void* panel, int64_t k, \
                                              void* c, size_t c_stride, int) {                              \
        const char* w = static_cast<const char*>(panel);                                                    \
        __m512i start_a = _mm512_setzero_si512(), start_b = start_a, start_c = start_a;                     \
        if (OFFSET) {                                                                                       \
            start_a = _mm512_load_si512(w);                                                                 \
            start_b = _mm512_load_si512(w + 64);                                                            \
            start_c = _mm512_load_si512(w + 128);                                                           \
            w += 192;                                                                                       \
        }                                                                                                   \
        const ptrdiff_t stride = static_cast<ptrdiff_t>(x_stride), stride3 = 3 * stride;                    \
        const char *x0 = static_cast<const char*>(x), *x4 = x0 + 4 * stride;                                \
        BLUELM_EACH_OF_8(BLUELM_ZERO)                                                                       \
        for (int64_t at = 0, n = k * ELEMENT_BYTES; at < n; at += 4, w += 192) {                            \
            const __m512i wa = _mm512_load_si512(w), wb = _mm512_load_si512(w + 64),                        \
                          wc = _mm512_load_si512(w + 128);                                                  \
            BLUELM_EACH_OF_8(BLUELM_DOT)                                                                    \
        }                                                                                                   \
        int32_t* out = static_cast<int32_t*>(c);                                                            \
        BLUELM_EACH_OF_8(BLUELM_STORE)                                                                      \
    }

#define DOT(sum, value, weights) _mm512_dpbusd_epi32(sum, value, weights)
BLUELM_KERNEL_512(multiply_int8_vnni512, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni", 1, true)
#undef DOT
#define DOT(sum, value, weights) \
    _mm512_castps_si512(_mm512_dpbf16_ps(_mm512_castsi512_ps(sum), (__m512bh)(value), (__m512bh)(weights)))
BLUELM_KERNEL_512(multiply_bf16_512, "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16", 2, false)
#undef DOT
#define DOT(sum, value, weights) \
    _mm512_castps_si512(         \
        _mm512_fmadd_ps(_mm512_castsi512_ps(value), _mm512_castsi512_ps(weights), _mm512_castsi512_ps(sum)))
BLUELM_KERNEL_512(multiply_f32_512, "avx512f,avx512bw,avx512dq,avx512vl,fma", 4, false)
#undef DOT
#undef BLUELM_ZERO
#undef BLUELM_DOT
#undef BLUELM_STORE

// --------------------------------------------------------------------------------------------------- AVX2
// 6 rows x 16 outputs: 12 sums, 2 vectors of weights, 1 broadcast, 1 to spare.

#define BLUELM_ZERO(r) __m256i sum##r##a = start_a, sum##r##b = start_b;
#define BLUELM_DOT(r)                                                          \
    {                                                                          \
        const __m256i value = _mm256_set1_epi32(load_dword(BLUELM_X##r + at)); \
        sum##r##a = DOT(sum##r##a, value, wa);                                 \
        sum##r##b = DOT(sum##r##b, value, wb);                                 \
    }
#define BLUELM_STORE(r)                                                             \
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + r * c_stride), sum##r##a); \
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + r * c_stride + 8), sum##r##b);

#define BLUELM_LOAD(at) _mm256_load_si256(reinterpret_cast<const __m256i*>(at))
#define BLUELM_KERNEL_256(NAME, TARGET, ELEMENT_BYTES, OFFSET, EACH_ROW)                                    \
    __attribute__((target(TARGET))) void NAME(const void* x, size_t x_stride, const void* panel, int64_t k, \
                                              void* c, size_t c_stride, int) {                              \
        const char* w = static_cast<const char*>(panel);                                                    \
        __m256i start_a = _mm256_setzero_si256(), start_b = start_a;                                        \
        if (OFFSET) {                                                                                       \
            start_a = BLUELM_LOAD(w);                                                                       \
            start_b = BLUELM_LOAD(w + 32);                                                                  \
            w += 64;                                                                                        \
        }                                                                                                   \
        const ptrdiff_t stride = static_cast<ptrdiff_t>(x_stride), stride3 = 3 * stride;                    \
        const char *x0 = static_cast<const char*>(x), *x4 = x0 + 4 * stride;                                \
        (void)x4;                                                                                           \
        EACH_ROW(BLUELM_ZERO)                                                                               \
        for (int64_t at = 0, n = k * ELEMENT_BYTES; at < n; at += 4, w += 64) {                             \
            const __m256i wa = BLUELM_LOAD(w), wb = BLUELM_LOAD(w + 32);                                    \
            EACH_ROW(BLUELM_DOT)                                                                            \
        }                                                                                                   \
        int32_t* out = static_cast<int32_t*>(c);                                                            \
        EACH_ROW(BLUELM_STORE)                                                                              \
    }

#define DOT(sum, value, weights) _mm256_dpbusd_avx_epi32(sum, value, weights)
BLUELM_KERNEL_256(multiply_int8_vnni256, "avx2,fma,avxvnni", 1, true, BLUELM_EACH_OF_6)
#undef DOT
#define DOT(sum, value, weights) \
    _mm256_castps_si256(         \
        _mm256_fmadd_ps(_mm256_castsi256_ps(value), _mm256_castsi256_ps(weights), _mm256_castsi256_ps(sum)))
BLUELM_KERNEL_256(multiply_f32_256, "avx2,fma", 4, false, BLUELM_EACH_OF_6)
#undef DOT
// |x| times (w with the sign of x): pairs are at most 2 * 127 * 127 = 32258 and do not saturate int16.
#define DOT(sum, value, weights)                                                                    \
    _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(value),            \
                                                                 _mm256_sign_epi8(weights, value)), \
                                            _mm256_set1_epi16(1)))
BLUELM_KERNEL_256(multiply_int8_256, "avx2,fma", 1, false, BLUELM_EACH_OF_4)
#undef DOT

constexpr MatmulKernel kInt8Vnni512 = {"avx512-vnni int8",    8,       48,     4, 0x80,
                                       multiply_int8_vnni512, nullptr, nullptr};
constexpr MatmulKernel kBf16Avx512 = {"avx512-bf16", 8, 48, 2, 0, multiply_bf16_512, nullptr, nullptr};
constexpr MatmulKernel kF32Avx512 = {"avx512 f32", 8, 48, 1, 0, multiply_f32_512, nullptr, nullptr};
constexpr MatmulKernel kInt8Vnni256 = {"avx-vnni int8",       6,       16,     4, 0x80,
                                       multiply_int8_vnni256, nullptr, nullptr};
constexpr MatmulKernel kInt8Avx2 = {"avx2 int8", 4, 16, 4, 0, multiply_int8_256, nullptr, nullptr};
constexpr MatmulKernel kF32Avx2 = {"avx2 f32", 6, 16, 1, 0, multiply_f32_256, nullptr, nullptr};

}  // namespace

const MatmulKernel* matmul_kernel_x86(MatmulType type, CpuLevel level) {
    const bool zmm =
        level == CpuLevel::kAvx512Vnni || level == CpuLevel::kAvx512Bf16 || level == CpuLevel::kAmx;
    const bool ymm = level == CpuLevel::kAvx2 || level == CpuLevel::kAvxVnni;
    switch (type) {
        case MatmulType::kInt8:
            if (zmm) return &kInt8Vnni512;
            return level == CpuLevel::kAvxVnni ? &kInt8Vnni256 : ymm ? &kInt8Avx2 : nullptr;
        case MatmulType::kBf16: return zmm && level != CpuLevel::kAvx512Vnni ? &kBf16Avx512 : nullptr;
        case MatmulType::kF32: return zmm ? &kF32Avx512 : ymm ? &kF32Avx2 : nullptr;
    }
    return nullptr;
}

}  // namespace bluelm

#else

namespace bluelm {
const MatmulKernel* matmul_kernel_x86(MatmulType, CpuLevel) { return nullptr; }
}  // namespace bluelm

#endif
