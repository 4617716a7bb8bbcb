// ggml's list of extra buffer types: for weights that are stored in an order of their own. llama.cpp offers
// every weight to the types of that list when it loads a model, and the CPU backend hands operations on such
// weights to the type's own code, inside its own thread pool.
//
// The list is there twice. ggml_backend_cpu_get_extra_buffer_types() is a vector that each compute thread
// walks through for every operation. What llama.cpp asks when it loads a model is a copy, made when it asks
// for the first time and never again: from then on the list is closed.
#ifndef BLUELM_EXTRA_BUFFERS_H
#define BLUELM_EXTRA_BUFFERS_H

#include <vector>

#include "ggml-backend.h"

namespace bluelm {

// Puts `types` at the head of the list, in their order, and closes it. Whether it is still open is found out
// before anything is changed: where it is closed, a model may be running, and nothing is inserted. Meanwhile
// no other thread may load a model or compute with ggml. Throws Error UNSUPPORTED where this ggml has no such
// list, or where it is closed.
void insert_extra_buffer_types(const std::vector<ggml_backend_buffer_type_t>& types);

// Takes AMX off the list that llama.cpp asks, so that it does not put weights there: ggml's AMX kernels kill
// the process when a GCC before 12.4 compiled them (GCC bug 114098: the stores that fill the operand of
// _tile_loadconfig are dropped), Debian 12's for one, and nothing tells which compiler it was. llama.cpp can
// only be told to use all of these types or none, but the copy is not constant: the next entries close up.
// Closes the list. Models that are loaded are not touched; meanwhile no other thread may load one.
void remove_amx_buffer_type();

}  // namespace bluelm

#endif  // BLUELM_EXTRA_BUFFERS_H
