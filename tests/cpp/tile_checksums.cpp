// Prints the CRC-32 of the views that the tiler cuts from made-up pictures, one line per size: what tests/arm
// compares between CPUs, bit for bit. Not a test by itself.
//
//     tile_checksums WIDTHxHEIGHT...
#include <cstdint>
#include <cstdio>
#include <vector>

#include "bluelm.h"

int main(int argc, char** argv) {
    for (int i = 1; i < argc; ++i) {
        int width = 0, height = 0;
        bluelm_tiler_params params;
        bluelm_tile_plan plan = {};
        if (std::sscanf(argv[i], "%dx%d", &width, &height) != 2 ||
            bluelm_tiler_params_default(&params) != BLUELM_OK ||
            bluelm_tiler_plan(&params, width, height, &plan) != BLUELM_OK) {
            std::fprintf(stderr, "%s: not WIDTHxHEIGHT\n", argv[i]);
            return 2;
        }
        std::vector<uint8_t> rgb(3 * static_cast<size_t>(width) * static_cast<size_t>(height));
        for (size_t k = 0; k < rgb.size(); ++k)
            rgb[k] = static_cast<uint8_t>(static_cast<uint32_t>(k) * 2654435761u >> 21);
        std::vector<uint8_t> views(3 * static_cast<size_t>(plan.tile) * static_cast<size_t>(plan.tile) *
                                   static_cast<size_t>(plan.n_tiles));
        if (bluelm_tiler_cut(&params, &plan, rgb.data(), 0, plan.n_tiles, views.data(), views.size()) !=
            BLUELM_OK) {
            std::fprintf(stderr, "%s: %s\n", argv[i], bluelm_last_error());
            return 1;
        }
        uint32_t crc = 0xffffffffu;
        for (const uint8_t byte : views) {
            crc ^= byte;
            for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (0xedb88320u & (0u - (crc & 1u)));
        }
        std::printf("%s %d:%d %08x\n", argv[i], plan.cols, plan.rows, ~crc);
    }
    return 0;
}
