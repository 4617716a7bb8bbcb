// The tiler: plans against Algorithm 1 written down anew, and every pixel of the views against a canvas that
// is put together whole.
#include <algorithm>
#include <cstring>
#include <vector>

#include "bluelm.h"
#include "check.h"

namespace {

bluelm_tile_plan plan(const bluelm_tiler_params& params, int width, int height) {
    bluelm_tile_plan out = {};
    CHECK_F(bluelm_tiler_plan(&params, width, height, &out) == BLUELM_OK, "%s", bluelm_last_error());
    return out;
}

// Paper, Algorithm 1, over 1..4 x 1..4 with more tiles first and then more columns, tile 384, alpha 0.1.
void relaxed(int width, int height, int* cols, int* rows) {
    long best_effective = 0, best_wasted = 1L << 62;
    for (int n = 16; n >= 1; --n) {
        for (int c = 4; c >= 1; --c) {
            if (n % c || n / c > 4) continue;
            const int r = n / c;
            const double scale = std::min(384.0 * c / width, 384.0 * r / height);
            const long fitted = std::max(1L, static_cast<long>(width * scale)) *
                                std::max(1L, static_cast<long>(height * scale));
            const long effective = std::min(fitted, static_cast<long>(width) * height);
            const long wasted = 384L * 384 * n - effective;
            const double margin = 0.1 * static_cast<double>(best_effective);
            if (static_cast<double>(effective - best_effective) > margin ||
                (static_cast<double>(best_effective - effective) < margin && wasted < best_wasted)) {
                best_effective = effective;
                best_wasted = wasted;
                *cols = c;
                *rows = r;
            }
        }
    }
}

void test_plans() {
    bluelm_tiler_params params;
    CHECK(bluelm_tiler_params_default(&params) == BLUELM_OK);
    // Paper, section 3.2: enlarging 394 x 390 to 2:2 wins LLaVA-NeXT nothing that one tile does not show.
    CHECK(plan(params, 394, 390).n_tiles == 1);
    CHECK(plan(params, 380, 76).n_tiles == 1);
    CHECK(plan(params, 768, 1536).cols == 2 && plan(params, 768, 1536).rows == 4);
    for (int i = 0; i < 400; ++i) {
        const int limit = i % 2 ? 2000 : 20000;
        const int width = check::uniform(1, limit), height = check::uniform(1, limit);
        int cols = 0, rows = 0;
        relaxed(width, height, &cols, &rows);
        const bluelm_tile_plan p = plan(params, width, height);
        CHECK_F(p.cols == cols && p.rows == rows, "%d x %d: %d:%d, expected %d:%d", width, height, p.cols,
                p.rows, cols, rows);
        CHECK(p.n_tiles == cols * rows + (cols * rows > 1) && p.fit_width <= 384 * cols &&
              p.fit_height <= 384 * rows);
    }
    bluelm_tile_plan out = {};
    CHECK(bluelm_tiler_plan(&params, 0, 5, &out) == BLUELM_ERR_INVALID_ARGUMENT);
    CHECK(bluelm_tiler_plan(&params, 5, 20001, &out) == BLUELM_ERR_INVALID_ARGUMENT);
}

void test_pixels(int method, int fit, int thumbnail) {
    bluelm_tiler_params params;
    bluelm_tiler_params_default(&params);
    params.tile = 32;
    params.method = method;
    params.fit = fit;
    params.thumbnail = thumbnail;
    for (uint8_t& channel : params.pad_rgb) channel = static_cast<uint8_t>(check::uniform(0, 255));
    const int width = check::uniform(1, 150), height = check::uniform(1, 150);
    std::vector<uint8_t> rgb(3 * static_cast<size_t>(width) * static_cast<size_t>(height));
    for (uint8_t& value : rgb) value = static_cast<uint8_t>(check::uniform(0, 255));
    const bluelm_tile_plan p = plan(params, width, height);

    // The whole canvas, then tiles cut from it.
    const int cw = p.cols * p.tile, ch = p.rows * p.tile;
    std::vector<uint8_t> canvas(3 * static_cast<size_t>(cw) * static_cast<size_t>(ch));
    for (size_t i = 0; i < canvas.size(); ++i) canvas[i] = params.pad_rgb[i % 3];
    std::vector<uint8_t> fitted(3 * static_cast<size_t>(p.fit_width) * static_cast<size_t>(p.fit_height));
    bluelm_resize_rgb8(rgb.data(), width, height, fitted.data(), p.fit_width, p.fit_height, params.filter);
    const auto row = [](int x, int y, int w) {
        return 3 * (static_cast<size_t>(y) * static_cast<size_t>(w) + x);
    };
    for (int y = 0; y < p.fit_height; ++y)
        std::memcpy(&canvas[row(p.pad_left, y + p.pad_top, cw)], &fitted[row(0, y, p.fit_width)],
                    3 * static_cast<size_t>(p.fit_width));

    const size_t view = 3 * static_cast<size_t>(p.tile) * static_cast<size_t>(p.tile);
    std::vector<uint8_t> views(view * static_cast<size_t>(p.n_tiles)), expected(view);
    CHECK_F(bluelm_tiler_cut(&params, &p, rgb.data(), 0, p.n_tiles, views.data(), views.size()) == BLUELM_OK,
            "%s", bluelm_last_error());
    int tile = 0;
    for (int i = 0; i < p.n_tiles; ++i) {
        if (i == p.thumbnail_index) {
            bluelm_resize_rgb8(rgb.data(), width, height, expected.data(), p.tile, p.tile, params.filter);
        } else {
            const int x = tile % p.cols * p.tile, y = tile / p.cols * p.tile;
            for (int line = 0; line < p.tile; ++line)
                std::memcpy(&expected[row(0, line, p.tile)], &canvas[row(x, y + line, cw)],
                            3 * static_cast<size_t>(p.tile));
            ++tile;
        }
        CHECK_F(std::memcmp(expected.data(), &views[view * static_cast<size_t>(i)], view) == 0,
                "%d x %d, method %d, fit %d: view %d of %d:%d", width, height, method, fit, i, p.cols,
                p.rows);
    }
    CHECK(tile == p.cols * p.rows);
    CHECK(bluelm_tiler_cut(&params, &p, rgb.data(), 0, p.n_tiles + 1, views.data(), views.size()) ==
          BLUELM_ERR_INVALID_ARGUMENT);
}

}  // namespace

int main() {
    test_plans();
    for (const int method : {BLUELM_TILER_RELAXED, BLUELM_TILER_LLAVA_NEXT, BLUELM_TILER_INTERNVL})
        for (const int fit : {BLUELM_FIT_PAD_CENTER, BLUELM_FIT_PAD_TOP_LEFT, BLUELM_FIT_STRETCH})
            for (const int thumbnail : {BLUELM_THUMBNAIL_NONE, BLUELM_THUMBNAIL_FIRST, BLUELM_THUMBNAIL_LAST})
                for (int i = 0; i < 3; ++i) test_pixels(method, fit, thumbnail);
    return check::finish();
}
