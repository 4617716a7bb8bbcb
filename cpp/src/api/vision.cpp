// The C API of an mmproj's head and of the vision encoder: argument checks, nothing else.
#include "encoder/vision.h"

#include <string>

#include "base/error.h"
#include "base/progress.h"
#include "bluelm.h"
#include "mmproj/picture_plan.h"

struct bluelm_mmproj {
    bluelm::VisionConfig config;
    bluelm_vision_info info;
};
struct bluelm_vision {
    bluelm::Vision vision;
};

using bluelm::format;
using bluelm::require;
using bluelm::require_struct;

namespace {

void require_room(size_t have, size_t want) {
    if (have < want) {
        throw bluelm::Error(BLUELM_ERR_INVALID_ARGUMENT,
                            format("out holds %zu floats, %zu are needed", have, want));
    }
}

}  // namespace

bluelm_status bluelm_mmproj_open(const char* path, bluelm_mmproj** out) {
    return bluelm::guard([&] {
        require(path != nullptr, "path is NULL");
        require(out != nullptr, "out is NULL");
        *out = nullptr;
        const bluelm::WeightFile file(path);
        bluelm::MmprojHeader header(file);
        const bluelm::VisionConfig config = bluelm::read_config(header);
        *out =
            new bluelm_mmproj{config, bluelm::vision_info(config, header.n_params(), header.tensor_bytes())};
    });
}

void bluelm_mmproj_free(bluelm_mmproj* mmproj) { delete mmproj; }

bluelm_status bluelm_mmproj_get_info(const bluelm_mmproj* mmproj, bluelm_vision_info* out) {
    return bluelm::guard([&] {
        require(mmproj != nullptr, "mmproj is NULL");
        require(out != nullptr, "out is NULL");
        *out = mmproj->info;
    });
}

bluelm_status bluelm_mmproj_get_tiler(const bluelm_mmproj* mmproj, bluelm_tiler_params* out) {
    return bluelm::guard([&] {
        require(mmproj != nullptr, "mmproj is NULL");
        require(out != nullptr, "out is NULL");
        *out = mmproj->config.tiler;
    });
}

bluelm_status bluelm_mmproj_plan(const bluelm_mmproj* mmproj, const bluelm_tiler_params* tiler, int32_t width,
                                 int32_t height, bluelm_tile_plan* plan_out, int64_t* n_tokens_out) {
    return bluelm::guard([&] {
        require(mmproj != nullptr, "mmproj is NULL");
        if (tiler) require_struct(tiler, "tiler");
        const bluelm::PicturePlan plan = bluelm::plan_picture(mmproj->config, tiler, width, height);
        if (plan_out) *plan_out = plan.tiles;
        if (n_tokens_out) *n_tokens_out = plan.assembly.n_tokens;
    });
}

bluelm_status bluelm_vision_params_default(bluelm_vision_params* out) {
    return bluelm::guard([&] {
        require(out != nullptr, "out is NULL");
        *out = {sizeof(bluelm_vision_params), 0, 4, 0, BLUELM_WEIGHTS_RESIDENT, BLUELM_ACTIVATIONS_AUTO};
    });
}

bluelm_status bluelm_vision_init(const char* path, const bluelm_vision_params* params, bluelm_vision** out) {
    return bluelm::guard([&] {
        require(path != nullptr, "path is NULL");
        require(out != nullptr, "out is NULL");
        *out = nullptr;
        bluelm_vision_params chosen;
        bluelm_vision_params_default(&chosen);
        if (params) {
            require_struct(params, "params");
            chosen = *params;
        }
        *out = new bluelm_vision{{path, chosen}};
    });
}

void bluelm_vision_free(bluelm_vision* vision) { delete vision; }

bluelm_status bluelm_vision_get_info(const bluelm_vision* vision, bluelm_vision_info* out) {
    return bluelm::guard([&] {
        require(vision != nullptr, "vision is NULL");
        require(out != nullptr, "out is NULL");
        *out = vision->vision.info();
    });
}

bluelm_status bluelm_vision_get_tiler(const bluelm_vision* vision, bluelm_tiler_params* out) {
    return bluelm::guard([&] {
        require(vision != nullptr, "vision is NULL");
        require(out != nullptr, "out is NULL");
        *out = vision->vision.config().tiler;
    });
}

bluelm_status bluelm_vision_get_prompt(const bluelm_vision* vision, const char** prefix_out,
                                       const char** suffix_out) {
    return bluelm::guard([&] {
        require(vision != nullptr, "vision is NULL");
        require(prefix_out != nullptr && suffix_out != nullptr, "prefix_out or suffix_out is NULL");
        *prefix_out = vision->vision.config().prompt_prefix.c_str();
        *suffix_out = vision->vision.config().prompt_suffix.c_str();
    });
}

bluelm_status bluelm_vision_encode(bluelm_vision* vision, const bluelm_tiler_params* tiler,
                                   const uint8_t* rgb, int32_t width, int32_t height,
                                   bluelm_progress progress, void* user_data, float* out, size_t out_floats,
                                   int64_t* n_tokens_out, bluelm_vision_timings* timings) {
    return bluelm::guard([&] {
        require(vision != nullptr, "vision is NULL");
        if (tiler) require_struct(tiler, "tiler");
        const bluelm::VisionConfig& c = vision->vision.config();
        const bluelm::PicturePlan plan = bluelm::plan_picture(c, tiler, width, height);
        const int64_t n_tokens = plan.assembly.n_tokens;
        if (n_tokens_out) *n_tokens_out = n_tokens;
        if (!out) {
            require(n_tokens_out != nullptr, "out and n_tokens_out are NULL");
            return;
        }
        require(rgb != nullptr, "rgb is NULL");
        require_room(out_floats, static_cast<size_t>(n_tokens) * static_cast<size_t>(c.n_embd_out));
        bluelm::Progress reporter(progress, user_data, BLUELM_STAGE_ENCODE, plan.tiles.n_tiles);
        vision->vision.encode_picture(plan, rgb, reporter, out, timings);
    });
}

bluelm_status bluelm_vision_encode_tiles(bluelm_vision* vision, const uint8_t* tiles, int32_t n_tiles,
                                         bluelm_progress progress, void* user_data, float* out,
                                         size_t out_floats, bluelm_vision_timings* timings) {
    return bluelm::guard([&] {
        require(vision != nullptr, "vision is NULL");
        require(n_tiles >= 0, "n_tiles is negative");
        require((tiles != nullptr && out != nullptr) || n_tiles == 0, "tiles or out is NULL");
        const bluelm::VisionConfig& c = vision->vision.config();
        require_room(out_floats, c.output_floats(n_tiles));
        const auto cut = [&](int first, int) { return tiles + static_cast<size_t>(first) * c.tile_bytes(); };
        bluelm::Progress reporter(progress, user_data, BLUELM_STAGE_ENCODE, n_tiles);
        vision->vision.encode(cut, n_tiles, reporter, out, timings);
    });
}

bluelm_status bluelm_vision_get_profile(const bluelm_vision* vision, bluelm_vision_profile* out) {
    return bluelm::guard([&] {
        require(vision != nullptr, "vision is NULL");
        require(out != nullptr, "out is NULL");
        *out = vision->vision.profile();
    });
}

bluelm_status bluelm_vision_dump_stage(bluelm_vision* vision, const uint8_t* tiles, int32_t n_tiles,
                                       const char* stage, float* out, size_t out_floats,
                                       size_t* n_floats_out) {
    return bluelm::guard([&] {
        require(vision != nullptr, "vision is NULL");
        require(stage != nullptr, "stage is NULL");
        require(n_tiles >= 0, "n_tiles is negative");
        const size_t n_floats = vision->vision.stage_floats(stage, n_tiles);
        if (n_floats_out) *n_floats_out = n_floats;
        if (!out) {
            require(n_floats_out != nullptr, "out and n_floats_out are NULL");
            return;
        }
        require(tiles != nullptr || n_tiles == 0, "tiles is NULL");
        require_room(out_floats, n_floats);
        vision->vision.dump_stage(tiles, n_tiles, stage, out);
    });
}
