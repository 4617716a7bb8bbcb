// The SigLIP encoder as ggml graph pieces, for a batch of tiles: the tiles' tokens simply follow each other,
// so every matmul sees all of them at once; only attention looks at one tile at a time.
//
// Shapes in comments are torch's (rows first) for SigLIP-so400m/14-384 and a batch of B tiles. The reference
// is SiglipVisionModel in transformers (models/siglip/modeling_siglip.py).
//
// This graph is what the Encoder is checked against: it computes with the file's own types and ggml's
// kernels, and runs only where own kernels are turned off (use_repack = 0).
#ifndef BLUELM_SIGLIP_H
#define BLUELM_SIGLIP_H

#include "ggml.h"
#include "mmproj/vision_weights.h"

namespace bluelm {

// SiglipVisionEmbeddings: patches [B * 729, 588] -> tokens [B * 729, 1152], with positions.
ggml_tensor* build_patch_embedding(ggml_context* ctx, const VisionWeights& weights, ggml_tensor* patches);

// SiglipEncoder: tokens [B * 729, 1152] through the first n_layers blocks.
ggml_tensor* build_encoder(ggml_context* ctx, const VisionWeights& weights, ggml_tensor* x, int n_layers);

// post_layernorm, [B * 729, 1152].
ggml_tensor* build_post_layernorm(ggml_context* ctx, const VisionWeights& weights, ggml_tensor* x);

// A linear layer without its bias: x [n, in] -> [n, out].
ggml_tensor* build_matmul(ggml_context* ctx, const Linear& linear, ggml_tensor* x);

// The type that activations in front of this weight's matmul are best written in.
ggml_type activation_type(const Linear& linear);

}  // namespace bluelm

#endif  // BLUELM_SIGLIP_H
