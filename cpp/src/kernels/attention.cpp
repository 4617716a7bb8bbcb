#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#if defined(__x86_64__) && defined(__GNUC__)
#define BLUELM_ATTENTION_X86 1
#if !defined(__clang__)
// GCC 12 warns about its own headers' placeholders for masked-out lanes.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
#endif

namespace bluelm {

#if defined(BLUELM_ATTENTION_X86)

namespace {

#define BLUELM_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma")))

constexpr int64_t kLanes = 16;
constexpr int64_t kKeys = 2 * kLanes;  // keys in one pass over a head's dimensions
constexpr int64_t kQueries = 12;       // queries in that pass: 24 accumulators
constexpr int64_t kRows = 4;           // queries in one pass over the values
constexpr int64_t kMaxVectors = 6;     // head_dim <= 96: 24 accumulators there

int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// One head of one tile. n tokens, d = head_dim; rows of q, k, v and out lie `stride` floats apart.
struct Head {
    const float *q, *k, *v;
    float* out;
    int64_t n, d, stride;
};

// Per thread, kept between calls; rows are 64-byte aligned.
struct Scratch {
    std::unique_ptr<float[]> memory;
    size_t size = 0;
    float* keys = nullptr;    // [d, n padded to 32]: K transposed, zeros behind the n-th
    float* values = nullptr;  // [n, d padded to 16]
    float* scores = nullptr;  // [12, n padded to 32]

    void reserve(int64_t n, int64_t d) {
        const size_t n_pad = static_cast<size_t>(round_up(n, kKeys)),
                     d_pad = static_cast<size_t>(round_up(d, kLanes));
        const size_t n_keys = static_cast<size_t>(d) * n_pad, n_values = static_cast<size_t>(n) * d_pad;
        const size_t needed = n_keys + n_values + kQueries * n_pad + kLanes;
        if (size < needed) {
            memory.reset(new float[needed]);
            size = needed;
        }
        const size_t off = reinterpret_cast<uintptr_t>(memory.get()) % 64 / sizeof(float);
        keys = memory.get() + (off ? kLanes - off : 0);
        values = keys + n_keys;
        scores = values + n_values;
    }
};

void pack(const Head& h, const Scratch& s) {
    const int64_t n_pad = round_up(h.n, kKeys), d_pad = round_up(h.d, kLanes);
    for (int64_t first = 0; first < n_pad; first += kLanes) {  // 16 keys at a time: whole lines are written
        for (int64_t i = 0; i < h.d; ++i) {
            float* out = s.keys + i * n_pad + first;
            for (int64_t j = 0; j < kLanes; ++j)
                out[j] = first + j < h.n ? h.k[(first + j) * h.stride + i] : 0.0f;
        }
    }
    for (int64_t j = 0; j < h.n; ++j) {
        std::memcpy(s.values + j * d_pad, h.v + j * h.stride, static_cast<size_t>(h.d) * sizeof(float));
        std::fill(s.values + j * d_pad + h.d, s.values + (j + 1) * d_pad, 0.0f);
    }
}

// scores [12, n_pad] = queries [12, d] x keys [d, n_pad].
BLUELM_AVX512 void score(const float* q, int64_t q_stride, const Scratch& s, int64_t d, int64_t n_pad) {
#define BLUELM_EACH_QUERY(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
    for (int64_t first = 0; first < n_pad; first += kKeys) {
#define BLUELM_ZERO(r) __m512 sum##r##a = _mm512_setzero_ps(), sum##r##b = sum##r##a;
        BLUELM_EACH_QUERY(BLUELM_ZERO)
        const float* keys = s.keys + first;
        for (int64_t i = 0; i < d; ++i, keys += n_pad) {
            const __m512 ka = _mm512_loadu_ps(keys), kb = _mm512_loadu_ps(keys + kLanes);
#define BLUELM_FMA(r)                                             \
    {                                                             \
        const __m512 value = _mm512_set1_ps(q[r * q_stride + i]); \
        sum##r##a = _mm512_fmadd_ps(value, ka, sum##r##a);        \
        sum##r##b = _mm512_fmadd_ps(value, kb, sum##r##b);        \
    }
            BLUELM_EACH_QUERY(BLUELM_FMA)
        }
#define BLUELM_STORE(r)                                        \
    _mm512_storeu_ps(s.scores + r * n_pad + first, sum##r##a); \
    _mm512_storeu_ps(s.scores + r * n_pad + first + kLanes, sum##r##b);
        BLUELM_EACH_QUERY(BLUELM_STORE)
    }
}

// row[0..n) -> exp(scale * (row - max)), zeros up to n_pad; returns their sum.
BLUELM_AVX512 float exponentials(float* row, int64_t n, int64_t n_pad, float scale) {
    __m512 largest = _mm512_set1_ps(-INFINITY);
    int64_t j = 0;
    for (; j + kLanes <= n; j += kLanes) largest = _mm512_max_ps(largest, _mm512_loadu_ps(row + j));
    const __mmask16 tail = static_cast<__mmask16>((1u << (n - j)) - 1);
    if (tail) largest = _mm512_mask_max_ps(largest, tail, largest, _mm512_loadu_ps(row + j));
    const __m512 max = _mm512_set1_ps(_mm512_reduce_max_ps(largest));
    const __m512 to_log2 = _mm512_set1_ps(scale * 1.4426950408889634f);
    __m512 sum = _mm512_setzero_ps();
    for (j = 0; j < n_pad; j += kLanes) {
        // exp(t) as 2^k * 2^f, Taylor polynomial for 2^f on [-0.5, 0.5]: relative error 1.2e-7
        __m512 t = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(row + j), max), to_log2);
        t = _mm512_max_ps(t, _mm512_set1_ps(-126.0f));
        const __m512 k = _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        const __m512 f = _mm512_sub_ps(t, k);
        __m512 p = _mm512_set1_ps(1.54035304e-4f);
        p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.33335581e-3f));
        p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.61812911e-3f));
        p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.55041087e-2f));
        p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.40226507e-1f));
        p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.93147181e-1f));
        p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
        p = _mm512_scalef_ps(p, k);
        if (j + kLanes > n) p = _mm512_maskz_mov_ps(j >= n ? __mmask16(0) : tail, p);
        _mm512_storeu_ps(row + j, p);
        sum = _mm512_add_ps(sum, p);
    }
    return _mm512_reduce_add_ps(sum);
}

// out [4, d] = weights [4, n] x values [n, d_pad], rows scaled by 1 / sum. V vectors make up d_pad.
template <int V>
BLUELM_AVX512 void combine(const float* weights, int64_t n_pad, const float* values, int64_t n,
                           const float* sums, float* out, int64_t d, int64_t out_stride, int64_t n_rows) {
    __m512 acc[kRows][V];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 6
        for (int i = 0; i < V; ++i) acc[r][i] = _mm512_setzero_ps();
    }
    for (int64_t j = 0; j < n; ++j, values += V * kLanes) {
        __m512 value[V];
#pragma GCC unroll 6
        for (int i = 0; i < V; ++i) value[i] = _mm512_loadu_ps(values + i * kLanes);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
            const __m512 w = _mm512_set1_ps(weights[r * n_pad + j]);
#pragma GCC unroll 6
            for (int i = 0; i < V; ++i) acc[r][i] = _mm512_fmadd_ps(w, value[i], acc[r][i]);
        }
    }
    const __mmask16 tail = static_cast<__mmask16>((1u << (d - (V - 1) * kLanes)) - 1);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
        if (r >= n_rows) break;
        const __m512 scale = _mm512_set1_ps(1.0f / sums[r]);
#pragma GCC unroll 6
        for (int i = 0; i < V; ++i) {
            _mm512_mask_storeu_ps(out + r * out_stride + i * kLanes, i == V - 1 ? tail : __mmask16(0xffff),
                                  _mm512_mul_ps(acc[r][i], scale));
        }
    }
}

using Combine = void (*)(const float*, int64_t, const float*, int64_t, const float*, float*, int64_t, int64_t,
                         int64_t);
constexpr Combine kCombine[kMaxVectors] = {combine<1>, combine<2>, combine<3>,
                                           combine<4>, combine<5>, combine<6>};

// Queries [begin, end) of a head whose keys and values are packed.
void attend(const Head& h, const Scratch& s, int64_t begin, int64_t end) {
    const int64_t n_pad = round_up(h.n, kKeys);
    const float scale = 1.0f / std::sqrt(static_cast<float>(h.d));
    const Combine combine_rows = kCombine[(h.d + kLanes - 1) / kLanes - 1];
    float padded[kQueries * kMaxVectors * kLanes];
    float sums[kQueries];
    for (int64_t first = begin; first < end; first += kQueries) {
        const int64_t count = std::min(kQueries, end - first);
        const float* q = h.q + first * h.stride;
        int64_t q_stride = h.stride;
        if (count < kQueries) {  // the last pass is filled up with zeros
            std::fill_n(padded, kQueries * h.d, 0.0f);
            for (int64_t r = 0; r < count; ++r) std::copy_n(q + r * h.stride, h.d, padded + r * h.d);
            q = padded;
            q_stride = h.d;
        }
        score(q, q_stride, s, h.d, n_pad);
        for (int64_t r = 0; r < kQueries; ++r)
            sums[r] = exponentials(s.scores + r * n_pad, h.n, n_pad, scale);
        for (int64_t r = 0; r < count; r += kRows) {
            combine_rows(s.scores + r * n_pad, n_pad, s.values, h.n, sums + r, h.out + (first + r) * h.stride,
                         h.d, h.stride, std::min(kRows, count - r));
        }
    }
}

// Units of work: a head of a tile, cut into as many parts as it takes to keep all threads busy.
void compute(ggml_tensor* dst, int ith, int nth, void* config) {
    const auto* c = static_cast<const VisionConfig*>(config);
    const int64_t n = c->n_patches(), n_head = c->n_head, width = dst->ne[0], d = c->head_dim();
    const int64_t n_heads = dst->ne[1] / n * n_head;
    const int64_t parts = std::clamp<int64_t>((4 * nth + n_heads - 1) / n_heads, 1, 8);
    const int64_t part = round_up((n + parts - 1) / parts, kQueries);
    thread_local Scratch scratch;
    scratch.reserve(n, d);
    int64_t packed = -1;
    const int64_t n_units = n_heads * parts;
    for (int64_t unit = n_units * ith / nth; unit < n_units * (ith + 1) / nth; ++unit) {
        const int64_t index = unit / parts, tile = index / n_head, head = index % n_head;
        const int64_t offset = tile * n * width + head * d;
        const auto at = [&](const ggml_tensor* t) { return static_cast<const float*>(t->data) + offset; };
        const Head h = {at(dst->src[0]),
                        at(dst->src[1]),
                        at(dst->src[2]),
                        static_cast<float*>(dst->data) + offset,
                        n,
                        d,
                        width};
        if (index != packed) pack(h, scratch);
        packed = index;
        const int64_t begin = std::min(n, unit % parts * part);
        attend(h, scratch, begin, std::min(n, begin + part));
    }
}

}  // namespace

bool attention_runs(int64_t head_dim) {
    return head_dim <= kMaxVectors * kLanes && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}

ggml_tensor* attention(ggml_context* ctx, ggml_tensor* q, ggml_tensor* k, ggml_tensor* v,
                       const VisionConfig& config) {
    ggml_tensor* args[] = {q, k, v};
    return ggml_custom_4d(ctx, GGML_TYPE_F32, q->ne[0], q->ne[1], 1, 1, args, 3, compute, GGML_N_TASKS_MAX,
                          const_cast<VisionConfig*>(&config));
}

#else

bool attention_runs(int64_t) { return false; }

// Never called: see above.
ggml_tensor* attention(ggml_context*, ggml_tensor*, ggml_tensor*, ggml_tensor*, const VisionConfig&) {
    return nullptr;
}

#endif

}  // namespace bluelm
