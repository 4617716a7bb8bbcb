// Sizes rounded up.
#ifndef BLUELM_ROUND_UP_H
#define BLUELM_ROUND_UP_H

#include <cstddef>
#include <cstdint>

namespace bluelm {

constexpr int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// To whole cache lines, which memory for matrices is aligned to.
constexpr size_t whole_lines(size_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace bluelm

#endif  // BLUELM_ROUND_UP_H
