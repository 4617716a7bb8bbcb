// The command line. Options have llama-bench's names where it has them.
#ifndef BLUELM_BENCH_OPTIONS_H
#define BLUELM_BENCH_OPTIONS_H

#include <optional>
#include <string>
#include <vector>

#include "ggml.h"

namespace tools {

struct Size {
    int width = 0, height = 0;
};

enum class Format { kMarkdown, kJson, kJsonl, kCsv };
enum class Sweep { kNone, kBatch, kChunk, kThreads };

struct Options {
    std::string model, mmproj, synthetic, synthetic_dir;

    // Tests.
    std::vector<Size> images, e2e;
    std::vector<int> n_prompt, n_gen, n_depth = {0};
    int e2e_prompt = 32, e2e_gen = 32;
    Sweep sweep = Sweep::kNone;
    bool table5 = false;
    bool roofline = false;
    std::optional<double> bandwidth_gbs;  // instead of measuring it

    // How. Several values: every combination is measured.
    std::vector<int> threads;            // empty: the cores of the mask
    std::vector<std::string> cpu_masks;  // empty: the big cores where there are two kinds
    std::vector<int> n_batch, n_ubatch;  // empty: the chunk
    std::vector<int> chunk = {128}, tile_batch = {4}, pipeline = {0};
    std::vector<int> vision_weights = {0}, activations = {0};  // BLUELM_WEIGHTS_*, BLUELM_ACTIVATIONS_*
    std::vector<int> llm_kernels;                              // empty: 1 where this build can
    std::vector<ggml_type> type_k = {GGML_TYPE_F16}, type_v = {GGML_TYPE_F16};
    std::vector<int> flash_attn = {-1};  // llama_flash_attn_type: -1 auto, 0 off, 1 on

    int repetitions = 5;
    bool warmup = true;
    int delay = 0;  // seconds before each test
    bool progress = false, verbose = false, memory_check = true;
    Format format = Format::kMarkdown;
    std::string json_path;  // results go there too
};

// Throws UsageError. --help and --version print to stdout and end the process.
Options parse_options(int argc, char** argv);

}  // namespace tools

#endif  // BLUELM_BENCH_OPTIONS_H
