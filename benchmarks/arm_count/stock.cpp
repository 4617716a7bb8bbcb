// llama.cpp by itself, to count its instructions: nothing of libbluelm is linked.
//
//     stock encode LLM.gguf MMPROJ.gguf     one 384x384 picture through libmtmd, as llama-mtmd-cli does
//     stock prefill LLM.gguf N R            N tokens in one llama_decode, as llama-bench's pp test does; R
//     times stock decode LLM.gguf N               N tokens one by one, as its tg test does
//
// One thread, no warm-up.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <vector>

#include "llama.h"
#include "mtmd.h"

namespace {

int fail(const char* what) {
    std::fprintf(stderr, "stock: %s\n", what);
    return 1;
}

int encode(llama_model* model, const char* mmproj) {
    mtmd_context_params params = mtmd_context_params_default();
    params.use_gpu = false;
    params.n_threads = 1;
    params.print_timings = false;
    params.warmup = false;
    mtmd_context* ctx = mtmd_init_from_file(mmproj, model, params);
    if (!ctx) return fail("libmtmd does not load the mmproj");
    std::vector<unsigned char> rgb(3 * 384 * 384);
    for (size_t i = 0; i < rgb.size(); ++i) rgb[i] = static_cast<unsigned char>(i * 2654435761u >> 21);
    mtmd_bitmap* bitmap = mtmd_bitmap_init(384, 384, rgb.data());
    mtmd_input_text text = {};
    text.text = mtmd_default_marker();
    text.text_len = std::strlen(text.text);
    mtmd_input_chunks* chunks = mtmd_input_chunks_init();
    const mtmd_bitmap* bitmaps[] = {bitmap};
    if (mtmd_tokenize(ctx, chunks, &text, bitmaps, 1) != 0) return fail("mtmd_tokenize failed");
    const mtmd_input_chunk* image = mtmd_input_chunks_get(chunks, 0);
    if (mtmd_encode_chunk(ctx, image) != 0) return fail("mtmd_encode_chunk failed");
    std::printf("%zu tokens\n", mtmd_input_chunk_get_n_tokens(image));
    return 0;
}

// `times` times: n_calls calls of n tokens each, from an empty cache.
int decode(llama_model* model, int n_calls, int n, int times) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx = static_cast<uint32_t>(n_calls * n);
    params.n_batch = params.n_ubatch = static_cast<uint32_t>(n);
    params.n_threads = params.n_threads_batch = 1;
    llama_context* ctx = llama_init_from_model(model, params);
    if (!ctx) return fail("no context");
    std::vector<llama_token> tokens(static_cast<size_t>(n));
    for (int i = 0; i < n; ++i) tokens[static_cast<size_t>(i)] = 3 + i % 200;
    for (int t = 0; t < times; ++t) {
        llama_memory_clear(llama_get_memory(ctx), false);
        for (int i = 0; i < n_calls; ++i)
            if (llama_decode(ctx, llama_batch_get_one(tokens.data(), n)) != 0)
                return fail("llama_decode failed");
    }
    std::printf("%d times %d tokens\n", times, n_calls * n);
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    const std::string_view what = argc > 1 ? argv[1] : "";
    if (!(argc == 4 && (what == "encode" || what == "decode")) && !(argc == 5 && what == "prefill"))
        return fail("usage: stock encode LLM MMPROJ | stock prefill LLM N R | stock decode LLM N");
    llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
    llama_backend_init();
    llama_model_params params = llama_model_default_params();
    params.vocab_only = what == "encode";
    llama_model* model = llama_model_load_from_file(argv[2], params);
    if (!model) return fail("llama.cpp does not load the model");
    if (what == "encode") return encode(model, argv[3]);
    const int n = std::atoi(argv[3]);
    return what == "decode" ? decode(model, n, 1, 1) : decode(model, 1, n, std::atoi(argv[4]));
}
