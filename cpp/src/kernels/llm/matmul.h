// The language model's matmuls: which functions a CPU gets. All products are
//
//     out [n, n_out] = x [n, n_in] * W^T      W packed (kernels/llm/pack.h), x and out float32
//
// in two forms. Gemv (decoding, few rows): the weights are read once, at 4 bits, and multiplied as integers
// with activations of 8 bits that share a scale per 32. Gemm (prefill, many rows): a panel of weights is
// unpacked into cache, to bf16 or 8 bits, and multiplied with all rows.
//
// A kernel's file is named by what it computes, its tile (rows x outputs) and its instruction set:
// gemv_4x16_avx2.cpp, gemm_6x32_avx512_vnni.cpp. matmul.cpp says which ones a CPU level gets.
#ifndef BLUELM_LLM_MATMUL_H
#define BLUELM_LLM_MATMUL_H

#include <cstddef>
#include <cstdint>

#include "base/round_up.h"
#include "kernels/cpu_level.h"
#include "kernels/llm/pack.h"

namespace bluelm {

// Rows of float32 that a ggml tensor holds, whatever its strides.
struct StridedRows {
    const char* data;
    int64_t ne1, ne2;
    size_t nb1, nb2, nb3;
    const float* operator[](int64_t i) const {
        const auto i1 = static_cast<size_t>(i % ne1), i23 = static_cast<size_t>(i / ne1);
        const auto n2 = static_cast<size_t>(ne2);
        return reinterpret_cast<const float*>(data + i1 * nb1 + i23 % n2 * nb2 + i23 / n2 * nb3);
    }
};

// A row of activations as gemv takes it: n_in values of 8 bits, then a scale per 32, then the sum of each 16
// values times their scale. A row with NaN or infinity in a block gets the scale NaN there.
struct LlmQ8Row {
    const int8_t* q;
    const float* scale;
    const float* sum;
};
constexpr size_t llm_q8_row_bytes(int64_t n_in) {
    return whole_lines(static_cast<size_t>(n_in) + static_cast<size_t>(n_in / 32) * 12);
}
inline LlmQ8Row llm_q8_row(const uint8_t* row, int64_t n_in) {
    const auto* scale = reinterpret_cast<const float*>(row + n_in);
    return {reinterpret_cast<const int8_t*>(row), scale, scale + n_in / 32};
}

struct LlmGemv {
    // Cells first..last of a row of x to an LlmQ8Row.
    void (*pack_x)(const float* x, int64_t n_in, int64_t first, int64_t last, uint8_t* row);
    // One panel for n_rows packed rows (row_stride bytes apart), out [n_rows, out_stride] of which n_valid
    // outputs are written.
    void (*multiply)(LlmType type, const uint8_t* panel, int64_t n_in, const uint8_t* rows, size_t row_stride,
                     int64_t n_rows, float* out, int64_t out_stride, int64_t n_valid);
};

// What one thread computes of a gemm: all rows, a run of panels.
struct LlmGemmTask {
    LlmType type;
    int64_t n_in, n_out, n_rows;
    const uint8_t* x;  // as pack_x left it
    const uint8_t* packed;
    int64_t first_panel, last_panel;
    float* out;  // [n_rows, n_out]
    uint8_t* scratch;
};

struct LlmGemm {
    int64_t from_rows;  // fewer rows are faster with gemv
    int64_t row_block;  // rows that pack_x packs together
    int64_t panels;     // multiplied at a time: tasks are whole numbers of them
    size_t (*x_bytes)(LlmType type, int64_t n_rows, int64_t n_in);
    size_t (*scratch_bytes)(LlmType type, int64_t n_in);
    // Row blocks first..last, the last one filled up with zeros.
    void (*pack_x)(LlmType type, const StridedRows& x, int64_t n_rows, int64_t n_in, int64_t first,
                   int64_t last, uint8_t* packed_x);
    void (*multiply)(const LlmGemmTask& task);
};

struct LlmKernels {
    const char* name;
    const LlmGemv* gemv;
    const LlmGemm* gemm;  // NULL: gemv for any number of rows
};

// One file each.
extern const LlmGemv kLlmGemvReference;
#if defined(__x86_64__) && defined(__GNUC__)
extern const LlmGemv kLlmGemv4x16Avx2, kLlmGemv4x16AvxVnni, kLlmGemv4x16Avx512Vnni;
extern const LlmGemm kLlmGemm4x16Avx2, kLlmGemm6x16AvxVnni, kLlmGemm6x32Avx512Vnni, kLlmGemm32x32Amx;
#elif defined(__aarch64__) && defined(__GNUC__)
extern const LlmGemv kLlmGemv4x16Dotprod;
extern const LlmGemm kLlmGemm8x12Dotprod, kLlmGemm8x12I8mm;
#endif

// Plain C++, gemv alone: the reference that the others are tested against.
const LlmKernels& llm_kernels_reference();

// What a level gets; the reference where there is nothing better.
const LlmKernels& llm_kernels_at(CpuLevel level);

}  // namespace bluelm

#endif  // BLUELM_LLM_MATMUL_H
