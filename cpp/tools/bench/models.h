// The two models while they are measured, and what loading took.
#ifndef BLUELM_BENCH_MODELS_H
#define BLUELM_BENCH_MODELS_H

#include <cstdint>
#include <memory>
#include <string>

#include "bluelm.h"
#include "common/cost.h"
#include "llama.h"

namespace tools {

struct Config;

class Llm {
public:
    // Throws Failure (with llama.cpp's own reason), Interrupted.
    Llm(const std::string& path, const Config& config);

    llama_model* get() const { return model_.get(); }
    double load_ms() const { return load_ms_; }
    const LlmCost& cost() const { return cost_; }
    int32_t n_vocab() const;
    int32_t n_embd() const;
    std::string type() const;                                // "llama 3B Q4_0"
    const std::string& kernels() const { return kernels_; }  // "amx", "llama.cpp"

    struct ContextDeleter {
        void operator()(llama_context* ctx) const { llama_free(ctx); }
    };
    using Context = std::unique_ptr<llama_context, ContextDeleter>;
    // Throws Failure.
    Context make_context(const Config& config, int64_t n_ctx) const;

private:
    struct ModelDeleter {
        void operator()(llama_model* model) const { llama_model_free(model); }
    };
    std::string path_;
    std::unique_ptr<llama_model, ModelDeleter> model_;
    double load_ms_ = 0;
    std::string kernels_;
    LlmCost cost_;
};

class Vision {
public:
    Vision(const std::string& path, const Config& config);

    bluelm_vision* get() const { return vision_.get(); }
    const bluelm_vision_info& info() const { return info_; }
    double load_ms() const { return load_ms_; }
    std::string type() const;  // "bluelm-demo mmproj q8_0"

private:
    struct VisionDeleter {
        void operator()(bluelm_vision* vision) const { bluelm_vision_free(vision); }
    };
    std::unique_ptr<bluelm_vision, VisionDeleter> vision_;
    bluelm_vision_info info_ = {};
    double load_ms_ = 0;
};

// Throws Failure with libbluelm's message, or Interrupted.
void check(bluelm_status status);

// Brings this library's kernels into llama.cpp, once and before a model is loaded. Where that cannot be:
// nothing, or Failure if they are required or BLUELM_CPU_LEVEL is wrong.
void register_llm_kernels(bool required);

}  // namespace tools

#endif  // BLUELM_BENCH_MODELS_H
