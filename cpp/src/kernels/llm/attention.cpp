#include "kernels/llm/attention.h"

#include <cmath>
#include <limits>
#include <vector>

#include "ggml.h"
#include "kernels/cpu_level.h"

namespace bluelm {
namespace {

float half_at(const char* row, int64_t i) {
    return ggml_fp16_to_fp32(reinterpret_cast<const ggml_fp16_t*>(row)[i]);
}

// Element i of a row of K or V.
double element(const char* row, int64_t i, bool is_q8_0) {
    if (!is_q8_0) return half_at(row, i);
    const char* block = row + i / 32 * 34;  // fp16 scale, 32 int8
    return static_cast<double>(half_at(block, 0)) * static_cast<int8_t>(block[2 + i % 32]);
}

}  // namespace

size_t llm_attention_scratch(const LlmAttention& a) {
    if (a.n_rows < kManyRows) return 0;
    const auto keys = static_cast<size_t>((a.n_kv + kAttentionKeys - 1) / kAttentionKeys * kAttentionKeys);
    const auto width = static_cast<size_t>(a.head_dim), rows = static_cast<size_t>(kAttentionRows);
    // K in two parts of bf16, V; queries in two parts, scores, weights, sums
    return keys * width * 6 + rows * width * 4 + rows * static_cast<size_t>(kAttentionKeys) * 6 +
           rows * width * 4;
}

LlmAttentionFn llm_attention_kernel(int64_t n_rows) {
#if defined(__x86_64__) && defined(__GNUC__)
    static const CpuLevel level = cpu_level();
    switch (level) {
        case CpuLevel::kAmx: return n_rows < kManyRows ? llm_attention_avx512 : llm_attention_amx;
        case CpuLevel::kAvx512Vnni:
        case CpuLevel::kAvx512Bf16: return n_rows < kManyRows ? llm_attention_avx512 : nullptr;
        default: return nullptr;
    }
#else
    (void)n_rows;
    return nullptr;
#endif
}

void llm_attention_reference(const LlmAttention& a, int64_t kv_head, int64_t first, int64_t last, uint8_t*) {
    const int64_t group = a.n_head / a.n_head_kv;
    std::vector<double> score(static_cast<size_t>(a.n_kv));
    const int64_t end = last * kAttentionRows < a.n_rows ? last * kAttentionRows : a.n_rows;
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
        for (int64_t row = first * kAttentionRows; row < end; ++row) {
            const auto* q = reinterpret_cast<const float*>(a.q + static_cast<size_t>(row) * a.q_row +
                                                           static_cast<size_t>(head) * a.q_head);
            double most = -std::numeric_limits<double>::infinity(), total = 0;
            for (int64_t j = 0; j < a.n_kv; ++j) {
                const char* k =
                    a.k + static_cast<size_t>(j) * a.k_row + static_cast<size_t>(kv_head) * a.k_head;
                double dot = 0;
                for (int64_t i = 0; i < a.head_dim; ++i)
                    dot += static_cast<double>(q[i]) * element(k, i, a.k_is_q8_0);
                dot *= a.scale;
                if (a.mask) dot += half_at(a.mask + static_cast<size_t>(row) * a.mask_row, j);
                score[static_cast<size_t>(j)] = dot;
                if (!(dot <= most)) most = dot;  // NaN stays
                if (std::isnan(most)) break;
            }
            std::vector<double> sum(static_cast<size_t>(a.head_dim));
            for (int64_t j = 0; j < a.n_kv; ++j) {
                if (most == -std::numeric_limits<double>::infinity()) break;  // all masked: zeros
                const double p = std::exp(score[static_cast<size_t>(j)] - most);
                total += p;
                const char* v =
                    a.v + static_cast<size_t>(j) * a.v_row + static_cast<size_t>(kv_head) * a.v_head;
                for (int64_t i = 0; i < a.head_dim; ++i)
                    sum[static_cast<size_t>(i)] += p * element(v, i, a.v_is_q8_0);
            }
            float* out = a.out + (row * a.n_head + head) * a.head_dim;
            for (int64_t i = 0; i < a.head_dim; ++i)
                out[i] = total == 0 ? 0.0f : static_cast<float>(sum[static_cast<size_t>(i)] / total);
        }
    }
}

}  // namespace bluelm
