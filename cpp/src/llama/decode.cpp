#include "llama/decode.h"

#include <chrono>

#include "base/error.h"
#include "llama.h"

namespace bluelm {
namespace {

void check(llama_context* ctx, int32_t token, int32_t pos, int32_t seq_id) {
    if (seq_id < 0 || static_cast<uint32_t>(seq_id) >= llama_n_seq_max(ctx)) {
        throw Error(BLUELM_ERR_INVALID_ARGUMENT,
                    format("seq_id is %d, the context has %u sequences", seq_id, llama_n_seq_max(ctx)));
    }
    const int32_t n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(ctx)));
    if (token < 0 || token >= n_vocab) {
        throw Error(BLUELM_ERR_INVALID_ARGUMENT, format("token %d of a vocabulary of %d", token, n_vocab));
    }
    const uint32_t n_ctx = llama_n_ctx_seq(ctx);
    if (pos >= 0 && static_cast<uint32_t>(pos) >= n_ctx) {
        throw Error(BLUELM_ERR_CONTEXT_FULL,
                    format("position %d does not fit into a context of %u; raise n_ctx or shorten the "
                           "conversation",
                           pos, n_ctx));
    }
    // llama_decode wants positions without a gap and treats the rest as an error of its own, after a log
    // line.
    const llama_pos last = llama_memory_seq_pos_max(llama_get_memory(ctx), seq_id);
    const llama_rope_type rope = llama_model_rope_type(llama_get_model(ctx));
    const bool is_mrope = rope == LLAMA_ROPE_TYPE_MROPE || rope == LLAMA_ROPE_TYPE_IMROPE;
    // With M-RoPE a picture's positions end below what follows it.
    if (is_mrope ? pos <= last : pos != last + 1) {
        throw Error(BLUELM_ERR_INVALID_ARGUMENT,
                    format("pos is %d, but sequence %d ends at position %d", pos, seq_id, last));
    }
}

// Asks the caller every 50 ms or so whether to go on, from llama.cpp's abort callback: between the nodes of
// the graph. A token that is there sooner costs no call back.
class Abort {
public:
    Abort(llama_context* ctx, bluelm_progress progress, void* user_data)
        : ctx_(ctx), progress_(progress), user_data_(user_data) {
        if (progress_) llama_set_abort_callback(ctx_, &Abort::poll, this);
    }
    ~Abort() {
        if (progress_) llama_set_abort_callback(ctx_, nullptr, nullptr);
    }
    Abort(const Abort&) = delete;
    Abort& operator=(const Abort&) = delete;

private:
    using Clock = std::chrono::steady_clock;

    static bool poll(void* data) {
        Abort* self = static_cast<Abort*>(data);
        if (self->stopped_) return true;
        const Clock::time_point now = Clock::now();
        if (now - self->asked_ < std::chrono::milliseconds(50)) return false;
        self->stopped_ = !self->progress_(BLUELM_STAGE_DECODE, 0, 1, self->user_data_);
        self->asked_ = Clock::now();
        return self->stopped_;
    }

    llama_context* ctx_;
    bluelm_progress progress_;
    void* user_data_;
    Clock::time_point asked_ = Clock::now();
    bool stopped_ = false;
};

}  // namespace

void decode(llama_context* ctx, int32_t token, int32_t pos, int32_t seq_id, bluelm_progress progress,
            void* user_data) {
    check(ctx, token, pos, seq_id);
    int32_t n_seq_id = 1;
    llama_seq_id* seq_ids = &seq_id;
    int8_t logits = 1;
    llama_batch batch = {};
    batch.n_tokens = 1;
    batch.token = &token;
    batch.pos = &pos;
    batch.n_seq_id = &n_seq_id;
    batch.seq_id = &seq_ids;
    batch.logits = &logits;
    const Abort abort(ctx, progress, user_data);
    const int32_t status = llama_decode(ctx, batch);
    if (status == 0) return;
    llama_memory_seq_rm(llama_get_memory(ctx), seq_id, pos, -1);
    if (status == 2) throw Error(BLUELM_ERR_CANCELLED, "decoding was cancelled within a token");
    if (status == 1) {
        throw Error(BLUELM_ERR_CONTEXT_FULL,
                    format("no room in the KV cache for a token at position %d (context of %u)", pos,
                           llama_n_ctx(ctx)));
    }
    throw Error(BLUELM_ERR_DECODE, format("llama_decode failed with %d", status));
}

}  // namespace bluelm
