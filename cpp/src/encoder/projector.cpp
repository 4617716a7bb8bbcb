#include "encoder/projector.h"

#include "encoder/siglip.h"
#include "kernels/encoder/layer_ops.h"

namespace bluelm {

ggml_tensor* build_merge(ggml_context* ctx, const VisionWeights& w, ggml_tensor* x) {
    const VisionConfig& c = w.config;
    const int64_t d = c.n_embd, grid = c.grid(), merged = c.merged_grid();
    const int64_t n_tiles = x->ne[1] / c.n_patches();
    if (c.downsample == 2) {
        x = ggml_reshape_4d(ctx, x, d, grid, grid, n_tiles);  // [B, 27, 27, 1152]
        if (grid % 2 != 0) x = ggml_pad(ctx, x, 0, 1, 1, 0);  // [B, 28, 28, 1152]
        // Neighbours in x lie next to each other: [B * 14, 2, 14, 2 * 1152] as (block row, y in block, block
        // column, ..); swapping the middle two brings the blocks' upper and lower halves together.
        x = ggml_reshape_4d(ctx, x, 2 * d, merged, 2, merged * n_tiles);
        x = ggml_cont(ctx, ggml_permute(ctx, x, 0, 2, 1, 3));  // [B * 14, 14, 2, 2 * 1152]
    }
    const int64_t width = c.n_merged();
    if (c.column_major) {
        x = ggml_reshape_4d(ctx, x, width, merged, merged, n_tiles);
        x = ggml_cont(ctx, ggml_permute(ctx, x, 0, 2, 1, 3));
    }
    return ggml_reshape_2d(ctx, x, width, merged * merged * n_tiles);  // [B * 196, 4608]
}

ggml_tensor* build_projector(ggml_context* ctx, const VisionWeights& w, ggml_tensor* x) {
    const VisionConfig& c = w.config;
    if (c.input_norm) {
        x = layer_norm(ctx, x, w.input_norm.w, w.input_norm.b, &c.projector_eps, activation_type(w.mm0));
    }
    x = build_matmul(ctx, w.mm0, x);
    if (c.projector_gelu_tanh) {
        x = bias_gelu_tanh(ctx, x, w.mm0.b, activation_type(w.mm2));
    } else {
        x = ggml_gelu_erf(ctx, ggml_add(ctx, x, w.mm0.b));
    }
    return ggml_add(ctx, build_matmul(ctx, w.mm2, x), w.mm2.b);
}

}  // namespace bluelm
