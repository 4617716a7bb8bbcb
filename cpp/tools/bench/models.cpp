#include "models.h"

#include <cstdio>
#include <cstring>

#include "common/mapped_pages.h"
#include "common/program.h"
#include "jobs.h"

namespace tools {
namespace {

std::string last_complaint;
bool show_log = false;

void on_log(ggml_log_level level, const char* text, void*) {
    if (show_log) std::fputs(text, stderr);
    if (level != GGML_LOG_LEVEL_ERROR) return;
    std::string line = text;
    while (!line.empty() && line.back() == '\n') line.pop_back();
    // "llama_model_load: error loading model: ..." : the reason is what follows the function's name.
    const size_t colon = line.find(": ");
    if (colon != std::string::npos && line.find(' ') > colon) line = line.substr(colon + 2);
    if (last_complaint.empty() && !line.empty()) last_complaint = line;
}

std::string complaint() {
    return last_complaint.empty() ? "no reason given; -v shows its log" : last_complaint;
}

}  // namespace

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

void catch_llama_log(bool verbose) {
    show_log = verbose;
    llama_log_set(on_log, nullptr);
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
    last_complaint.clear();
    Stopwatch loading;
    model_.reset(llama_model_load_from_file(path.c_str(), params));
    drop_mapped_pages(path);
    load_ms_ = loading.ms();
    check_stopped();
    if (!model_) throw Failure(strf("%s: llama.cpp cannot load it (%s)", path.c_str(), complaint().c_str()));
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
    last_complaint.clear();
    Context ctx(llama_init_from_model(get(), params));
    if (!ctx) {
        throw Failure(strf("%s: llama.cpp cannot make a context of %lld tokens (%s)", path_.c_str(),
                           static_cast<long long>(n_ctx), complaint().c_str()));
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
