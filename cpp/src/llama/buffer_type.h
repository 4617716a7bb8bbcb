// Our matmul kernels inside llama.cpp's own graphs.
//
// ggml's CPU backend keeps a list of extra buffer types, for weights that are stored in an order of their
// own. llama.cpp offers every weight to the types of that list when it loads a model, and the CPU backend
// hands operations on such weights to the type's own code, inside its own thread pool. llama/buffer_type.cpp
// puts a buffer type "BLUELM" at the head of the list: weights are packed when they are loaded
// (kernels/llm/pack.h), and matmuls with them run kernels/llm/kernels.h. What it does not take (other types,
// experts of mixtures, embeddings) goes to the next in the list as before.
#ifndef BLUELM_LLM_DOOR_H
#define BLUELM_LLM_DOOR_H

#include "ggml-backend.h"

namespace bluelm {

// Puts the buffer type on the list, without turning it on. Thread-safe, does it once. Throws Error
// UNSUPPORTED where this ggml has no such list, or where a model was loaded before and the list is closed.
void llm_door_install();
// The same without the Error.
void llm_door_try_install() noexcept;

// Whether models loaded from now on get the kernels. Installed before.
void llm_door_enable(bool is_on);
bool llm_door_is_enabled();

}  // namespace bluelm

#endif  // BLUELM_LLM_DOOR_H
