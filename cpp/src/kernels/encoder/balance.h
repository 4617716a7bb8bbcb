// Factors that even out how far a matmul's channels (inputs) reach, so that 8 bits with one scale per row
// suffice.
//
// An activation is divided and its weights are multiplied by the same factor, which changes nothing but keeps
// an outlier channel from deciding the scale for all others (the idea of SmoothQuant, arXiv 2211.10438). A
// channel that still reaches much further than the others, on both sides, can appear several times, with its
// weights divided by the number of appearances (outlier channel splitting, arXiv 1901.09504): again the same
// function.
#ifndef BLUELM_BALANCE_H
#define BLUELM_BALANCE_H

#include <cstdint>
#include <vector>

namespace bluelm {

constexpr int64_t kMaxCopies = 64;  // what AMX pads k to

// activations, weights: the largest magnitude of each channel, [n]; what is almost zero or not finite is kept
// from running away. Returns sqrt(activation / weight), [n], so that activation / factor and weight * factor
// reach equally far.
std::vector<float> balance_factors(std::vector<float> activations, std::vector<float> weights);

// The same with copies of the channels that would stick out on both sides even so.
struct SpreadFactors {
    std::vector<float> divide;    // activations
    std::vector<float> multiply;  // weights: the same, divided by the number of appearances
    std::vector<int32_t> copies;  // channels that appear once more, at most kMaxCopies
};
SpreadFactors spread_factors(std::vector<float> activations, std::vector<float> weights);

}  // namespace bluelm

#endif  // BLUELM_BALANCE_H
