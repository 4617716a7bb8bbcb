// One answer: pictures encoded, prompt prefilled, tokens generated, each with its time.
#ifndef BLUELM_TOOLS_RUN_SESSION_H
#define BLUELM_TOOLS_RUN_SESSION_H

#include <cstdint>
#include <string>
#include <vector>

#include "bluelm.h"
#include "common/program.h"
#include "llama.h"
#include "models.h"
#include "options.h"
#include "picture.h"
#include "prompt.h"

struct Encoded {
    bluelm_tile_plan plan = {};
    int64_t n_tokens = 0;
    std::vector<float> embd;                 // [n_tokens, n_embd]
    uint32_t pixels_crc = 0, views_crc = 0;  // with --json; as in zlib and PNG
};

struct Reply {
    std::string text, finish_reason = "stop";
    std::vector<llama_token> tokens;
    double load_ms = 0, encode_ms = 0, prefill_ms = 0, decode_ms = 0, ttft_ms = 0, total_ms = 0;
    int64_t image_tokens = 0, text_tokens = 0, n_steps = 0;

    double prefill_tps() const {
        return prefill_ms > 0 ? static_cast<double>(image_tokens + text_tokens) / prefill_ms * 1e3 : 0;
    }
    double decode_tps() const { return decode_ms > 0 ? static_cast<double>(n_steps) / decode_ms * 1e3 : 0; }
};

class Session {
public:
    explicit Session(const Options& options) : o_(options) {}

    // Loads and answers; the text goes to stdout as it comes, without --json. A signal while tokens are
    // generated ends the answer there ("cancelled"). Throws Failure, and Interrupted for a signal before.
    void run();

    const Reply& reply() const { return reply_; }
    const std::vector<Encoded>& pictures() const { return encoded_; }

private:
    void load();
    void encode(const std::vector<Picture>& pictures);
    Prompt make_prompt();
    void prefill(const Prompt& prompt);
    void decode(const Prompt& prompt, int pos, int n_ctx, const tools::Stopwatch& total);

    const Options& o_;
    Owned<llama_model> model_;  // freed last
    Owned<bluelm_vision> vision_;
    Owned<llama_context> ctx_;
    const llama_vocab* vocab_ = nullptr;
    int n_embd_ = 0;
    std::vector<Encoded> encoded_;
    Reply reply_;
};

#endif  // BLUELM_TOOLS_RUN_SESSION_H
