#include "encoder/matmul_rows.h"

#include <cstring>

namespace bluelm {
namespace {

void copy_padded(const void* from, int64_t n, int64_t k, size_t element, char* to) {
    const size_t bytes = static_cast<size_t>(n) * element;
    std::memcpy(to, from, bytes);
    std::memset(to + bytes, 0, static_cast<size_t>(k) * element - bytes);
}

}  // namespace

size_t rows_bytes(const PackedLinear& linear, int64_t n) {
    return static_cast<size_t>(round_up(n, linear.kernel().rows) * linear.k()) *
           matmul_element_bytes(linear.type());
}

size_t sums_bytes(const PackedLinear& linear) {
    return sizeof(float) * static_cast<size_t>(linear.kernel().rows * linear.kernel().columns);
}

void put_row(const PackedLinear& linear, const RowOps& ops, const float* from, const MatmulRows& rows,
             int64_t r) {
    const int64_t n = linear.n_in(), k = linear.k();
    const uint8_t flip = linear.kernel().x_flip;
    char* to = rows.data + static_cast<size_t>(r) * rows.stride;
    auto* quantised = reinterpret_cast<int8_t*>(to);
    switch (linear.type()) {
        case MatmulType::kInt8:
            rows.scale[r] = rows.middle ? ops.quantise_around(from, n, k, flip, quantised, rows.middle + r)
                                        : ops.quantise(from, n, k, flip, quantised);
            break;
        case MatmulType::kBf16: ops.to_bf16(from, n, k, reinterpret_cast<uint16_t*>(to)); break;
        case MatmulType::kF32: copy_padded(from, n, k, sizeof(float), to); break;
    }
}

void put_row(const PackedLinear& linear, const RowOps& ops, const uint16_t* from, const MatmulRows& rows,
             int64_t r) {
    const int64_t n = linear.n_in(), k = linear.k();
    const uint8_t flip = linear.kernel().x_flip;
    char* to = rows.data + static_cast<size_t>(r) * rows.stride;
    if (linear.type() == MatmulType::kBf16) return copy_padded(from, n, k, sizeof(uint16_t), to);
    auto* quantised = reinterpret_cast<int8_t*>(to);
    rows.scale[r] = rows.middle ? ops.quantise_around_bf16(from, n, k, flip, quantised, rows.middle + r)
                                : ops.quantise_bf16(from, n, k, flip, quantised);
}

}  // namespace bluelm
