#include "peaks.h"

#include <cstring>

#include "bluelm.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif
#endif

namespace tools {
namespace {

// Read at run time, so that no loop can be computed by the compiler; what loops leave goes to `sink`.
volatile float source = 1e-3f;
volatile float sink;

// Defines `sum`, a Vector: BENCH_STEP(c) on each accumulator c, n times over, then all of them added up. Ten
// independent accumulators cover the latency of every instruction here (4 or 5 cycles, two a cycle).
#define BENCH_LOOP(Vector, set, add)                                                                  \
    Vector c0 = set(0), c1 = set(1), c2 = set(2), c3 = set(3), c4 = set(4), c5 = set(5), c6 = set(6), \
           c7 = set(7), c8 = set(8), c9 = set(9);                                                     \
    for (int64_t k = 0; k < n; ++k) {                                                                 \
        BENCH_STEP(c0);                                                                               \
        BENCH_STEP(c1);                                                                               \
        BENCH_STEP(c2);                                                                               \
        BENCH_STEP(c3);                                                                               \
        BENCH_STEP(c4);                                                                               \
        BENCH_STEP(c5);                                                                               \
        BENCH_STEP(c6);                                                                               \
        BENCH_STEP(c7);                                                                               \
        BENCH_STEP(c8);                                                                               \
        BENCH_STEP(c9);                                                                               \
    }                                                                                                 \
    const Vector sum = add(add(add(add(c0, c1), add(c2, c3)), add(add(c4, c5), add(c6, c7))), add(c8, c9));

#if defined(__x86_64__)

// GCC and clang take a function's instructions from this attribute, whatever the file is built for.
#define BENCH_X86(name, features) __attribute__((target(features))) void name(int64_t n)

BENCH_X86(f32_avx512, "avx512f") {
    const __m512 a = _mm512_set1_ps(source), b = _mm512_set1_ps(source);
#define BENCH_STEP(c) c = _mm512_fmadd_ps(a, b, c)
    BENCH_LOOP(__m512, _mm512_set1_ps, _mm512_add_ps)
#undef BENCH_STEP
    sink = _mm_cvtss_f32(_mm512_castps512_ps128(sum));
}

BENCH_X86(f32_avx2, "avx2,fma") {
    const __m256 a = _mm256_set1_ps(source), b = _mm256_set1_ps(source);
#define BENCH_STEP(c) c = _mm256_fmadd_ps(a, b, c)
    BENCH_LOOP(__m256, _mm256_set1_ps, _mm256_add_ps)
#undef BENCH_STEP
    sink = _mm256_cvtss_f32(sum);
}

void f32_sse2(int64_t n) {
    const __m128 a = _mm_set1_ps(source), b = _mm_set1_ps(source);
    // The product is made anew for every accumulator, as a matmul would have to.
#define BENCH_STEP(c)                              \
    {                                              \
        __m128 product = a;                        \
        __asm__("" : "+x"(product));               \
        c = _mm_add_ps(c, _mm_mul_ps(product, b)); \
    }
    BENCH_LOOP(__m128, _mm_set1_ps, _mm_add_ps)
#undef BENCH_STEP
    sink = _mm_cvtss_f32(sum);
}

BENCH_X86(int8_vnni512, "avx512f,avx512vnni") {
    const __m512i a = _mm512_set1_epi32(static_cast<int>(source * 5e6f));
    // Not the intrinsic: GCC 12 copies every accumulator twice around it.
#define BENCH_STEP(c) __asm__("vpdpbusd %1, %1, %0" : "+v"(c) : "v"(a))
    BENCH_LOOP(__m512i, _mm512_set1_epi32, _mm512_add_epi32)
#undef BENCH_STEP
    sink = static_cast<float>(_mm_cvtsi128_si32(_mm512_castsi512_si128(sum)));
}

BENCH_X86(int8_avx2, "avx2") {
    const __m256i a = _mm256_set1_epi32(static_cast<int>(source * 5e6f)), ones = _mm256_set1_epi16(1);
#define BENCH_STEP(c)                                                                 \
    {                                                                                 \
        __m256i x = a;                                                                \
        __asm__("" : "+x"(x));                                                        \
        c = _mm256_add_epi32(c, _mm256_madd_epi16(_mm256_maddubs_epi16(x, a), ones)); \
    }
    BENCH_LOOP(__m256i, _mm256_set1_epi32, _mm256_add_epi32)
#undef BENCH_STEP
    sink = static_cast<float>(_mm256_extract_epi32(sum, 0));
}

// vpdpbusd of the VEX kind, written as the encoding's mnemonic: not every compiler has the intrinsic.
BENCH_X86(int8_avxvnni, "avx2") {
    const __m256i a = _mm256_set1_epi32(static_cast<int>(source * 5e6f));
#define BENCH_STEP(c) __asm__("%{vex%} vpdpbusd %1, %1, %0" : "+x"(c) : "x"(a))
    BENCH_LOOP(__m256i, _mm256_set1_epi32, _mm256_add_epi32)
#undef BENCH_STEP
    sink = static_cast<float>(_mm256_extract_epi32(sum, 0));
}

// Four accumulators of 16 x 16, as many as a matmul can keep. Everything in one block: compilers before GCC
// 12.4 lose the stores that fill the configuration.
struct alignas(64) TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// One tile product after the other, into four sums.
#define BENCH_AMX(name, multiply)                                                                     \
    void name(int64_t n) {                                                                            \
        static const TileConfig config;                                                               \
        __asm__ volatile(                                                                             \
            "ldtilecfg %1\n"                                                                          \
            "tilezero %%tmm0\n tilezero %%tmm1\n tilezero %%tmm2\n"                                   \
            "tilezero %%tmm3\n tilezero %%tmm4\n tilezero %%tmm5\n"                                   \
            "tilezero %%tmm6\n tilezero %%tmm7\n"                                                     \
            "1:\n" multiply " %%tmm6, %%tmm4, %%tmm0\n" multiply " %%tmm7, %%tmm4, %%tmm1\n" multiply \
            " %%tmm6, %%tmm5, %%tmm2\n" multiply                                                      \
            " %%tmm7, %%tmm5, %%tmm3\n"                                                               \
            "dec %0\n"                                                                                \
            "jnz 1b\n"                                                                                \
            "tilerelease\n"                                                                           \
            : "+r"(n)                                                                                 \
            : "m"(config)                                                                             \
            : "cc", "memory");                                                                        \
    }
BENCH_AMX(int8_amx, "tdpbssd")
BENCH_AMX(bf16_amx, "tdpbf16ps")  // 32 bf16 in a row of 64 bytes, pair by pair
#undef BENCH_AMX

// vdpbf16ps zmm0..zmm9, zmm16, zmm16: operands are zero, which costs what any value does.
BENCH_X86(bf16_avx512, "avx512f") {
    __asm__ volatile(
        "vpxord %%zmm16, %%zmm16, %%zmm16\n"
        "vpxord %%zmm0, %%zmm0, %%zmm0\n vmovaps %%zmm0, %%zmm1\n vmovaps %%zmm0, %%zmm2\n"
        "vmovaps %%zmm0, %%zmm3\n vmovaps %%zmm0, %%zmm4\n vmovaps %%zmm0, %%zmm5\n"
        "vmovaps %%zmm0, %%zmm6\n vmovaps %%zmm0, %%zmm7\n vmovaps %%zmm0, %%zmm8\n"
        "vmovaps %%zmm0, %%zmm9\n"
        "1:\n"
        "vdpbf16ps %%zmm16, %%zmm16, %%zmm0\n vdpbf16ps %%zmm16, %%zmm16, %%zmm1\n"
        "vdpbf16ps %%zmm16, %%zmm16, %%zmm2\n vdpbf16ps %%zmm16, %%zmm16, %%zmm3\n"
        "vdpbf16ps %%zmm16, %%zmm16, %%zmm4\n vdpbf16ps %%zmm16, %%zmm16, %%zmm5\n"
        "vdpbf16ps %%zmm16, %%zmm16, %%zmm6\n vdpbf16ps %%zmm16, %%zmm16, %%zmm7\n"
        "vdpbf16ps %%zmm16, %%zmm16, %%zmm8\n vdpbf16ps %%zmm16, %%zmm16, %%zmm9\n"
        "dec %0\n"
        "jnz 1b\n"
        "vzeroupper\n"
        : "+r"(n)
        :
        : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm16");
}

// CPUID leaf 7, subleaf 1, register eax.
bool has_leaf7_1(unsigned bit) {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> bit & 1);
}

bool has_avx_vnni() { return __builtin_cpu_supports("avx2") && has_leaf7_1(4); }
bool has_avx512_bf16() { return __builtin_cpu_supports("avx512f") && has_leaf7_1(5); }

__attribute__((target("avx2"))) uint64_t sum_avx2(const uint64_t* words, int64_t n) {
    __m256i sums[8] = {};
    for (int64_t i = 0; i < n; i += 32) {
        for (int k = 0; k < 8; ++k) {
            const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words + i + 4 * k));
            sums[k] = _mm256_add_epi64(sums[k], x);
        }
    }
    uint64_t total = 0, lanes[4];
    for (const __m256i& sum : sums) {
        std::memcpy(lanes, &sum, sizeof lanes);
        total += lanes[0] + lanes[1] + lanes[2] + lanes[3];
    }
    return total;
}

#elif defined(__aarch64__)

void f32_neon(int64_t n) {
    const float32x4_t a = vdupq_n_f32(source), b = a;
#define BENCH_STEP(c) c = vfmaq_f32(c, a, b)
    BENCH_LOOP(float32x4_t, vdupq_n_f32, vaddq_f32)
#undef BENCH_STEP
    sink = vaddvq_f32(sum);
}

// 16 products in 16 bits, added in pairs into 32.
void int8_neon(int64_t n) {
    const int8x16_t a = vdupq_n_s8(static_cast<int8_t>(source * 1e4f));
#define BENCH_STEP(c)                                                        \
    {                                                                        \
        int8x16_t x = a;                                                     \
        __asm__("" : "+w"(x));                                               \
        const int16x8_t low = vmull_s8(vget_low_s8(x), vget_low_s8(a));      \
        c = vpadalq_s16(c, vmlal_s8(low, vget_high_s8(x), vget_high_s8(a))); \
    }
    BENCH_LOOP(int32x4_t, vdupq_n_s32, vaddq_s32)
#undef BENCH_STEP
    sink = static_cast<float>(vaddvq_s32(sum));
}

// sdot v0..v9.4s, v16.16b, v17.16b: by its encoding, so that any assembler takes it.
void int8_dotprod(int64_t n) {
    __asm__ volatile(
        "movi v16.16b, #1\n movi v17.16b, #1\n"
        "1:\n"
        ".inst 0x4e919600\n .inst 0x4e919601\n .inst 0x4e919602\n .inst 0x4e919603\n .inst 0x4e919604\n"
        ".inst 0x4e919605\n .inst 0x4e919606\n .inst 0x4e919607\n .inst 0x4e919608\n .inst 0x4e919609\n"
        "subs %0, %0, #1\n"
        "b.ne 1b\n"
        : "+r"(n)
        :
        : "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v16", "v17");
}

// smmla v0..v9.4s, v16.16b, v17.16b.
void int8_i8mm(int64_t n) {
    __asm__ volatile(
        "movi v16.16b, #1\n movi v17.16b, #1\n"
        "1:\n"
        ".inst 0x4e91a600\n .inst 0x4e91a601\n .inst 0x4e91a602\n .inst 0x4e91a603\n .inst 0x4e91a604\n"
        ".inst 0x4e91a605\n .inst 0x4e91a606\n .inst 0x4e91a607\n .inst 0x4e91a608\n .inst 0x4e91a609\n"
        "subs %0, %0, #1\n"
        "b.ne 1b\n"
        : "+r"(n)
        :
        : "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v16", "v17");
}

// bfmmla v0..v9.4s, v16.8h, v17.8h.
void bf16_bfmmla(int64_t n) {
    __asm__ volatile(
        "movi v16.16b, #0\n movi v17.16b, #0\n"
        "1:\n"
        ".inst 0x6e51ee00\n .inst 0x6e51ee01\n .inst 0x6e51ee02\n .inst 0x6e51ee03\n .inst 0x6e51ee04\n"
        ".inst 0x6e51ee05\n .inst 0x6e51ee06\n .inst 0x6e51ee07\n .inst 0x6e51ee08\n .inst 0x6e51ee09\n"
        "subs %0, %0, #1\n"
        "b.ne 1b\n"
        : "+r"(n)
        :
        : "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v16", "v17");
}

bool has_dotprod() {
#if defined(__linux__)
    return getauxval(AT_HWCAP) >> 20 & 1;  // HWCAP_ASIMDDP
#else
    return true;  // Apple's
#endif
}

bool has_i8mm() {
#if defined(__linux__)
    return getauxval(AT_HWCAP2) >> 13 & 1;  // HWCAP2_I8MM
#else
    return false;
#endif
}

bool has_bf16() {
#if defined(__linux__)
    return getauxval(AT_HWCAP2) >> 14 & 1;  // HWCAP2_BF16
#else
    return false;
#endif
}

#endif

}  // namespace

PeakLoop int8_loop() {
#if defined(__x86_64__)
    // The library has asked the kernel for the tile registers where it uses them.
    const char* level = bluelm_cpu_level();
    if (level && std::strcmp(level, "amx") == 0) return {"AMX", 4 * 2.0 * 16 * 16 * 64, int8_amx};
    if (__builtin_cpu_supports("avx512vnni")) return {"AVX-512 VNNI", 10 * 2.0 * 64, int8_vnni512};
    if (has_avx_vnni()) return {"AVX-VNNI", 10 * 2.0 * 32, int8_avxvnni};
    if (__builtin_cpu_supports("avx2")) return {"AVX2", 10 * 2.0 * 32, int8_avx2};
#elif defined(__aarch64__)
    if (has_i8mm()) return {"i8mm", 10 * 2.0 * 32, int8_i8mm};
    if (has_dotprod()) return {"dotprod", 10 * 2.0 * 16, int8_dotprod};
    return {"NEON", 10 * 2.0 * 16, int8_neon};
#endif
    return {"", 0, nullptr};
}

PeakLoop bf16_loop() {
#if defined(__x86_64__)
    const char* level = bluelm_cpu_level();
    if (level && std::strcmp(level, "amx") == 0) return {"AMX", 4 * 2.0 * 16 * 16 * 32, bf16_amx};
    if (has_avx512_bf16()) return {"AVX-512 BF16", 10 * 2.0 * 32, bf16_avx512};
#elif defined(__aarch64__)
    if (has_bf16()) return {"bfmmla", 10 * 2.0 * 16, bf16_bfmmla};
#endif
    return {"", 0, nullptr};
}

PeakLoop f32_loop() {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) return {"AVX-512", 10 * 2.0 * 16, f32_avx512};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return {"AVX2 FMA", 10 * 2.0 * 8, f32_avx2};
    return {"SSE2", 10 * 2.0 * 4, f32_sse2};
#elif defined(__aarch64__)
    return {"NEON", 10 * 2.0 * 4, f32_neon};
#endif
    return {"", 0, nullptr};
}

uint64_t sum_words(const uint64_t* words, int64_t n) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) return sum_avx2(words, n);
#endif
    uint64_t sums[8] = {};
    for (int64_t i = 0; i < n; i += 8) {
        for (int k = 0; k < 8; ++k) sums[k] += words[i + k];
    }
    uint64_t total = 0;
    for (const uint64_t sum : sums) total += sum;
    return total;
}

}  // namespace tools
