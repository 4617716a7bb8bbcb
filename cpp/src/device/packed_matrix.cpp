#include "device/packed_matrix.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace bluelm {

void matrix_row(const ggml_tensor* weights, int64_t r, float* out) {
    const char* row = static_cast<const char*>(weights->data) + static_cast<size_t>(r) * weights->nb[1];
    if (weights->type == GGML_TYPE_F32) {
        std::memcpy(out, row, static_cast<size_t>(weights->ne[0]) * sizeof(float));
    } else {
        ggml_get_type_traits(weights->type)->to_float(row, out, weights->ne[0]);
    }
}

PackedMatrix::PackedMatrix(const ggml_tensor* weights, MatmulType type, const MatmulKernel& kernel,
                           std::shared_ptr<const InputBalance> balance)
    : type_(type),
      kernel_(&kernel),
      balance_(std::move(balance)),
      n_in_(weights->ne[0]),
      n_out_(weights->ne[1]),
      k_(round_up(n_columns(), kernel.k_step)),
      n_panels_((n_out_ + kernel.columns - 1) / kernel.columns),
      panel_bytes_(static_cast<size_t>(round_up(static_cast<int64_t>(panel_bytes(kernel, type, k_)), 64))),
      memory_(AlignedMemory::mapped(static_cast<size_t>(n_panels_) * panel_bytes_)) {
    if (type == MatmulType::kInt8) {
        scales_.resize(static_cast<size_t>(n_out_));
        sums_.resize(static_cast<size_t>(n_out_));
    }
}

void PackedMatrix::pack(const ggml_tensor* weights, const RowOps& ops, int64_t panel) {
    const size_t row_bytes = static_cast<size_t>(k_) * matmul_element_bytes(type_);
    const int64_t first = panel * kernel_->columns, last = std::min(n_out_, first + kernel_->columns);
    std::vector<char> rows(static_cast<size_t>(kernel_->columns) * row_bytes);
    std::vector<float> row(static_cast<size_t>(n_columns()));
    for (int64_t r = first; r < last; ++r) {
        matrix_row(weights, r, row.data());
        if (balance_) {
            ops.multiply_each(row.data(), balance_->multiply.data(), 1.0f, n_in_);
            for (size_t i = 0; i < balance_->copies.size(); ++i)
                row[static_cast<size_t>(n_in_) + i] = row[static_cast<size_t>(balance_->copies[i])];
        }
        char* to = rows.data() + static_cast<size_t>(r - first) * row_bytes;
        const size_t at = static_cast<size_t>(r);
        switch (type_) {
            case MatmulType::kInt8: {
                auto* quantised = reinterpret_cast<int8_t*>(to);
                scales_[at] = ops.quantise(row.data(), n_columns(), k_, 0, quantised);
                sums_[at] = scales_[at] * static_cast<float>(ops.add_up_int8(quantised, n_columns()));
                break;
            }
            case MatmulType::kBf16:
                ops.to_bf16(row.data(), n_columns(), k_, reinterpret_cast<uint16_t*>(to));
                break;
            case MatmulType::kF32: {
                const size_t bytes = row.size() * sizeof(float);
                std::memcpy(to, row.data(), bytes);
                std::memset(to + bytes, 0, row_bytes - bytes);
                break;
            }
        }
    }
    pack_panel(*kernel_, type_, rows.data(), row_bytes, static_cast<int>(last - first), k_,
               memory_.data() + static_cast<size_t>(panel) * panel_bytes_);
}

}  // namespace bluelm
