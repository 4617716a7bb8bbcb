#include "llama/prefill.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "base/error.h"
#include "base/progress.h"
#include "llama.h"

namespace bluelm {
namespace {

void check(llama_context* ctx, const bluelm_prefill_params& params, const PrefillInput& input, int32_t pos0) {
    const llama_model* model = llama_get_model(ctx);
    const int64_t n_batch = llama_n_batch(ctx), n_ctx = llama_n_ctx_seq(ctx);
    if (params.chunk < 1 || params.chunk > n_batch) {
        throw Error(BLUELM_ERR_INVALID_ARGUMENT, format("chunk is %d, the context's n_batch is %lld",
                                                        params.chunk, static_cast<long long>(n_batch)));
    }
    if (params.seq_id < 0 || static_cast<uint32_t>(params.seq_id) >= llama_n_seq_max(ctx)) {
        throw Error(BLUELM_ERR_INVALID_ARGUMENT, format("seq_id is %d, the context has %u sequences",
                                                        params.seq_id, llama_n_seq_max(ctx)));
    }
    if (pos0 < 0) throw Error(BLUELM_ERR_INVALID_ARGUMENT, format("pos0 is %d", pos0));
    if (!llama_model_has_decoder(model)) throw Error(BLUELM_ERR_MISMATCH, "the model has no decoder");
    const llama_rope_type rope = llama_model_rope_type(model);
    const bool is_mrope = rope == LLAMA_ROPE_TYPE_MROPE || rope == LLAMA_ROPE_TYPE_IMROPE;
    if (input.embd && is_mrope && !input.positions) {
        throw Error(BLUELM_ERR_UNSUPPORTED,
                    "the language model wants several positions for each embedding (M-RoPE)");
    }
    if (input.positions && !is_mrope) {
        throw Error(BLUELM_ERR_MISMATCH, "the language model takes one position for each embedding");
    }
    const int64_t at_once = std::min<int64_t>(n_batch, llama_n_ubatch(ctx));
    if (input.non_causal && input.n > at_once) {
        throw Error(
            BLUELM_ERR_UNSUPPORTED,
            format("the picture's %lld tokens must be computed in one step, and the context takes %lld: "
                   "load the model with n_batch %lld",
                   static_cast<long long>(input.n), static_cast<long long>(at_once),
                   static_cast<long long>(input.n)));
    }
    if (input.n > n_ctx - pos0) {
        throw Error(
            BLUELM_ERR_CONTEXT_FULL,
            format("%lld tokens at position %d do not fit into a context of %lld; raise n_ctx or shorten the "
                   "conversation",
                   static_cast<long long>(input.n), pos0, static_cast<long long>(n_ctx)));
    }
    // llama_decode wants positions without a gap and treats the rest as an error of its own, after a log
    // line.
    const llama_pos last = llama_memory_seq_pos_max(llama_get_memory(ctx), params.seq_id);
    // With M-RoPE a picture's positions end below what follows it.
    if (is_mrope ? pos0 <= last : pos0 != last + 1) {
        throw Error(BLUELM_ERR_INVALID_ARGUMENT,
                    format("pos0 is %d, but sequence %d ends at position %d", pos0, params.seq_id, last));
    }
    for (int64_t i = 0; input.positions && i < 4 * input.n; ++i) {
        require(input.positions[i] >= (i < input.n ? pos0 : 0), "a position lies below pos0");
    }
    if (input.embd) {
        const int32_t n_embd = llama_model_n_embd_inp(model);
        if (input.n_embd != n_embd) {
            throw Error(
                BLUELM_ERR_MISMATCH,
                format("embeddings of width %d, but the language model's n_embd is %d: the mmproj belongs to "
                       "another model",
                       input.n_embd, n_embd));
        }
        return;
    }
    const int32_t n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    for (int64_t i = 0; i < input.n; ++i) {
        if (input.tokens[i] < 0 || input.tokens[i] >= n_vocab) {
            throw Error(BLUELM_ERR_INVALID_ARGUMENT,
                        format("token %lld is %d, the vocabulary has %d", static_cast<long long>(i),
                               input.tokens[i], n_vocab));
        }
    }
}

// Asks the caller between the nodes of a chunk's graph, too: a chunk of a large model takes seconds.
class AbortCallback {
public:
    AbortCallback(llama_context* ctx, Progress& progress) : ctx_(ctx) {
        llama_set_abort_callback(
            ctx, [](void* data) { return !static_cast<Progress*>(data)->poll(); }, &progress);
    }
    ~AbortCallback() { llama_set_abort_callback(ctx_, nullptr, nullptr); }
    AbortCallback(const AbortCallback&) = delete;
    AbortCallback& operator=(const AbortCallback&) = delete;

private:
    llama_context* ctx_;
};

class NonCausal {
public:
    NonCausal(llama_context* ctx, bool is_on) : ctx_(is_on ? ctx : nullptr) {
        if (ctx_) llama_set_causal_attn(ctx_, false);
    }
    ~NonCausal() {
        if (ctx_) llama_set_causal_attn(ctx_, true);
    }
    NonCausal(const NonCausal&) = delete;
    NonCausal& operator=(const NonCausal&) = delete;

private:
    llama_context* ctx_;
};

}  // namespace

void prefill(llama_context* ctx, const bluelm_prefill_params& params, const PrefillInput& input, int32_t pos0,
             bool want_logits, bluelm_progress callback, void* user_data, int64_t* n_done) {
    *n_done = 0;
    if (input.n == 0) return;
    check(ctx, params, input, pos0);
    Progress progress(callback, user_data, BLUELM_STAGE_PREFILL, input.n);
    std::optional<AbortCallback> abort_callback;
    if (callback) abort_callback.emplace(ctx, progress);

    const NonCausal attention(ctx, input.non_causal);

    const int64_t most = input.non_causal ? input.n : params.chunk;
    const size_t chunk = static_cast<size_t>(most);
    const int n_pos = input.positions ? 4 : 1;
    std::vector<llama_pos> pos(chunk * static_cast<size_t>(n_pos));
    std::vector<int32_t> n_seq_id(chunk, 1);
    llama_seq_id seq_id = params.seq_id;
    std::vector<llama_seq_id*> seq_ids(chunk, &seq_id);
    std::vector<int8_t> logits(chunk);

    // Takes out of the cache what is behind n_done, so that n_done is the truth.
    const auto roll_back = [&] {
        llama_memory_seq_rm(llama_get_memory(ctx), params.seq_id, pos0 + static_cast<llama_pos>(*n_done), -1);
    };
    int64_t done = 0;
    while (done < input.n) {
        if (!progress.report(done)) {
            if (*n_done < done) roll_back();
            throw Error(BLUELM_ERR_CANCELLED, "prefill was cancelled");
        }
        const int64_t n = std::min(most, input.n - done);
        const bool last = done + n == input.n;
        for (int64_t i = 0; i < n; ++i) pos[static_cast<size_t>(i)] = pos0 + static_cast<llama_pos>(done + i);
        for (int64_t i = 0; input.positions && i < 4 * n; ++i)  // [4, n] of [4, input.n]
            pos[static_cast<size_t>(i)] = input.positions[i / n * input.n + done + i % n];
        std::fill(logits.begin(), logits.end(), int8_t(0));
        logits[static_cast<size_t>(n - 1)] = last && want_logits;

        llama_batch batch = {};
        batch.n_tokens = static_cast<int32_t>(n);
        // llama.h takes these without const and does not write to them.
        if (input.tokens) batch.token = const_cast<llama_token*>(input.tokens + done);
        if (input.embd) batch.embd = const_cast<float*>(input.embd + done * input.n_embd);
        batch.pos = pos.data();
        batch.n_seq_id = n_seq_id.data();
        batch.seq_id = seq_ids.data();
        batch.logits = logits.data();
        const int32_t status = llama_decode(ctx, batch);
        if (status != 0) {
            roll_back();  // some micro-batches of this chunk may be in the cache
            if (status == 2) throw Error(BLUELM_ERR_CANCELLED, "prefill was cancelled within a chunk");
            if (status == 1) {
                throw Error(BLUELM_ERR_CONTEXT_FULL,
                            format("no room in the KV cache for %lld more tokens (context of %u)",
                                   static_cast<long long>(n), llama_n_ctx(ctx)));
            }
            throw Error(BLUELM_ERR_DECODE, format("llama_decode failed with %d", status));
        }
        done += n;
        if (!input.is_whole() || last) *n_done = done;
    }
    if (!progress.report(*n_done)) {
        throw Error(BLUELM_ERR_CANCELLED, "prefill was cancelled after its last chunk");
    }
}

}  // namespace bluelm
