#include "models.h"

#include "common/llama_log.h"
#include "common/mapped_pages.h"
#include "common/program.h"
#include "jobs.h"

namespace tools {
void check(bluelm_status status) {
    if (status == BLUELM_OK) return;
    if (status == BLUELM_ERR_CANCELLED) check_stopped();
    throw Failure(bluelm_last_error());
}

void register_llm_kernels(bool required) {
    const bluelm_status status = bluelm_llm_kernels_register();
    if (status == BLUELM_OK || (status == BLUELM_ERR_UNSUPPORTED && !required)) return;
    throw Failure(bluelm_last_error());
}

// ------------------------------------------------------------------------------------------------- LLM

Llm::Llm(const std::string& path, const Config& c) : path_(path) {
    check(bluelm_llm_check(path.c_str()));
    llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = 0;
    PageDropper dropper(path);
    params.progress_callback_user_data = &dropper;
    params.progress_callback = [](float done, void* user_data) {
        static_cast<PageDropper*>(user_data)->report(done);
        return stop_signal() == 0;
    };
    // Fails only where they could not be registered: then there is nothing to turn off.
    (void)bluelm_llm_kernels_enable(c.llm_kernels != 0);
    const char* kernels = bluelm_llm_kernels_name();
    kernels_ = *kernels ? kernels : "llama.cpp";
    forget_llama_log();
    Stopwatch loading;
    model_.reset(llama_model_load_from_file(path.c_str(), params));
    dropper.report(1);
    load_ms_ = loading.ms();
    check_stopped();
    if (!model_)
        throw Failure(strf("%s: llama.cpp cannot load it (%s)", path.c_str(), llama_reason().c_str()));
    if (!llama_model_has_decoder(model_.get()))
        throw Failure(strf("%s: this model generates no text", path.c_str()));
    cost_ = llm_cost(path);
}

int32_t Llm::n_vocab() const { return llama_vocab_n_tokens(llama_model_get_vocab(get())); }

int32_t Llm::n_embd() const { return llama_model_n_embd_inp(get()); }

std::string Llm::type() const {
    char text[128] = {};
    llama_model_desc(get(), text, sizeof text);
    return text;
}

Llm::Context Llm::make_context(const Config& c, int64_t n_ctx) const {
    llama_context_params params = llama_context_default_params();
    params.n_ctx = static_cast<uint32_t>(n_ctx);
    params.n_batch = static_cast<uint32_t>(c.n_batch);
    params.n_ubatch = static_cast<uint32_t>(c.n_ubatch);
    params.n_seq_max = 1;
    params.n_threads = c.threads;
    params.n_threads_batch = c.threads;
    params.type_k = c.type_k;
    params.type_v = c.type_v;
    params.flash_attn_type = static_cast<llama_flash_attn_type>(c.flash_attn);
    params.no_perf = true;
    params.abort_callback = [](void*) { return stop_signal() != 0; };
    forget_llama_log();
    Context ctx(llama_init_from_model(get(), params));
    if (!ctx) {
        throw Failure(strf("%s: llama.cpp cannot make a context of %lld tokens (%s)", path_.c_str(),
                           static_cast<long long>(n_ctx), llama_reason().c_str()));
    }
    return ctx;
}

// ---------------------------------------------------------------------------------------------- vision

Vision::Vision(const std::string& path, const Config& c) {
    bluelm_vision_params params;
    check(bluelm_vision_params_default(&params));
    params.n_threads = c.threads;
    params.batch = c.tile_batch;
    params.pipeline = c.pipeline;
    params.weights = c.vision_weights;
    params.activations = c.activations;
    bluelm_vision* vision = nullptr;
    Stopwatch loading;
    check(bluelm_vision_init(path.c_str(), &params, &vision));
    load_ms_ = loading.ms();
    vision_.reset(vision);
    info_.struct_size = sizeof info_;
    check(bluelm_vision_get_info(vision, &info_));
}

std::string Vision::type() const {
    return strf("%s mmproj %s", info_.name[0] ? info_.name : "unnamed", info_.ftype);
}

}  // namespace tools
