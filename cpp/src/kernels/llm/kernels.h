// The language model's matmuls: which functions a CPU gets. All products are
//
//     out [n, n_out] = x [n, n_in] * W^T      W packed (kernels/llm/pack.h), x and out float32
//
// in two forms. Few rows (decoding): the weights are read once, at 4 bits, and multiplied as integers with
// activations of 8 bits that share a scale per 32. Many rows (prefill): a strip of weights is spread out in
// cache, to bf16 or 8 bits, and multiplied with all rows.
#ifndef BLUELM_LLM_KERNELS_H
#define BLUELM_LLM_KERNELS_H

#include <cstddef>
#include <cstdint>

#include "kernels/cpu_level.h"
#include "kernels/llm/pack.h"

namespace bluelm {

// Rows of float32 that a ggml tensor holds, whatever its strides.
struct LlmRows {
    const char* data;
    int64_t ne1, ne2;
    size_t nb1, nb2, nb3;
    const float* operator[](int64_t i) const {
        const auto i1 = static_cast<size_t>(i % ne1), i23 = static_cast<size_t>(i / ne1);
        const auto n2 = static_cast<size_t>(ne2);
        return reinterpret_cast<const float*>(data + i1 * nb1 + i23 % n2 * nb2 + i23 / n2 * nb3);
    }
};

// One row of activations for few rows: n_in values of 8 bits, then a scale per 32, then the sum of each 16
// values times their scale. A row with NaN or infinity in a block gets the scale NaN there.
struct LlmSmallRow {
    const int8_t* q;
    const float* scale;
    const float* sum;
};
constexpr size_t llm_small_row_bytes(int64_t n_in) {
    return (static_cast<size_t>(n_in) + static_cast<size_t>(n_in / 32) * 12 + 63) / 64 * 64;
}
inline LlmSmallRow llm_small_row(const uint8_t* row, int64_t n_in) {
    const auto* scale = reinterpret_cast<const float*>(row + n_in);
    return {reinterpret_cast<const int8_t*>(row), scale, scale + n_in / 32};
}

// A strip of the big product that one thread computes.
struct LlmStrip {
    LlmType type;
    int64_t n_in, n_out, n_rows;
    const uint8_t* activations;  // as `convert` left them
    const uint8_t* packed;
    int64_t first_panel, last_panel;
    float* out;  // [n_rows, n_out]
    uint8_t* scratch;
};

struct LlmKernels {
    const char* name;

    // Few rows. `quantise` does cells first..last of a row; `small` one panel for n_rows rows (row_stride
    // bytes apart), out [n_rows, out_stride] of which n_valid outputs are written.
    void (*quantise)(const float* x, int64_t n_in, int64_t first, int64_t last, uint8_t* row);
    void (*small)(LlmType type, const uint8_t* panel, int64_t n_in, const uint8_t* rows, size_t row_stride,
                  int64_t n_rows, float* out, int64_t out_stride, int64_t n_valid);

    // Many rows: from `big_from` on; big == nullptr: never. `convert` does row groups first..last of
    // `row_group` rows each, the last one filled up with zeros.
    int64_t big_from, row_group;
    size_t (*activation_bytes)(LlmType type, int64_t n_rows, int64_t n_in);
    size_t (*scratch_bytes)(LlmType type, int64_t n_in);
    void (*convert)(LlmType type, const LlmRows& x, int64_t n_rows, int64_t n_in, int64_t first, int64_t last,
                    uint8_t* activations);
    void (*big)(const LlmStrip& strip);
    int64_t big_panels = 2;  // that are multiplied at a time: strips are whole numbers of them
};

// The plain C++ form of the small product: the reference that the others are tested against.
const LlmKernels& llm_kernels_reference();

#if defined(__x86_64__) && defined(__GNUC__)
const LlmKernels& llm_kernels_avx2();
const LlmKernels& llm_kernels_avx_vnni();
const LlmKernels& llm_kernels_avx512_vnni();
const LlmKernels& llm_kernels_amx();
#elif defined(__aarch64__) && defined(__GNUC__)
const LlmKernels& llm_kernels_dotprod();
const LlmKernels& llm_kernels_i8mm();
#endif

// What a level gets; the reference where there is nothing better.
const LlmKernels& llm_kernels_at(CpuLevel level);

}  // namespace bluelm

#endif  // BLUELM_LLM_KERNELS_H
