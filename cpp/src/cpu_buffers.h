// The CPU backend's buffer types that hold weights in another order for faster kernels.
#ifndef BLUELM_CPU_BUFFERS_H
#define BLUELM_CPU_BUFFERS_H

#include <vector>

#include "ggml-backend.h"

namespace bluelm {

// Repacked weights, KleidiAI: in ggml's own order of preference, without AMX. Takes AMX off ggml's list too,
// so that llama.cpp does not put weights there: ggml's AMX kernels kill the process when a GCC before 12.4
// compiled them (GCC bug 114098: the stores that fill the operand of _tile_loadconfig are dropped), Debian
// 12's for one, and nothing tells which compiler it was. llama.cpp can only be told to use all of these
// buffers or none, but the list that ggml returns is its own and not constant: the next entries close up.
// Our own kernels' place on that list (llm_door.h) is taken here as well, since ggml closes it at the first
// call; they are off until somebody turns them on, and not among what is returned.
std::vector<ggml_backend_buffer_type_t> cpu_buffer_types();

}  // namespace bluelm

#endif  // BLUELM_CPU_BUFFERS_H
