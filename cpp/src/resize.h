// Antialiased resize of 8-bit RGB, byte for byte what Pillow's Image.resize(BICUBIC / BILINEAR) gives.
#pragma once

#include <cstdint>

#include "bluelm.h"

namespace bluelm {

// src [src_height, src_width, 3], dst [dst_height, dst_width, 3], both packed; filter is BLUELM_FILTER_*.
// Sides are at least 1. Memory beyond src and dst is a few rows, never a whole picture.
void resize_rgb8(const uint8_t* src, int src_width, int src_height, uint8_t* dst, int dst_width, int dst_height,
                 int filter);

}  // namespace bluelm
