#include "encoder/rebalance.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "encoder/stored_rows.h"

namespace bluelm {
namespace {

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
    SpreadFactors in = spread_factors(norm_reach(block.ln1), std::move(maxima));
    divide(result.ln1_w, in.divide);
    divide(result.ln1_b, in.divide);
    result.qkv_in = std::move(in.multiply);
    result.qkv_copies = std::move(in.copies);

    maxima.clear();
    measure(file, ops, block.out, nullptr, maxima);
    result.out_in = balance_factors(std::move(activations), std::move(maxima));
    result.v_rows = inverse(result.out_in);

    maxima.clear();
    activations.clear();
    for (const Reach& r : measure(file, ops, block.up, &block.ln2, maxima))
        activations.push_back(std::max(0.17f, r.mean + 3 * r.deviation));  // GELU is at least -0.17
    in = spread_factors(norm_reach(block.ln2), std::move(maxima));
    divide(result.ln2_w, in.divide);
    divide(result.ln2_b, in.divide);
    result.up_in = std::move(in.multiply);
    result.up_copies = std::move(in.copies);

    maxima.clear();
    measure(file, ops, block.down, nullptr, maxima);
    result.down_in = balance_factors(std::move(activations), std::move(maxima));
    result.after_gelu = inverse(result.down_in);
    return result;
}

}  // namespace bluelm
