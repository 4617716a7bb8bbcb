// Resize, byte for byte against a plain two-pass version of Pillow's 8-bit arithmetic.
#include <algorithm>
#include <cmath>
#include <vector>

#include "bluelm.h"
#include "check.h"

namespace {

using Image = std::vector<uint8_t>;

double filter_value(int filter, double x) {
    x = std::fabs(x);
    if (filter == BLUELM_FILTER_BILINEAR) return x < 1 ? 1 - x : 0;
    const double a = -0.5;
    if (x < 1) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

// One line of n_in samples with a step between them -> n_out samples.
void resize_line(const uint8_t* in, int n_in, size_t in_step, uint8_t* out, int n_out, size_t out_step,
                 int filter) {
    const double scale = static_cast<double>(n_in) / n_out, stretch = std::max(scale, 1.0),
                 inverse = 1.0 / stretch;
    const double support = (filter == BLUELM_FILTER_BILINEAR ? 1.0 : 2.0) * stretch;
    for (int i = 0; i < n_out; ++i) {
        const double center = (i + 0.5) * scale;
        const int first = std::max(static_cast<int>(center - support + 0.5), 0);
        const int last = std::min(static_cast<int>(center + support + 0.5), n_in);
        double sum = 0;
        for (int k = first; k < last; ++k) sum += filter_value(filter, (k - center + 0.5) * inverse);
        int64_t total = 1 << 21;
        for (int k = first; k < last; ++k) {
            const double w = filter_value(filter, (k - center + 0.5) * inverse) / sum * (1 << 22);
            total += static_cast<int64_t>(w < 0 ? w - 0.5 : w + 0.5) * in[static_cast<size_t>(k) * in_step];
        }
        out[static_cast<size_t>(i) * out_step] =
            static_cast<uint8_t>(std::min<int64_t>(255, std::max<int64_t>(0, total >> 22)));
    }
}

size_t at(int x, int y, int width) {
    return 3 * (static_cast<size_t>(y) * static_cast<size_t>(width) + static_cast<size_t>(x));
}

Image resize_wide(const Image& in, int w, int h, int out_w, int filter) {
    Image out(at(0, h, out_w));
    for (int y = 0; y < h; ++y)
        for (size_t c = 0; c < 3; ++c)
            resize_line(&in[at(0, y, w) + c], w, 3, &out[at(0, y, out_w) + c], out_w, 3, filter);
    return out;
}

Image resize_high(const Image& in, int w, int h, int out_h, int filter) {
    Image out(at(0, out_h, w));
    const size_t step = at(0, 1, w);
    for (int x = 0; x < w; ++x)
        for (size_t c = 0; c < 3; ++c)
            resize_line(&in[at(x, 0, w) + c], h, step, &out[at(x, 0, w) + c], out_h, step, filter);
    return out;
}

// Pillow 13: the vertical pass comes first where the height shrinks by more than twice what the width does; a
// pass that would change nothing is left out.
Image reference(const Image& in, int w, int h, int out_w, int out_h, int filter) {
    if (w == out_w) return h == out_h ? in : resize_high(in, w, h, out_h, filter);
    if (h == out_h) return resize_wide(in, w, h, out_w, filter);
    if (h > out_h && h - out_h > 2 * (w - out_w))
        return resize_wide(resize_high(in, w, h, out_h, filter), w, out_h, out_w, filter);
    return resize_high(resize_wide(in, w, h, out_w, filter), out_w, h, out_h, filter);
}

void compare(int w, int h, int out_w, int out_h, int filter) {
    Image in(3 * static_cast<size_t>(w) * static_cast<size_t>(h));
    for (uint8_t& value : in) value = static_cast<uint8_t>(check::uniform(0, 255));
    if (check::uniform(0, 1))  // hard edges overshoot, which has to be clipped
        for (uint8_t& value : in) value = value < 128 ? 0 : 255;
    Image out(3 * static_cast<size_t>(out_w) * static_cast<size_t>(out_h));
    const bluelm_status status = bluelm_resize_rgb8(in.data(), w, h, out.data(), out_w, out_h, filter);
    CHECK_F(status == BLUELM_OK, "%s", bluelm_last_error());
    CHECK_F(out == reference(in, w, h, out_w, out_h, filter), "%d x %d -> %d x %d, filter %d", w, h, out_w,
            out_h, filter);
}

}  // namespace

int main() {
    for (const int filter : {BLUELM_FILTER_BICUBIC, BLUELM_FILTER_BILINEAR}) {
        compare(1, 1, 5, 3, filter);
        compare(97, 61, 97, 61, filter);
        compare(200, 3, 64, 3, filter);
        compare(7, 150, 7, 64, filter);
        for (int i = 0; i < 12; ++i)
            compare(check::uniform(1, 180), check::uniform(1, 180), check::uniform(1, 140),
                    check::uniform(1, 140), filter);
    }
    uint8_t pixel[3] = {};
    CHECK(bluelm_resize_rgb8(pixel, 0, 1, pixel, 1, 1, BLUELM_FILTER_BICUBIC) == BLUELM_ERR_INVALID_ARGUMENT);
    CHECK(bluelm_resize_rgb8(pixel, 1, 1, pixel, 1, 1, 7) == BLUELM_ERR_INVALID_ARGUMENT);
    return check::finish();
}
