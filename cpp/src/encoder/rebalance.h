// Rebalancing of a block's channels, so that 8 bits suffice for what goes into its matmuls.
//
// An activation is divided and its weights are multiplied by the same factor (kernels/encoder/balance.h). The
// divisions cost nothing or next to nothing:
//
//   input of          divided in
//   Q, K, V           weight and bias of the LayerNorm before them
//   attention output  rows of V (attention is linear in V)
//   FFN up            weight and bias of the LayerNorm before it
//   FFN down          one multiplication behind GELU
//
// The inputs of the first and third of these matmuls may have copies of channels as well.
#ifndef BLUELM_REBALANCE_H
#define BLUELM_REBALANCE_H

#include <cstdint>
#include <vector>

#include "kernels/encoder/balance.h"
#include "kernels/encoder/row_ops.h"
#include "mmproj/vision_weights.h"

namespace bluelm {

// What rebalancing makes of a block's LayerNorms, and its factors.
struct BalancedBlock {
    std::vector<float> ln1_w, ln1_b, ln2_w, ln2_b;  // [D]
    std::vector<float> qkv_in, out_in, up_in;       // [D], multiply weights' columns
    std::vector<int32_t> qkv_copies, up_copies;     // channels that appear once more, at most kMaxCopies
    std::vector<float> v_rows;                      // [D], multiply rows of V
    std::vector<float> down_in;                     // [F], multiply weights' columns
    std::vector<float> after_gelu;                  // [F], multiply activations; empty: 1
};

// Reads all of the block's matrices once. rebalance false: reads nothing, LayerNorms as they are, everything
// else empty. Throws Error IO.
BalancedBlock balance_block(const WeightFile& file, const RowOps& ops, const VitBlock& block, bool rebalance);

}  // namespace bluelm

#endif  // BLUELM_REBALANCE_H
