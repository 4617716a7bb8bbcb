// The tiler: which grid a picture gets (plan: pure geometry) and the views cut from it (cut: pixels).
// Paper section 3.2, Algorithm 1 (arXiv 2411.10640). No ggml, no threads.
#ifndef BLUELM_TILER_H
#define BLUELM_TILER_H

#include <cstdint>
#include <vector>

#include "bluelm.h"

namespace bluelm {

constexpr int kMaxImageSide = 20000;  // pixels
constexpr int kMaxTile = 2048;        // pixels
constexpr int kMaxGridTiles = 256;    // columns * rows

// Relaxed up to 4:4, tile 384, alpha 0.1, thumbnail first (none for 1:1), centred on black, bicubic.
bluelm_tiler_params default_tiler_params();

// Replaces the candidates by 1..max_cols x 1..max_rows; max_tiles > 0 keeps those with cols * rows <=
// max_tiles. Throws Error(INVALID_ARGUMENT) when none or more than BLUELM_MAX_GRIDS are left; params is then
// unchanged.
void set_grids(bluelm_tiler_params& params, int max_cols, int max_rows, int max_tiles);

// Throws Error(INVALID_ARGUMENT) naming the first field that is out of range.
void check_tiler_params(const bluelm_tiler_params& params);

// Throws Error(INVALID_ARGUMENT) for a picture outside 1..20000 or params out of range.
bluelm_tile_plan plan_tiles(const bluelm_tiler_params& params, int width, int height);

// Cuts the views of one picture, batch by batch; the picture is resized once, when the first view that needs
// it is asked for. `rgb` ([height, width, 3] uint8, packed) is borrowed until the cutter is gone.
class TileCutter {
public:
    // Throws Error(INVALID_ARGUMENT) if `plan` is not what plan_tiles gives for these params and that size.
    TileCutter(const bluelm_tiler_params& params, const bluelm_tile_plan& plan, const uint8_t* rgb);

    // Views first..first+count-1, out [count, tile, tile, 3] uint8.
    void cut(int first, int count, uint8_t* out);

    const bluelm_tile_plan& plan() const { return plan_; }

private:
    void cut_thumbnail(uint8_t* out) const;
    void cut_tile(int col, int row, uint8_t* out);

    bluelm_tiler_params params_;
    bluelm_tile_plan plan_;
    const uint8_t* rgb_;
    std::vector<uint8_t> fitted_;  // [fit_height, fit_width, 3], or empty until needed
};

}  // namespace bluelm

#endif  // BLUELM_TILER_H
