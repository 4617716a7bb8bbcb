#include "kernels/encoder/balance.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace bluelm {
namespace {

// What is almost zero, or not finite, is kept from running away.
void keep_apart_from_zero(std::vector<float>& values) {
    float largest = 0;
    for (float& v : values) {
        if (!std::isfinite(v)) v = 0;
        largest = std::max(largest, v);
    }
    if (largest == 0) largest = 1;
    for (float& v : values) v = std::max(v, 1e-4f * largest);
}

}  // namespace

std::vector<float> balance_factors(std::vector<float> activations, std::vector<float> weights) {
    keep_apart_from_zero(activations);
    keep_apart_from_zero(weights);
    for (size_t i = 0; i < activations.size(); ++i)
        activations[i] = std::min(1e6f, std::max(1e-6f, std::sqrt(activations[i] / weights[i])));
    return activations;
}

SpreadFactors spread_factors(std::vector<float> activations, std::vector<float> weights) {
    keep_apart_from_zero(activations);
    keep_apart_from_zero(weights);
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
    SpreadFactors result;
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
    result.divide = balance_factors(std::move(activations), std::move(weights));
    result.multiply = result.divide;
    for (size_t i = 0; i < n; ++i) result.multiply[i] /= appearances[i];
    return result;
}

}  // namespace bluelm
