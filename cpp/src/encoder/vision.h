// The vision handle: weights, batching and the two-stage pipeline.
//
// Encoding N tiles runs ceil(N / batch) times through two stages (paper section 3.3):
//   1. cut the views, normalise, patch embedding;
//   2. transformer blocks, downsampler, projector.
// With the pipeline on, stage 1 of the next batch runs on a thread of its own while stage 2 works on this
// one. Both ways compute the same.
#ifndef BLUELM_VISION_H
#define BLUELM_VISION_H

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/progress.h"
#include "bluelm.h"
#include "encoder/encoder.h"
#include "mmproj/picture_plan.h"
#include "mmproj/vision_weights.h"

namespace bluelm {

constexpr int kMaxBatch = 17;      // 16 tiles and the thumbnail in one run
constexpr int kStreamedBatch = 8;  // most tiles in one run over streamed weights

class Vision {
public:
    // Throws what VisionWeights throws, and INVALID_ARGUMENT for params out of range.
    Vision(const std::string& path, const bluelm_vision_params& params);

    const VisionWeights& weights() const { return weights_; }
    const VisionConfig& config() const { return weights_.config; }
    bluelm_vision_info info() const;
    // Of the last encode.
    const bluelm_vision_profile& profile() const { return profile_; }

    // Views first..first+count-1, [count, S, S, 3] uint8; the result stays valid until the next call.
    using Cut = std::function<const uint8_t*(int first, int count)>;

    // out: [n_tiles * tokens_per_tile, n_embd_out].
    void encode(const Cut& cut, int n_tiles, Progress& progress, float* out, bluelm_vision_timings* timings);

    // A picture [height, width, 3] cut as `plan` says; out: [plan.assembly.n_tokens, n_embd_out].
    void encode_picture(const PicturePlan& plan, const uint8_t* rgb, Progress& progress, float* out,
                        bluelm_vision_timings* timings);

    // Floats that dump_stage writes; throws INVALID_ARGUMENT for a stage that is not there.
    size_t stage_floats(const std::string& stage, int n_tiles) const;
    void dump_stage(const uint8_t* tiles, int n_tiles, const std::string& stage, float* out);

private:
    struct Embedded {
        std::vector<float> tokens;  // [n * 729, D], with positions
        int n = 0;                  // tiles
        double cut_ms = 0, patch_ms = 0;
    };
    Embedded embed(const Cut& cut, int first, int n, int n_threads);
    // "merged" or "post_ln" from the blocks' tokens.
    void dump_last(bool merged, const float* tokens, int64_t n_tokens, float* out) const;

    bluelm_vision_params params_;
    VisionWeights weights_;
    Encoder encoder_;
    bluelm_vision_profile profile_ = {};
};

}  // namespace bluelm

#endif  // BLUELM_VISION_H
