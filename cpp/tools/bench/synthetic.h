// Models of full size with random weights: speed does not depend on the weights' values, so nothing has to be
// downloaded to measure it.
#ifndef BLUELM_BENCH_SYNTHETIC_H
#define BLUELM_BENCH_SYNTHETIC_H

#include <cstdint>
#include <string>

#include "common/cost.h"
#include "ggml.h"

namespace tools {

// Shapes of a pair of files. Without an output matrix of its own the LLM uses its embedding for both.
struct SyntheticShape {
    const char* name;          // as --synthetic takes it
    const char* architecture;  // llama or qwen2
    ggml_type llm_type, embedding_type;
    int32_t n_embd, n_layer, n_head, n_head_kv, n_ff, n_vocab;
    bool tied, qkv_bias;
    // The vision tower, Q8_0 with an F16 patch embedding; SigLIP's 384 pixels, patches of 14.
    int32_t v_embd, v_layer, v_head, v_ff, v_ff_unpadded, v_hidden;
};

// "demo", "0.5b" or "3b"; NULL for another name.
const SyntheticShape* find_shape(const std::string& name);
const SyntheticShape* all_shapes(size_t* n);

struct SyntheticFiles {
    std::string llm, mmproj;
};

// Sizes of the files on disk, and so of the weights in memory.
uint64_t llm_file_bytes(const SyntheticShape& shape);
uint64_t mmproj_file_bytes(const SyntheticShape& shape);
LlmCost llm_cost(const SyntheticShape& shape);

// Writes the pair into `directory`, which is made if need be and kept, and uses what lies there of the right
// size; or, with an empty name, into a temporary directory that is removed at the end of the process. Disk
// space is looked at first. Each file gets its name when it is complete.
// Throws Failure (no space, read-only), Interrupted.
SyntheticFiles write_synthetic(const SyntheticShape& shape, const std::string& directory);

}  // namespace tools

#endif  // BLUELM_BENCH_SYNTHETIC_H
