// What is measured, and with which settings.
#ifndef BLUELM_BENCH_JOBS_H
#define BLUELM_BENCH_JOBS_H

#include <string>
#include <vector>

#include "common/system.h"
#include "options.h"

namespace tools {

// One combination of settings.
struct Config {
    int threads = 1;
    std::vector<Cpu> cpus;
    int n_batch = 128, n_ubatch = 128, chunk = 128;
    int tile_batch = 4, pipeline = 0, vision_weights = 0, activations = 0, llm_kernels = 1;
    ggml_type type_k = GGML_TYPE_F16, type_v = GGML_TYPE_F16;
    int flash_attn = -1;
};

enum class Kind { kLoad, kImage, kPrompt, kGenerate, kE2e, kTable5 };

struct Job {
    Kind kind;
    Config config;
    Size image;
    int n_prompt = 0, n_gen = 0, n_depth = 0;

    bool needs_llm() const { return kind != Kind::kImage; }
    bool needs_vision() const { return kind != Kind::kPrompt && kind != Kind::kGenerate; }
    std::string name() const;  // "img 768x1536", "pp512 @ d1024"
};

// Every combination that the options ask for, in the order in which they run: loading, pictures, prefill,
// generation, end to end, Table 5. Settings that do not touch a test do not multiply it. Warnings go to
// stderr. Throws UsageError.
std::vector<Job> plan_jobs(const Options& options);

}  // namespace tools

#endif  // BLUELM_BENCH_JOBS_H
