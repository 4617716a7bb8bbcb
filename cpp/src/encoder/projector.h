// From a tile's features to the LLM's embeddings: the 2x2 downsampler and the two-layer MLP (paper
// section 3.3, VILA's `mlp_downsample` block; docs/bluelm-v-layout.md).
#ifndef BLUELM_PROJECTOR_H
#define BLUELM_PROJECTOR_H

#include "ggml.h"
#include "mmproj/vision_weights.h"

namespace bluelm {

// Tokens [B * 729, 1152] -> [B * 196, 4608] for downsample 2: a zero row below and a zero column at the right
// make 28x28; each 2x2 block is concatenated as top-left, top-right, bottom-left, bottom-right. Tokens leave
// in row-major or column-major order. With downsample 1 only the order may change.
ggml_tensor* build_merge(ggml_context* ctx, const VisionWeights& weights, ggml_tensor* x);

// input_norm (if any), linear, GELU, linear: [B * 196, 4608] -> [B * 196, n_embd_out].
ggml_tensor* build_projector(ggml_context* ctx, const VisionWeights& weights, ggml_tensor* x);

}  // namespace bluelm

#endif  // BLUELM_PROJECTOR_H
