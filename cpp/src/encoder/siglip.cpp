#include "encoder/siglip.h"

#include <cmath>

#include "kernels/encoder/layer_ops.h"

namespace bluelm {
namespace {

// SiglipAttention over x [B * 729, 1152] (already normalised): returns the heads' outputs, before out_proj.
ggml_tensor* build_attention(ggml_context* ctx, const VisionWeights& w, const VitBlock& block,
                             ggml_tensor* x) {
    const VisionConfig& c = w.config;
    const int64_t head_dim = c.head_dim(), n_head = c.n_head, n_patches = c.n_patches();
    const int64_t n_tiles = x->ne[1] / n_patches;
    const auto project = [&](const Linear& linear) {
        return ggml_add(ctx, build_matmul(ctx, linear, x), linear.b);  // [B * 729, 1152]
    };
    ggml_tensor *q = project(block.q), *k = project(block.k), *v = project(block.v);
    const auto heads = [&](ggml_tensor* y) {
        y = ggml_reshape_4d(ctx, y, head_dim, n_head, n_patches, n_tiles);  // [B, 729, 16, 72]
        return ggml_permute(ctx, y, 0, 2, 1, 3);                            // [B, 16, 729, 72], a view
    };
    const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    // K and V stay F32: ggml's tiled kernel computes in F32 whatever they are, and a view costs no copy.
    // Measured at 729 tokens and head_dim 72, two blocks, CPU time on one core (Xeon, AVX-512): this 650 ms,
    // with F16 keys and values 652, as two matmuls around a softmax 793, the same with everything padded to
    // multiples of 16 668.
    ggml_tensor* y = ggml_flash_attn_ext(ctx, heads(q), heads(k), heads(v), nullptr, scale, 0.0f, 0.0f);
    return ggml_reshape_2d(ctx, y, c.n_embd, n_patches * n_tiles);  // [B, 729, 16, 72] as [B * 729, 1152]
}

// SiglipEncoderLayer.
ggml_tensor* build_block(ggml_context* ctx, const VisionWeights& w, const VitBlock& block, ggml_tensor* x) {
    const VisionConfig& c = w.config;
    ggml_tensor* y =
        layer_norm(ctx, x, block.ln1.w, block.ln1.b, &c.layer_norm_eps, activation_type(block.q));
    y = build_attention(ctx, w, block, y);
    x = bias_residual(ctx, x, build_matmul(ctx, block.out, y), block.out.b);

    y = layer_norm(ctx, x, block.ln2.w, block.ln2.b, &c.layer_norm_eps, activation_type(block.up));
    y = build_matmul(ctx, block.up, y);                                   // [B * 729, 4352]
    y = bias_gelu_tanh(ctx, y, block.up.b, activation_type(block.down));  // padded units: gelu(0 + 0) = 0
    return bias_residual(ctx, x, build_matmul(ctx, block.down, y), block.down.b);
}

}  // namespace

ggml_tensor* build_matmul(ggml_context* ctx, const Linear& linear, ggml_tensor* x) {
    return ggml_mul_mat(ctx, linear.w, x);
}

ggml_type activation_type(const Linear& linear) {
    // F16 and BF16 matmuls convert their input to the weight's type: written so at once, it is converted once
    // instead of once for each of Q, K and V. Quantised kernels want F32 and quantise it themselves.
    const ggml_type type = linear.w->type;
    return type == GGML_TYPE_F16 || type == GGML_TYPE_BF16 ? type : GGML_TYPE_F32;
}

ggml_tensor* build_patch_embedding(ggml_context* ctx, const VisionWeights& w, ggml_tensor* patches) {
    const int64_t d = w.config.n_embd, n_patches = w.config.n_patches(), n_tiles = patches->ne[1] / n_patches;
    ggml_tensor* x = ggml_mul_mat(ctx, w.patch.w, patches);  // [B * 729, 1152]
    x = ggml_add(ctx, x, w.patch.b);
    x = ggml_reshape_3d(ctx, x, d, n_patches, n_tiles);
    x = ggml_add(ctx, x, w.position);  // the same [729, 1152] for every tile
    return ggml_reshape_2d(ctx, x, d, n_patches * n_tiles);
}

ggml_tensor* build_encoder(ggml_context* ctx, const VisionWeights& w, ggml_tensor* x, int n_layers) {
    for (int i = 0; i < n_layers; ++i) x = build_block(ctx, w, w.blocks[static_cast<size_t>(i)], x);
    return x;
}

ggml_tensor* build_post_layernorm(ggml_context* ctx, const VisionWeights& w, ggml_tensor* x) {
    return layer_norm(ctx, x, w.post_ln.w, w.post_ln.b, &w.config.layer_norm_eps, GGML_TYPE_F32);
}

}  // namespace bluelm
