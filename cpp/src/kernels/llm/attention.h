// Attention over a KV cache (ggml's FLASH_ATTN_EXT), blocked, with an online softmax.
//
//     out[row, head] = softmax(scale * q[row, head] * K^T + mask[row]) * V
//
// q: float32; K and V: fp16 or Q8_0, one head for each group of query heads; mask: fp16, 0 or -infinity or
// anything between. Heads are multiples of 32 wide, at most 256.
//
// A lane is a query of a KV head: a row and one of the query heads of its group, lane = row * group + head.
#ifndef BLUELM_LLM_ATTENTION_H
#define BLUELM_LLM_ATTENTION_H

#include <cstddef>
#include <cstdint>

namespace bluelm {

struct LlmAttention {
    int64_t n_rows, n_kv, head_dim;
    int64_t n_head, n_head_kv;
    const char *q, *k, *v, *mask;  // mask may be NULL
    bool k_is_q8_0, v_is_q8_0;
    size_t q_row, q_head;  // strides in bytes
    size_t k_row, k_head, v_row, v_head, mask_row;
    float scale;
    float* out;  // [n_rows, n_head, head_dim]

    int64_t group() const { return n_head / n_head_kv; }  // query heads of a KV head
    int64_t n_lanes() const { return n_rows * group(); }
};

// What one call computes: some KV heads, and of each of them the same lanes.
struct LlmAttentionPart {
    int64_t first_head, end_head;
    int64_t first_lane, end_lane;

    int64_t n_heads() const { return end_head - first_head; }
    int64_t n_lanes() const { return end_lane - first_lane; }
};

struct LlmAttentionKernel {
    void (*run)(const LlmAttention& a, const LlmAttentionPart& part, uint8_t* scratch);
    // Bytes of scratch for a part as large as `part`; 64-byte aligned.
    size_t (*scratch)(const LlmAttention& a, const LlmAttentionPart& part);
    int64_t lane_step;  // lanes of a part begin at multiples of this many, times the group if by_rows
    bool by_rows;
    // Lanes that pass over the keys together; KV heads beside one another share pages of the cache, so a part
    // takes several heads until it has as many lanes.
    int64_t lanes_together;
};

constexpr int64_t kAttentionKeys = 128;  // that are converted and used at a time

// NULL where this CPU has nothing faster than ggml's own.
const LlmAttentionKernel* llm_attention_kernel(const LlmAttention& a);

// Those of each instruction set; gemv: few lanes, gemm: many.
#if defined(__x86_64__) && defined(__GNUC__)
extern const LlmAttentionKernel kAttentionGemvAvx2, kAttentionGemmAvx2;
extern const LlmAttentionKernel kAttentionGemvAvx512, kAttentionGemmAvx512, kAttentionGemmAvx512Bf16;
extern const LlmAttentionKernel kAttentionGemmAmx;
#elif defined(__aarch64__) && defined(__GNUC__)
extern const LlmAttentionKernel kAttentionGemvNeon, kAttentionGemmNeon;
#endif

// The plain reference, in float64.
extern const LlmAttentionKernel kAttentionReference;

}  // namespace bluelm

#endif  // BLUELM_LLM_ATTENTION_H
