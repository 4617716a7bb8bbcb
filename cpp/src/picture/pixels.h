// From 8-bit pixels to the network's input: (value / 255 - mean) / std of its channel.
#ifndef BLUELM_PIXELS_H
#define BLUELM_PIXELS_H

#include <cstdint>

namespace bluelm {

class Pixels {
public:
    // Tiles of image_size pixels, patches of patch_size.
    Pixels(int image_size, int patch_size, const float (&mean)[3], const float (&std)[3]);

    // Patch `index` (0..728, row by row) of a tile [S, S, 3] -> out [588], in the order (c, y, x) of the
    // convolution's kernel. What no patch reaches at the right and bottom edges is dropped, as the
    // convolution does.
    void patch(const uint8_t* tile, int index, float* out) const;
    // A whole tile [S, S, 3] -> planes [3, S, S].
    void planes(const uint8_t* tile, float* out) const;

private:
    int side_, patch_, grid_;
    float value_[3][256];  // of a channel
};

}  // namespace bluelm

#endif  // BLUELM_PIXELS_H
