// What every AMX kernel needs: the configuration of eight full tiles, without GCC's bug. Internal to kernels;
// included before BLUELM_TARGET_BEGIN.
#ifndef BLUELM_AMX_TILES_H
#define BLUELM_AMX_TILES_H

#include <cstdint>

namespace bluelm {
namespace {

// palette 1, eight tiles of 16 rows x 64 bytes
struct alignas(64) TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t column_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64, "what ldtilecfg reads");

// GCC before 12.4 tells its optimiser that _tile_loadconfig reads 8 bytes (bug 114098); this reads memory.
inline void load_config(const TileConfig& config) {
    __asm__ volatile("ldtilecfg %0" ::"m"(config) : "memory");
}
inline void release_tiles() { __asm__ volatile("tilerelease" ::: "memory"); }

}  // namespace
}  // namespace bluelm

#endif  // BLUELM_AMX_TILES_H
