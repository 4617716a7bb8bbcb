// Chunked prefill on a tiny random Llama: whatever the chunk, the same logits; embeddings as tokens;
// cancelling and every refusal leave the cache as n_done says.
#include <cmath>
#include <string>
#include <vector>

#include "bluelm.h"
#include "check.h"
#include "llama.h"
#include "tiny_gguf.h"

namespace {

constexpr int kWidth = 64, kFfn = 128, kHeads = 4, kVocab = 100, kContext = 96;

std::string write_llama(std::vector<float>* embeddings) {
    TinyGguf file;
    file.set("general.architecture", "llama");
    file.set("general.type", "model");
    file.set("general.name", "tiny");
    file.set("general.file_type", 0);
    file.set("llama.context_length", 512);
    file.set("llama.embedding_length", kWidth);
    file.set("llama.block_count", 2);
    file.set("llama.feed_forward_length", kFfn);
    file.set("llama.attention.head_count", kHeads);
    file.set("llama.attention.layer_norm_rms_epsilon", 1e-5f);
    file.set("llama.vocab_size", kVocab);
    file.set("tokenizer.ggml.model", "none");
    const float scale = 1.0f / std::sqrt(static_cast<float>(kWidth));
    file.tensor("token_embd.weight", {kWidth, kVocab}, GGML_TYPE_F32, 1.0f);
    file.tensor("output_norm.weight", {kWidth}, GGML_TYPE_F32, 0.1f, 1.0f);
    file.tensor("output.weight", {kWidth, kVocab}, GGML_TYPE_F32, scale);
    for (int i = 0; i < 2; ++i) {
        const std::string block = "blk." + std::to_string(i) + ".";
        for (const char* name : {"attn_norm", "ffn_norm"})
            file.tensor(block + name + ".weight", {kWidth}, GGML_TYPE_F32, 0.1f, 1.0f);
        for (const char* name : {"attn_q", "attn_k", "attn_v", "attn_output"})
            file.tensor(block + name + ".weight", {kWidth, kWidth}, GGML_TYPE_F32, scale);
        for (const char* name : {"ffn_gate", "ffn_up"})
            file.tensor(block + name + ".weight", {kWidth, kFfn}, GGML_TYPE_F32, scale);
        file.tensor(block + "ffn_down.weight", {kFfn, kWidth}, GGML_TYPE_F32, scale);
    }
    *embeddings = file.values.at("token_embd.weight");
    return file.write();
}

class Context {
public:
    explicit Context(llama_model* model) {
        llama_context_params params = llama_context_default_params();
        params.n_ctx = kContext;
        params.n_batch = params.n_ubatch = 64;
        params.n_threads = params.n_threads_batch = 2;
        ctx = llama_init_from_model(model, params);
        if (!ctx) std::exit(1);
    }
    ~Context() { llama_free(ctx); }
    Context(const Context&) = delete;
    Context& operator=(const Context&) = delete;

    std::vector<double> logits() const {
        const float* last = llama_get_logits_ith(ctx, -1);
        return std::vector<double>(last, last + kVocab);
    }
    llama_pos end() const { return llama_memory_seq_pos_max(llama_get_memory(ctx), 0) + 1; }

    llama_context* ctx;
};

bluelm_prefill_params chunks_of(int chunk) {
    bluelm_prefill_params params;
    bluelm_prefill_params_default(&params);
    params.chunk = chunk;
    return params;
}

}  // namespace

int main() {
    llama_log_set(
        [](ggml_log_level level, const char* text, void*) {
            if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
        },
        nullptr);
    llama_backend_init();
    CHECK(bluelm_llama_prepare() == BLUELM_OK);
    std::vector<float> table;
    const std::string path = write_llama(&table);
    llama_model* model = llama_model_load_from_file(path.c_str(), llama_model_default_params());
    TinyGguf::remove_files();
    CHECK(model != nullptr);
    if (!model) return check::finish();

    const int n = check::uniform(40, 60);
    std::vector<int32_t> tokens;
    std::vector<float> rows;
    for (int i = 0; i < n; ++i) {
        tokens.push_back(check::uniform(0, kVocab - 1));
        const float* row = &table[static_cast<size_t>(tokens.back()) * kWidth];
        rows.insert(rows.end(), row, row + kWidth);
    }

    std::vector<double> whole;
    for (const int chunk : {64, 1, 7, check::uniform(2, 40)}) {
        const bluelm_prefill_params params = chunks_of(chunk);
        Context by_token(model), by_row(model);
        int64_t done = 0;
        CHECK_F(bluelm_prefill_tokens(by_token.ctx, &params, tokens.data(), n, 0, true, nullptr, nullptr,
                                      &done) == BLUELM_OK,
                "%s", bluelm_last_error());
        CHECK(done == n && by_token.end() == n);
        if (whole.empty()) whole = by_token.logits();
        const std::vector<double> logits = by_token.logits();
        // The KV cache is F16 and the order of sums depends on the chunk.
        const double error = error_of(std::vector<float>(logits.begin(), logits.end()), whole);
        CHECK_F(error < 1e-2, "chunk %d: error %g", chunk, error);
        CHECK(bluelm_prefill_embd(by_row.ctx, &params, rows.data(), n, kWidth, 0, true, nullptr, nullptr,
                                  &done) == BLUELM_OK);
        const std::vector<double> again = by_row.logits();
        CHECK_F(error_of(std::vector<float>(again.begin(), again.end()), logits) < 1e-4,
                "chunk %d: embeddings", chunk);
    }

    Context ctx(model);
    const bluelm_prefill_params ten = chunks_of(10);
    int64_t done = -1;
    // Cancelled before the third chunk.
    const auto twice = [](int32_t, int64_t so_far, int64_t, void*) { return so_far < 20; };
    CHECK(bluelm_prefill_tokens(ctx.ctx, &ten, tokens.data(), n, 0, true, twice, nullptr, &done) ==
          BLUELM_ERR_CANCELLED);
    CHECK_F(done == 20 && ctx.end() == 20, "done %d, cache %d", static_cast<int>(done), ctx.end());
    CHECK(bluelm_prefill_tokens(ctx.ctx, &ten, tokens.data(), n, 0, true, nullptr, nullptr, &done) ==
          BLUELM_ERR_INVALID_ARGUMENT);                     // a gap in the positions
    const std::vector<int32_t> many(llama_n_ctx(ctx.ctx));  // llama.cpp rounds contexts up
    CHECK(bluelm_prefill_tokens(ctx.ctx, &ten, many.data(), static_cast<int64_t>(many.size()), 20, true,
                                nullptr, nullptr, &done) == BLUELM_ERR_CONTEXT_FULL);
    CHECK(done == 0 && ctx.end() == 20);
    const int32_t unknown[] = {5, kVocab};
    CHECK(bluelm_prefill_tokens(ctx.ctx, &ten, unknown, 2, 20, true, nullptr, nullptr, &done) ==
          BLUELM_ERR_INVALID_ARGUMENT);
    CHECK(bluelm_prefill_embd(ctx.ctx, &ten, rows.data(), 4, kWidth / 2, 20, true, nullptr, nullptr, &done) ==
          BLUELM_ERR_MISMATCH);
    const bluelm_prefill_params large = chunks_of(65);
    CHECK(bluelm_prefill_tokens(ctx.ctx, &large, tokens.data(), n, 20, true, nullptr, nullptr, &done) ==
          BLUELM_ERR_INVALID_ARGUMENT);
    CHECK(bluelm_prefill_tokens(ctx.ctx, &ten, tokens.data() + 20, n - 20, 20, true, nullptr, nullptr,
                                &done) == BLUELM_OK);
    const std::vector<double> resumed = ctx.logits();
    CHECK(error_of(std::vector<float>(resumed.begin(), resumed.end()), whole) < 1e-2);
    llama_model_free(model);
    return check::finish();
}
