#include "encoder/packed_weights.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "encoder/stored_rows.h"

namespace bluelm {
PackedLinear::PackedLinear(MatmulType type, const MatmulKernel& kernel, std::vector<Part> parts,
                           const float* column_factor, const std::vector<int32_t>* copies)
    : type_(type),
      kernel_(&kernel),
      parts_(std::move(parts)),
      column_factor_(column_factor),
      copies_(copies),
      n_copies_(copies ? static_cast<int64_t>(copies->size()) : 0) {
    for (const Part& part : parts_) n_out_ += part.linear->stored.n_out;
    n_in_ = parts_.front().linear->stored.n_in;
    k_ = round_up(n_in(), kernel.k_step);
    n_panels_ = (n_out_ + kernel.columns - 1) / kernel.columns;
    panel_bytes_ = static_cast<size_t>(round_up(static_cast<int64_t>(panel_bytes(kernel, type, k_)), 64));
}

size_t PackedLinear::bytes() const {
    const size_t columns = static_cast<size_t>(n_panels_ * kernel_->columns);
    return (static_cast<size_t>(n_panels_) * panel_bytes_ + 3 * columns * sizeof(float) + 63) / 64 * 64;
}

void PackedLinear::pack(const WeightFile& file, const RowOps& ops, int64_t panel, char* memory) const {
    const size_t row_bytes = static_cast<size_t>(k_) * matmul_element_bytes(type_);
    thread_local std::vector<char> rows;
    rows.resize(static_cast<size_t>(kernel_->columns) * row_bytes);
    auto* scale = const_cast<float*>(scales(memory));
    auto* bias = const_cast<float*>(biases(memory));
    auto* sum = const_cast<float*>(sums(memory));
    const int64_t begin = panel * kernel_->columns, end = std::min(n_out_, begin + kernel_->columns);
    int64_t part_begin = 0;
    for (const Part& part : parts_) {
        const StoredTensor& stored = part.linear->stored;
        const int64_t first = std::max(begin, part_begin), last = std::min(end, part_begin + stored.n_out);
        if (first < last) {
            each_row(file, ops, stored, first - part_begin, last - first, n_copies_,
                     [&](int64_t r, float* row) {
                         const float factor = part.row_factor ? part.row_factor[r] : 1.0f;
                         if (column_factor_) ops.multiply_each(row, column_factor_, factor, n_in_);
                         for (int64_t i = 0; i < n_copies_; ++i)
                             row[n_in_ + i] = row[(*copies_)[static_cast<size_t>(i)]];
                         const int64_t n_row = n_in();
                         const int64_t n = part_begin + r;
                         bias[n] = floats(part.linear->b)[r] * factor;
                         char* to = rows.data() + static_cast<size_t>(n - begin) * row_bytes;
                         switch (type_) {
                             case MatmulType::kInt8: {
                                 auto* quantised = reinterpret_cast<int8_t*>(to);
                                 scale[n] = ops.quantise(row, n_row, k_, 0, quantised);
                                 sum[n] = scale[n] * static_cast<float>(ops.add_up_int8(quantised, n_row));
                                 break;
                             }
                             case MatmulType::kBf16:
                                 ops.to_bf16(row, n_row, k_, reinterpret_cast<uint16_t*>(to));
                                 break;
                             case MatmulType::kF32:
                                 std::memcpy(to, row, static_cast<size_t>(n_row) * sizeof(float));
                                 std::memset(to + static_cast<size_t>(n_row) * sizeof(float), 0,
                                             static_cast<size_t>(k_ - n_row) * sizeof(float));
                                 break;
                         }
                     });
        }
        part_begin += stored.n_out;
    }
    pack_panel(*kernel_, type_, rows.data(), row_bytes, static_cast<int>(end - begin), k_,
               memory + static_cast<size_t>(panel) * panel_bytes_);
}

}  // namespace bluelm
