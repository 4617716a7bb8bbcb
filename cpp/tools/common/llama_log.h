// llama.cpp's log, and why it failed according to it: its calls return NULL and no reason.
#ifndef BLUELM_TOOLS_LLAMA_LOG_H
#define BLUELM_TOOLS_LLAMA_LOG_H

#include <string>

namespace tools {

// Sends llama.cpp's log to stderr (verbose) or nowhere, and keeps its last warnings and errors.
void catch_llama_log(bool verbose);
// Before a call that may fail: what was said until now is not its reason.
void forget_llama_log();
// The most telling line since then, without the name of the function that wrote it.
std::string llama_reason();

}  // namespace tools

#endif  // BLUELM_TOOLS_LLAMA_LOG_H
