#include "session.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "text_stream.h"

using tools::Failure;
using tools::Stopwatch;

namespace {

bool not_stopped(int32_t, int64_t, int64_t, void*) { return tools::stop_signal() == 0; }

// As in zlib and PNG (polynomial 0xedb88320).
uint32_t crc32(const std::vector<uint8_t>& bytes) {
    uint32_t crc = 0xffffffffu;
    for (const uint8_t byte : bytes) {
        crc ^= byte;
        for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (0xedb88320u & (0u - (crc & 1u)));
    }
    return ~crc;
}

// Plans a picture; `embd` stays empty until encode().
Encoded plan_picture(bluelm_vision* vision, const Picture& picture, bool want_checksums) {
    Encoded out;
    bluelm_tiler_params tiler;
    check(bluelm_vision_get_tiler(vision, &tiler));
    check(bluelm_tiler_plan(&tiler, picture.width, picture.height, &out.plan));
    check(bluelm_vision_encode(vision, nullptr, nullptr, picture.width, picture.height, nullptr, nullptr,
                               nullptr, 0, &out.n_tokens, nullptr));
    if (want_checksums) {
        out.pixels_crc = crc32(picture.rgb);
        const size_t view = 3 * static_cast<size_t>(out.plan.tile) * static_cast<size_t>(out.plan.tile);
        std::vector<uint8_t> views(static_cast<size_t>(out.plan.n_tiles) * view);
        check(bluelm_tiler_cut(&tiler, &out.plan, picture.rgb.data(), 0, out.plan.n_tiles, views.data(),
                               views.size()));
        out.views_crc = crc32(views);
    }
    return out;
}

void write_embeddings(const std::string& path, const std::vector<Encoded>& encoded) {
    Owned<FILE> file(std::fopen(path.c_str(), "wb"));
    bool good = file != nullptr;
    for (const Encoded& picture : encoded)
        good = good && std::fwrite(picture.embd.data(), sizeof(float), picture.embd.size(), file.get()) ==
                           picture.embd.size();
    if (file) good = std::fclose(file.release()) == 0 && good;
    if (!good) throw Failure(path + ": cannot be written (" + std::strerror(errno) + ")");
}

std::string piece_of(const llama_vocab* vocab, llama_token token) {
    std::string piece(64, '\0');
    int32_t n =
        llama_token_to_piece(vocab, token, piece.data(), static_cast<int32_t>(piece.size()), 0, false);
    if (n < 0) {
        piece.resize(static_cast<size_t>(-n));
        n = llama_token_to_piece(vocab, token, piece.data(), static_cast<int32_t>(piece.size()), 0, false);
    }
    piece.resize(static_cast<size_t>(std::max(n, 0)));
    return piece;
}

// A pipe that nobody reads any more, a full disk.
void write_text(const std::string& text) {
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
        throw Failure(std::string("the answer cannot be written (") + std::strerror(errno) + ")");
}

}  // namespace

void Session::run() {
    load();
    const Stopwatch total;
    std::vector<Picture> pictures;
    for (const std::string& path : o_.images) {
        pictures.push_back(load_picture(path));
        encoded_.push_back(plan_picture(vision_.get(), pictures.back(), o_.json));
        reply_.image_tokens += encoded_.back().n_tokens;
        tools::check_stopped();
    }
    const Prompt prompt = make_prompt();
    const int n_ctx = static_cast<int>(llama_n_ctx(ctx_.get()));
    const int64_t n_prompt = reply_.image_tokens + reply_.text_tokens;
    if (n_prompt == 0) throw Failure("the prompt is empty: there is nothing to answer");
    // Before the long work: whether the answer has room for one token.
    const int64_t limit = o_.n_ctx > 0 ? std::min(o_.n_ctx, n_ctx) : n_ctx;
    if (n_prompt + 1 > limit) {
        throw Failure("the prompt has " + std::to_string(n_prompt) +
                      " tokens and the answer needs at least one more, but the context holds " +
                      std::to_string(limit) + ": use fewer or smaller pictures, or a larger -c");
    }
    encode(pictures);
    if (!o_.embeddings.empty()) write_embeddings(o_.embeddings, encoded_);
    prefill(prompt);
    decode(prompt, static_cast<int>(n_prompt), static_cast<int>(limit), total);
    reply_.total_ms = total.ms();
}

void Session::load() {
    const Stopwatch clock;
    model_ = load_model(o_);
    vision_ = load_vision(o_, model_.get());
    tools::check_stopped();
    vocab_ = llama_model_get_vocab(model_.get());
    n_embd_ = llama_model_n_embd_inp(model_.get());
    ctx_ = make_context(o_, model_.get());
    reply_.load_ms = clock.ms();
}

void Session::encode(const std::vector<Picture>& pictures) {
    if (pictures.empty()) return;
    const Stopwatch clock;
    for (size_t i = 0; i < pictures.size(); ++i) {
        Encoded& out = encoded_[i];
        out.embd.resize(static_cast<size_t>(out.n_tokens) * static_cast<size_t>(n_embd_));
        check(bluelm_vision_encode(vision_.get(), nullptr, pictures[i].rgb.data(), pictures[i].width,
                                   pictures[i].height, not_stopped, nullptr, out.embd.data(), out.embd.size(),
                                   &out.n_tokens, nullptr));
    }
    reply_.encode_ms = clock.ms();
}

Prompt Session::make_prompt() {
    Question question;
    question.system = o_.system;
    question.text = o_.prompt;
    question.n_pictures = static_cast<int>(o_.images.size());
    if (vision_) {
        const char *prefix = nullptr, *suffix = nullptr;
        check(bluelm_vision_get_prompt(vision_.get(), &prefix, &suffix));
        question.image_prefix = prefix;
        question.image_suffix = suffix;
    }
    Prompt prompt = build_prompt(model_.get(), o_.model, o_.chat_template, question);
    for (const Segment& segment : prompt.segments)
        reply_.text_tokens += static_cast<int64_t>(segment.tokens.size());
    return prompt;
}

void Session::prefill(const Prompt& prompt) {
    const Stopwatch clock;
    bluelm_prefill_params params;
    check(bluelm_prefill_params_default(&params));
    params.chunk = std::min(o_.chunk, static_cast<int>(llama_n_batch(ctx_.get())));
    int32_t pos = 0;
    size_t picture = 0;
    for (const Segment& segment : prompt.segments) {
        const bool last = &segment == &prompt.segments.back();
        int64_t n;
        if (segment.is_picture) {
            const Encoded& encoded = encoded_[picture++];
            n = encoded.n_tokens;
            check(bluelm_prefill_embd(ctx_.get(), &params, encoded.embd.data(), n, n_embd_, pos, last,
                                      not_stopped, nullptr, nullptr));
        } else {
            n = static_cast<int64_t>(segment.tokens.size());
            check(bluelm_prefill_tokens(ctx_.get(), &params, segment.tokens.data(), n, pos, last, not_stopped,
                                        nullptr, nullptr));
        }
        pos += static_cast<int32_t>(n);
    }
    reply_.prefill_ms = clock.ms();
}

void Session::decode(const Prompt& prompt, int pos, int n_ctx, const Stopwatch& total) {
    const Owned<llama_sampler> sampler = make_sampler(o_, vocab_, prompt);
    const bool is_terminal = isatty(STDOUT_FILENO) != 0;
    TextStream stream(prompt.stop);
    const auto show = [&](const std::string& text) {
        reply_.text += text;
        if (o_.json) return;
        write_text(is_terminal ? printable(text) : text);
    };
    bluelm_prefill_params params;
    check(bluelm_prefill_params_default(&params));
    params.chunk = 1;
    llama_token token = llama_sampler_sample(sampler.get(), ctx_.get(), -1);
    reply_.ttft_ms = total.ms();
    while (!llama_vocab_is_eog(vocab_, token)) {
        reply_.tokens.push_back(token);
        show(stream.push(piece_of(vocab_, token)));
        if (stream.stopped()) break;
        if (static_cast<int>(reply_.tokens.size()) == o_.n_predict || pos >= n_ctx) {
            reply_.finish_reason = "length";
            break;
        }
        const Stopwatch step;
        const bluelm_status status =
            bluelm_prefill_tokens(ctx_.get(), &params, &token, 1, pos++, true, not_stopped, nullptr, nullptr);
        if (status == BLUELM_ERR_CANCELLED && tools::stop_signal()) {
            reply_.finish_reason = "cancelled";
            break;
        }
        check(status);
        token = llama_sampler_sample(sampler.get(), ctx_.get(), -1);
        ++reply_.n_steps;
        reply_.decode_ms += step.ms();
    }
    show(stream.finish());
    if (!o_.json) write_text("\n");
}
