#include "kernels/encoder/layer_ops.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "ggml-cpu.h"

// One function body, compiled for several instruction sets, the best one chosen when the library is loaded.
// Contraction to FMA is off in this build, so that all of them round alike.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define BLUELM_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define BLUELM_CLONES
#endif

namespace bluelm {
namespace {

constexpr int kLanes = 16;  // partial sums, for a reduction that vectorises without reordering flags

// Rows [first, last) of this thread.
struct Rows {
    int64_t first, last;
    Rows(int64_t n, int ith, int nth) : first(n * ith / nth), last(n * (ith + 1) / nth) {}
};

BLUELM_CLONES void normalise_row(const float* x, const float* w, const float* b, float eps, int64_t n,
                                 float* out) {
    float lanes[kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        for (int j = 0; j < kLanes; ++j) lanes[j] += x[i + j];
    }
    for (; i < n; ++i) lanes[0] += x[i];
    float sum = 0;
    for (float lane : lanes) sum += lane;
    const float mean = sum / static_cast<float>(n);

    for (float& lane : lanes) lane = 0;
    for (i = 0; i + kLanes <= n; i += kLanes) {
        for (int j = 0; j < kLanes; ++j) {
            const float centred = x[i + j] - mean;
            lanes[j] += centred * centred;
        }
    }
    for (; i < n; ++i) lanes[0] += (x[i] - mean) * (x[i] - mean);
    float squares = 0;
    for (float lane : lanes) squares += lane;
    const float scale = 1.0f / std::sqrt(squares / static_cast<float>(n) + eps);

    for (i = 0; i < n; ++i) out[i] = (x[i] - mean) * scale * w[i] + b[i];
}

// y * sigmoid(2 z) with z = sqrt(2/pi) (y + 0.044715 y^3) is the same function as 0.5 y (1 + tanh z), and
// needs one exponential. exp(t) = 2^k * 2^f with the Taylor polynomial of degree 6 for 2^f on
// [-0.5, 0.5]: relative error 1.2e-7.
BLUELM_CLONES void gelu_row(const float* x, const float* b, int64_t n, float* out) {
    constexpr float kTwoSqrt2OverPi = 1.5957691216057308f;
    constexpr float kLog2E = 1.4426950408889634f;
    constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves round-to-nearest in the low bits
    for (int64_t i = 0; i < n; ++i) {
        const float y = x[i] + b[i];
        float t = -kTwoSqrt2OverPi * kLog2E * (y + 0.044715f * y * y * y);
        t = t < -126.0f ? -126.0f : t;
        t = t > 126.0f ? 126.0f : t;
        const float shifted = t + kRound;
        const float f = t - (shifted - kRound);
        float p = 1.54035304e-4f;  // (ln 2)^6 / 6!
        p = p * f + 1.33335581e-3f;
        p = p * f + 9.61812911e-3f;
        p = p * f + 5.55041087e-2f;
        p = p * f + 2.40226507e-1f;
        p = p * f + 6.93147181e-1f;
        p = p * f + 1.0f;
        uint32_t bits;
        std::memcpy(&bits, &shifted, sizeof bits);
        bits = (bits << 23) + 0x3f800000u;  // 2^k; the bits of kRound fall out at the top
        float two_k;
        std::memcpy(&two_k, &bits, sizeof two_k);
        out[i] = y / (1.0f + p * two_k);
    }
}

BLUELM_CLONES void residual_row(const float* x, const float* y, const float* b, int64_t n, float* out) {
    for (int64_t i = 0; i < n; ++i) out[i] = x[i] + (y[i] + b[i]);
}

// Writes a finished float row as dst's type.
void store_row(const float* row, ggml_tensor* dst, int64_t r, int64_t n) {
    char* out = static_cast<char*>(dst->data) + r * dst->nb[1];
    if (dst->type == GGML_TYPE_F16) {
        ggml_cpu_fp32_to_fp16(row, reinterpret_cast<ggml_fp16_t*>(out), n);
    } else {
        ggml_cpu_fp32_to_bf16(row, reinterpret_cast<ggml_bf16_t*>(out), n);
    }
}

const float* floats(const ggml_tensor* t) { return static_cast<const float*>(t->data); }

// Applies compute(row of x, float row of the result) to this thread's rows of dst [n, d].
template <class Compute>
void for_rows(ggml_tensor* dst, int ith, int nth, Compute&& compute) {
    const int64_t d = dst->ne[0];
    const Rows rows(dst->ne[1], ith, nth);
    const float* x = floats(dst->src[0]);
    if (dst->type == GGML_TYPE_F32) {
        for (int64_t r = rows.first; r < rows.last; ++r)
            compute(x + r * d, static_cast<float*>(dst->data) + r * d);
        return;
    }
    std::vector<float> row(d);
    for (int64_t r = rows.first; r < rows.last; ++r) {
        compute(x + r * d, row.data());
        store_row(row.data(), dst, r, d);
    }
}

void compute_layer_norm(ggml_tensor* dst, int ith, int nth, void* eps) {
    const float* w = floats(dst->src[1]);
    const float* b = floats(dst->src[2]);
    for_rows(dst, ith, nth, [&](const float* x, float* out) {
        normalise_row(x, w, b, *static_cast<const float*>(eps), dst->ne[0], out);
    });
}

void compute_bias_gelu(ggml_tensor* dst, int ith, int nth, void*) {
    const float* b = floats(dst->src[1]);
    for_rows(dst, ith, nth, [&](const float* x, float* out) { gelu_row(x, b, dst->ne[0], out); });
}

// src: [0] the view's own tensor y, [1] x, [2] b (ggml_custom_inplace puts what it overwrites first).
void compute_bias_residual(ggml_tensor* dst, int ith, int nth, void*) {
    const int64_t d = dst->ne[0];
    const float* x = floats(dst->src[1]);
    const float* b = floats(dst->src[2]);
    float* y = static_cast<float*>(dst->data);
    const Rows rows(dst->ne[1], ith, nth);
    for (int64_t r = rows.first; r < rows.last; ++r) residual_row(x + r * d, y + r * d, b, d, y + r * d);
}

}  // namespace

ggml_tensor* layer_norm(ggml_context* ctx, ggml_tensor* x, ggml_tensor* w, ggml_tensor* b, const float* eps,
                        ggml_type out_type) {
    ggml_tensor* args[] = {x, w, b};
    return ggml_custom_4d(ctx, out_type, x->ne[0], x->ne[1], 1, 1, args, 3, compute_layer_norm,
                          GGML_N_TASKS_MAX, const_cast<float*>(eps));
}

ggml_tensor* bias_gelu_tanh(ggml_context* ctx, ggml_tensor* x, ggml_tensor* b, ggml_type out_type) {
    ggml_tensor* args[] = {x, b};
    return ggml_custom_4d(ctx, out_type, x->ne[0], x->ne[1], 1, 1, args, 2, compute_bias_gelu,
                          GGML_N_TASKS_MAX, nullptr);
}

ggml_tensor* bias_residual(ggml_context* ctx, ggml_tensor* x, ggml_tensor* y, ggml_tensor* b) {
    ggml_tensor* args[] = {x, b};
    return ggml_custom_inplace(ctx, y, args, 2, compute_bias_residual, GGML_N_TASKS_MAX, nullptr);
}

}  // namespace bluelm
