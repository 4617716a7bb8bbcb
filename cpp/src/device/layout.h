// Whether ggml's private structs are as device/ggml_private.h declares them.
#ifndef BLUELM_DEVICE_LAYOUT_H
#define BLUELM_DEVICE_LAYOUT_H

#include "device/ggml_private.h"

namespace bluelm {

// Compares the version of the ggml this library is linked with, and what its private structs hold with what
// public functions say of them. Throws Error UNSUPPORTED with both versions, or with the struct that differs.
void require_linked_ggml();

// The same for a graph that another copy of ggml made, as a statically linked program's: whether its nodes
// make sense as tensors. Throws Error UNSUPPORTED.
void require_graph(const ggml_cgraph* graph);

}  // namespace bluelm

#endif  // BLUELM_DEVICE_LAYOUT_H
