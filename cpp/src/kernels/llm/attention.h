// Attention over a KV cache (ggml's FLASH_ATTN_EXT), blocked, with an online softmax.
//
//     out[row, head] = softmax(scale * q[row, head] * K^T + mask[row]) * V
//
// q: float32; K and V: fp16 or Q8_0, one head for each group of query heads; mask: fp16, 0 or -infinity or
// anything between. Heads are multiples of 32 wide, at most 256.
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
};

constexpr int64_t kAttentionRows = 32;  // queries that pass over the keys together
constexpr int64_t kAttentionKeys = 128;

constexpr int64_t kManyRows = 16;  // fewer are not worth rearranging the keys

// Bytes of scratch for one thread, 64-byte aligned.
size_t llm_attention_scratch(const LlmAttention& a);

// All query heads of one KV head, row blocks first..last of kAttentionRows each.
using LlmAttentionFn = void (*)(const LlmAttention& a, int64_t kv_head, int64_t first, int64_t last,
                                uint8_t* scratch);

// For n_rows queries; NULL where this CPU has nothing faster than ggml's own.
LlmAttentionFn llm_attention_kernel(int64_t n_rows);

#if defined(__x86_64__) && defined(__GNUC__)
void llm_attention_avx512(const LlmAttention& a, int64_t kv_head, int64_t first, int64_t last,
                          uint8_t* scratch);
void llm_attention_amx(const LlmAttention& a, int64_t kv_head, int64_t first, int64_t last, uint8_t* scratch);
#endif

// The plain reference, in float64.
void llm_attention_reference(const LlmAttention& a, int64_t kv_head, int64_t first, int64_t last,
                             uint8_t* scratch);

}  // namespace bluelm

#endif  // BLUELM_LLM_ATTENTION_H
