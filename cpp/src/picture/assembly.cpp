#include "picture/assembly.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>

namespace bluelm {

namespace {

constexpr double kShrinkAbove = 1.1;  // a map that is larger by less than this in each direction stays

// Python's int(round(x, 7)) for x >= 0: round to a decimal of seven digits, then drop them.
int rounded_down(double x) {
    char text[64];
    std::snprintf(text, sizeof text, "%.7f", x);
    return static_cast<int>(std::strtol(text, nullptr, 10));
}

// Python's int(a // b) for positive numbers, which is not always floor(a / b).
int floor_divide(int a, double b) {
    const double quotient = (a - std::fmod(static_cast<double>(a), b)) / b;
    double whole = std::floor(quotient);
    if (quotient - whole > 0.5) whole += 1.0;
    return static_cast<int>(whole);
}

// What of the map shows the picture. unpad_image: the padding's width is found from the aspect alone and
// rounded down, and as much is cut off on either side. Of a picture that is very thin nothing may be left.
void crop(const bluelm_tile_plan& plan, Assembly& a) {
    const bool stretched =
        plan.fit_width == plan.cols * plan.tile && plan.fit_height == plan.rows * plan.tile;
    if (stretched) return;
    const double aspect = static_cast<double>(plan.width) / plan.height;
    const double map_aspect = static_cast<double>(a.width) / a.height;
    if (aspect > map_aspect) {
        const double scale = static_cast<double>(a.width) / plan.width;
        const int margin = std::max(0, (a.height - rounded_down(plan.height * scale)) / 2);
        a.height -= 2 * margin;
        a.top = plan.pad_top > 0 ? margin : 0;
    } else {
        const double scale = static_cast<double>(a.height) / plan.height;
        const int margin = std::max(0, (a.width - rounded_down(plan.width * scale)) / 2);
        a.width -= 2 * margin;
        a.left = plan.pad_left > 0 ? margin : 0;
    }
}

// One output row or column of torch's bilinear interpolation (align_corners false, no antialiasing): between
// which two inputs it lies, and the weight of the second.
struct Between {
    int first, second;
    float weight;
};

Between between(int index, int n_out, int n_in) {
    const float scale = static_cast<float>(n_in) / static_cast<float>(n_out);
    const float at = std::max(0.0f, scale * (static_cast<float>(index) + 0.5f) - 0.5f);
    const int first = std::min(static_cast<int>(at), n_in - 1);
    const float weight = std::clamp(at - static_cast<float>(first), 0.0f, 1.0f);
    return {first, std::min(first + 1, n_in - 1), weight};
}

// The features of the map's token (row, col).
class TokenMap {
public:
    TokenMap(const Assembly& a, const float* features, int n_embd)
        : a_(a), features_(features), n_embd_(static_cast<size_t>(n_embd)) {}

    const float* at(int row, int col) const {
        const int side = a_.params.side;
        const int tile = row / side * a_.cols + col / side;
        const int view = tile + (a_.thumbnail_index == 0 ? 1 : 0);
        const int y = row % side, x = col % side;
        const int token = a_.params.column_major ? x * side + y : y * side + x;
        return features_ + (static_cast<size_t>(view) * side * side + static_cast<size_t>(token)) * n_embd_;
    }

private:
    const Assembly& a_;
    const float* features_;
    size_t n_embd_;
};

}  // namespace

Assembly plan_assembly(const AssemblyParams& params, const bluelm_tile_plan& plan) {
    Assembly a;
    a.params = params;
    a.n_views = plan.n_tiles;
    a.thumbnail_index = plan.thumbnail_index;
    a.cols = plan.cols;
    a.rows = plan.rows;
    const int64_t per_view = static_cast<int64_t>(params.side) * params.side;
    a.n_tokens = plan.n_tiles * per_view;
    if (!params.anyres) return a;
    if (plan.n_tiles == 1) {  // one newline behind the only view
        ++a.n_tokens;
        return a;
    }
    a.stitched = true;
    a.height = plan.rows * params.side;
    a.width = plan.cols * params.side;
    crop(plan, a);
    a.out_height = a.height;
    a.out_width = a.width;
    if (params.max_tiles > 0) {
        const double ratio = std::sqrt(static_cast<double>(static_cast<int64_t>(a.height) * a.width) /
                                       static_cast<double>(params.max_tiles * per_view));
        if (ratio > kShrinkAbove) {
            a.out_height = std::max(1, floor_divide(a.height, ratio));
            a.out_width = std::max(1, floor_divide(a.width, ratio));
        }
    }
    a.n_tokens = static_cast<int64_t>(a.out_height) * (a.out_width + 1);
    if (plan.thumbnail_index >= 0) a.n_tokens += per_view;
    return a;
}

void assemble(const Assembly& a, const float* features, const float* newline, int32_t n_embd, float* out) {
    const size_t n = static_cast<size_t>(n_embd);
    const size_t view_floats = static_cast<size_t>(a.params.side) * a.params.side * n;
    if (!a.stitched) {
        out = std::copy(features, features + static_cast<size_t>(a.n_views) * view_floats, out);
        if (a.params.anyres) std::copy(newline, newline + n, out);
        return;
    }
    const auto copy_thumbnail = [&] {
        const float* from = features + static_cast<size_t>(a.thumbnail_index) * view_floats;
        out = std::copy(from, from + view_floats, out);
    };
    if (a.thumbnail_index == 0) copy_thumbnail();
    const TokenMap map(a, features, n_embd);
    const bool shrunk = a.out_height != a.height || a.out_width != a.width;
    for (int row = 0; row < a.out_height; ++row) {
        const Between y = between(row, a.out_height, a.height);
        for (int col = 0; col < a.out_width; ++col, out += n) {
            if (!shrunk) {
                const float* from = map.at(a.top + row, a.left + col);
                std::copy(from, from + n, out);
                continue;
            }
            const Between x = between(col, a.out_width, a.width);
            const float* top_left = map.at(a.top + y.first, a.left + x.first);
            const float* top_right = map.at(a.top + y.first, a.left + x.second);
            const float* low_left = map.at(a.top + y.second, a.left + x.first);
            const float* low_right = map.at(a.top + y.second, a.left + x.second);
            for (size_t i = 0; i < n; ++i) {
                const float top = (1 - x.weight) * top_left[i] + x.weight * top_right[i];
                const float low = (1 - x.weight) * low_left[i] + x.weight * low_right[i];
                out[i] = (1 - y.weight) * top + y.weight * low;
            }
        }
        out = std::copy(newline, newline + n, out);
    }
    if (a.thumbnail_index > 0) copy_thumbnail();
}

}  // namespace bluelm
