// Gemv in plain C++: what each fast path, of gemv and of gemm, must agree with.
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/llm/matmul.h"

namespace bluelm {
namespace {

void pack_x(const float* x, int64_t n_in, int64_t first, int64_t last, uint8_t* row) {
    auto* q = reinterpret_cast<int8_t*>(row);
    auto* scale = reinterpret_cast<float*>(row + n_in);
    float* sum = scale + n_in / 32;
    for (int64_t cell = first; cell < last; ++cell) {
        const float* in = x + cell * 32;
        bool is_finite = true;
        float largest = 0;
        for (int i = 0; i < 32; ++i) {
            is_finite = is_finite && std::isfinite(in[i]);
            largest = std::fmax(largest, std::fabs(in[i]));
        }
        // Below 1e-30 the reciprocal would overflow; such a block counts as zeros.
        const bool is_zero = largest < 1e-30f;
        const float inverse = is_finite && !is_zero ? 127.0f / largest : 0.0f;
        const float s =
            is_finite ? is_zero ? 0.0f : largest / 127.0f : std::numeric_limits<float>::quiet_NaN();
        for (int half = 0; half < 2; ++half) {
            int total = 0;
            for (int i = half * 16; i < half * 16 + 16; ++i) {
                const int v = is_finite ? static_cast<int>(std::nearbyintf(in[i] * inverse)) : 0;
                q[cell * 32 + i] = static_cast<int8_t>(v);
                total += v;
            }
            sum[cell * 2 + half] = s * static_cast<float>(total);
        }
        scale[cell] = s;
    }
}

void gemv(LlmType type, const uint8_t* panel, int64_t n_in, const uint8_t* rows, size_t row_stride,
          int64_t n_rows, float* out, int64_t out_stride, int64_t n_valid) {
    for (int64_t r = 0; r < n_rows; ++r) {
        const LlmQ8Row x = llm_q8_row(rows + static_cast<size_t>(r) * row_stride, n_in);
        float total[kPanelOutputs] = {};
        for (int64_t cell = 0; cell < n_in / kCellInputs; ++cell) {
            LlmCell w;
            llm_unpack(type, panel, n_in, cell, &w);
            for (int64_t o = 0; o < kPanelOutputs; ++o) {
                for (int half = 0; half < 2; ++half) {
                    int dot = 0;
                    for (int i = half * 16; i < half * 16 + 16; ++i)
                        dot += w.value[o][i] * x.q[cell * 32 + i];
                    total[o] += w.scale[half][o] * x.scale[cell] * static_cast<float>(dot) +
                                w.offset[half][o] * x.sum[cell * 2 + half];
                }
            }
        }
        std::memcpy(out + r * out_stride, total, static_cast<size_t>(n_valid) * sizeof(float));
    }
}

}  // namespace

const LlmGemv kLlmGemvReference = {pack_x, gemv};

}  // namespace bluelm
