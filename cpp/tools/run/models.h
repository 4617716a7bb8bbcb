// The two models of one answer: checked, loaded, and freed in the right order.
#ifndef BLUELM_TOOLS_RUN_MODELS_H
#define BLUELM_TOOLS_RUN_MODELS_H

#include <cstdio>
#include <memory>

#include "bluelm.h"
#include "llama.h"
#include "options.h"
#include "prompt.h"

struct Free {
    void operator()(bluelm_vision* p) const { bluelm_vision_free(p); }
    void operator()(llama_model* p) const { llama_model_free(p); }
    void operator()(llama_context* p) const { llama_free(p); }
    void operator()(llama_sampler* p) const { llama_sampler_free(p); }
    void operator()(std::FILE* p) const { std::fclose(p); }
};
template <class T>
using Owned = std::unique_ptr<T, Free>;

// What libbluelm says, as a Failure; an end by a signal as Interrupted.
void check(bluelm_status status);

// Before anything is loaded: whether weights and KV cache fit into memory. Throws Failure.
void check_memory(const Options& options);

// Each throws Failure with the one line to print, or Interrupted.
Owned<llama_model> load_model(const Options& options);
Owned<bluelm_vision> load_vision(const Options& options, const llama_model* model);  // null without --mmproj
Owned<llama_context> make_context(const Options& options, llama_model* model);

// Of the answer; a repeat penalty counts the end of the prompt, too.
Owned<llama_sampler> make_sampler(const Options& options, const llama_vocab* vocab, const Prompt& prompt);

#endif  // BLUELM_TOOLS_RUN_MODELS_H
