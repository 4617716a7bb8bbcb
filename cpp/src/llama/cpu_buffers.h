// What is done to the CPU backend's list of buffer types before anybody uses it.
#ifndef BLUELM_CPU_BUFFERS_H
#define BLUELM_CPU_BUFFERS_H

namespace bluelm {

// Takes AMX off ggml's list, so that llama.cpp does not put weights there: ggml's AMX kernels kill the
// process when a GCC before 12.4 compiled them (GCC bug 114098: the stores that fill the operand of
// _tile_loadconfig are dropped), Debian 12's for one, and nothing tells which compiler it was. llama.cpp can
// only be told to use all of these buffers or none, but the list that ggml returns is its own and not
// constant: the next entries close up. Our own kernels' place on that list (llama/buffer_type.h) is taken
// here as well, since ggml closes it at the first call; they are off until somebody turns them on.
// Thread-safe, may be called again.
void prepare_cpu_buffers();

}  // namespace bluelm

#endif  // BLUELM_CPU_BUFFERS_H
