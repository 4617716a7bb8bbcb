// The table of matmul kernels, packing, and the plain reference.
#include "kernels/encoder/matmul.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/check.h"

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

typedef uint32_t Four __attribute__((vector_size(16)));
typedef uint16_t Eight __attribute__((vector_size(16)));

// Four rows of four dwords -> four columns. 128-bit vectors are in every x86-64 and every armv8-a.
inline void transpose_4x4(const char* rows, size_t stride, uint32_t* to, size_t columns) {
    Four a, b, c, d;
    std::memcpy(&a, rows, sizeof a);
    std::memcpy(&b, rows + stride, sizeof b);
    std::memcpy(&c, rows + 2 * stride, sizeof c);
    std::memcpy(&d, rows + 3 * stride, sizeof d);
    const Four ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    const Four ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    const Four cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    const Four cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    const Four out[4] = {__builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5),
                         __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7),
                         __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5),
                         __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7)};
    for (size_t j = 0; j < 4; ++j) std::memcpy(to + j * columns, &out[j], sizeof out[j]);
}

// to[j * columns + i] = row i, dword j; zeros for rows from n_rows on.
void transpose_dwords(const char* rows, size_t stride, int n_rows, int64_t n_dwords, int columns,
                      uint32_t* to) {
    for (int64_t j = 0; j < n_dwords; j += 4) {
        uint32_t* out = to + j * columns;
        const bool whole = j + 4 <= n_dwords;
        int i = 0;
        for (; whole && i + 4 <= n_rows; i += 4) {
            transpose_4x4(rows + static_cast<size_t>(i) * stride + 4 * j, stride, out + i,
                          static_cast<size_t>(columns));
        }
        for (; i < columns; ++i) {
            for (int64_t c = 0; c < 4 && j + c < n_dwords; ++c) {
                uint32_t dword = 0;
                if (i < n_rows)
                    std::memcpy(&dword, rows + static_cast<size_t>(i) * stride + 4 * (j + c), sizeof dword);
                out[c * columns + i] = dword;
            }
        }
    }
}

// The same with groups of kBytes instead of dwords.
template <size_t kBytes>
void transpose_groups(const char* rows, size_t stride, int n_rows, int64_t n_groups, int columns, char* to) {
    for (int64_t j = 0; j < n_groups; ++j, rows += kBytes) {
        for (int i = 0; i < columns; ++i, to += kBytes) {
            if (i < n_rows) {
                std::memcpy(to, rows + static_cast<size_t>(i) * stride, kBytes);
            } else {
                std::memset(to, 0, kBytes);
            }
        }
    }
}

// k: bytes of a row.
void transpose(int group, const char* rows, size_t stride, int n_rows, int64_t k, int columns, char* to) {
    switch (group) {
        case 4:
            return transpose_dwords(rows, stride, n_rows, k / 4, columns, reinterpret_cast<uint32_t*>(to));
        case 8: return transpose_groups<8>(rows, stride, n_rows, k / 8, columns, to);
        default: return transpose_groups<16>(rows, stride, n_rows, k / 16, columns, to);
    }
}

// out = pairs (even[i], odd[i]), n a multiple of 8.
void interleave(const uint16_t* even, const uint16_t* odd, size_t n, uint16_t* out) {
    for (size_t i = 0; i < n; i += 8) {
        Eight a, b;
        std::memcpy(&a, even + i, sizeof a);
        std::memcpy(&b, odd + i, sizeof b);
        const Eight low = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
        const Eight high = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
        std::memcpy(out + 2 * i, &low, sizeof low);
        std::memcpy(out + 2 * i + 8, &high, sizeof high);
    }
}

}  // namespace

const MatmulKernel* matmul_kernel(MatmulType type, CpuLevel level) {
    const bool is_int8 = type == MatmulType::kInt8, is_f32 = type == MatmulType::kF32;
    switch (level) {
        case CpuLevel::kGeneric: return is_int8 ? &kInt8 : is_f32 ? &kF32 : &kBf16;
#if defined(__x86_64__) && defined(__GNUC__)
        case CpuLevel::kAvx2: return is_int8 ? &kMatmulInt8Avx2 : is_f32 ? &kMatmulF32Avx2 : nullptr;
        case CpuLevel::kAvxVnni: return is_int8 ? &kMatmulInt8AvxVnni : is_f32 ? &kMatmulF32Avx2 : nullptr;
        case CpuLevel::kAvx512Vnni:
            return is_int8 ? &kMatmulInt8Avx512Vnni : is_f32 ? &kMatmulF32Avx512 : nullptr;
        case CpuLevel::kAvx512Bf16:
            return is_int8 ? &kMatmulInt8Avx512Vnni : is_f32 ? &kMatmulF32Avx512 : &kMatmulBf16Avx512;
        case CpuLevel::kAmx: return is_int8 ? &kMatmulInt8Amx : is_f32 ? &kMatmulF32Avx512 : &kMatmulBf16Amx;
#elif defined(__aarch64__) && defined(__GNUC__)
        case CpuLevel::kNeon: return is_int8 ? &kMatmulInt8Neon : is_f32 ? &kMatmulF32Neon : nullptr;
        case CpuLevel::kDotprod: return is_int8 ? &kMatmulInt8Dotprod : is_f32 ? &kMatmulF32Neon : nullptr;
        case CpuLevel::kI8mm:
            if (is_int8) return &kMatmulInt8I8mm;
            return is_f32 ? &kMatmulF32Neon : cpu_has_arm_bf16() ? &kMatmulBf16I8mm : nullptr;
#endif
        default: return nullptr;
    }
}

size_t panel_bytes(const MatmulKernel& kernel, MatmulType type, int64_t k) {
    const size_t columns = static_cast<size_t>(kernel.columns);
    return columns * static_cast<size_t>(k) * matmul_element_bytes(type) +
           (kernel.x_flip ? columns * sizeof(int32_t) : 0);
}

void pack_panel(const MatmulKernel& kernel, MatmulType type, const void* rows, size_t stride, int n_rows,
                int64_t k, void* panel) {
    BLUELM_CHECK(n_rows <= kernel.columns);
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
    transpose(kernel.group, from, stride, n_rows, k * static_cast<int64_t>(matmul_element_bytes(type)),
              kernel.columns, out);
}

void matmul_pack_rows(const MatmulKernel& kernel, MatmulType type, void* x, size_t stride, int64_t n_rows,
                      int64_t k) {
    if (!kernel.packs_x) return;
    const size_t row = static_cast<size_t>(k) * matmul_element_bytes(type);
    thread_local std::vector<char> packed;
    packed.resize(row * static_cast<size_t>(kernel.rows));
    char* rows = static_cast<char*>(x);
    for (int64_t r = 0; r < n_rows; r += kernel.rows, rows += static_cast<size_t>(kernel.rows) * stride) {
        transpose(kernel.group, rows, stride, kernel.rows, static_cast<int64_t>(row), kernel.rows,
                  packed.data());
        std::memcpy(rows, packed.data(), packed.size());
    }
}

void pack_panel_transposed(const MatmulKernel& kernel, MatmulType type, const void* from, size_t stride,
                           int n_columns, int64_t n_k, int64_t k, void* panel) {
    BLUELM_CHECK(n_columns <= kernel.columns && kernel.columns <= kMaxMatmulColumns);
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
    uint16_t* out = static_cast<uint16_t*>(panel);
    if (kernel.group != 4) {
        const size_t group = static_cast<size_t>(kernel.group) / sizeof(uint16_t);  // k side by side
        std::memset(out, 0, panel_bytes(kernel, type, k));
        for (int64_t j = 0; j < std::min(n_k, k); ++j, row += stride) {
            const size_t at = static_cast<size_t>(j);
            uint16_t* to = out + at / group * group * columns + at % group;
            for (size_t i = 0; i < count; ++i)
                std::memcpy(to + i * group, row + i * sizeof(uint16_t), sizeof(uint16_t));
        }
        return;
    }
    // Pairs of k.
    for (int64_t j = 0; j < k; j += 2, row += 2 * stride, out += 2 * columns) {
        uint16_t even[kMaxMatmulColumns] = {}, odd[kMaxMatmulColumns] = {};
        if (j < n_k) std::memcpy(even, row, count * sizeof(uint16_t));
        if (j + 1 < n_k) std::memcpy(odd, row + stride, count * sizeof(uint16_t));
        interleave(even, odd, columns, out);
    }
}

}  // namespace bluelm
