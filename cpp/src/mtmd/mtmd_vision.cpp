#include "mtmd/mtmd_vision.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <mutex>

#include "base/error.h"
#include "device/device.h"
#include "ggml-backend.h"
#include "ggml.h"
#include "gguf.h"
#include "mtmd-helper.h"
#include "mtmd/child.h"

namespace bluelm {
namespace {

constexpr unsigned kChildSeconds = 60;
// How much is computed between two looks at the progress callback: a few milliseconds.
constexpr double kMultiplyAdds = 2e8;

// libmtmd's log: its last warnings and errors go into messages.
std::mutex log_mutex;
std::deque<std::string> log_lines;
bool log_is_shown = false;

void receive(ggml_log_level level, const char* text, void*) {
    try {
        const std::lock_guard<std::mutex> lock(log_mutex);
        if (log_is_shown) std::fputs(text, stderr);
        if (level != GGML_LOG_LEVEL_ERROR && level != GGML_LOG_LEVEL_WARN) return;
        log_lines.emplace_back(text);
        if (log_lines.size() > 16) log_lines.pop_front();
    } catch (...) {
    }
}

void start_log(bool is_shown) {
    const std::lock_guard<std::mutex> lock(log_mutex);
    log_lines.clear();
    log_is_shown = log_is_shown || is_shown;
    mtmd_helper_log_set(receive, nullptr);
}

std::string logged() {
    const std::lock_guard<std::mutex> lock(log_mutex);
    std::string all;
    for (const std::string& line : log_lines) all += line + "\n";
    std::string line = telling_line(all);
    std::replace(line.begin(), line.end(), '\n', ' ');
    while (!line.empty() && line.back() == ' ') line.pop_back();
    return line;
}

std::string reason(const std::string& line) { return line.empty() ? "" : " (" + line + ")"; }

mtmd_context_params context_params(const bluelm_mtmd_params& params) {
    mtmd_context_params result = mtmd_context_params_default();
    result.use_gpu = false;
    if (params.device && *params.device) {
        const bool is_ours = std::strcmp(params.device, "BLUELM") == 0;
        result.device = is_ours ? encoder_device() : ggml_backend_dev_by_name(params.device);
        if (!result.device) {
            throw Error(BLUELM_ERR_INVALID_ARGUMENT, format("ggml has no device %s", params.device));
        }
        result.use_gpu = true;  // libmtmd looks at `device` only then
    }
    result.print_timings = false;
    result.n_threads = params.n_threads;
    result.warmup = false;
    result.image_min_tokens = params.image_min_tokens > 0 ? params.image_min_tokens : -1;
    result.image_max_tokens = params.image_max_tokens > 0 ? params.image_max_tokens : -1;
    return result;
}

struct Loading {
    bluelm_progress callback;
    void* user_data;
    bool stopped;
};

bool report_loading(float done, void* data) {
    Loading* loading = static_cast<Loading*>(data);
    if (!loading->stopped && loading->callback) {
        loading->stopped = !loading->callback(BLUELM_STAGE_ENCODE, static_cast<int64_t>(100 * done), 100,
                                              loading->user_data);
    }
    return !loading->stopped;
}

}  // namespace

void MtmdProgress::begin(bluelm_progress callback, void* user_data, int64_t done, int64_t total) {
    callback_ = callback;
    user_data_ = user_data;
    done_ = done;
    total_ = total;
    stopped_ = false;
}

bool MtmdProgress::go_on() {
    if (!stopped_ && callback_) stopped_ = !callback_(BLUELM_STAGE_ENCODE, done_, total_, user_data_);
    return !stopped_;
}

MtmdPicture::MtmdPicture(const mtmd_context* ctx, const uint8_t* rgb, int32_t width, int32_t height)
    : chunks_(mtmd_input_chunks_init()), has_pixels_(rgb != nullptr) {
    const mtmd::bitmap_ptr bitmap(
        mtmd_bitmap_init(static_cast<uint32_t>(width), static_cast<uint32_t>(height), rgb));
    const char* marker = mtmd_get_marker(ctx);
    const mtmd_input_text text = {marker, std::strlen(marker), false, true};
    const mtmd_bitmap* bitmaps[] = {bitmap.get()};
    start_log(false);
    const int32_t status = mtmd_tokenize(ctx, chunks_.get(), &text, bitmaps, 1);
    if (status != 0) {
        throw Error(BLUELM_ERR_INVALID_ARGUMENT, format("libmtmd cannot prepare a picture of %dx%d pixels%s",
                                                        width, height, reason(logged()).c_str()));
    }
}

MtmdVision::MtmdVision(const std::string& path, const llama_model* llm, const bluelm_mtmd_params& params,
                       bluelm_progress progress, void* user_data)
    : path_(path), n_embd_(llama_model_n_embd_inp(llm)), n_threads_(params.n_threads) {
    mtmd_context_params wanted = context_params(params);
    start_log(params.verbose != 0);
    const ChildResult tried = run_in_child(
        [&] {
            mtmd_context_params trial = wanted;
            trial.warmup = true;  // builds the graph, reads no weights
            return !mtmd_get_memory_usage(path.c_str(), trial).empty();
        },
        kChildSeconds);
    if (!tried.is_sound) {
        const std::string why = reason(telling_line(tried.output));
        throw Error(BLUELM_ERR_FORMAT, path + ": libmtmd cannot use this vision file" + why);
    }
    Loading loading = {progress, user_data, false};
    wanted.cb_eval = eval;
    wanted.cb_eval_user_data = this;
    wanted.progress_callback = report_loading;
    wanted.progress_callback_user_data = &loading;
    start_log(false);
    ctx_.reset(mtmd_init_from_file(path.c_str(), llm, wanted));
    if (loading.stopped) throw Error(BLUELM_ERR_CANCELLED, path + ": loading was cancelled");
    if (!ctx_) {
        const std::string line = logged();
        const bool is_other = line.find("mismatch between") != std::string::npos;
        const bool is_memory = line.find("alloc") != std::string::npos;
        throw Error(is_other    ? BLUELM_ERR_MISMATCH
                    : is_memory ? BLUELM_ERR_OUT_OF_MEMORY
                                : BLUELM_ERR_FORMAT,
                    path + ": libmtmd cannot load this vision file" + reason(line));
    }
    if (!mtmd_support_vision(ctx_.get())) {
        throw Error(BLUELM_ERR_UNSUPPORTED, path + ": this projector takes sound only, no pictures");
    }
}

bool MtmdVision::eval(ggml_tensor* node, bool ask, void* data) {
    return static_cast<MtmdVision*>(data)->observe(node, ask);
}

// ask: whether the graph is to stop behind this node so that it can be looked at; all that was asked before
// is then computed. Otherwise: whether to go on.
bool MtmdVision::observe(ggml_tensor* node, bool ask) {
#if defined(__linux__)
    if (is_child_) _exit(0);
#endif
    if (!ask) return fault_.empty() && progress_.go_on();
    if (progress_.is_stopped() || !fault_.empty()) return true;
    if (node->op == GGML_OP_GET_ROWS && ggml_backend_buffer_is_host(node->src[1]->buffer) &&
        (node->src[1]->flags & GGML_TENSOR_FLAG_INPUT) && node->src[1]->type == GGML_TYPE_I32) {
        // ggml aborts on a row that is not there: the index is made harmless, and the encode fails.
        int32_t* rows = static_cast<int32_t*>(node->src[1]->data);
        const int64_t n_rows = node->src[0]->ne[1];
        for (int64_t i = 0; i < ggml_nelements(node->src[1]); ++i) {
            if (rows[i] >= 0 && rows[i] < n_rows) continue;
            fault_ = format("row %d of tensor %s, which has %lld", rows[i], node->src[0]->name,
                            static_cast<long long>(n_rows));
            rows[i] = 0;
        }
        if (!fault_.empty()) return true;
    }
    if (node->op == GGML_OP_MUL_MAT) {
        work_ += static_cast<double>(ggml_nelements(node)) * static_cast<double>(node->src[0]->ne[0]);
    } else if (node->op == GGML_OP_FLASH_ATTN_EXT) {
        work_ += 2.0 * static_cast<double>(ggml_nelements(node)) * static_cast<double>(node->src[1]->ne[1]);
    }
    if (work_ < kMultiplyAdds) return false;
    work_ = 0;
    return true;
}

void MtmdVision::rehearse(const MtmdPicture& picture, size_t i) {
    const mtmd_input_chunk* chunk = picture.chunk(i);
    const std::pair<int32_t, int32_t> size = {static_cast<int32_t>(mtmd_input_chunk_get_n_tokens(chunk)),
                                              mtmd_input_chunk_get_n_pos(chunk)};
    if (std::find(rehearsed_.begin(), rehearsed_.end(), size) != rehearsed_.end()) return;
    const ChildResult tried = run_in_child(
        [&] {
            is_child_ = true;
            const DeviceCall call(n_threads_, nullptr, nullptr, DeviceCall::Kind::kRehearsal);
            return mtmd_encode_chunk(ctx_.get(), chunk) == 0;
        },
        kChildSeconds);
    if (!tried.is_sound) {
        throw Error(BLUELM_ERR_FORMAT,
                    path_ + ": libmtmd cannot encode this picture" + reason(telling_line(tried.output)));
    }
    rehearsed_.push_back(size);
}

void MtmdVision::encode(const MtmdPicture& picture, size_t i, bluelm_progress progress, void* user_data,
                        int64_t done, int64_t total, float* out) {
    rehearse(picture, i);
    const mtmd_input_chunk* chunk = picture.chunk(i);
    start_log(false);
    fault_.clear();
    work_ = 0;
    progress_.begin(progress, user_data, done, total);
    int32_t status = -1;
    {
        const DeviceCall call(n_threads_, nullptr, nullptr);  // `eval` sees to progress on every device
        if (progress_.go_on()) status = mtmd_encode_chunk(ctx_.get(), chunk);
    }
    progress_.end();
    if (progress_.is_stopped()) throw Error(BLUELM_ERR_CANCELLED, "encoding was cancelled");
    if (!fault_.empty()) throw Error(BLUELM_ERR_FORMAT, path_ + ": the vision file is damaged: " + fault_);
    if (status != 0) {
        throw Error(BLUELM_ERR_FORMAT, path_ + ": libmtmd cannot encode this picture" + reason(logged()));
    }
    const float* rows = mtmd_get_output_embd(ctx_.get());
    const size_t n = mtmd_input_chunk_get_n_tokens(chunk) * static_cast<size_t>(n_embd_);
    for (size_t k = 0; k < n; ++k) {
        if (!std::isfinite(rows[k])) {
            throw Error(BLUELM_ERR_FORMAT, path_ + ": the encoder's output holds values that are no numbers");
        }
    }
    std::memcpy(out, rows, n * sizeof(float));
}

}  // namespace bluelm
