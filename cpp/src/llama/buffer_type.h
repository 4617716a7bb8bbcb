// Our matmul kernels inside llama.cpp's own graphs: a buffer type "BLUELM" at the head of ggml's list of
// extra buffer types (llama/extra_buffers.h). Weights are packed when they are loaded (kernels/llm/pack.h),
// and matmuls with them run kernels/llm/matmul.h. What it does not take (other types, experts of mixtures,
// embeddings) goes to the next in the list as before.
#ifndef BLUELM_BUFFER_TYPE_H
#define BLUELM_BUFFER_TYPE_H

#include "ggml-backend.h"

namespace bluelm {

// Puts the buffer type on the list, without turning it on, and takes AMX off (remove_amx_buffer_type), also
// where it throws. Thread-safe, does it once; for what may not run meanwhile see insert_extra_buffer_types.
// Throws Error UNSUPPORTED as that does.
void install_buffer_type();

// Whether models loaded from now on get the kernels. Installed before.
void enable_buffer_type(bool is_on);
bool is_buffer_type_enabled();

}  // namespace bluelm

#endif  // BLUELM_BUFFER_TYPE_H
