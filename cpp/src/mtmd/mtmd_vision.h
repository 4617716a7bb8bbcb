// libmtmd, llama.cpp's own vision encoders, behind checks: what it would abort on is found out before it is
// called in this process.
#ifndef BLUELM_MTMD_VISION_H
#define BLUELM_MTMD_VISION_H

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bluelm.h"
#include "mtmd.h"

namespace bluelm {

// Calls the caller's progress callback from libmtmd's eval callback, and remembers that it said stop:
// mtmd_encode_chunk then returns 0 with rubbish in its buffer.
class MtmdProgress {
public:
    void begin(bluelm_progress callback, void* user_data, int64_t done, int64_t total);
    void end() { callback_ = nullptr; }
    bool is_stopped() const { return stopped_; }
    bool go_on();

private:
    bluelm_progress callback_ = nullptr;
    void* user_data_ = nullptr;
    int64_t done_ = 0, total_ = 0;
    bool stopped_ = false;
};

// One picture cut and scaled as the projector asks: tokens and views, in order.
class MtmdPicture {
public:
    MtmdPicture(const mtmd_context* ctx, const uint8_t* rgb, int32_t width, int32_t height);

    size_t size() const { return mtmd_input_chunks_size(chunks_.get()); }
    const mtmd_input_chunk* chunk(size_t i) const { return mtmd_input_chunks_get(chunks_.get(), i); }
    bool has_pixels() const { return has_pixels_; }

private:
    mtmd::input_chunks_ptr chunks_;
    bool has_pixels_;
};

class MtmdVision {
public:
    // Throws Error: IO, FORMAT, UNSUPPORTED, MISMATCH, OUT_OF_MEMORY, CANCELLED.
    MtmdVision(const std::string& path, const llama_model* llm, const bluelm_mtmd_params& params,
               bluelm_progress progress, void* user_data);

    const mtmd_context* context() const { return ctx_.get(); }
    int32_t n_embd() const { return n_embd_; }

    // Encodes view i: out [n_tokens, n_embd].
    void encode(const MtmdPicture& picture, size_t i, bluelm_progress progress, void* user_data, int64_t done,
                int64_t total, float* out);

private:
    static bool eval(ggml_tensor* node, bool ask, void* data);
    bool observe(ggml_tensor* node, bool ask);
    // Builds the view's graph in a child process, once for each size: what libmtmd aborts on ends the child.
    void rehearse(const MtmdPicture& picture, size_t i);

    std::string path_;
    mtmd::context_ptr ctx_;
    MtmdProgress progress_;
    int32_t n_embd_ = 0;
    const int32_t n_threads_;
    double work_ = 0;        // multiply-adds since the last look at the callback
    bool is_child_ = false;  // inside rehearse(): the graph stands, nothing is computed
    std::string fault_;      // found by observe() in a graph
    std::vector<std::pair<int32_t, int32_t>> rehearsed_;  // (n_tokens, n_pos) of views
};

}  // namespace bluelm

#endif  // BLUELM_MTMD_VISION_H
