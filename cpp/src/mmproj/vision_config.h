// What an mmproj's metadata says (docs/mmproj.md).
#ifndef BLUELM_VISION_CONFIG_H
#define BLUELM_VISION_CONFIG_H

#include <cstdint>
#include <string>

#include "bluelm.h"
#include "mmproj/mmproj_header.h"
#include "picture/assembly.h"

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

    size_t tile_bytes() const {
        return size_t(3) * static_cast<size_t>(image_size) * static_cast<size_t>(image_size);
    }
    // Of the features of n tiles.
    size_t output_floats(int n_tiles) const {
        return static_cast<size_t>(n_tiles) * static_cast<size_t>(tokens_per_tile()) *
               static_cast<size_t>(n_embd_out);
    }
    int32_t grid() const { return image_size / patch_size; }              // patches along an edge, 27
    int32_t n_patches() const { return grid() * grid(); }                 // 729
    int32_t patch_values() const { return 3 * patch_size * patch_size; }  // 588, order (c, y, x)
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

// The C API's view of it. n_params, weight_bytes: of all tensors.
bluelm_vision_info vision_info(const VisionConfig& config, int64_t n_params, int64_t weight_bytes);

// Throws Error UNSUPPORTED for a sound GGUF that is something else, FORMAT for keys that are missing or out
// of range: all of them in one message.
VisionConfig read_config(MmprojHeader& header);

}  // namespace bluelm

#endif  // BLUELM_VISION_CONFIG_H
