// What becomes of a picture of a given size: its tiles, and how many tokens they are. Pure geometry.
#ifndef BLUELM_PICTURE_PLAN_H
#define BLUELM_PICTURE_PLAN_H

#include <cstdint>

#include "bluelm.h"
#include "mmproj/vision_config.h"
#include "picture/assembly.h"

namespace bluelm {

struct PicturePlan {
    bluelm_tiler_params tiler;
    bluelm_tile_plan tiles;
    Assembly assembly;
};

// tiler NULL: the file's own. Throws Error INVALID_ARGUMENT for sizes or params out of range, tiles of
// another size than the encoder's, and a picture so thin that cropping leaves nothing of it.
PicturePlan plan_picture(const VisionConfig& config, const bluelm_tiler_params* tiler, int32_t width,
                         int32_t height);

}  // namespace bluelm

#endif  // BLUELM_PICTURE_PLAN_H
