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

// Fewer lanes than these cost less one by one (measured on a Zen 4, benchmarks/llm_speed.py).
constexpr int64_t kManyLanes = 8;

void run_reference(const LlmAttention& a, const LlmAttentionPart& part, uint8_t*) {
    const int64_t group = a.group();
    std::vector<double> score(static_cast<size_t>(a.n_kv));
    for (int64_t kv_head = part.first_head; kv_head < part.end_head; ++kv_head) {
        for (int64_t lane = part.first_lane; lane < part.end_lane; ++lane) {
            const int64_t row = lane / group, head = kv_head * group + lane % group;
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

size_t no_scratch(const LlmAttention&, const LlmAttentionPart&) { return 0; }

}  // namespace

const LlmAttentionKernel kAttentionReference = {run_reference, no_scratch, 1, false, 1};

const LlmAttentionKernel* llm_attention_kernel(const LlmAttention& a) {
    static const CpuLevel level = cpu_level();
    const bool is_few = a.n_lanes() < kManyLanes;
    switch (level) {
#if defined(__x86_64__) && defined(__GNUC__)
        case CpuLevel::kAmx:
            // Fewer rows are not worth rearranging the keys.
            if (a.n_rows >= 16) return &kAttentionGemmAmx;
            return is_few ? &kAttentionGemvAvx512 : &kAttentionGemmAvx512Bf16;
        case CpuLevel::kAvx512Bf16: return is_few ? &kAttentionGemvAvx512 : &kAttentionGemmAvx512Bf16;
        case CpuLevel::kAvx512Vnni: return is_few ? &kAttentionGemvAvx512 : &kAttentionGemmAvx512;
        case CpuLevel::kAvxVnni:
        case CpuLevel::kAvx2: return is_few ? &kAttentionGemvAvx2 : &kAttentionGemmAvx2;
#elif defined(__aarch64__) && defined(__GNUC__)
        case CpuLevel::kNeon:
        case CpuLevel::kDotprod:
        case CpuLevel::kI8mm: return is_few ? &kAttentionGemvNeon : &kAttentionGemmNeon;
#endif
        default: (void)is_few; return nullptr;
    }
}

}  // namespace bluelm
