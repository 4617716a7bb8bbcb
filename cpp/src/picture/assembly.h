// From the features of a picture's views to its image tokens (`bluelm.assembly.*`, docs/mmproj.md).
//
// `concat` leaves them as they are: views in plan order. `anyres` is LLaVA-OneVision's way
// (pack_image_features in modeling_llava_onevision.py of transformers 5): the tiles are stitched to one map
// of tokens, the padding is cropped, a map of more than max_tiles tiles is shrunk, and every row ends with a
// newline token; the thumbnail's tokens stay as they are. Plain floats, no ggml, no threads.
#ifndef BLUELM_ASSEMBLY_H
#define BLUELM_ASSEMBLY_H

#include <cstdint>

#include "bluelm.h"

namespace bluelm {

struct AssemblyParams {
    bool anyres = false;        // false: concat
    int32_t max_tiles = 0;      // the map is shrunk to about as many tiles' tokens; 0: never
    int32_t side = 0;           // tokens along an edge of a tile, 27
    bool column_major = false;  // order of a tile's tokens
};

// How the tokens of one picture are laid out. The map has rows * side rows of cols * side tokens; what is
// left of it is `height` rows of `width` tokens from (top, left) on, shrunk to out_height x out_width.
struct Assembly {
    AssemblyParams params;
    int32_t n_views = 0;
    int32_t thumbnail_index = -1;
    int32_t cols = 0, rows = 0;
    bool stitched = false;  // false: all views one after the other
    int32_t top = 0, left = 0, height = 0, width = 0;
    int32_t out_height = 0, out_width = 0;
    int64_t n_tokens = 0;
};

// Pure geometry. The doubles are those of Python's arithmetic in the reference.
Assembly plan_assembly(const AssemblyParams& params, const bluelm_tile_plan& plan);

// features [n_views, side * side, n_embd] in plan order, newline [n_embd] -> out [n_tokens, n_embd].
void assemble(const Assembly& assembly, const float* features, const float* newline, int32_t n_embd,
              float* out);

}  // namespace bluelm

#endif  // BLUELM_ASSEMBLY_H
