// The mmproj GGUF (docs/mmproj.md): its metadata and its tensors.
//
// Everything is checked before anything is allocated: the header, every key's type and range, every tensor's
// presence, shape, type and extent in the file. What is wrong is reported in one message.
#ifndef BLUELM_VISION_WEIGHTS_H
#define BLUELM_VISION_WEIGHTS_H

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ggml-backend.h"
#include "ggml.h"
#include "mmproj/vision_config.h"
#include "mmproj/weight_file.h"

namespace bluelm {

// A matrix as it lies in the file.
struct StoredTensor {
    ggml_type type = GGML_TYPE_F32;
    uint64_t offset = 0;  // bytes from the start of the file
    int64_t n_out = 0, n_in = 0;
};

struct Linear {
    StoredTensor stored;       // the weight [out, in], which stays in the file
    ggml_tensor* b = nullptr;  // [out]
};

struct Norm {
    ggml_tensor* w = nullptr;
    ggml_tensor* b = nullptr;
};

struct VitBlock {
    Norm ln1, ln2;
    Linear q, k, v, out, up, down;
};

// Of a vector in memory, as all of them are.
inline const float* floats(const ggml_tensor* t) { return static_cast<const float*>(t->data); }

struct GgmlContextDeleter {
    void operator()(ggml_context* ctx) const { ggml_free(ctx); }
};
struct GgmlBufferDeleter {
    void operator()(ggml_backend_buffer_t buffer) const { ggml_backend_buffer_free(buffer); }
};
using GgmlContextPtr = std::unique_ptr<ggml_context, GgmlContextDeleter>;
using GgmlBufferPtr = std::unique_ptr<ggml_backend_buffer, GgmlBufferDeleter>;

// Immutable once loaded. Vectors (norms, biases, positions) are in memory; matrices stay in the file, from
// where an Encoder packs them.
class VisionWeights {
public:
    // Throws Error: IO, FORMAT, UNSUPPORTED, OUT_OF_MEMORY.
    explicit VisionWeights(const std::string& path);
    VisionWeights(const VisionWeights&) = delete;
    VisionWeights& operator=(const VisionWeights&) = delete;

    VisionConfig config;
    WeightFile file;
    Linear patch;                     // [D, 588]: the convolution as a matmul
    ggml_tensor* position = nullptr;  // [729, D]
    std::vector<VitBlock> blocks;
    Norm post_ln;     // only with config.post_layernorm
    Norm input_norm;  // [s*s*D], only with config.input_norm
    Linear mm0, mm2;
    ggml_tensor* image_newline = nullptr;  // [n_embd_out], only with config.assembly.anyres

    int64_t n_params = 0;
    int64_t weight_bytes = 0;  // as stored in the file

private:
    GgmlContextPtr context_;
    GgmlBufferPtr buffer_;  // freed before the context
};

}  // namespace bluelm

#endif  // BLUELM_VISION_WEIGHTS_H
