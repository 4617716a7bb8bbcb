#include "picture/tiler.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "picture/resize.h"

namespace bluelm {

namespace {

using Grid = std::pair<int, int>;  // columns, rows

// The candidates without repetitions in descending order: more tiles first, then more columns (3:3, 3:2, 2:3,
// ..., 1:1), so that the choice does not depend on the order in which a file lists them and Algorithm 1
// always meets the cheaper of two grids later.
std::vector<Grid> descending(const bluelm_tiler_params& params) {
    std::vector<Grid> grids;
    for (int i = 0; i < params.n_grids; ++i) grids.emplace_back(params.grids[i][0], params.grids[i][1]);
    std::sort(grids.begin(), grids.end(), [](const Grid& a, const Grid& b) {
        const int tiles_a = a.first * a.second, tiles_b = b.first * b.second;
        return tiles_a != tiles_b ? tiles_a > tiles_b : a.first > b.first;
    });
    grids.erase(std::unique(grids.begin(), grids.end()), grids.end());
    return grids;
}

// A picture laid into a grid with its aspect kept. The doubles are those of Algorithm 1's `int(W_orig *
// scale)` in Python; a side has at least `least` pixels.
struct Fit {
    int width, height;
    int64_t effective, wasted;  // Re, Rw
};

Fit fit_into(const Grid& grid, int tile, int width, int height, int least = 1) {
    const int64_t canvas_width = static_cast<int64_t>(grid.first) * tile;
    const int64_t canvas_height = static_cast<int64_t>(grid.second) * tile;
    const double scale = std::min(static_cast<double>(canvas_width) / width,  //
                                  static_cast<double>(canvas_height) / height);
    Fit fit;
    fit.width = std::max(least, static_cast<int>(width * scale));
    fit.height = std::max(least, static_cast<int>(height * scale));
    fit.effective =
        std::min(static_cast<int64_t>(fit.width) * fit.height, static_cast<int64_t>(width) * height);
    fit.wasted = canvas_width * canvas_height - fit.effective;
    return fit;
}

// LLaVA-NeXT's get_patch_output_size: the side that fits exactly is the canvas's, the other is rounded up.
void round_up(const Grid& grid, int tile, int width, int height, Fit& fit) {
    const int canvas_width = grid.first * tile, canvas_height = grid.second * tile;
    const double scale_x = static_cast<double>(canvas_width) / width;
    const double scale_y = static_cast<double>(canvas_height) / height;
    if (scale_x < scale_y) {
        fit.width = canvas_width;
        fit.height = std::min(static_cast<int>(std::ceil(height * scale_x)), canvas_height);
    } else {
        fit.height = canvas_height;
        fit.width = std::min(static_cast<int>(std::ceil(width * scale_y)), canvas_width);
    }
}

// 0.1f is not 0.1: the decimal fraction that was meant, so that a tie falls as it does in Python.
double exact_alpha(float alpha) { return std::round(static_cast<double>(alpha) * 1e6) / 1e6; }

// Paper, Algorithm 1; the conditions are the paper's, line by line.
Grid search_relaxed(const bluelm_tiler_params& params, int width, int height) {
    const double alpha = exact_alpha(params.alpha);
    Grid best;
    int64_t max_effective = 0, min_wasted = INT64_MAX;
    for (const Grid& grid : descending(params)) {
        const Fit fit = fit_into(grid, params.tile, width, height);
        const double margin = alpha * static_cast<double>(max_effective);
        if (static_cast<double>(fit.effective - max_effective) > margin ||
            (static_cast<double>(max_effective - fit.effective) < margin && fit.wasted < min_wasted)) {
            max_effective = fit.effective;
            min_wasted = fit.wasted;
            best = grid;
        }
    }
    return best;
}

// LLaVA-NeXT's select_best_resolution: the largest effective resolution, ties by less waste. With its own
// rounding a picture so thin that int() leaves nothing of a side has no effective resolution, as there.
Grid search_llava_next(const bluelm_tiler_params& params, int width, int height) {
    const int least = params.fit_rounding == BLUELM_ROUND_CEIL ? 0 : 1;
    Grid best;
    int64_t max_effective = 0, min_wasted = INT64_MAX;
    for (const Grid& grid : descending(params)) {
        const Fit fit = fit_into(grid, params.tile, width, height, least);
        if (fit.effective > max_effective || (fit.effective == max_effective && fit.wasted < min_wasted)) {
            max_effective = fit.effective;
            min_wasted = fit.wasted;
            best = grid;
        }
    }
    return best;
}

// InternVL 1.5's find_closest_aspect_ratio, which goes from few tiles to many and lets a later grid of the
// same distance win if the picture is large enough for half of it.
Grid search_internvl(const bluelm_tiler_params& params, int width, int height) {
    const double aspect = static_cast<double>(width) / height;
    const double area = static_cast<double>(width) * height;
    std::vector<Grid> grids = descending(params);
    std::reverse(grids.begin(), grids.end());
    Grid best;
    double best_distance = HUGE_VAL;
    for (const Grid& grid : grids) {
        const double distance = std::fabs(aspect - static_cast<double>(grid.first) / grid.second);
        const double half_canvas = 0.5 * params.tile * params.tile * grid.first * grid.second;
        if (distance < best_distance || (distance == best_distance && area > half_canvas)) {
            best_distance = distance;
            best = grid;
        }
    }
    return best;
}

Grid choose_grid(const bluelm_tiler_params& params, int width, int height) {
    switch (params.method) {
        case BLUELM_TILER_RELAXED: return search_relaxed(params, width, height);
        case BLUELM_TILER_LLAVA_NEXT: return search_llava_next(params, width, height);
        case BLUELM_TILER_INTERNVL: return search_internvl(params, width, height);
        default: return {1, 1};  // BLUELM_TILER_SINGLE
    }
}

void require_range(const char* name, int64_t value, int64_t low, int64_t high) {
    if (value >= low && value <= high) return;
    throw Error(BLUELM_ERR_INVALID_ARGUMENT,
                format("%s is %lld, it must be %lld..%lld", name, static_cast<long long>(value),
                       static_cast<long long>(low), static_cast<long long>(high)));
}

bool same_plan(const bluelm_tile_plan& a, const bluelm_tile_plan& b) {
    return a.cols == b.cols && a.rows == b.rows && a.tile == b.tile && a.fit_width == b.fit_width &&
           a.fit_height == b.fit_height && a.pad_left == b.pad_left && a.pad_top == b.pad_top &&
           a.thumbnail_index == b.thumbnail_index && a.n_tiles == b.n_tiles;
}

}  // namespace

bluelm_tiler_params default_tiler_params() {
    bluelm_tiler_params params = {};
    params.struct_size = sizeof(params);
    params.method = BLUELM_TILER_RELAXED;
    params.tile = 384;
    params.alpha = 0.1f;
    params.thumbnail = BLUELM_THUMBNAIL_FIRST;
    params.thumbnail_for_single = 0;
    params.fit = BLUELM_FIT_PAD_CENTER;
    params.filter = BLUELM_FILTER_BICUBIC;
    set_grids(params, 4, 4, 0);
    return params;
}

void set_grids(bluelm_tiler_params& params, int max_cols, int max_rows, int max_tiles) {
    require_range("max_cols", max_cols, 1, kMaxGridTiles);
    require_range("max_rows", max_rows, 1, kMaxGridTiles);
    require_range("max_tiles", max_tiles, 0, kMaxGridTiles);
    const int most = max_tiles > 0 ? max_tiles : kMaxGridTiles;
    std::vector<Grid> grids;
    for (int cols = 1; cols <= max_cols; ++cols) {
        for (int rows = 1; rows <= max_rows; ++rows) {
            if (cols * rows <= most) grids.emplace_back(cols, rows);
        }
    }
    if (grids.size() > BLUELM_MAX_GRIDS || (max_tiles == 0 && max_cols * max_rows > kMaxGridTiles)) {
        throw Error(
            BLUELM_ERR_INVALID_ARGUMENT,
            format("grids up to %d x %d%s are more than %d candidates: choose smaller limits", max_cols,
                   max_rows, max_tiles > 0 ? format(" with at most %d tiles", max_tiles).c_str() : "",
                   BLUELM_MAX_GRIDS));
    }
    params.n_grids = static_cast<int32_t>(grids.size());
    for (size_t i = 0; i < grids.size(); ++i) {
        params.grids[i][0] = grids[i].first;
        params.grids[i][1] = grids[i].second;
    }
}

void check_tiler_params(const bluelm_tiler_params& params) {
    require_range("tiler method", params.method, BLUELM_TILER_RELAXED, BLUELM_TILER_SINGLE);
    require_range("tile", params.tile, 1, kMaxTile);
    require(params.alpha >= 0.0f && params.alpha < 1.0f, "alpha must be at least 0 and less than 1");
    require_range("thumbnail", params.thumbnail, BLUELM_THUMBNAIL_NONE, BLUELM_THUMBNAIL_LAST);
    require_range("thumbnail_for_single", params.thumbnail_for_single, 0, 1);
    require_range("fit", params.fit, BLUELM_FIT_PAD_CENTER, BLUELM_FIT_STRETCH);
    require_range("resize filter", params.filter, BLUELM_FILTER_BICUBIC, BLUELM_FILTER_BILINEAR);
    require_range("fit_rounding", params.fit_rounding, BLUELM_ROUND_FLOOR, BLUELM_ROUND_CEIL);
    if (params.method == BLUELM_TILER_SINGLE) return;  // looks at no grid
    require_range("number of grids", params.n_grids, 1, BLUELM_MAX_GRIDS);
    for (int i = 0; i < params.n_grids; ++i) {
        const int cols = params.grids[i][0], rows = params.grids[i][1];
        if (cols < 1 || rows < 1 || cols > kMaxGridTiles || rows > kMaxGridTiles ||
            cols * rows > kMaxGridTiles) {
            throw Error(BLUELM_ERR_INVALID_ARGUMENT,
                        format("grid %d:%d: a grid has at least one column and row and at most %d tiles",
                               cols, rows, kMaxGridTiles));
        }
    }
}

bluelm_tile_plan plan_tiles(const bluelm_tiler_params& params, int width, int height) {
    check_tiler_params(params);
    if (width < 1 || height < 1 || width > kMaxImageSide || height > kMaxImageSide) {
        throw Error(
            BLUELM_ERR_INVALID_ARGUMENT,
            format("a picture of %d x %d: each side must be 1..%d pixels", width, height, kMaxImageSide));
    }
    const Grid grid = choose_grid(params, width, height);
    Fit fit = fit_into(grid, params.tile, width, height);
    if (params.fit_rounding == BLUELM_ROUND_CEIL) round_up(grid, params.tile, width, height, fit);

    bluelm_tile_plan plan = {};
    plan.struct_size = sizeof(plan);
    plan.width = width;
    plan.height = height;
    plan.cols = grid.first;
    plan.rows = grid.second;
    plan.tile = params.tile;
    const int canvas_width = plan.cols * plan.tile, canvas_height = plan.rows * plan.tile;
    if (params.method == BLUELM_TILER_INTERNVL || params.fit == BLUELM_FIT_STRETCH) {
        plan.fit_width = canvas_width;
        plan.fit_height = canvas_height;
    } else {
        plan.fit_width = fit.width;
        plan.fit_height = fit.height;
        if (params.fit == BLUELM_FIT_PAD_CENTER) {
            plan.pad_left = (canvas_width - fit.width) / 2;
            plan.pad_top = (canvas_height - fit.height) / 2;
        }
    }
    const int n_local = plan.cols * plan.rows;
    const bool single =
        params.method == BLUELM_TILER_SINGLE || (n_local == 1 && !params.thumbnail_for_single);
    const bool thumbnail = params.thumbnail != BLUELM_THUMBNAIL_NONE && !single;
    plan.n_tiles = n_local + (thumbnail ? 1 : 0);
    plan.thumbnail_index = !thumbnail ? -1 : params.thumbnail == BLUELM_THUMBNAIL_FIRST ? 0 : n_local;
    plan.effective = fit.effective;
    plan.wasted = fit.wasted;
    return plan;
}

TileCutter::TileCutter(const bluelm_tiler_params& params, const bluelm_tile_plan& plan, const uint8_t* rgb)
    : params_(params), plan_(plan_tiles(params, plan.width, plan.height)), rgb_(rgb) {
    require(same_plan(plan, plan_), "the tile plan was made with other tiler parameters: plan again");
}

void TileCutter::cut(int first, int count, uint8_t* out) {
    if (first < 0 || count < 0 || first > plan_.n_tiles - count) {
        throw Error(BLUELM_ERR_INVALID_ARGUMENT,
                    format("views %d..%lld of a plan with %d", first,
                           static_cast<long long>(first) + count - 1, plan_.n_tiles));
    }
    const size_t view_bytes = static_cast<size_t>(plan_.tile) * plan_.tile * 3;
    for (int view = first; view < first + count; ++view, out += view_bytes) {
        if (view == plan_.thumbnail_index) {
            cut_thumbnail(out);
        } else {
            const int local = plan_.thumbnail_index == 0 ? view - 1 : view;
            cut_tile(local % plan_.cols, local / plan_.cols, out);
        }
    }
}

// The whole picture, its aspect not kept.
void TileCutter::cut_thumbnail(uint8_t* out) const {
    resize_rgb8(rgb_, plan_.width, plan_.height, out, plan_.tile, plan_.tile, params_.filter);
}

void TileCutter::cut_tile(int col, int row, uint8_t* out) {
    if (fitted_.empty()) {
        fitted_.resize(static_cast<size_t>(plan_.fit_width) * plan_.fit_height * 3);
        resize_rgb8(rgb_, plan_.width, plan_.height, fitted_.data(), plan_.fit_width, plan_.fit_height,
                    params_.filter);
    }
    const int tile = plan_.tile;
    // Where the fitted picture lies in this tile: columns x0..x1-1, rows y0..y1-1; padding elsewhere.
    const int left = plan_.pad_left - col * tile, top = plan_.pad_top - row * tile;
    const int x0 = std::clamp(left, 0, tile), x1 = std::clamp(left + plan_.fit_width, 0, tile);
    const int y0 = std::clamp(top, 0, tile), y1 = std::clamp(top + plan_.fit_height, 0, tile);
    if (x1 - x0 < tile || y1 - y0 < tile) {
        for (int i = 0; i < tile * tile; ++i)
            std::memcpy(out + static_cast<size_t>(i) * 3, params_.pad_rgb, 3);
    }
    if (x0 >= x1) return;
    for (int y = y0; y < y1; ++y) {
        const size_t from = static_cast<size_t>(y - top) * plan_.fit_width + (x0 - left);
        std::memcpy(out + (static_cast<size_t>(y) * tile + x0) * 3, fitted_.data() + from * 3,
                    static_cast<size_t>(x1 - x0) * 3);
    }
}

}  // namespace bluelm
