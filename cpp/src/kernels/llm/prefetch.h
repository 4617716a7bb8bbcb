// Few rows run at the speed of memory, if it is asked in time: a core's own prefetchers stop at the ends of
// pages, and what a cell costs in arithmetic leaves too few loads on their way. So while a panel is
// multiplied, the one behind it is brought into the second-level cache, cell by cell, in the order of memory.
// Whoever calls for panels one after the other reads them at full speed; beyond the last one, a panel is
// asked for in vain.
#ifndef BLUELM_LLM_PREFETCH_H
#define BLUELM_LLM_PREFETCH_H

#include "kernels/llm/pack.h"

namespace bluelm {
namespace {

// What a cell and its scales take of the panel at `next`. parts > 1: only part `part` of the panel, for
// kernels that pass over a panel more than once.
template <LlmType type, int parts = 1>
__attribute__((always_inline)) inline void prefetch_cell(const uint8_t* next, int64_t n_in, int64_t cell,
                                                         int64_t part = 0) {
    constexpr size_t kBytes = (llm_cell_bytes(type) + llm_scale_bytes(type, 8) / 8) / parts;
    const uint8_t* at =
        next + (static_cast<size_t>(part * (n_in / kCellInputs)) + static_cast<size_t>(cell)) * kBytes;
#pragma GCC unroll 9
    for (size_t line = 0; line < kBytes; line += 64) __builtin_prefetch(at + line, 0, 2);
}

}  // namespace
}  // namespace bluelm

#endif  // BLUELM_LLM_PREFETCH_H
