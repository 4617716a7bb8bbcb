#include "kernels/q8_matmul.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>

#if defined(__x86_64__) && defined(__GNUC__)
#define BLUELM_Q8_X86 1
#if !defined(__clang__)
// GCC 12 warns about its own headers' placeholders for masked-out lanes.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#endif

namespace bluelm {
namespace {

constexpr int64_t kBlock = 32;               // inputs that share a scale
constexpr int64_t kPanel = kQ8PanelOutputs;  // two vectors of 16
constexpr int64_t kGroups = kBlock / 4;
constexpr size_t kGroupBytes = kPanel * 4;
constexpr size_t kBlockBytes = kGroups * kGroupBytes + kPanel * sizeof(float);  // 1152
constexpr int64_t kRows = 6;      // rows of x in one pass of the kernel: 12 int32 and 12 float accumulators
constexpr int64_t kMaxRows = 96;  // rows quantised at a time: 96 x 4352 bytes stay in the second-level cache

struct BlockQ8_0 {
    ggml_fp16_t scale;
    int8_t q[kBlock];
};
static_assert(sizeof(BlockQ8_0) == 34, "Q8_0 as GGUF stores it");

}  // namespace

size_t q8_panel_bytes(int64_t n_in) { return static_cast<size_t>(n_in / kBlock) * kBlockBytes; }

void q8_pack(const void* q8_0, int64_t n_out, int64_t n_in, uint8_t* packed) {
    const auto* weights = static_cast<const BlockQ8_0*>(q8_0);
    const int64_t n_blocks = n_in / kBlock;
    for (int64_t panel = 0; panel < n_out / kPanel; ++panel) {
        for (int64_t block = 0; block < n_blocks; ++block, packed += kBlockBytes) {
            for (int64_t out = 0; out < kPanel; ++out) {
                const BlockQ8_0& b = weights[(panel * kPanel + out) * n_blocks + block];
                for (int64_t i = 0; i < kBlock; ++i) {
                    packed[(i / 4) * static_cast<int64_t>(kGroupBytes) + out * 4 + i % 4] =
                        static_cast<uint8_t>(b.q[i] + 128);
                }
                const float scale = ggml_fp16_to_fp32(b.scale);
                std::memcpy(packed + kGroups * kGroupBytes + static_cast<size_t>(out) * sizeof scale, &scale,
                            sizeof scale);
            }
        }
    }
}

#if defined(BLUELM_Q8_X86)

namespace {

#define BLUELM_VNNI __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))

// Quantised rows of x: values, and for every block its scale and -128 * (sum of its values), which takes the
// 128 that was added to the weights out again.
struct Rows {
    int8_t* q;       // [rows, n_in]
    float* scale;    // [rows, n_in / 32]
    int32_t* start;  // [rows, n_in / 32]
};

BLUELM_VNNI void quantise_row(const float* x, int64_t n_in, int8_t* q, float* scale, int32_t* start) {
    for (int64_t b = 0; b < n_in / kBlock; ++b, x += kBlock, q += kBlock) {
        const __m512 lo = _mm512_loadu_ps(x), hi = _mm512_loadu_ps(x + 16);
        const float largest = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(lo), _mm512_abs_ps(hi)));
        const __m512 inverse = _mm512_set1_ps(largest > 0 ? 127.0f / largest : 0.0f);
        const __m512i qlo = _mm512_cvtps_epi32(_mm512_mul_ps(lo, inverse));
        const __m512i qhi = _mm512_cvtps_epi32(_mm512_mul_ps(hi, inverse));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(q), _mm512_cvtepi32_epi8(qlo));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(q + 16), _mm512_cvtepi32_epi8(qhi));
        scale[b] = largest / 127.0f;
        start[b] = -128 * _mm512_reduce_add_epi32(_mm512_add_epi32(qlo, qhi));
    }
}

// 6 rows of x times one panel of 32 outputs. Accumulators are named, not arrays: GCC 12 spills arrays.
BLUELM_VNNI void multiply(const Rows& x, int64_t n_in, const uint8_t* panel, float* out, int64_t out_stride) {
    const int64_t n_blocks = n_in / kBlock;
#define BLUELM_EACH_ROW(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5)
#define BLUELM_ZERO(r) __m512 sum##r##a = _mm512_setzero_ps(), sum##r##b = sum##r##a;
    BLUELM_EACH_ROW(BLUELM_ZERO)
    for (int64_t block = 0; block < n_blocks; ++block, panel += kBlockBytes) {
        const int8_t* q = x.q + block * kBlock;
#define BLUELM_START(r) \
    __m512i dot##r##a = _mm512_set1_epi32(x.start[r * n_blocks + block]), dot##r##b = dot##r##a;
        BLUELM_EACH_ROW(BLUELM_START)
#pragma GCC unroll 8
        for (int64_t group = 0; group < kGroups; ++group) {
            const __m512i wa = _mm512_load_si512(panel + group * static_cast<int64_t>(kGroupBytes));
            const __m512i wb = _mm512_load_si512(panel + group * static_cast<int64_t>(kGroupBytes) + 64);
#define BLUELM_DOT(r)                                              \
    {                                                              \
        int32_t four;                                              \
        std::memcpy(&four, q + r * n_in + 4 * group, sizeof four); \
        const __m512i values = _mm512_set1_epi32(four);            \
        dot##r##a = _mm512_dpbusd_epi32(dot##r##a, wa, values);    \
        dot##r##b = _mm512_dpbusd_epi32(dot##r##b, wb, values);    \
    }
            BLUELM_EACH_ROW(BLUELM_DOT)
        }
        const auto* scales = reinterpret_cast<const float*>(panel + kGroups * kGroupBytes);
        const __m512 sa = _mm512_load_ps(scales), sb = _mm512_load_ps(scales + 16);
#define BLUELM_ADD(r)                                                                                    \
    {                                                                                                    \
        const __m512 scale = _mm512_set1_ps(x.scale[r * n_blocks + block]);                              \
        sum##r##a = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot##r##a), _mm512_mul_ps(sa, scale), sum##r##a); \
        sum##r##b = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot##r##b), _mm512_mul_ps(sb, scale), sum##r##b); \
    }
        BLUELM_EACH_ROW(BLUELM_ADD)
    }
#define BLUELM_STORE(r)                                \
    _mm512_storeu_ps(out + r * out_stride, sum##r##a); \
    _mm512_storeu_ps(out + r * out_stride + 16, sum##r##b);
    BLUELM_EACH_ROW(BLUELM_STORE)
}

int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Room for kMaxRows quantised rows, kept by each thread between calls.
struct Scratch {
    std::unique_ptr<uint8_t[]> memory;
    size_t bytes = 0;
    Rows rows(int64_t n_in) {
        const size_t values = static_cast<size_t>(kMaxRows * n_in), blocks = values / kBlock;
        const size_t needed = values + blocks * (sizeof(float) + sizeof(int32_t));
        if (bytes < needed) {
            memory.reset(new uint8_t[needed]);
            bytes = needed;
        }
        uint8_t* at = memory.get();
        return {reinterpret_cast<int8_t*>(at), reinterpret_cast<float*>(at + values),
                reinterpret_cast<int32_t*>(at + values + blocks * sizeof(float))};
    }
};

// A panel stays in the first- or second-level cache while up to 96 rows pass over it.
void compute(ggml_tensor* dst, int ith, int nth, void*) {
    const ggml_tensor* packed = dst->src[0];
    const ggml_tensor* x = dst->src[1];
    const int64_t n_in = x->ne[0], n = x->ne[1], n_out = dst->ne[0], n_blocks = n_in / kBlock;
    const int64_t share = round_up((n + nth - 1) / nth, kRows);
    const int64_t begin = std::min(n, ith * share), end = std::min(n, begin + share);
    thread_local Scratch scratch;
    const Rows rows = scratch.rows(n_in);
    float edge[kRows * kPanel];
    for (int64_t first = begin; first < end; first += kMaxRows) {
        const int64_t count = std::min(kMaxRows, end - first), padded = round_up(count, kRows);
        for (int64_t r = 0; r < padded; ++r) {
            if (r >= count) {  // the last pass is filled up with zeros
                std::memset(rows.q + r * n_in, 0, static_cast<size_t>(n_in));
                std::fill_n(rows.scale + r * n_blocks, n_blocks, 0.0f);
                std::fill_n(rows.start + r * n_blocks, n_blocks, 0);
                continue;
            }
            quantise_row(static_cast<const float*>(x->data) + (first + r) * n_in, n_in, rows.q + r * n_in,
                         rows.scale + r * n_blocks, rows.start + r * n_blocks);
        }
        for (int64_t panel = 0; panel < n_out / kPanel; ++panel) {
            const uint8_t* weights = static_cast<const uint8_t*>(packed->data) + panel * packed->ne[0];
            for (int64_t r = 0; r < count; r += kRows) {
                const Rows six = {rows.q + r * n_in, rows.scale + r * n_blocks, rows.start + r * n_blocks};
                float* out = static_cast<float*>(dst->data) + (first + r) * n_out + panel * kPanel;
                if (r + kRows <= count) {
                    multiply(six, n_in, weights, out, n_out);
                    continue;
                }
                multiply(six, n_in, weights, edge, kPanel);
                for (int64_t i = 0; i < count - r; ++i)
                    std::copy_n(edge + i * kPanel, kPanel, out + i * n_out);
            }
        }
    }
}

}  // namespace

bool q8_matmul_runs(int64_t n_out, int64_t n_in) {
    return n_out % kPanel == 0 && n_in % kBlock == 0 && __builtin_cpu_supports("avx512vnni") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}

ggml_tensor* q8_matmul(ggml_context* ctx, ggml_tensor* packed, ggml_tensor* x) {
    ggml_tensor* args[] = {packed, x};
    return ggml_custom_4d(ctx, GGML_TYPE_F32, packed->ne[1] * kPanel, x->ne[1], 1, 1, args, 2, compute,
                          GGML_N_TASKS_MAX, nullptr);
}

#else

bool q8_matmul_runs(int64_t, int64_t) { return false; }

ggml_tensor* q8_matmul(ggml_context*, ggml_tensor*, ggml_tensor*) {
    return nullptr;
}  // never called: see above

#endif

}  // namespace bluelm
