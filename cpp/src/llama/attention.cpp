#include "llama/attention.h"

#include <algorithm>
#include <cstring>

#include "base/round_up.h"
#include "kernels/llm/attention.h"

namespace bluelm {
namespace {

float parameter(const ggml_tensor* op, int i) {
    float value;
    std::memcpy(&value, reinterpret_cast<const float*>(op->op_params) + i, sizeof value);
    return value;
}

LlmAttention shape_of(const ggml_tensor* op) {
    const ggml_tensor *q = op->src[0], *k = op->src[1], *v = op->src[2], *mask = op->src[3];
    LlmAttention a = {};
    a.n_rows = q->ne[1];
    a.n_kv = k->ne[1];
    a.head_dim = q->ne[0];
    a.n_head = q->ne[2];
    a.n_head_kv = k->ne[2];
    a.q = static_cast<const char*>(q->data);
    a.k = static_cast<const char*>(k->data);
    a.v = static_cast<const char*>(v->data);
    a.mask = mask ? static_cast<const char*>(mask->data) : nullptr;
    a.k_is_q8_0 = k->type == GGML_TYPE_Q8_0;
    a.v_is_q8_0 = v->type == GGML_TYPE_Q8_0;
    a.q_row = q->nb[1];
    a.q_head = q->nb[2];
    a.k_row = k->nb[1];
    a.k_head = k->nb[2];
    a.v_row = v->nb[1];
    a.v_head = v->nb[2];
    a.mask_row = mask ? mask->nb[1] : 0;
    a.scale = parameter(op, 0);
    a.out = static_cast<float*>(op->data);
    return a;
}

// How an attention is divided: heads and lanes of a part, parts beside and behind one another.
struct Split {
    const LlmAttentionKernel* kernel;
    int64_t heads, lanes, n_beside, n_behind;
    LlmAttentionPart part(const LlmAttention& a, int64_t i) const {
        const int64_t head = i / n_behind * heads, lane = i % n_behind * lanes;
        return {head, std::min(head + heads, a.n_head_kv), lane, std::min(lane + lanes, a.n_lanes())};
    }
};

// Two parts or more for each thread, where there is enough to divide.
Split split(const LlmAttention& a, int64_t n_threads) {
    Split s = {};
    s.kernel = llm_attention_kernel(a);
    const int64_t n_lanes = a.n_lanes(), step = s.kernel->lane_step * (s.kernel->by_rows ? a.group() : 1);
    const auto quotient = [](int64_t n, int64_t by) { return (n + by - 1) / by; };
    s.heads =
        std::max<int64_t>(1, std::min(s.kernel->lanes_together / n_lanes, a.n_head_kv / (2 * n_threads)));
    s.n_beside = quotient(a.n_head_kv, s.heads);
    s.lanes = quotient(quotient(n_lanes, quotient(2 * n_threads, s.n_beside)), step) * step;
    s.n_behind = quotient(n_lanes, s.lanes);
    return s;
}

size_t scratch_of(const LlmAttention& a, const Split& s) {
    return whole_lines(s.kernel->scratch(a, {0, s.heads, 0, s.lanes}));
}

}  // namespace

bool llm_attention_supports(const ggml_tensor* op) {
    const ggml_tensor *q = op->src[0], *k = op->src[1], *v = op->src[2], *mask = op->src[3];
    const auto is_cache = [&](const ggml_tensor* t) {
        return (t->type == GGML_TYPE_F16 || t->type == GGML_TYPE_Q8_0) && t->ne[0] == q->ne[0] &&
               t->nb[0] == ggml_type_size(t->type) && t->ne[1] == k->ne[1] && t->ne[2] == k->ne[2] &&
               t->ne[3] == 1;
    };
    if (q->ne[3] != 1 || op->src[4]) return false;
    if (q->type != GGML_TYPE_F32 || q->nb[0] != sizeof(float) || !is_cache(k) || !is_cache(v)) return false;
    if (q->ne[0] % 32 != 0 || q->ne[0] > 256 || k->ne[2] == 0 || q->ne[2] % k->ne[2] != 0) return false;
    if (mask && (mask->type != GGML_TYPE_F16 || mask->nb[0] != 2 || mask->ne[0] < k->ne[1] ||
                 mask->ne[1] < q->ne[1] || mask->ne[2] != 1 || mask->ne[3] != 1)) {
        return false;
    }
    const float max_bias = parameter(op, 1), soft_cap = parameter(op, 2);
    return max_bias == 0 && soft_cap == 0 && op->type == GGML_TYPE_F32 && ggml_is_contiguous(op) &&
           llm_attention_kernel(shape_of(op));
}

size_t llm_attention_work_size(int n_threads, const ggml_tensor* op) {
    const LlmAttention a = shape_of(op);
    return 64 + static_cast<size_t>(n_threads) * scratch_of(a, split(a, n_threads));
}

void llm_attention(const ggml_compute_params& params, ggml_tensor* op) {
    const LlmAttention a = shape_of(op);
    const Split s = split(a, params.nth);
    if (params.ith == 0) ggml_threadpool_chunk_set(params.threadpool, params.nth);
    ggml_barrier(params.threadpool);
    const auto address = reinterpret_cast<uintptr_t>(params.wdata);
    uint8_t* scratch = static_cast<uint8_t*>(params.wdata) + (whole_lines(address) - address) +
                       static_cast<size_t>(params.ith) * scratch_of(a, s);
    for (int64_t i = params.ith; i < s.n_beside * s.n_behind;
         i = ggml_threadpool_chunk_add(params.threadpool, 1)) {
        s.kernel->run(a, s.part(a, i), scratch);
    }
}

}  // namespace bluelm
