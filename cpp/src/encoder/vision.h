// The vision handle: weights, compute backends, batching and the two-stage pipeline.
//
// Encoding N tiles runs ceil(N / batch) times through two stages (paper section 3.3):
//   1. cut the views, normalise, patch embedding;
//   2. transformer blocks, downsampler, projector.
// With the pipeline on, stage 1 of the next batch runs on a thread of its own while stage 2 works on this
// one. Both ways run the same graphs on the same data, so the result is the same.
#ifndef BLUELM_VISION_H
#define BLUELM_VISION_H

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bluelm.h"
#include "encoder/encoder.h"
#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "mmproj/vision_weights.h"

namespace bluelm {

constexpr int kMaxBatch = 17;      // 16 tiles and the thumbnail in one run
constexpr int kStreamedBatch = 8;  // most tiles in one run over streamed weights

// A progress callback that may also be asked between graph nodes, so that cancelling does not wait for a
// batch.
class Progress {
public:
    Progress(bluelm_progress callback, void* user_data, int64_t total)
        : callback_(callback), user_data_(user_data), total_(total) {}

    // Reports `done` tiles; throws Error(CANCELLED) if the caller wants to stop.
    void report(int64_t done);
    // Asks again with the last `done` if 50 ms have passed. True: stop.
    bool poll();
    // Whether poll() would ask.
    bool due() const { return callback_ && !cancelled_ && Clock::now() - asked_ >= kPatience; }
    bool cancelled() const { return cancelled_; }

private:
    using Clock = std::chrono::steady_clock;
    static constexpr std::chrono::milliseconds kPatience{50};
    bool ask();

    bluelm_progress callback_;
    void* user_data_;
    int64_t total_;
    int64_t done_ = 0;
    bool cancelled_ = false;
    Clock::time_point asked_ = Clock::now();
};

// One CPU backend with the memory for one graph at a time.
class GraphRunner {
public:
    GraphRunner();
    ~GraphRunner();
    GraphRunner(const GraphRunner&) = delete;
    GraphRunner& operator=(const GraphRunner&) = delete;

    using Build = std::function<ggml_tensor*(ggml_context*, ggml_tensor* input)>;

    // Builds the graph of one input [n_rows, n_columns] (F32), runs it and copies its output (F32) to `out`,
    // which holds as many floats as the output has. max_nodes bounds the graph. `progress` may be NULL.
    void run(const Build& build, int max_nodes, const float* input, int64_t n_rows, int64_t n_columns,
             int n_threads, Progress* progress, float* out);

private:
    ggml_backend_t backend_ = nullptr;
    ggml_gallocr_t allocator_ = nullptr;
    std::vector<uint8_t> graph_memory_;
};

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
    void run_back(float* tokens, int n, int n_layers, Progress* progress, float* out,
                  bluelm_vision_profile* profile);
    // "merged" or "post_ln" from the blocks' tokens.
    void dump_last(bool merged, const float* tokens, int64_t n_tokens, float* out);
    int max_nodes() const { return 64 + 32 * config().n_layer; }

    bluelm_vision_params params_;
    VisionWeights weights_;
    std::unique_ptr<Encoder> encoder_;
    // With use_repack = 0 instead: the network as ggml graphs (siglip.h), the plain reference. A runner for
    // each stage, since both may be at work.
    struct Reference {
        GraphRunner front, back;
    };
    std::unique_ptr<Reference> reference_;
    bluelm_vision_profile profile_ = {};
};

}  // namespace bluelm

#endif  // BLUELM_VISION_H
