// Options of bluelm-run: those of `bluelm-gguf run`.
#ifndef BLUELM_TOOLS_RUN_OPTIONS_H
#define BLUELM_TOOLS_RUN_OPTIONS_H

#include <cstdint>
#include <string>
#include <vector>

struct Options {
    std::string model, mmproj, prompt, system, chat_template, embeddings, cpu_mask = "big";
    std::vector<std::string> images;
    int n_predict = 256, n_ctx = 0, n_threads = 0, n_batch = 512, chunk = 128, tile_batch = 4;
    int top_k = 40;
    double temp = 0, top_p = 0.95, min_p = 0.05, repeat_penalty = 1;
    int64_t seed = -1;
    bool memory_check = true, json = false, verbose = false;
};

// --help and --version print and end the process. Throws UsageError.
Options parse_options(int argc, char** argv);

#endif  // BLUELM_TOOLS_RUN_OPTIONS_H
