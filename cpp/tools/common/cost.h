// What a token costs in theory, by the shapes in a GGUF header alone.
#ifndef BLUELM_TOOLS_COST_H
#define BLUELM_TOOLS_COST_H

#include <cstdint>
#include <string>

#include "ggml.h"
#include "gguf.h"

namespace tools {

struct LlmCost {
    uint64_t bytes_per_token =
        0;                        // weights that generating a token reads: all but the embedding's other rows
    double ops_per_token = 0;     // multiplications and additions in the layers' matmuls
    double ops_output = 0;        // the output matmul, once for each token whose logits are wanted
    double ops_per_position = 0;  // of attention, per token and position that it looks at
    double kv_values = 0;         // keys and values per position
    int64_t n_ctx_train = 0;      // positions that the model knows

    // Bytes of the KV cache that a token at this position reads.
    double kv_bytes(int64_t positions, ggml_type k, ggml_type v) const;
};

LlmCost llm_cost(const gguf_context* gguf);
// All zeros if the file cannot be read.
LlmCost llm_cost(const std::string& path);

}  // namespace tools

#endif  // BLUELM_TOOLS_COST_H
