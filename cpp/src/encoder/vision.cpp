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
#include "encoder/projector.h"
#include "encoder/siglip.h"
#include "ggml-cpu.h"
#include "kernels/cpu_level.h"
#include "picture/pixels.h"

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
    if (params.use_repack == 0 &&
        (params.weights != BLUELM_WEIGHTS_RESIDENT || params.activations != BLUELM_ACTIVATIONS_AUTO)) {
        throw Error(BLUELM_ERR_UNSUPPORTED,
                    "streamed weights and a choice of activations need the library's own kernels, which "
                    "use_repack = 0 turns off");
    }
    if (params.n_threads > 512) {
        throw Error(BLUELM_ERR_INVALID_ARGUMENT, format("n_threads is %d, at most 512", params.n_threads));
    }
    if (params.n_threads <= 0) params.n_threads = physical_cores();
    return params;
}

}  // namespace

// -------------------------------------------------------------------------------------------- progress

bool Progress::ask() {
    asked_ = Clock::now();
    if (callback_ && !cancelled_) cancelled_ = !callback_(BLUELM_STAGE_ENCODE, done_, total_, user_data_);
    return cancelled_;
}

void Progress::report(int64_t done) {
    done_ = done;
    if (ask()) throw Error(BLUELM_ERR_CANCELLED, "encoding was cancelled");
}

bool Progress::poll() {
    if (!callback_ || cancelled_) return cancelled_;
    return due() && ask();
}

// ---------------------------------------------------------------------------------------------- runner

GraphRunner::GraphRunner() : backend_(ggml_backend_cpu_init()) {
    if (backend_) allocator_ = ggml_gallocr_new(ggml_backend_cpu_buffer_type());
    if (allocator_) return;
    ggml_backend_free(backend_);
    throw std::bad_alloc();
}

GraphRunner::~GraphRunner() {
    ggml_gallocr_free(allocator_);
    ggml_backend_free(backend_);
}

void GraphRunner::run(const Build& build, int max_nodes, const float* input, int64_t n_rows,
                      int64_t n_columns, int n_threads, Progress* progress, float* out) {
    const size_t nodes = static_cast<size_t>(max_nodes);
    graph_memory_.resize(2 * nodes * ggml_tensor_overhead() + ggml_graph_overhead_custom(nodes, false));
    const GgmlContextPtr ctx(ggml_init({graph_memory_.size(), graph_memory_.data(), true}));
    if (!ctx) throw std::bad_alloc();
    ggml_tensor* x = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, n_columns, n_rows);
    ggml_set_input(x);
    ggml_tensor* y = build(ctx.get(), x);
    ggml_set_output(y);
    ggml_cgraph* graph = ggml_new_graph_custom(ctx.get(), nodes, false);
    ggml_build_forward_expand(graph, y);
    if (!ggml_gallocr_alloc_graph(allocator_, graph)) {
        throw Error(BLUELM_ERR_OUT_OF_MEMORY, "not enough memory for the activations; use a smaller batch");
    }
    ggml_backend_tensor_set(x, input, 0, ggml_nbytes(x));

    ggml_backend_cpu_set_n_threads(backend_, n_threads);
    ggml_backend_cpu_set_abort_callback(
        backend_,
        progress ? [](void* p) { return static_cast<Progress*>(p)->poll(); } : ggml_abort_callback(nullptr),
        progress);
    const ggml_status status = ggml_backend_graph_compute(backend_, graph);
    if (status == GGML_STATUS_ABORTED) throw Error(BLUELM_ERR_CANCELLED, "encoding was cancelled");
    if (status == GGML_STATUS_ALLOC_FAILED) throw std::bad_alloc();
    if (status != GGML_STATUS_SUCCESS) {
        throw Error(BLUELM_ERR_INTERNAL, format("ggml_backend_graph_compute failed with %d", status));
    }
    ggml_backend_tensor_get(y, out, 0, ggml_nbytes(y));
}

// ---------------------------------------------------------------------------------------------- vision

Vision::Vision(const std::string& path, const bluelm_vision_params& params)
    : params_(checked(params)),
      weights_(path, params.use_repack != 0 ? WeightLoading::kInFile : WeightLoading::kAll) {
    if (params.use_repack == 0) {
        reference_ = std::make_unique<Reference>();
        return;
    }
    EncoderOptions options;
    options.level = cpu_level();
    options.activations = params_.activations;
    options.streamed = params_.weights == BLUELM_WEIGHTS_STREAMED;
    options.n_threads = params_.n_threads;
    encoder_ = std::make_unique<Encoder>(weights_, options);
}

bluelm_vision_info Vision::info() const {
    const VisionConfig& c = config();
    bluelm_vision_info info = {};
    info.struct_size = sizeof info;
    info.image_size = c.image_size;
    info.patch_size = c.patch_size;
    info.n_embd = c.n_embd;
    info.n_layer = c.n_layer;
    info.n_head = c.n_head;
    info.n_ff = c.n_ff;
    info.n_ff_unpadded = c.n_ff_unpadded;
    info.downsample = c.downsample;
    info.tokens_per_tile = c.tokens_per_tile();
    info.n_embd_out = c.n_embd_out;
    info.has_post_ln = c.post_layernorm;
    info.has_input_norm = c.input_norm;
    info.column_major = c.column_major;
    info.n_params = weights_.n_params;
    info.weight_bytes = weights_.weight_bytes;
    info.repacked_tensors = encoder_ ? weights_.matrices : 0;
    std::snprintf(info.name, sizeof info.name, "%s", c.name.c_str());
    std::snprintf(info.ftype, sizeof info.ftype, "%s", c.ftype.c_str());
    return info;
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
    if (encoder_) {
        encoder_->embed(tiles, n, n_threads, result.tokens.data());
    } else {
        const size_t tile_bytes = 3 * static_cast<size_t>(c.image_size) * static_cast<size_t>(c.image_size);
        std::vector<float> patches(n_rows * static_cast<size_t>(c.patch_values()));
        const Pixels pixels(c);
        for (size_t i = 0; i < n_rows; ++i) {
            const size_t tile = i / static_cast<size_t>(c.n_patches()),
                         at = i % static_cast<size_t>(c.n_patches());
            pixels.patch(tiles + tile * tile_bytes, static_cast<int>(at),
                         &patches[i * static_cast<size_t>(c.patch_values())]);
        }
        reference_->front.run(
            [this](ggml_context* ctx, ggml_tensor* x) { return build_patch_embedding(ctx, weights_, x); }, 64,
            patches.data(), static_cast<int64_t>(n_rows), c.patch_values(), n_threads, nullptr,
            result.tokens.data());
    }
    result.patch_ms = embedding.ms();
    return result;
}

// Blocks, and the rest of the network unless `out` is NULL, in which case the tokens change in place.
void Vision::run_back(float* tokens, int n, int n_layers, Progress* progress, float* out,
                      bluelm_vision_profile* profile) {
    const VisionConfig& c = config();
    if (encoder_) {
        encoder_->run(tokens, n, n_layers, params_.n_threads, progress, out, profile);
        return;
    }
    Stopwatch graph;
    reference_->back.run(
        [&](ggml_context* ctx, ggml_tensor* x) {
            x = build_encoder(ctx, weights_, x, n_layers);
            if (!out) return x;
            if (c.post_layernorm) x = build_post_layernorm(ctx, weights_, x);
            return build_projector(ctx, weights_, build_merge(ctx, weights_, x));
        },
        max_nodes(), tokens, int64_t(n) * c.n_patches(), c.n_embd, params_.n_threads, progress,
        out ? out : tokens);
    if (profile) profile->graph_ms += graph.ms();
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

    progress.report(0);
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
        run_back(now.tokens.data(), now.n, c.n_layer, &progress, out, &profile);
        times.vit_ms += vit.ms();
        times.resize_ms += now.cut_ms;
        times.patch_embd_ms += now.patch_ms;
        ++times.n_batches;
        out += static_cast<size_t>(now.n) * static_cast<size_t>(c.tokens_per_tile()) *
               static_cast<size_t>(c.n_embd_out);
        progress.report(next);
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

void Vision::dump_last(bool merged, const float* tokens, int64_t n_tokens, float* out) {
    const VisionConfig& c = config();
    if (encoder_) {
        const int64_t n = merged ? n_tokens / c.n_patches() * c.tokens_per_tile() : n_tokens;
        for (int64_t i = 0; i < n; ++i) {
            if (merged) {
                encoder_->merged_row(tokens, i, out + i * c.n_merged());
            } else {
                encoder_->post_norm(tokens + i * c.n_embd, out + i * c.n_embd);
            }
        }
        return;
    }
    reference_->back.run(
        [&](ggml_context* ctx, ggml_tensor* x) {
            if (c.post_layernorm) x = build_post_layernorm(ctx, weights_, x);
            return merged ? build_merge(ctx, weights_, x) : x;
        },
        64, tokens, n_tokens, c.n_embd, params_.n_threads, nullptr, out);
}

void Vision::dump_stage(const uint8_t* tiles, int n_tiles, const std::string& name, float* out) {
    const VisionConfig& c = config();
    int layer = 0;
    const Stage stage = parse_stage(c, name, &layer);
    const size_t tile_bytes =
        size_t(3) * static_cast<size_t>(c.image_size) * static_cast<size_t>(c.image_size);
    if (stage == Stage::kPixels) {
        const Pixels pixels(c);
        for (int i = 0; i < n_tiles; ++i, tiles += tile_bytes, out += tile_bytes) pixels.planes(tiles, out);
        return;
    }
    const Cut cut = [&](int first, int) { return tiles + static_cast<size_t>(first) * tile_bytes; };
    for (int first = 0; first < n_tiles; first += params_.batch) {
        const int n = std::min(params_.batch, n_tiles - first);
        Embedded embedded = embed(cut, first, n, params_.n_threads);
        float* tokens = embedded.tokens.data();
        const int64_t n_tokens = int64_t(n) * c.n_patches();
        const int n_layers = stage == Stage::kPatchEmbd ? 0 : stage == Stage::kLayer ? layer + 1 : c.n_layer;
        if (stage == Stage::kProjector) {
            run_back(tokens, n, n_layers, nullptr, out, nullptr);
        } else {
            if (n_layers > 0) run_back(tokens, n, n_layers, nullptr, nullptr, nullptr);
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
