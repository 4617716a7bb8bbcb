// The C API of the vision encoder: argument checks, nothing else.
#include "encoder/vision.h"

#include <string>
#include <vector>

#include "base/error.h"
#include "bluelm.h"
#include "picture/assembly.h"
#include "picture/tiler.h"

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

size_t tile_bytes(const bluelm::VisionConfig& c) {
    return size_t(3) * static_cast<size_t>(c.image_size) * static_cast<size_t>(c.image_size);
}

size_t output_floats(const bluelm::VisionConfig& c, int n_tiles) {
    return static_cast<size_t>(n_tiles) * static_cast<size_t>(c.tokens_per_tile()) *
           static_cast<size_t>(c.n_embd_out);
}

}  // namespace

bluelm_status bluelm_vision_params_default(bluelm_vision_params* out) {
    return bluelm::guard([&] {
        require(out != nullptr, "out is NULL");
        *out = {sizeof(bluelm_vision_params), 0, 4, 0, 1, BLUELM_WEIGHTS_RESIDENT, BLUELM_ACTIVATIONS_AUTO};
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
        const bluelm::VisionConfig& c = vision->vision.config();
        if (tiler) {
            require_struct(tiler, "tiler");
            if (tiler->tile != c.image_size) {
                throw bluelm::Error(
                    BLUELM_ERR_INVALID_ARGUMENT,
                    format("tiles of %d pixels, the encoder takes %d", tiler->tile, c.image_size));
            }
        }
        const bluelm_tiler_params& params = tiler ? *tiler : c.tiler;
        const bluelm_tile_plan plan = bluelm::plan_tiles(params, width, height);
        const bluelm::Assembly assembly = bluelm::plan_assembly(c.assembly, plan);
        require(assembly.n_tokens > 0, "cropping leaves nothing of a picture this thin: ask for a thumbnail");
        if (n_tokens_out) *n_tokens_out = assembly.n_tokens;
        if (!out) {
            require(n_tokens_out != nullptr, "out and n_tokens_out are NULL");
            return;
        }
        require(rgb != nullptr, "rgb is NULL");
        require_room(out_floats, static_cast<size_t>(assembly.n_tokens) * static_cast<size_t>(c.n_embd_out));
        std::vector<float> features(c.assembly.anyres ? output_floats(c, plan.n_tiles) : 0);
        bluelm::TileCutter cutter(params, plan, rgb);
        std::vector<uint8_t> views;
        const auto cut = [&](int first, int count) {
            views.resize(static_cast<size_t>(count) * tile_bytes(c));
            cutter.cut(first, count, views.data());
            return static_cast<const uint8_t*>(views.data());
        };
        bluelm::Progress reporter(progress, user_data, plan.n_tiles);
        if (!c.assembly.anyres) return vision->vision.encode(cut, plan.n_tiles, reporter, out, timings);
        vision->vision.encode(cut, plan.n_tiles, reporter, features.data(), timings);
        const float* newline = static_cast<const float*>(vision->vision.weights().image_newline->data);
        bluelm::assemble(assembly, features.data(), newline, c.n_embd_out, out);
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
        require_room(out_floats, output_floats(c, n_tiles));
        const auto cut = [&](int first, int) { return tiles + static_cast<size_t>(first) * tile_bytes(c); };
        bluelm::Progress reporter(progress, user_data, n_tiles);
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
