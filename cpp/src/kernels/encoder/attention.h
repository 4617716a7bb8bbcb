// softmax(Q K^T / sqrt(head_dim)) V of one head of one tile, as two blocked matmuls around a softmax.
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

class Attention {
public:
    // type: kBf16 or kF32, of q, k, v, out and of the matmuls. n tokens, d = head_dim.
    Attention(MatmulType type, const MatmulKernel& kernel, const RowOps& ops, int64_t n, int64_t d);

    // Bytes of scratch memory (64-byte aligned) that a thread needs; the same for all heads.
    size_t scratch_bytes() const { return scratch_bytes_; }
    int64_t queries_in_block() const { return block_; }

    // Packs a head's keys and values into scratch. k, v: [n, d], rows `stride` bytes apart.
    void pack(const void* k, const void* v, size_t stride, void* scratch) const;
    // Queries first..last-1 (first a multiple of queries_in_block) of the head packed last: q [n, d] and
    // out [n, d], rows q_stride and out_stride bytes apart.
    void attend(const void* q, size_t q_stride, int64_t first, int64_t last, void* scratch, void* out,
                size_t out_stride) const;

private:
    MatmulType type_;
    const MatmulKernel& kernel_;
    const RowOps& ops_;
    int64_t n_, d_, block_;
    int64_t d_padded_, n_padded_;  // along k of the two matmuls
    int64_t key_panels_, value_panels_;
    int64_t score_stride_;  // floats
    size_t values_at_, queries_at_, scores_at_, weights_at_, out_at_, scratch_bytes_;
};

}  // namespace bluelm

#endif  // BLUELM_ATTENTION_H
