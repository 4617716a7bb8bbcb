// The tiler's part of the C API: argument checks, no logic.
#include "picture/tiler.h"

#include <cstddef>

#include "base/error.h"
#include "bluelm.h"
#include "picture/resize.h"

using bluelm::guard;
using bluelm::require;
using bluelm::require_struct;

namespace {

bluelm_tiler_params params_or_default(const bluelm_tiler_params* params) {
    if (params == nullptr) return bluelm::default_tiler_params();
    require_struct(params, "tiler params");
    return *params;
}

void require_side(int32_t side) {
    if (side < 1 || side > bluelm::kMaxImageSide) {
        throw bluelm::Error(
            BLUELM_ERR_INVALID_ARGUMENT,
            bluelm::format("a side of %d pixels: it must be 1..%d", side, bluelm::kMaxImageSide));
    }
}

}  // namespace

bluelm_status bluelm_tiler_params_default(bluelm_tiler_params* out) {
    return guard([&] {
        require(out != nullptr, "out is NULL");
        *out = bluelm::default_tiler_params();
    });
}

bluelm_status bluelm_tiler_params_set_grids(bluelm_tiler_params* params, int32_t max_cols, int32_t max_rows,
                                            int32_t max_tiles) {
    return guard([&] {
        require_struct(params, "tiler params");
        bluelm::set_grids(*params, max_cols, max_rows, max_tiles);
    });
}

bluelm_status bluelm_tiler_plan(const bluelm_tiler_params* params, int32_t width, int32_t height,
                                bluelm_tile_plan* out) {
    return guard([&] {
        require(out != nullptr, "out is NULL");
        *out = bluelm::plan_tiles(params_or_default(params), width, height);
    });
}

bluelm_status bluelm_resize_rgb8(const uint8_t* src, int32_t src_width, int32_t src_height, uint8_t* dst,
                                 int32_t dst_width, int32_t dst_height, int32_t filter) {
    return guard([&] {
        require(src != nullptr && dst != nullptr, "src or dst is NULL");
        for (const int32_t side : {src_width, src_height, dst_width, dst_height}) require_side(side);
        require(filter == BLUELM_FILTER_BICUBIC || filter == BLUELM_FILTER_BILINEAR,
                "filter must be BLUELM_FILTER_BICUBIC or BLUELM_FILTER_BILINEAR");
        bluelm::resize_rgb8(src, src_width, src_height, dst, dst_width, dst_height, filter);
    });
}

bluelm_status bluelm_tiler_cut(const bluelm_tiler_params* params, const bluelm_tile_plan* plan,
                               const uint8_t* rgb, int32_t first, int32_t count, uint8_t* out,
                               size_t out_bytes) {
    return guard([&] {
        require_struct(plan, "tile plan");
        require(rgb != nullptr && out != nullptr, "rgb or out is NULL");
        bluelm::TileCutter cutter(params_or_default(params), *plan, rgb);
        const size_t view_bytes = static_cast<size_t>(cutter.plan().tile) * cutter.plan().tile * 3;
        if (count < 0 || out_bytes / view_bytes < static_cast<size_t>(count)) {
            throw bluelm::Error(BLUELM_ERR_INVALID_ARGUMENT,
                                bluelm::format("%d views of %zu bytes do not fit into %zu bytes", count,
                                               view_bytes, out_bytes));
        }
        cutter.cut(first, count, out);
    });
}
