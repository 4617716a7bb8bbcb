// Picture files to RGB pixels, with stb_image: PNG, JPEG, BMP, GIF (its first frame) and PPM.
//
// The same rules as bluelm_gguf/pictures/images.py: the EXIF orientation of a JPEG is applied, transparency
// is laid on white, greys are repeated. Lossless files give the same pixels as there; a JPEG may differ by a
// level here and there, since two decoders round differently.
#ifndef BLUELM_TOOLS_PICTURE_H
#define BLUELM_TOOLS_PICTURE_H

#include <cstdint>
#include <string>
#include <vector>

struct Picture {
    int width = 0, height = 0;
    std::vector<uint8_t> rgb;  // [height, width, 3]
};

// Throws Failure with the one line to print: missing, empty, no picture, too large.
Picture load_picture(const std::string& path);

#endif  // BLUELM_TOOLS_PICTURE_H
