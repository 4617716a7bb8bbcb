// softmax(scale Q K^T + mask) V of one head of one tile, as two blocked matmuls around a softmax.
//
//   Q block [32, d] x keys, packed as panels          -> scores [32, n]   float32
//   softmax over each row                             -> P [32, n]        bf16 or float32
//   P x values, packed as panels                      -> out [32, d]      float32, divided by the row's sum
//
// All scores of 32 queries lie in the second-level cache at once, so the softmax knows its maximum and
// nothing has to be rescaled. d is padded with zeros to what the kernel takes (72 -> 96), and so is n.
#ifndef BLUELM_ATTENTION_H
#define BLUELM_ATTENTION_H

#include <cstddef>
#include <cstdint>

#include "kernels/encoder/matmul.h"
#include "kernels/encoder/row_ops.h"

namespace bluelm {

// Added to the scaled scores: half precision, a row of n for each query. Where a block of queries sees only a
// run of keys (the others are -infinity for all of them), only those are computed.
struct AttentionMask {
    const void* data = nullptr;  // of the first query
    size_t stride = 0;           // bytes
};

class Attention {
public:
    // type: kBf16 or kF32, of q, k, v, out and of the matmuls. n keys, d = head_dim. scale 0: 1 / sqrt(d).
    Attention(MatmulType type, const MatmulKernel& kernel, const RowOps& ops, int64_t n, int64_t d,
              float scale = 0);

    // Bytes of scratch memory (64-byte aligned) that a thread needs; the same for all heads.
    size_t scratch_bytes() const { return scratch_bytes_; }
    int64_t queries_in_block() const { return block_; }

    // Packs a head's keys and values into scratch. k, v: [n, d], rows k_stride and v_stride bytes apart.
    void pack(const void* k, size_t k_stride, const void* v, size_t v_stride, void* scratch) const;
    // Queries first..last-1 (first a multiple of queries_in_block) of the head packed last: q and out, rows
    // of d values q_stride and out_stride bytes apart. A query that sees no key gets zeros. mask: NULL for
    // none.
    void attend(const void* q, size_t q_stride, int64_t first, int64_t last, void* scratch, void* out,
                size_t out_stride, const AttentionMask* mask = nullptr) const;

private:
    MatmulType type_;
    const MatmulKernel& kernel_;
    const RowOps& ops_;
    int64_t n_, d_, block_;
    float scale_;
    int64_t run_step_;             // where a run of keys may begin and end
    int64_t d_padded_, n_padded_;  // along k of the two matmuls
    int64_t key_panels_, value_panels_;
    int64_t score_stride_;  // floats
    size_t values_at_, queries_at_, scores_at_, weights_at_, out_at_, scratch_bytes_;
};

}  // namespace bluelm

#endif  // BLUELM_ATTENTION_H
