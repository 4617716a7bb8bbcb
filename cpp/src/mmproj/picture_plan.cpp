#include "mmproj/picture_plan.h"

#include "base/error.h"
#include "picture/tiler.h"

namespace bluelm {

PicturePlan plan_picture(const VisionConfig& config, const bluelm_tiler_params* tiler, int32_t width,
                         int32_t height) {
    PicturePlan plan;
    plan.tiler = tiler ? *tiler : config.tiler;
    if (plan.tiler.tile != config.image_size) {
        throw Error(BLUELM_ERR_INVALID_ARGUMENT,
                    format("tiles of %d pixels, the encoder takes %d", plan.tiler.tile, config.image_size));
    }
    plan.tiles = plan_tiles(plan.tiler, width, height);
    plan.assembly = plan_assembly(config.assembly, plan.tiles);
    require(plan.assembly.n_tokens > 0,
            "cropping leaves nothing of a picture this thin: ask for a thumbnail");
    return plan;
}

}  // namespace bluelm
