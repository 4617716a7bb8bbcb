// Element-wise steps of the encoder as single passes over memory, put into ggml graphs as custom nodes.
//
// Why not ggml's own: ggml_gelu looks its values up in a half-precision table (relative error 5e-4, and a
// float32 encoder must stay within 1e-4 of torch), and norm, scale and shift are three passes over the
// activations where one does. The results may be written as F16 or BF16, which is the type that the matmul
// behind them would convert them to otherwise, once per matmul.
#ifndef BLUELM_LAYER_OPS_H
#define BLUELM_LAYER_OPS_H

#include "ggml.h"

namespace bluelm {

// (x - mean) / sqrt(var + eps) * w + b over the rows of x [n, d] (F32), biased variance, as torch's
// LayerNorm. `eps` is kept by pointer: it has to outlive the graph.
ggml_tensor* layer_norm(ggml_context* ctx, ggml_tensor* x, ggml_tensor* w, ggml_tensor* b, const float* eps,
                        ggml_type out_type);

// gelu(x + b), tanh form: 0.5 y (1 + tanh(sqrt(2/pi) (y + 0.044715 y^3))). x [n, d] F32.
ggml_tensor* bias_gelu_tanh(ggml_context* ctx, ggml_tensor* x, ggml_tensor* b, ggml_type out_type);

// x + (y + b), all F32: the end of an attention or FFN block. Written over y.
ggml_tensor* bias_residual(ggml_context* ctx, ggml_tensor* x, ggml_tensor* y, ggml_tensor* b);

}  // namespace bluelm

#endif  // BLUELM_LAYER_OPS_H
