// The language model's attention, the fast form against the plain one in float64, on fresh random shapes.
// Usage: test_llm_attention [SEED]. Exit status 0: all agree (or this CPU has no fast form).
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "ggml.h"
#include "guarded.h"
#include "kernels/llm/attention.h"

using namespace bluelm;
using check::Guarded;

namespace {

bool has_bf16(const LlmAttentionKernel* kernel) {
#if defined(__x86_64__) && defined(__GNUC__)
    return kernel == &kAttentionGemmAvx512Bf16 || kernel == &kAttentionGemmAmx;
#else
    (void)kernel;
    return false;
#endif
}

}  // namespace

int main(int argc, char** argv) {
    const uint64_t seed = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : std::random_device{}();
    std::mt19937_64 rng(seed);
    std::normal_distribution<float> normal;
    const auto below = [&](uint64_t n) { return static_cast<int64_t>(rng() % n); };
    int failures = 0;
    for (int round = 0; round < 36; ++round) {
        const int64_t widths[] = {32, 64, 96, 128, 256};
        LlmAttention a = {};
        a.head_dim = widths[below(5)];
        a.n_head_kv = 1 + below(3);
        a.n_head = a.n_head_kv * (1 + below(3));
        a.n_rows = round % 3 == 0 ? 1 + below(4) : 1 + below(120);
        const LlmAttentionKernel* fast = llm_attention_kernel(a);
        if (!fast) {
            std::printf("no fast attention for this CPU\n");
            return 0;
        }
        a.n_kv = a.n_rows + below(round % 3 ? 300 : 3);
        const int64_t past = a.n_kv - a.n_rows;
        a.scale = 1.0f / std::sqrt(static_cast<float>(a.head_dim));
        const float size = round % 4 == 3 ? 8.0f : 1.0f;  // scores of +-60: a softmax that is nearly one-hot
        const auto pad = below(5);                        // elements between heads
        const int64_t q_head = a.head_dim + pad, kv_head = a.head_dim + pad;
        std::vector<float> q(static_cast<size_t>(a.n_rows * a.n_head * q_head));
        std::vector<ggml_fp16_t> k(static_cast<size_t>(a.n_kv * a.n_head_kv * kv_head)), v(k.size());
        std::vector<ggml_fp16_t> mask(static_cast<size_t>(a.n_rows * a.n_kv));
        for (float& x : q) x = size * normal(rng);
        for (auto& x : k) x = ggml_fp32_to_fp16(size * normal(rng));
        for (auto& x : v) x = ggml_fp32_to_fp16(normal(rng));
        // The same as Q8_0, without gaps inside a row of all heads.
        const int64_t width = a.n_head_kv * a.head_dim;
        std::vector<uint8_t> k8(ggml_row_size(GGML_TYPE_Q8_0, width) * static_cast<size_t>(a.n_kv)),
            v8(k8.size());
        for (auto* cache : {&k8, &v8}) {
            std::vector<float> values(static_cast<size_t>(width * a.n_kv));
            for (float& x : values) x = (cache == &k8 ? size : 1.0f) * normal(rng);
            ggml_quantize_chunk(GGML_TYPE_Q8_0, values.data(), cache->data(), 0, a.n_kv, width, nullptr);
        }
        for (int64_t r = 0; r < a.n_rows; ++r)
            for (int64_t j = 0; j < a.n_kv; ++j)
                mask[static_cast<size_t>(r * a.n_kv + j)] =
                    ggml_fp32_to_fp16(j > past + r || (round % 5 == 4 && r == 0) ? -INFINITY
                                      : round % 2                                ? 0.0f
                                                                                 : normal(rng));
        if (round == 7 || round == 12)
            q[static_cast<size_t>(below(q.size()))] = std::numeric_limits<float>::quiet_NaN();
        // What lies behind the last head's values is not there.
        const auto tight = [&](const auto& values) {
            return Guarded(std::vector(values.begin(), values.end() - pad));
        };
        const Guarded tight_q = tight(q), tight_k = tight(k), tight_v = tight(v), tight_k8(k8), tight_v8(v8),
                      tight_mask(mask);
        a.q = tight_q.as<char>();
        a.k = tight_k.as<char>();
        a.v = tight_v.as<char>();
        a.mask = round % 6 == 5 ? nullptr : tight_mask.as<char>();
        a.q_row = static_cast<size_t>(a.n_head * q_head) * 4;
        a.q_head = static_cast<size_t>(q_head) * 4;
        a.k_row = a.v_row = static_cast<size_t>(a.n_head_kv * kv_head) * 2;
        a.k_head = a.v_head = static_cast<size_t>(kv_head) * 2;
        const auto use_q8_0 = [&](const Guarded& cache, const char** data, size_t* row, size_t* head) {
            *data = cache.as<char>();
            *row = ggml_row_size(GGML_TYPE_Q8_0, width);
            *head = ggml_row_size(GGML_TYPE_Q8_0, a.head_dim);
            return true;
        };
        if (round % 3 == 1) a.k_is_q8_0 = use_q8_0(tight_k8, &a.k, &a.k_row, &a.k_head);
        if (round % 4 == 1) a.v_is_q8_0 = use_q8_0(tight_v8, &a.v, &a.v_row, &a.v_head);
        a.mask_row = static_cast<size_t>(a.n_kv) * 2;

        const auto run = [&](const LlmAttentionKernel& kernel) {
            const Guarded out(static_cast<size_t>(a.n_rows * a.n_head * a.head_dim) * 4, 4);
            a.out = out.as<float>();
            // Parts as llama/attention.cpp makes them, of any size.
            const int64_t step = kernel.lane_step * (kernel.by_rows ? a.group() : 1);
            const int64_t heads = 1 + round % a.n_head_kv, lanes = step * (1 + round % 3);
            const Guarded scratch(kernel.scratch(a, {0, heads, 0, lanes}), 64);
            for (int64_t head = 0; head < a.n_head_kv; head += heads)
                for (int64_t lane = 0; lane < a.n_lanes(); lane += lanes)
                    kernel.run(a,
                               {head, std::min(head + heads, a.n_head_kv), lane,
                                std::min(lane + lanes, a.n_lanes())},
                               scratch.data);
            return std::vector<float>(a.out, a.out + out.size() / 4);
        };
        const auto want = run(kAttentionReference), got = run(*fast);
        // With bf16, weights and values are rounded to 8 bits of mantissa, 2^-8 of a value of about 4 at
        // most. Else float32, with scores of 60 at most that lose 2^-24 each time something is added.
        const double allowed = has_bf16(fast) ? 0.02 : 1e-3;
        double worst = 0;
        bool is_same = true;
        for (size_t i = 0; i < want.size(); ++i) {
            if (std::isnan(want[i]) != std::isnan(got[i])) is_same = false;
            if (!std::isnan(want[i]))
                worst = std::fmax(worst, std::fabs(static_cast<double>(want[i]) - got[i]));
        }
        if (!is_same || worst > allowed) {
            ++failures;
            std::fprintf(stderr,
                         "FAILED (seed %llu) round %d: %lld rows, %lld keys, width %lld: off by %g%s\n",
                         (unsigned long long)seed, round, (long long)a.n_rows, (long long)a.n_kv,
                         (long long)a.head_dim, worst, is_same ? "" : ", NaN elsewhere");
        }
    }
    std::printf("seed %llu: 36 cases, %d failures\n", (unsigned long long)seed, failures);
    return failures ? 1 : 0;
}
