#include "models.h"

#include <sys/stat.h>

#include <algorithm>
#include <string>
#include <vector>

#include "common/cost.h"
#include "common/llama_log.h"
#include "common/mapped_pages.h"
#include "common/program.h"
#include "common/system.h"

using tools::Failure;

namespace {

constexpr int kMostContext = 4096;  // unless -c says more

double file_bytes(const std::string& path) {
    struct stat info = {};
    return !path.empty() && stat(path.c_str(), &info) == 0 ? static_cast<double>(info.st_size) : 0;
}

}  // namespace

void check(bluelm_status status) {
    if (status == BLUELM_OK) return;
    if (status == BLUELM_ERR_CANCELLED) tools::check_stopped();
    throw Failure(bluelm_last_error());
}

void check_memory(const Options& o) {
    if (!o.memory_check) return;
    const tools::LlmCost cost = tools::llm_cost(o.model);
    int64_t n_ctx = o.n_ctx;
    if (n_ctx == 0) n_ctx = cost.n_ctx_train > 0 ? std::min<int64_t>(cost.n_ctx_train, kMostContext) : 0;
    tools::check_memory("the files", file_bytes(o.model) + file_bytes(o.mmproj),
                        cost.kv_bytes(n_ctx, GGML_TYPE_F16, GGML_TYPE_F16));
}

Owned<llama_model> load_model(const Options& o) {
    check(bluelm_llm_check(o.model.c_str()));
    llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = 0;
    tools::PageDropper dropper(o.model);
    params.progress_callback_user_data = &dropper;
    params.progress_callback = [](float done, void* user_data) {
        static_cast<tools::PageDropper*>(user_data)->report(done);
        return tools::stop_signal() == 0;
    };
    tools::forget_llama_log();
    Owned<llama_model> model(llama_model_load_from_file(o.model.c_str(), params));
    tools::check_stopped();
    if (!model) throw Failure(o.model + ": llama.cpp cannot load it (" + tools::llama_reason() + ")");
    if (llama_model_has_encoder(model.get()) || !llama_model_has_decoder(model.get()))
        throw Failure(o.model + ": not a decoder-only language model");
    if (llama_vocab_n_tokens(llama_model_get_vocab(model.get())) <= 0)
        throw Failure(o.model + ": the file holds no tokenizer");
    return model;
}

Owned<bluelm_vision> load_vision(const Options& o, const llama_model* model) {
    if (o.mmproj.empty()) return nullptr;
    bluelm_vision_params params;
    check(bluelm_vision_params_default(&params));
    params.n_threads = o.n_threads;
    params.batch = o.tile_batch;
    bluelm_vision* made = nullptr;
    check(bluelm_vision_init(o.mmproj.c_str(), &params, &made));
    Owned<bluelm_vision> vision(made);
    bluelm_vision_info info = {};
    info.struct_size = sizeof info;
    check(bluelm_vision_get_info(made, &info));
    if (info.n_embd_out != llama_model_n_embd_inp(model)) {
        throw Failure(o.mmproj + " makes embeddings of width " + std::to_string(info.n_embd_out) + ", but " +
                      o.model + " needs " + std::to_string(llama_model_n_embd_inp(model)) +
                      ": they do not belong together");
    }
    return vision;
}

Owned<llama_context> make_context(const Options& o, llama_model* model) {
    llama_context_params params = llama_context_default_params();
    const int n_ctx = o.n_ctx > 0 ? o.n_ctx : std::min(kMostContext, llama_model_n_ctx_train(model));
    params.n_ctx = static_cast<uint32_t>(n_ctx);
    params.n_batch = static_cast<uint32_t>(std::min(o.n_batch, n_ctx));
    params.n_ubatch = params.n_batch;
    params.n_seq_max = 1;
    params.n_threads = params.n_threads_batch = o.n_threads;
    params.no_perf = true;
    params.abort_callback = [](void*) { return tools::stop_signal() != 0; };
    tools::forget_llama_log();
    Owned<llama_context> ctx(llama_init_from_model(model, params));
    if (!ctx) {
        throw Failure(o.model + ": no context of " + std::to_string(n_ctx) + " tokens (" +
                      tools::llama_reason() + "); try a smaller -c");
    }
    return ctx;
}

Owned<llama_sampler> make_sampler(const Options& o, const llama_vocab* vocab, const Prompt& prompt) {
    Owned<llama_sampler> chain(llama_sampler_chain_init(llama_sampler_chain_default_params()));
    const auto add = [&](llama_sampler* sampler) { llama_sampler_chain_add(chain.get(), sampler); };
    constexpr int kPenaltyTokens = 64;
    if (o.repeat_penalty != 1) {
        add(llama_sampler_init_penalties(llama_vocab_n_tokens(vocab), kPenaltyTokens,
                                         static_cast<float>(o.repeat_penalty), 0, 0));
    }
    if (o.temp <= 0) {
        add(llama_sampler_init_greedy());
    } else {
        if (o.top_k > 0) add(llama_sampler_init_top_k(o.top_k));
        if (o.top_p < 1) add(llama_sampler_init_top_p(static_cast<float>(o.top_p), 1));
        if (o.min_p > 0) add(llama_sampler_init_min_p(static_cast<float>(o.min_p), 1));
        add(llama_sampler_init_temp(static_cast<float>(o.temp)));
        add(llama_sampler_init_dist(o.seed < 0 ? LLAMA_DEFAULT_SEED : static_cast<uint32_t>(o.seed)));
    }
    if (o.repeat_penalty != 1) {
        std::vector<llama_token> history;
        for (const Segment& segment : prompt.segments)
            history.insert(history.end(), segment.tokens.begin(), segment.tokens.end());
        const size_t first = history.size() > kPenaltyTokens ? history.size() - kPenaltyTokens : 0;
        for (size_t i = first; i < history.size(); ++i) llama_sampler_accept(chain.get(), history[i]);
    }
    return chain;
}
