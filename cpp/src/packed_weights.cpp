#include "packed_weights.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "error.h"

namespace bluelm {
namespace {

const float* floats(const ggml_tensor* t) { return static_cast<const float*>(t->data); }

// Rows first..first+count-1 of a tensor as float, row by row to use(index, row).
template <class Use>
void each_row(const WeightFile& file, const StoredTensor& stored, int64_t first, int64_t count, Use&& use) {
    const size_t row_bytes = ggml_row_size(stored.type, stored.n_in);
    const ggml_type_traits* traits = ggml_get_type_traits(stored.type);
    thread_local std::vector<char> raw;
    thread_local std::vector<float> row;
    row.resize(static_cast<size_t>(stored.n_in + kMaxCopies));
    constexpr int64_t kRows = 64;  // read at a time
    for (int64_t begin = first; begin < first + count; begin += kRows) {
        const int64_t n = std::min(kRows, first + count - begin);
        raw.resize(static_cast<size_t>(n) * row_bytes);
        file.read(stored.offset + static_cast<uint64_t>(begin) * row_bytes, raw.data(), raw.size());
        for (int64_t i = 0; i < n; ++i) {
            const char* from = raw.data() + static_cast<size_t>(i) * row_bytes;
            if (stored.type == GGML_TYPE_F32) {
                std::memcpy(row.data(), from, row_bytes);
            } else {
                traits->to_float(from, row.data(), stored.n_in);
            }
            use(begin + i, row.data());
        }
    }
}

}  // namespace

AlignedMemory::AlignedMemory(size_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    constexpr size_t kPage = size_t(2) << 20;
    const size_t alignment = bytes >= kPage ? kPage : 64;
    bytes = (bytes + alignment - 1) / alignment * alignment;
#if defined(_WIN32)
    data_.reset(static_cast<char*>(_aligned_malloc(bytes, alignment)));
#else
    data_.reset(static_cast<char*>(std::aligned_alloc(alignment, bytes)));
#endif
    if (!data_) throw std::bad_alloc();
#if defined(__linux__)
    if (bytes >= kPage) madvise(data_.get(), bytes, MADV_HUGEPAGE);
#endif
    std::memset(data_.get(), 0, bytes);
}

void AlignedMemory::Free::operator()(char* p) const {
#if defined(_WIN32)
    _aligned_free(p);
#else
    std::free(p);
#endif
}

// ------------------------------------------------------------------------------------------------ packing

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
            each_row(file, stored, first - part_begin, last - first, [&](int64_t r, float* row) {
                const float factor = part.row_factor ? part.row_factor[r] : 1.0f;
                if (column_factor_) {
                    for (int64_t i = 0; i < n_in_; ++i) row[i] *= column_factor_[i];
                }
                if (part.row_factor) {
                    for (int64_t i = 0; i < n_in_; ++i) row[i] *= factor;
                }
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
                        int32_t total = 0;
                        for (int64_t i = 0; i < n_row; ++i) total += quantised[i];
                        sum[n] = scale[n] * static_cast<float>(total);
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

// -------------------------------------------------------------------------------------------- rebalancing

namespace {

// Largest magnitude in each column, over the rows of one or more tensors.
void column_maxima(const WeightFile& file, const Linear& linear, std::vector<float>& maxima) {
    const StoredTensor& stored = linear.stored;
    maxima.resize(static_cast<size_t>(stored.n_in));
    each_row(file, stored, 0, stored.n_out, [&](int64_t, const float* row) {
        for (int64_t i = 0; i < stored.n_in; ++i) {
            const size_t at = static_cast<size_t>(i);
            maxima[at] = std::max(maxima[at], std::fabs(row[i]));
        }
    });
}

// How far an output of `linear` reaches if its inputs are a LayerNorm's: mean and deviation from its weight
// and bias, taken as independent.
struct Reach {
    float mean, deviation;
};
std::vector<Reach> reach(const WeightFile& file, const Linear& linear, const Norm& norm) {
    const StoredTensor& stored = linear.stored;
    std::vector<Reach> result(static_cast<size_t>(stored.n_out));
    const float *w = floats(norm.w), *b = floats(norm.b);
    each_row(file, stored, 0, stored.n_out, [&](int64_t r, const float* row) {
        float mean[4] = {}, variance[4] = {};
        for (int64_t i = 0; i + 4 <= stored.n_in; i += 4) {
            for (int64_t j = 0; j < 4; ++j) {
                const float value = row[i + j] * w[i + j];
                mean[j] += row[i + j] * b[i + j];
                variance[j] += value * value;
            }
        }
        const float sum = mean[0] + mean[1] + mean[2] + mean[3];
        const float squares = variance[0] + variance[1] + variance[2] + variance[3];
        result[static_cast<size_t>(r)] = {sum + floats(linear.b)[r], std::sqrt(squares)};
    });
    return result;
}

// What is almost zero, or not finite, is kept from running away.
void tame(std::vector<float>& values) {
    float largest = 0;
    for (float& v : values) {
        if (!std::isfinite(v)) v = 0;
        largest = std::max(largest, v);
    }
    if (largest == 0) largest = 1;
    for (float& v : values) v = std::max(v, 1e-4f * largest);
}

// Factors for the weights' columns: sqrt(activation / weight), so that activation / factor and weight *
// factor reach equally far.
std::vector<float> factors(std::vector<float> activations, std::vector<float> weights) {
    tame(activations);
    tame(weights);
    for (size_t i = 0; i < activations.size(); ++i)
        activations[i] = std::min(1e6f, std::max(1e-6f, std::sqrt(activations[i] / weights[i])));
    return activations;
}

// The same with copies of the channels that would stick out on both sides even so.
struct Spread {
    std::vector<float> divide;    // activations
    std::vector<float> multiply;  // weights: the same, divided by the number of appearances
    std::vector<int32_t> copies;
};
Spread spread(std::vector<float> activations, std::vector<float> weights) {
    tame(activations);
    tame(weights);
    const size_t n = activations.size();
    std::vector<float> reach(n), sorted;
    for (size_t i = 0; i < n; ++i) reach[i] = std::sqrt(activations[i] * weights[i]);
    sorted = reach;
    std::sort(sorted.begin(), sorted.end());
    const float usual = sorted[n * 95 / 100];
    std::vector<int32_t> order(n);
    for (size_t i = 0; i < n; ++i) order[i] = static_cast<int32_t>(i);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
        return reach[static_cast<size_t>(a)] > reach[static_cast<size_t>(b)];
    });
    Spread result;
    std::vector<float> appearances(n, 1.0f);
    for (int32_t channel : order) {
        const size_t at = static_cast<size_t>(channel);
        const float ratio = reach[at] / usual;
        const int64_t room = kMaxCopies - static_cast<int64_t>(result.copies.size());
        if (!(ratio > 1.5f) || room == 0) break;
        const int64_t more = std::min<int64_t>(room, static_cast<int64_t>(std::min(ratio * ratio, 64.0f)));
        result.copies.insert(result.copies.end(), static_cast<size_t>(more), channel);
        appearances[at] += static_cast<float>(more);
        weights[at] /= appearances[at];
    }
    result.divide = factors(std::move(activations), std::move(weights));
    result.multiply = result.divide;
    for (size_t i = 0; i < n; ++i) result.multiply[i] /= appearances[i];
    return result;
}

std::vector<float> values(const ggml_tensor* t) {
    return std::vector<float>(floats(t), floats(t) + ggml_nelements(t));
}

// A LayerNorm's outputs are bias + weight * (about -3..3).
std::vector<float> norm_reach(const Norm& norm) {
    std::vector<float> result = values(norm.w);
    const float* b = floats(norm.b);
    for (size_t i = 0; i < result.size(); ++i) result[i] = 3 * std::fabs(result[i]) + std::fabs(b[i]);
    return result;
}

void divide(std::vector<float>& v, const std::vector<float>& by) {
    for (size_t i = 0; i < v.size(); ++i) v[i] /= by[i];
}

std::vector<float> inverse(std::vector<float> v) {
    for (float& x : v) x = 1.0f / x;
    return v;
}

}  // namespace

BalancedBlock balance_block(const WeightFile& file, const VitBlock& block, bool rebalance) {
    BalancedBlock result;
    result.ln1_w = values(block.ln1.w);
    result.ln1_b = values(block.ln1.b);
    result.ln2_w = values(block.ln2.w);
    result.ln2_b = values(block.ln2.b);
    if (!rebalance) return result;

    std::vector<float> maxima;
    for (const Linear* linear : {&block.q, &block.k, &block.v}) column_maxima(file, *linear, maxima);
    Spread in = spread(norm_reach(block.ln1), std::move(maxima));
    divide(result.ln1_w, in.divide);
    divide(result.ln1_b, in.divide);
    result.qkv_in = std::move(in.multiply);
    result.qkv_copies = std::move(in.copies);

    maxima.clear();
    column_maxima(file, block.up, maxima);
    in = spread(norm_reach(block.ln2), std::move(maxima));
    divide(result.ln2_w, in.divide);
    divide(result.ln2_b, in.divide);
    result.up_in = std::move(in.multiply);
    result.up_copies = std::move(in.copies);

    maxima.clear();
    column_maxima(file, block.out, maxima);
    std::vector<float> activations;
    for (const Reach& r : reach(file, block.v, block.ln1))
        activations.push_back(std::fabs(r.mean) + 2 * r.deviation);
    result.out_in = factors(std::move(activations), std::move(maxima));
    result.v_rows = inverse(result.out_in);

    maxima.clear();
    column_maxima(file, block.down, maxima);
    activations.clear();
    for (const Reach& r : reach(file, block.up, block.ln2))
        activations.push_back(std::max(0.17f, r.mean + 3 * r.deviation));  // GELU is at least -0.17
    result.down_in = factors(std::move(activations), std::move(maxima));
    result.after_gelu = inverse(result.down_in);
    return result;
}

}  // namespace bluelm
