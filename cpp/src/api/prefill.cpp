// The C API of prefill: argument checks, nothing else.
#include "llama/prefill.h"

#include "base/error.h"
#include "bluelm.h"

using bluelm::require;

namespace {

void prefill(llama_context* ctx, const bluelm_prefill_params* params, const bluelm::PrefillInput& input,
             int32_t pos0, bool want_logits, bluelm_progress progress, void* user_data, int64_t* n_done_out) {
    int64_t n_done = 0;
    if (!n_done_out) n_done_out = &n_done;
    *n_done_out = 0;
    require(ctx != nullptr, "ctx is NULL");
    require(input.n >= 0, "n is negative");
    require(input.tokens || input.embd || input.n == 0, "tokens or embd is NULL");
    bluelm_prefill_params chosen;
    bluelm_prefill_params_default(&chosen);
    if (params) {
        bluelm::require_struct(params, "params");
        chosen = *params;
    }
    bluelm::prefill(ctx, chosen, input, pos0, want_logits, progress, user_data, n_done_out);
}

}  // namespace

bluelm_status bluelm_prefill_params_default(bluelm_prefill_params* out) {
    return bluelm::guard([&] {
        require(out != nullptr, "out is NULL");
        *out = {sizeof(bluelm_prefill_params), 128, 0};
    });
}

bluelm_status bluelm_prefill_tokens(llama_context* ctx, const bluelm_prefill_params* params,
                                    const int32_t* tokens, int64_t n, int32_t pos0, bool want_logits,
                                    bluelm_progress progress, void* user_data, int64_t* n_done_out) {
    return bluelm::guard([&] {
        bluelm::PrefillInput input;
        input.tokens = tokens;
        input.n = n;
        prefill(ctx, params, input, pos0, want_logits, progress, user_data, n_done_out);
    });
}

bluelm_status bluelm_prefill_embd(llama_context* ctx, const bluelm_prefill_params* params, const float* embd,
                                  int64_t n, int32_t n_embd, int32_t pos0, bool want_logits,
                                  bluelm_progress progress, void* user_data, int64_t* n_done_out) {
    return bluelm::guard([&] {
        bluelm::PrefillInput input;
        input.embd = embd;
        input.n = n;
        input.n_embd = n_embd;
        prefill(ctx, params, input, pos0, want_logits, progress, user_data, n_done_out);
    });
}

bluelm_status bluelm_prefill_view(llama_context* ctx, const bluelm_prefill_params* params, const float* embd,
                                  int64_t n, int32_t n_embd, int32_t pos0, const int32_t* positions,
                                  bool non_causal, bool want_logits, bluelm_progress progress,
                                  void* user_data, int64_t* n_done_out) {
    return bluelm::guard([&] {
        bluelm::PrefillInput input;
        input.embd = embd;
        input.n = n;
        input.n_embd = n_embd;
        input.positions = positions;
        input.non_causal = non_causal;
        prefill(ctx, params, input, pos0, want_logits, progress, user_data, n_done_out);
    });
}
