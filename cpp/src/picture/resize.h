// Antialiased resize of 8-bit RGB, byte for byte what Pillow's Image.resize(BICUBIC / BILINEAR) gives.
#ifndef BLUELM_RESIZE_H
#define BLUELM_RESIZE_H

#include <cstdint>

#include "bluelm.h"

namespace bluelm {

// src [src_height, src_width, 3], dst [dst_height, dst_width, 3], both packed and not overlapping; filter is
// BLUELM_FILTER_*; sides are at least 1. Memory beyond the two is a window of rows, never a whole picture.
void resize_rgb8(const uint8_t* src, int src_width, int src_height, uint8_t* dst, int dst_width,
                 int dst_height, int filter);

}  // namespace bluelm

#endif  // BLUELM_RESIZE_H
