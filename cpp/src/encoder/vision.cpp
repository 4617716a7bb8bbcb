#include "encoder/vision.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <future>
#include <thread>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "base/cores.h"
#include "base/error.h"
#include "kernels/cpu_level.h"
#include "picture/assembly.h"
#include "picture/pixels.h"
#include "picture/tiler.h"

namespace bluelm {
namespace {

// Gives the memory that a batch's activations were in back to the system. glibc keeps some 80 MB of it for a
// large picture, which would stand beside what the language model needs next.
void trim_heap() {
#if defined(__GLIBC__)
    malloc_trim(0);
#endif
}

class Stopwatch {
public:
    double ms() const { return std::chrono::duration<double, std::milli>(Clock::now() - start_).count(); }

private:
    using Clock = std::chrono::steady_clock;
    Clock::time_point start_ = Clock::now();
};

bluelm_vision_params checked(bluelm_vision_params params) {
    if (params.batch < 1 || params.batch > kMaxBatch) {
        throw Error(BLUELM_ERR_INVALID_ARGUMENT,
                    format("batch is %d, not in 1..%d", params.batch, kMaxBatch));
    }
    if (params.weights != BLUELM_WEIGHTS_RESIDENT && params.weights != BLUELM_WEIGHTS_STREAMED)
        throw Error(BLUELM_ERR_INVALID_ARGUMENT, format("weights is %d, not 0 or 1", params.weights));
    if (params.activations < BLUELM_ACTIVATIONS_AUTO || params.activations > BLUELM_ACTIVATIONS_FLOAT)
        throw Error(BLUELM_ERR_INVALID_ARGUMENT, format("activations is %d, not 0..2", params.activations));
    if (params.n_threads > 512) {
        throw Error(BLUELM_ERR_INVALID_ARGUMENT, format("n_threads is %d, at most 512", params.n_threads));
    }
    if (params.n_threads <= 0) params.n_threads = physical_cores();
    return params;
}

EncoderOptions encoder_options(const bluelm_vision_params& params) {
    EncoderOptions options;
    options.level = cpu_level();
    options.activations = params.activations;
    options.streamed = params.weights == BLUELM_WEIGHTS_STREAMED;
    options.n_threads = params.n_threads;
    return options;
}

void report(Progress& progress, int64_t done) {
    if (!progress.report(done)) throw Error(BLUELM_ERR_CANCELLED, "encoding was cancelled");
}

}  // namespace

Vision::Vision(const std::string& path, const bluelm_vision_params& params)
    : params_(checked(params)), weights_(path), encoder_(weights_, encoder_options(params_)) {}

bluelm_vision_info Vision::info() const {
    return vision_info(config(), weights_.n_params, weights_.weight_bytes);
}

Vision::Embedded Vision::embed(const Cut& cut, int first, int n, int n_threads) {
    const VisionConfig& c = config();
    Embedded result;
    result.n = n;
    Stopwatch cutting;
    const uint8_t* tiles = cut(first, n);
    result.cut_ms = cutting.ms();

    Stopwatch embedding;
    const size_t n_rows = static_cast<size_t>(n) * static_cast<size_t>(c.n_patches());
    result.tokens.resize(n_rows * static_cast<size_t>(c.n_embd));
    encoder_.embed(tiles, n, n_threads, result.tokens.data());
    result.patch_ms = embedding.ms();
    return result;
}

void Vision::encode(const Cut& cut, int n_tiles, Progress& progress, float* out,
                    bluelm_vision_timings* timings) {
    const VisionConfig& c = config();
    bluelm_vision_timings times = {};
    times.struct_size = sizeof times;
    Stopwatch total;
    bluelm_vision_profile profile = {};
    // Streamed weights are read again for each batch, so there are few, of about the same size; not one,
    // since each tile takes about 25 MB of activations, and whoever streams is short of memory.
    int batch = params_.batch;
    if (params_.weights == BLUELM_WEIGHTS_STREAMED && n_tiles > 0) {
        const int n_batches = (n_tiles + kStreamedBatch - 1) / kStreamedBatch;
        batch = (n_tiles + n_batches - 1) / n_batches;
    }
    const auto batch_at = [&](int first) { return std::min(batch, n_tiles - first); };

    report(progress, 0);
    Embedded now = n_tiles > 0 ? embed(cut, 0, batch_at(0), params_.n_threads) : Embedded();
    for (int first = 0; first < n_tiles;) {
        const int next = first + now.n;
        // Declared before anything that may throw: its destructor waits for the thread, which uses this
        // frame.
        std::future<Embedded> coming;
        if (params_.pipeline && next < n_tiles) {
            coming = std::async(std::launch::async, [&] { return embed(cut, next, batch_at(next), 1); });
        }
        Stopwatch vit;
        encoder_.run(now.tokens.data(), now.n, c.n_layer, params_.n_threads, &progress, out, &profile);
        times.vit_ms += vit.ms();
        times.resize_ms += now.cut_ms;
        times.patch_embd_ms += now.patch_ms;
        ++times.n_batches;
        out += static_cast<size_t>(now.n) * static_cast<size_t>(c.tokens_per_tile()) *
               static_cast<size_t>(c.n_embd_out);
        report(progress, next);
        if (next < n_tiles)
            now = coming.valid() ? coming.get() : embed(cut, next, batch_at(next), params_.n_threads);
        first = next;
    }
    times.n_tiles = n_tiles;
    if (params_.weights == BLUELM_WEIGHTS_STREAMED) trim_heap();
    times.total_ms = total.ms();
    profile.struct_size = sizeof profile;
    profile.resize_ms = times.resize_ms;
    profile.patch_embd_ms = times.patch_embd_ms;
    profile.total_ms = times.total_ms;
    profile.multiply_adds = c.multiply_adds() * n_tiles;
    profile.n_tiles = n_tiles;
    profile.n_batches = times.n_batches;
    profile.n_threads = params_.n_threads;
    profile_ = profile;
    if (timings) *timings = times;
}

void Vision::encode_picture(const PicturePlan& plan, const uint8_t* rgb, Progress& progress, float* out,
                            bluelm_vision_timings* timings) {
    const VisionConfig& c = config();
    TileCutter cutter(plan.tiler, plan.tiles, rgb);
    std::vector<uint8_t> views;
    const auto cut = [&](int first, int count) {
        views.resize(static_cast<size_t>(count) * c.tile_bytes());
        cutter.cut(first, count, views.data());
        return static_cast<const uint8_t*>(views.data());
    };
    if (!c.assembly.anyres) return encode(cut, plan.tiles.n_tiles, progress, out, timings);
    std::vector<float> features(c.output_floats(plan.tiles.n_tiles));
    encode(cut, plan.tiles.n_tiles, progress, features.data(), timings);
    assemble(plan.assembly, features.data(), floats(weights_.image_newline), c.n_embd_out, out);
}

// ---------------------------------------------------------------------------------------------- stages

namespace {

enum class Stage { kPixels, kPatchEmbd, kLayer, kPostLn, kMerged, kProjector };

// "layer.12" -> kLayer and 12.
Stage parse_stage(const VisionConfig& c, const std::string& name, int* layer) {
    if (name == "pixels") return Stage::kPixels;
    if (name == "patch_embd") return Stage::kPatchEmbd;
    if (name == "post_ln" && c.post_layernorm) return Stage::kPostLn;
    if (name == "merged") return Stage::kMerged;
    if (name == "projector") return Stage::kProjector;
    int end = 0;
    if (std::sscanf(name.c_str(), "layer.%d%n", layer, &end) == 1 &&
        static_cast<size_t>(end) == name.size() && *layer >= 0 && *layer < c.n_layer) {
        return Stage::kLayer;
    }
    throw Error(
        BLUELM_ERR_INVALID_ARGUMENT,
        format("stage '%.40s' is not one of pixels, patch_embd, layer.0 .. layer.%d%s, merged, projector",
               name.c_str(), c.n_layer - 1, c.post_layernorm ? ", post_ln" : ""));
}

}  // namespace

size_t Vision::stage_floats(const std::string& stage, int n_tiles) const {
    const VisionConfig& c = config();
    int layer = 0;
    int64_t per_tile = 0;
    switch (parse_stage(c, stage, &layer)) {
        case Stage::kPixels: per_tile = int64_t(3) * c.image_size * c.image_size; break;
        case Stage::kPatchEmbd:
        case Stage::kLayer:
        case Stage::kPostLn: per_tile = int64_t(c.n_patches()) * c.n_embd; break;
        case Stage::kMerged: per_tile = int64_t(c.tokens_per_tile()) * c.n_merged(); break;
        case Stage::kProjector: per_tile = int64_t(c.tokens_per_tile()) * c.n_embd_out; break;
    }
    return static_cast<size_t>(per_tile * n_tiles);
}

void Vision::dump_last(bool merged, const float* tokens, int64_t n_tokens, float* out) const {
    const VisionConfig& c = config();
    const int64_t n = merged ? n_tokens / c.n_patches() * c.tokens_per_tile() : n_tokens;
    for (int64_t i = 0; i < n; ++i) {
        if (merged) {
            encoder_.merged_row(tokens, i, out + i * c.n_merged());
        } else {
            encoder_.post_norm(tokens + i * c.n_embd, out + i * c.n_embd);
        }
    }
}

void Vision::dump_stage(const uint8_t* tiles, int n_tiles, const std::string& name, float* out) {
    const VisionConfig& c = config();
    int layer = 0;
    const Stage stage = parse_stage(c, name, &layer);
    if (stage == Stage::kPixels) {
        const Pixels pixels(c.image_size, c.patch_size, c.image_mean, c.image_std);
        for (int i = 0; i < n_tiles; ++i, tiles += c.tile_bytes(), out += c.tile_bytes())
            pixels.planes(tiles, out);
        return;
    }
    const Cut cut = [&](int first, int) { return tiles + static_cast<size_t>(first) * c.tile_bytes(); };
    for (int first = 0; first < n_tiles; first += params_.batch) {
        const int n = std::min(params_.batch, n_tiles - first);
        Embedded embedded = embed(cut, first, n, params_.n_threads);
        float* tokens = embedded.tokens.data();
        const int64_t n_tokens = int64_t(n) * c.n_patches();
        const int n_layers = stage == Stage::kPatchEmbd ? 0 : stage == Stage::kLayer ? layer + 1 : c.n_layer;
        if (stage == Stage::kProjector) {
            encoder_.run(tokens, n, n_layers, params_.n_threads, nullptr, out, nullptr);
        } else {
            if (n_layers > 0) encoder_.run(tokens, n, n_layers, params_.n_threads, nullptr, nullptr, nullptr);
            if (stage == Stage::kMerged || stage == Stage::kPostLn) {
                dump_last(stage == Stage::kMerged, tokens, n_tokens, out);
            } else {
                std::copy(embedded.tokens.begin(), embedded.tokens.end(), out);
            }
        }
        out += stage_floats(name, n);
    }
}

}  // namespace bluelm
