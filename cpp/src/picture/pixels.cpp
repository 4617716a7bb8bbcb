#include "picture/pixels.h"

#include <cstddef>

namespace bluelm {

Pixels::Pixels(int image_size, int patch_size, const float (&mean)[3], const float (&std)[3])
    : side_(image_size), patch_(patch_size), grid_(image_size / patch_size) {
    for (int channel = 0; channel < 3; ++channel) {
        for (int v = 0; v < 256; ++v) {
            const float unit = static_cast<float>(v) / 255.0f;
            value_[channel][v] = (unit - mean[channel]) / std[channel];
        }
    }
}

void Pixels::patch(const uint8_t* tile, int index, float* out) const {
    const int top = index / grid_ * patch_, left = index % grid_ * patch_, plane = patch_ * patch_;
    for (int y = 0; y < patch_; ++y) {
        const uint8_t* pixel = tile + 3 * (static_cast<size_t>(top + y) * static_cast<size_t>(side_) +
                                           static_cast<size_t>(left));
        for (int x = 0; x < patch_; ++x, ++out, pixel += 3) {
            for (int channel = 0; channel < 3; ++channel)
                out[channel * plane] = value_[channel][pixel[channel]];
        }
    }
}

void Pixels::planes(const uint8_t* tile, float* out) const {
    const size_t plane = static_cast<size_t>(side_) * static_cast<size_t>(side_);
    for (size_t i = 0; i < plane; ++i, ++out, tile += 3) {
        for (size_t channel = 0; channel < 3; ++channel)
            out[channel * plane] = value_[channel][tile[channel]];
    }
}

}  // namespace bluelm
