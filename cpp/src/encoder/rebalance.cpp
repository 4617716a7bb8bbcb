#include "encoder/rebalance.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "encoder/stored_rows.h"

namespace bluelm {
namespace {

const float* floats(const ggml_tensor* t) { return static_cast<const float*>(t->data); }

// Raises maxima [n_in] to the largest magnitude in each column of a matrix. With a norm it also returns how
// far each output reaches, |mean| + deviations * deviation, if the inputs are that LayerNorm's: mean and
// deviation from its weight and bias, taken as independent.
struct Reach {
    float mean, deviation;
};
std::vector<Reach> measure(const WeightFile& file, const RowOps& ops, const Linear& linear, const Norm* norm,
                           std::vector<float>& maxima) {
    const StoredTensor& stored = linear.stored;
    maxima.resize(static_cast<size_t>(stored.n_in));
    std::vector<Reach> reach(norm ? static_cast<size_t>(stored.n_out) : 0);
    each_row(file, ops, stored, 0, stored.n_out, 0, [&](int64_t r, const float* row) {
        ops.max_magnitudes(row, stored.n_in, maxima.data());
        if (!norm) return;
        Reach& out = reach[static_cast<size_t>(r)];
        float squares;
        ops.products(row, floats(norm->w), floats(norm->b), stored.n_in, &squares, &out.mean);
        out.mean += floats(linear.b)[r];
        out.deviation = std::sqrt(squares);
    });
    return reach;
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

BalancedBlock balance_block(const WeightFile& file, const RowOps& ops, const VitBlock& block,
                            bool rebalance) {
    BalancedBlock result;
    result.ln1_w = values(block.ln1.w);
    result.ln1_b = values(block.ln1.b);
    result.ln2_w = values(block.ln2.w);
    result.ln2_b = values(block.ln2.b);
    if (!rebalance) return result;

    std::vector<float> maxima, activations;
    measure(file, ops, block.q, nullptr, maxima);
    measure(file, ops, block.k, nullptr, maxima);
    for (const Reach& r : measure(file, ops, block.v, &block.ln1, maxima))
        activations.push_back(std::fabs(r.mean) + 2 * r.deviation);
    Spread in = spread(norm_reach(block.ln1), std::move(maxima));
    divide(result.ln1_w, in.divide);
    divide(result.ln1_b, in.divide);
    result.qkv_in = std::move(in.multiply);
    result.qkv_copies = std::move(in.copies);

    maxima.clear();
    measure(file, ops, block.out, nullptr, maxima);
    result.out_in = factors(std::move(activations), std::move(maxima));
    result.v_rows = inverse(result.out_in);

    maxima.clear();
    activations.clear();
    for (const Reach& r : measure(file, ops, block.up, &block.ln2, maxima))
        activations.push_back(std::max(0.17f, r.mean + 3 * r.deviation));  // GELU is at least -0.17
    in = spread(norm_reach(block.ln2), std::move(maxima));
    divide(result.ln2_w, in.divide);
    divide(result.ln2_b, in.divide);
    result.up_in = std::move(in.multiply);
    result.up_copies = std::move(in.copies);

    maxima.clear();
    measure(file, ops, block.down, nullptr, maxima);
    result.down_in = factors(std::move(activations), std::move(maxima));
    result.after_gelu = inverse(result.down_in);
    return result;
}

}  // namespace bluelm
