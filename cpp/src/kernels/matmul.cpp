// The table of matmul kernels, packing, and the plain reference.
#include "kernels/matmul.h"

#include <algorithm>
#include <cstring>

namespace bluelm {
namespace {

float bf16_to_float(uint16_t value) {
    const uint32_t bits = static_cast<uint32_t>(value) << 16;
    float f;
    std::memcpy(&f, &bits, sizeof f);
    return f;
}

float to_number(float x) { return x; }
float to_number(uint16_t x) { return bf16_to_float(x); }
int32_t to_number(int8_t x) { return x; }

constexpr int kRows = 4, kColumns = 16;

// The reference: group = elements in a dword.
template <class Element, class Sum>
void multiply(const void* x, size_t x_stride, const void* panel, int64_t k, void* c, size_t c_stride, int) {
    constexpr int kGroup = 4 / static_cast<int>(sizeof(Element));
    Sum sums[kRows][kColumns] = {};
    const Element* w = static_cast<const Element*>(panel);
    for (int64_t first = 0; first < k; first += kGroup, w += kColumns * kGroup) {
        for (int r = 0; r < kRows; ++r) {
            Element group[kGroup];
            std::memcpy(group,
                        static_cast<const char*>(x) + static_cast<size_t>(r) * x_stride +
                            static_cast<size_t>(first) * sizeof(Element),
                        sizeof group);
            for (int i = 0; i < kColumns; ++i) {
                for (int j = 0; j < kGroup; ++j)
                    sums[r][i] += to_number(group[j]) * to_number(w[i * kGroup + j]);
            }
        }
    }
    for (int r = 0; r < kRows; ++r)
        std::memcpy(static_cast<Sum*>(c) + static_cast<size_t>(r) * c_stride, sums[r], sizeof sums[r]);
}

constexpr MatmulKernel kInt8 = {"generic int8", kRows,  kColumns, 4, 0, multiply<int8_t, int32_t>,
                                nullptr,        nullptr};
constexpr MatmulKernel kBf16 = {"generic bf16", kRows,  kColumns, 2, 0, multiply<uint16_t, float>,
                                nullptr,        nullptr};
constexpr MatmulKernel kF32 = {"generic f32",          kRows,   kColumns, 1, 0,
                               multiply<float, float>, nullptr, nullptr};

// to[j * columns + i] = row i, dword j. In blocks that stay in the first-level cache.
void transpose_dwords(const char* rows, size_t stride, int n_rows, int64_t n_dwords, int columns,
                      uint32_t* to) {
    constexpr int kBlock = 16;
    for (int64_t first = 0; first < n_dwords; first += kBlock) {
        const int count = static_cast<int>(std::min<int64_t>(kBlock, n_dwords - first));
        for (int i = 0; i < columns; ++i) {
            uint32_t block[kBlock] = {};
            if (i < n_rows)
                std::memcpy(block, rows + static_cast<size_t>(i) * stride + 4 * first,
                            4 * static_cast<size_t>(count));
            uint32_t* out = to + first * columns + i;
            for (int j = 0; j < count; ++j) out[j * columns] = block[j];
        }
    }
}

}  // namespace

const MatmulKernel* matmul_kernel(MatmulType type, CpuLevel level) {
    switch (level) {
        case CpuLevel::kGeneric:
            return type == MatmulType::kInt8 ? &kInt8 : type == MatmulType::kBf16 ? &kBf16 : &kF32;
        case CpuLevel::kAmx:
            if (const MatmulKernel* kernel = matmul_kernel_amx(type)) return kernel;
            return matmul_kernel_x86(type, level);
        default: return matmul_kernel_x86(type, level);
    }
}

size_t panel_bytes(const MatmulKernel& kernel, MatmulType type, int64_t k) {
    const size_t columns = static_cast<size_t>(kernel.columns);
    return columns * static_cast<size_t>(k) * matmul_element_bytes(type) +
           (kernel.x_flip ? columns * sizeof(int32_t) : 0);
}

void pack_panel(const MatmulKernel& kernel, MatmulType type, const void* rows, size_t stride, int n_rows,
                int64_t k, void* panel) {
    char* out = static_cast<char*>(panel);
    const char* from = static_cast<const char*>(rows);
    if (kernel.x_flip) {
        auto* start = reinterpret_cast<int32_t*>(out);
        for (int i = 0; i < kernel.columns; ++i) {
            int32_t sum = 0;
            const auto* row = reinterpret_cast<const int8_t*>(from + static_cast<size_t>(i) * stride);
            for (int64_t j = 0; i < n_rows && j < k; ++j) sum += row[j];
            start[i] = -128 * sum;
        }
        out += static_cast<size_t>(kernel.columns) * sizeof(int32_t);
    }
    const int64_t n_dwords = k * static_cast<int64_t>(matmul_element_bytes(type)) / 4;
    transpose_dwords(from, stride, n_rows, n_dwords, kernel.columns, reinterpret_cast<uint32_t*>(out));
}

void pack_panel_transposed(const MatmulKernel& kernel, MatmulType type, const void* from, size_t stride,
                           int n_columns, int64_t n_k, int64_t k, void* panel) {
    const size_t columns = static_cast<size_t>(kernel.columns), count = static_cast<size_t>(n_columns);
    const char* row = static_cast<const char*>(from);
    if (type == MatmulType::kF32) {
        float* out = static_cast<float*>(panel);
        for (int64_t j = 0; j < k; ++j, row += stride, out += columns) {
            const size_t n = j < n_k ? count : 0;
            if (n) std::memcpy(out, row, n * sizeof(float));
            std::fill(out + n, out + columns, 0.0f);
        }
        return;
    }
    uint16_t* out = static_cast<uint16_t*>(panel);  // pairs of k
    for (int64_t j = 0; j < k; j += 2, row += 2 * stride, out += 2 * columns) {
        uint16_t even[64] = {}, odd[64] = {};  // columns <= 64
        if (j < n_k) std::memcpy(even, row, count * sizeof(uint16_t));
        if (j + 1 < n_k) std::memcpy(odd, row + stride, count * sizeof(uint16_t));
        for (size_t i = 0; i < columns; ++i) {
            out[2 * i] = even[i];
            out[2 * i + 1] = odd[i];
        }
    }
}

}  // namespace bluelm
