// The mmproj GGUF (docs/mmproj.md): metadata, the table of its tensors, and the tensors in memory.
//
// Everything is checked before anything is allocated: the header, every key's type and range, every tensor's
// presence, shape, type and extent in the file. What is wrong is reported in one message.
#ifndef BLUELM_VISION_WEIGHTS_H
#define BLUELM_VISION_WEIGHTS_H

#include <cstdint>
#include <cstdio>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "assembly.h"
#include "bluelm.h"
#include "ggml-backend.h"
#include "ggml.h"

namespace bluelm {

// What the file says about the model. Sizes in the comments are those of SigLIP-so400m/14-384.
struct VisionConfig {
    int32_t image_size = 0;     // S, 384
    int32_t patch_size = 0;     // P, 14
    int32_t n_embd = 0;         // D, 1152
    int32_t n_layer = 0;        // 27
    int32_t n_head = 0;         // 16
    int32_t n_ff = 0;           // F as stored, 4352
    int32_t n_ff_unpadded = 0;  // 4304
    int32_t n_embd_out = 0;     // the LLM's n_embd
    int32_t n_hidden = 0;       // H, the projector's width
    int32_t downsample = 1;     // s, 1 or 2
    float layer_norm_eps = 0;
    float projector_eps = 0;  // of mm.input_norm
    float image_mean[3] = {};
    float image_std[3] = {};
    bool post_layernorm = false;
    bool input_norm = false;
    bool column_major = false;
    bool projector_gelu_tanh = false;
    bluelm_tiler_params tiler = {};
    AssemblyParams assembly;
    std::string prompt_prefix, prompt_suffix;
    std::string name, ftype;

    int32_t grid() const { return image_size / patch_size; }              // patches along an edge, 27
    int32_t n_patches() const { return grid() * grid(); }                 // 729
    int32_t patch_values() const { return 3 * patch_size * patch_size; }  // 588, order (c, y, x)
    // Patches padded with zeros to the next multiple of 32, so that every ggml kernel takes them: 608.
    int32_t patch_values_padded() const { return (patch_values() + 31) / 32 * 32; }
    int32_t merged_grid() const { return (grid() + downsample - 1) / downsample; }  // 14
    int32_t tokens_per_tile() const { return merged_grid() * merged_grid(); }       // 196
    int32_t n_merged() const { return downsample * downsample * n_embd; }           // 4608
    int32_t head_dim() const { return n_embd / n_head; }                            // 72
    // Of one tile, in matmuls and attention: 333e9.
    int64_t multiply_adds() const {
        const int64_t d = n_embd, n = n_patches();
        const int64_t block = n * d * (4 * d + 2 * int64_t(n_ff_unpadded)) + 2 * n * n * d;
        const int64_t projector = int64_t(tokens_per_tile()) * n_hidden * (n_merged() + n_embd_out);
        return n * patch_values() * d + n_layer * block + projector;
    }
};

// A matrix as it lies in the file.
struct StoredTensor {
    ggml_type type = GGML_TYPE_F32;
    uint64_t offset = 0;  // bytes from the start of the file
    int64_t n_out = 0, n_in = 0;
};

struct Linear {
    ggml_tensor* w = nullptr;  // [out, in]; NULL with WeightLoading::kInFile
    ggml_tensor* b = nullptr;  // [out]
    StoredTensor stored;       // w
};

struct Norm {
    ggml_tensor* w = nullptr;
    ggml_tensor* b = nullptr;
};

struct VitBlock {
    Norm ln1, ln2;
    Linear q, k, v, out, up, down;
};

struct GgmlContextDeleter {
    void operator()(ggml_context* ctx) const { ggml_free(ctx); }
};
struct GgmlBufferDeleter {
    void operator()(ggml_backend_buffer_t buffer) const { ggml_backend_buffer_free(buffer); }
};
using GgmlContextPtr = std::unique_ptr<ggml_context, GgmlContextDeleter>;
using GgmlBufferPtr = std::unique_ptr<ggml_backend_buffer, GgmlBufferDeleter>;

// The open file, for reading weights when they are needed; any number of threads at a time.
class WeightFile {
public:
    explicit WeightFile(const std::string& path);  // throws Error IO
    ~WeightFile();
    WeightFile(const WeightFile&) = delete;
    WeightFile& operator=(const WeightFile&) = delete;
    // Throws Error IO, also at the end of a file that became shorter.
    void read(uint64_t offset, void* out, size_t bytes) const;

private:
    std::string path_;
    std::FILE* file_;
    mutable std::mutex mutex_;  // where reading moves the file's position
};

// What becomes of the matrices of the blocks and the projector.
enum class WeightLoading {
    kPlain,     // loaded as they are, for ggml
    kRepacked,  // loaded into ggml's buffer types for faster kernels where this CPU has some
    kInFile,    // left in the file, for an Encoder
};

// Immutable once loaded; owns the memory of its tensors.
class VisionWeights {
public:
    // Throws Error: IO, FORMAT, UNSUPPORTED, OUT_OF_MEMORY.
    VisionWeights(const std::string& path, WeightLoading loading);
    VisionWeights(const VisionWeights&) = delete;
    VisionWeights& operator=(const VisionWeights&) = delete;

    VisionConfig config;
    WeightFile file;
    ggml_tensor* patch_w = nullptr;   // [D, 608]: the convolution as a matmul, rows padded with zeros
    ggml_tensor* patch_b = nullptr;   // [D]
    ggml_tensor* position = nullptr;  // [729, D]
    std::vector<VitBlock> blocks;
    Norm post_ln;     // only with config.post_layernorm
    Norm input_norm;  // [s*s*D], only with config.input_norm
    Linear mm0, mm2;
    ggml_tensor* image_newline = nullptr;  // [n_embd_out], only with config.assembly.anyres

    int64_t n_params = 0;
    int64_t weight_bytes = 0;      // as stored in the file
    int64_t repacked_tensors = 0;  // tensors in other buffer types than the plain one
    int64_t matrices = 0;          // of the blocks and the projector

private:
    std::vector<GgmlContextPtr> contexts_;
    std::vector<GgmlBufferPtr> buffers_;  // freed before the contexts
};

}  // namespace bluelm

#endif  // BLUELM_VISION_WEIGHTS_H
