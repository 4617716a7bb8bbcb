#include "kernels/encoder/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/check.h"

namespace bluelm {
namespace {

constexpr int64_t kMaxBlock = 64;  // queries

size_t bytes(int64_t n, size_t element) { return static_cast<size_t>(n) * element; }

}  // namespace

Attention::Attention(MatmulType type, const MatmulKernel& kernel, const RowOps& ops, int64_t n, int64_t d)
    : type_(type), kernel_(kernel), ops_(ops), n_(n), d_(d) {
    const size_t element = matmul_element_bytes(type);
    block_ = kernel.rows * std::max<int64_t>(1, 32 / kernel.rows);
    BLUELM_CHECK(block_ <= kMaxBlock);
    d_padded_ = round_up(d, kernel.k_step);
    key_panels_ = round_up(n, kernel.columns) / kernel.columns;
    value_panels_ = round_up(d, kernel.columns) / kernel.columns;
    n_padded_ = round_up(n, kernel.k_step);
    // An odd number of cache lines, so that the rows of a block do not fall into the same cache sets.
    score_stride_ = round_up(std::max(n_padded_, key_panels_ * kernel.columns), 16);
    if (score_stride_ / 16 % 2 == 0) score_stride_ += 16;
    values_at_ = whole_lines(static_cast<size_t>(key_panels_) * panel_bytes(kernel, type, d_padded_));
    queries_at_ =
        values_at_ + whole_lines(static_cast<size_t>(value_panels_) * panel_bytes(kernel, type, n_padded_));
    scores_at_ = queries_at_ + whole_lines(bytes(block_ * d_padded_, element));
    // pack() uses the room of the scores for one panel's keys.
    const size_t scores_bytes =
        std::max(bytes(block_ * score_stride_, sizeof(float)), bytes(kernel.columns * d_padded_, element));
    weights_at_ = scores_at_ + whole_lines(scores_bytes);
    out_at_ = weights_at_ + (type == MatmulType::kBf16 ? whole_lines(bytes(block_ * score_stride_, 2)) : 0);
    scratch_bytes_ = out_at_ + whole_lines(bytes(block_ * value_panels_ * kernel.columns, sizeof(float)));
}

void Attention::pack(const void* k, const void* v, size_t stride, void* scratch) const {
    const size_t element = matmul_element_bytes(type_);
    char* keys = static_cast<char*>(scratch);
    // Rows of keys end at d; the matmul wants d_padded. Read one by one into rows with zeros behind.
    const size_t row = bytes(d_padded_, element);
    char* rows = keys + scores_at_;  // free until the first scores
    std::memset(rows, 0, row * static_cast<size_t>(kernel_.columns));
    for (int64_t panel = 0; panel < key_panels_; ++panel) {
        const int64_t first = panel * kernel_.columns, count = std::min<int64_t>(kernel_.columns, n_ - first);
        for (int64_t i = 0; i < count; ++i) {
            std::memcpy(rows + static_cast<size_t>(i) * row,
                        static_cast<const char*>(k) + static_cast<size_t>(first + i) * stride,
                        bytes(d_, element));
        }
        pack_panel(kernel_, type_, rows, row, static_cast<int>(count), d_padded_,
                   keys + static_cast<size_t>(panel) * panel_bytes(kernel_, type_, d_padded_));
    }
    for (int64_t panel = 0; panel < value_panels_; ++panel) {
        const int64_t first = panel * kernel_.columns, count = std::min<int64_t>(kernel_.columns, d_ - first);
        pack_panel_transposed(
            kernel_, type_, static_cast<const char*>(v) + bytes(first, element), stride,
            static_cast<int>(count), n_, n_padded_,
            keys + values_at_ + static_cast<size_t>(panel) * panel_bytes(kernel_, type_, n_padded_));
    }
}

void Attention::attend(const void* q, size_t q_stride, int64_t first, int64_t last, void* scratch, void* out,
                       size_t out_stride) const {
    const size_t element = matmul_element_bytes(type_), row = bytes(d_padded_, element);
    char* memory = static_cast<char*>(scratch);
    char* queries = memory + queries_at_;
    auto* scores = reinterpret_cast<float*>(memory + scores_at_);
    auto* result = reinterpret_cast<float*>(memory + out_at_);
    const bool half = type_ == MatmulType::kBf16;
    const char* weights = half ? memory + weights_at_ : memory + scores_at_;
    const size_t weight_stride = bytes(score_stride_, element);
    const float scale = 1.0f / std::sqrt(static_cast<float>(d_));
    const int rows = kernel_.rows;
    const size_t result_stride = static_cast<size_t>(value_panels_ * kernel_.columns);
    std::memset(queries, 0, row * static_cast<size_t>(block_));
    for (int64_t begin = first; begin < last; begin += block_) {
        const int64_t count = std::min(block_, last - begin);
        for (int64_t i = 0; i < count; ++i) {
            std::memcpy(queries + static_cast<size_t>(i) * row,
                        static_cast<const char*>(q) + static_cast<size_t>(begin + i) * q_stride,
                        bytes(d_, element));
            if (kernel_.packs_x)  // the last block's are packed there
                std::memset(queries + static_cast<size_t>(i) * row + bytes(d_, element), 0,
                            row - bytes(d_, element));
        }
        matmul_pack_rows(kernel_, type_, queries, row, count, d_padded_);
        for (int64_t panel = 0; panel < key_panels_; ++panel) {
            const char* keys = memory + static_cast<size_t>(panel) * panel_bytes(kernel_, type_, d_padded_);
            for (int64_t r = 0; r < count; r += rows) {
                kernel_.multiply(queries + static_cast<size_t>(r) * row, row, keys, d_padded_,
                                 scores + r * score_stride_ + panel * kernel_.columns,
                                 static_cast<size_t>(score_stride_),
                                 static_cast<int>(std::min<int64_t>(rows, count - r)));
            }
        }
        float sums[kMaxBlock];
        for (int64_t r = 0; r < count; ++r) {
            float* s = scores + r * score_stride_;
            auto* p = reinterpret_cast<uint16_t*>(memory + weights_at_) + r * score_stride_;
            sums[r] = half ? ops_.softmax_bf16(s, n_, n_padded_, scale, p)
                           : ops_.softmax_f32(s, n_, n_padded_, scale);
        }
        matmul_pack_rows(kernel_, type_, half ? memory + weights_at_ : memory + scores_at_, weight_stride,
                         count, n_padded_);
        for (int64_t panel = 0; panel < value_panels_; ++panel) {
            const char* values =
                memory + values_at_ + static_cast<size_t>(panel) * panel_bytes(kernel_, type_, n_padded_);
            for (int64_t r = 0; r < count; r += rows) {
                kernel_.multiply(weights + static_cast<size_t>(r) * weight_stride, weight_stride, values,
                                 n_padded_,
                                 result + static_cast<size_t>(r) * result_stride + panel * kernel_.columns,
                                 result_stride, static_cast<int>(std::min<int64_t>(rows, count - r)));
            }
        }
        for (int64_t r = 0; r < count; ++r) {
            const float* from = result + static_cast<size_t>(r) * result_stride;
            char* to = static_cast<char*>(out) + static_cast<size_t>(begin + r) * out_stride;
            if (half) {
                ops_.multiply_bf16(from, 1.0f / sums[r], d_, reinterpret_cast<uint16_t*>(to));
            } else {
                ops_.multiply_f32(from, 1.0f / sums[r], d_, reinterpret_cast<float*>(to));
            }
        }
    }
}

}  // namespace bluelm
