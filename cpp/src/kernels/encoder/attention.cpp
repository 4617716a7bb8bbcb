#include "kernels/encoder/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/check.h"

namespace bluelm {
namespace {

constexpr int64_t kMaxBlock = 64;  // queries

size_t bytes(int64_t n, size_t element) { return static_cast<size_t>(n) * element; }

const uint16_t* mask_row(const AttentionMask& mask, int64_t r) {
    return reinterpret_cast<const uint16_t*>(static_cast<const char*>(mask.data) +
                                             static_cast<size_t>(r) * mask.stride);
}

// Widens first..last-1 to the keys that a query sees.
void join_seen(const uint16_t* row, int64_t n, int64_t* first, int64_t* last) {
    constexpr uint16_t kNever = 0xfc00;  // -infinity
    int64_t begin = 0, end = n;
    while (begin < *first && row[begin] == kNever) ++begin;
    if (begin < *first) *first = begin;
    while (end > *last && end > begin && row[end - 1] == kNever) --end;
    if (end > *last) *last = end;
}

}  // namespace

Attention::Attention(MatmulType type, const MatmulKernel& kernel, const RowOps& ops, int64_t n, int64_t d,
                     float scale)
    : type_(type),
      kernel_(kernel),
      ops_(ops),
      n_(n),
      d_(d),
      scale_(scale != 0 ? scale : 1.0f / std::sqrt(static_cast<float>(d))),
      run_step_(std::lcm<int64_t>(kernel.columns, kernel.k_step)) {
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

void Attention::pack(const void* k, size_t k_stride, const void* v, size_t v_stride, void* scratch) const {
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
                        static_cast<const char*>(k) + static_cast<size_t>(first + i) * k_stride,
                        bytes(d_, element));
        }
        pack_panel(kernel_, type_, rows, row, static_cast<int>(count), d_padded_,
                   keys + static_cast<size_t>(panel) * panel_bytes(kernel_, type_, d_padded_));
    }
    for (int64_t panel = 0; panel < value_panels_; ++panel) {
        const int64_t first = panel * kernel_.columns, count = std::min<int64_t>(kernel_.columns, d_ - first);
        pack_panel_transposed(
            kernel_, type_, static_cast<const char*>(v) + bytes(first, element), v_stride,
            static_cast<int>(count), n_, n_padded_,
            keys + values_at_ + static_cast<size_t>(panel) * panel_bytes(kernel_, type_, n_padded_));
    }
}

void Attention::attend(const void* q, size_t q_stride, int64_t first, int64_t last, void* scratch, void* out,
                       size_t out_stride, const AttentionMask* mask) const {
    const size_t element = matmul_element_bytes(type_), row = bytes(d_padded_, element);
    char* memory = static_cast<char*>(scratch);
    char* queries = memory + queries_at_;
    auto* scores = reinterpret_cast<float*>(memory + scores_at_);
    auto* result = reinterpret_cast<float*>(memory + out_at_);
    const bool half = type_ == MatmulType::kBf16;
    const size_t weight_stride = bytes(score_stride_, element);
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
        // Keys seen..seen_end-1, whole panels of them; without a mask all.
        int64_t seen = 0, seen_end = n_;
        if (mask) {
            seen = n_, seen_end = 0;
            for (int64_t r = 0; r < count; ++r)
                join_seen(mask_row(*mask, begin - first + r), n_, &seen, &seen_end);
            if (seen >= seen_end) seen = 0, seen_end = 1;  // none: its score is -infinity
            seen = seen / run_step_ * run_step_;
            seen_end = std::min(n_, round_up(seen_end, run_step_));
        }
        const int64_t n_seen = seen_end - seen,
                      k_seen = std::min(n_padded_ - seen, round_up(n_seen, run_step_));
        for (int64_t panel = seen / kernel_.columns; panel * kernel_.columns < seen_end; ++panel) {
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
            float* s = scores + r * score_stride_ + seen;
            auto* p = reinterpret_cast<uint16_t*>(memory + weights_at_) + r * score_stride_ + seen;
            float scale = scale_;
            if (mask) {
                scale = 1.0f;
                if (ops_.add_mask(s, mask_row(*mask, begin - first + r) + seen, scale_, n_seen) ==
                    -INFINITY) {
                    std::memset(half ? static_cast<void*>(p) : s, 0, bytes(k_seen, element));
                    sums[r] = 1.0f;
                    continue;
                }
            }
            sums[r] = half ? ops_.softmax_bf16(s, n_seen, k_seen, scale, p)
                           : ops_.softmax_f32(s, n_seen, k_seen, scale);
        }
        char* seen_weights = memory + (half ? weights_at_ : scores_at_) + bytes(seen, element);
        matmul_pack_rows(kernel_, type_, seen_weights, weight_stride, count, k_seen);
        for (int64_t panel = 0; panel < value_panels_; ++panel) {
            const char* values = memory + values_at_ +
                                 static_cast<size_t>(panel) * panel_bytes(kernel_, type_, n_padded_) +
                                 bytes(seen * kernel_.columns, element);
            for (int64_t r = 0; r < count; r += rows) {
                kernel_.multiply(seen_weights + static_cast<size_t>(r) * weight_stride, weight_stride, values,
                                 k_seen,
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
