// How the language model's weights lie in memory: one copy, 4 (6, 8) bits as in the file, in an order that
// serves both products.
//
// A matrix of n_out rows and n_in columns (as GGUF stores it, a row per output) becomes panels of 16 outputs,
// the last one filled up with zeros. A panel is a row of cells of 16 outputs x 32 inputs, then the scales.
// A cell's values are unsigned; eight vectors of 64 bytes come out of it, vector g holding inputs 4g..4g+3 of
// each output, which is what vpdpbusd and its like multiply with four activations:
//
//     vector g:  | o0: i4g i4g+1 i4g+2 i4g+3 | o1: ... | ... | o15: ... |
//
//     Q4_0, Q4_K   4 x 64 bytes   byte vector h: low nibbles are vector 2h, high nibbles vector 2h+1
//     Q6_K         6 x 64 bytes   4 as above (low bits), then 2: bits 2j, 2j+1 of vector e belong to 4e+j
//     Q8_0         8 x 64 bytes   value + 128
//
// A weight is scale * value + offset, with one scale and offset per output and cell (Q6_K: half a cell):
//
//     Q4_0, Q8_0   per cell: 16 fp16 scales; offset -8 (-128) scales
//     Q4_K         per 8 cells: 16 fp16 d, 16 fp16 dmin, then per cell 16 bytes (low bits of the scale, of
//     the
//                  minimum << 4) and 8 bytes (high bits: scale | minimum << 2 of output i, of output i+8 <<
//                  4)
//     Q6_K         per 8 cells: 16 fp16 d, then per half cell 16 int8 scales; offset -32 scales
#ifndef BLUELM_LLM_PACK_H
#define BLUELM_LLM_PACK_H

#include <cstddef>
#include <cstdint>

#include "ggml.h"

namespace bluelm {

constexpr int64_t kPanelOutputs = 16;
constexpr int64_t kCellInputs = 32;

enum class LlmType { q4_0, q4_K, q6_K, q8_0 };
constexpr int kLlmTypes = 4;

// Whether there are kernels for a ggml type; `out` is set then.
bool llm_type(ggml_type type, LlmType* out);

constexpr size_t llm_cell_bytes(LlmType type) {
    return type == LlmType::q8_0 ? 512 : type == LlmType::q6_K ? 384 : 256;
}

// Scales of n cells in a row.
constexpr size_t llm_scale_bytes(LlmType type, int64_t n_cells) {
    return static_cast<size_t>(type == LlmType::q4_K   ? n_cells / 8 * (64 + 8 * 24)
                               : type == LlmType::q6_K ? n_cells / 8 * (32 + 8 * 32)
                                                       : n_cells * 32);
}

constexpr int64_t llm_panels(int64_t n_out) { return (n_out + kPanelOutputs - 1) / kPanelOutputs; }

// A panel, rounded up to whole cache lines.
constexpr size_t llm_panel_bytes(LlmType type, int64_t n_in) {
    const int64_t n_cells = n_in / kCellInputs;
    return (static_cast<size_t>(n_cells) * llm_cell_bytes(type) + llm_scale_bytes(type, n_cells) + 63) / 64 *
           64;
}

// From a ggml tensor's data [n_out][n_in] to panels `first`..`last` (not included), 64-byte aligned.
void llm_pack(LlmType type, const void* blocks, int64_t n_out, int64_t n_in, int64_t first, int64_t last,
              uint8_t* packed);

// One cell as the formulas above read: values [16][32], scales and offsets [2 halves][16]. The plain
// reference for everything that unpacks.
struct LlmCell {
    uint8_t value[kPanelOutputs][kCellInputs];
    float scale[2][kPanelOutputs], offset[2][kPanelOutputs];
};
void llm_unpack(LlmType type, const uint8_t* panel, int64_t n_in, int64_t cell, LlmCell* out);

}  // namespace bluelm

#endif  // BLUELM_LLM_PACK_H
