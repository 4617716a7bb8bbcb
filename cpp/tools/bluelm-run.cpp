// bluelm-run: one question about pictures, answered on this machine. Standalone: libbluelm and llama.cpp are
// linked in, pictures are read with stb_image. Options and rules are those of `bluelm-gguf run`.
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cinttypes>
#include <climits>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bench/common.h"
#include "bench/system.h"
#include "bluelm.h"
#include "llama.h"
#include "picture.h"
#include "prompt.h"
#include "text_stream.h"

using bench::Failure;
using bench::UsageError;

namespace {

constexpr char kHelp[] =
    R"(bluelm-run -m LLM.gguf --mmproj MMPROJ.gguf --image PICTURE -p "What is this?"

One question about pictures. The answer goes to stdout, times and errors go to stderr.

  -m, --model FILE         language model, GGUF
      --mmproj FILE        the vision file that belongs to it, GGUF
      --image FILE         a picture: PNG, JPEG, BMP, GIF, PPM; may be given several times
  -p, --prompt TEXT        the question
      --system TEXT        system prompt
  -n, --predict N          most tokens of the answer; -1: as many as fit [256]
  -c, --ctx-size N         tokens of context [the model's, at most 4096]
  -t, --threads N          threads [the physical cores of the mask]
  -C, --cpu-mask HEX       CPUs to run on, 0xf0: 4 to 7; or all, or big: the cores with more than half of the
                           fastest one's capacity [big]
      --temp T             0 always takes the likeliest token [0]
      --top-k K            sample among the K likeliest; 0: all [40]
      --top-p P            sample among the likeliest that make up P; 1: all [0.95]
      --min-p P            leave out what is below P times the likeliest [0.05]
      --repeat-penalty R   penalty on the last 64 tokens; 1: none [1]
      --seed N             of the sampling [random]
  -b, --batch-size N       most tokens in one step [512]
      --chunk N            tokens per step of the prefill [128]
      --tile-batch N       tiles per run of the vision encoder, 1 to 17 [4]
      --chat-template NAME one of llama.cpp's, for example chatml [the model's own]
      --json               print one object with text, times, token ids, and checksums of the pixels
      --embeddings FILE    write the pictures' embeddings: float32, [tokens, width], pictures one after the other
      --verbose            show llama.cpp's own log
      --version            print the build and the CPU's features
  -h, --help

Exit codes: 0, 1 (failed), 2 (usage), 130 (Ctrl-C).
)";

volatile std::sig_atomic_t interrupted = 0;

struct Interrupted {};

bool not_interrupted(int32_t, int64_t, int64_t, void*) { return interrupted == 0; }

struct Options {
    std::string model, mmproj, prompt, system, chat_template, embeddings, cpu_mask = "big";
    std::vector<std::string> images;
    int n_predict = 256, n_ctx = 0, n_threads = 0, n_batch = 512, chunk = 128, tile_batch = 4;
    int top_k = 40;
    double temp = 0, top_p = 0.95, min_p = 0.05, repeat_penalty = 1;
    int64_t seed = -1;
    bool json = false, verbose = false;
};

// ------------------------------------------------------------------------------------------- command line

double number(const std::string& option, const char* text, double low, double high) {
    char* end = nullptr;
    const double value = std::strtod(text, &end);
    if (end == text || *end || !(value >= low && value <= high)) {
        char range[96];
        std::snprintf(range, sizeof range, "%.10g to %.10g", low, high);
        throw UsageError(option + " " + text + ": must be a number from " + range);
    }
    return value;
}

int64_t whole(const std::string& option, const char* text, int64_t low, int64_t high) {
    const double value = number(option, text, static_cast<double>(low), static_cast<double>(high));
    if (value != std::floor(value)) throw UsageError(option + " " + text + ": must be a whole number");
    return static_cast<int64_t>(value);
}

Options parse(int argc, char** argv) {
    Options o;
    bool has_prompt = false;
    for (int i = 1; i < argc; ++i) {
        const std::string option = argv[i];
        const auto is = [&](const char* a, const char* b = nullptr) {
            return option == a || (b && option == b);
        };
        if (is("-h", "--help")) {
            std::fputs(kHelp, stdout);
            std::exit(0);
        }
        if (is("--version")) {
            std::printf("bluelm-run %s\n", bluelm_build_info());
            std::exit(0);
        }
        if (is("--json")) {
            o.json = true;
            continue;
        }
        if (is("--verbose")) {
            o.verbose = true;
            continue;
        }
        const auto value = [&]() -> const char* {
            if (i + 1 >= argc) throw UsageError(option + " needs a value");
            return argv[++i];
        };
        const auto count = [&](int64_t low, int64_t high) {
            return static_cast<int>(whole(option, value(), low, high));
        };
        if (is("-m", "--model"))
            o.model = value();
        else if (is("--mmproj"))
            o.mmproj = value();
        else if (is("--image"))
            o.images.emplace_back(value());
        else if (is("-p", "--prompt"))
            o.prompt = value(), has_prompt = true;
        else if (is("-C", "--cpu-mask"))
            o.cpu_mask = value();
        else if (is("--system"))
            o.system = value();
        else if (is("--chat-template"))
            o.chat_template = value();
        else if (is("--embeddings"))
            o.embeddings = value();
        else if (is("-n", "--predict"))
            o.n_predict = count(-1, INT_MAX);
        else if (is("-c", "--ctx-size"))
            o.n_ctx = count(1, INT_MAX);
        else if (is("-t", "--threads"))
            o.n_threads = count(1, 512);
        else if (is("-b", "--batch-size"))
            o.n_batch = count(1, 1 << 20);
        else if (is("--chunk"))
            o.chunk = count(1, 1 << 20);
        else if (is("--tile-batch"))
            o.tile_batch = count(1, 17);
        else if (is("--top-k"))
            o.top_k = count(0, INT_MAX);
        else if (is("--temp"))
            o.temp = number(option, value(), 0, 1e6);
        else if (is("--top-p"))
            o.top_p = number(option, value(), 1e-9, 1);
        else if (is("--min-p"))
            o.min_p = number(option, value(), 0, 1);
        else if (is("--repeat-penalty"))
            o.repeat_penalty = number(option, value(), 1e-6, 1e6);
        else if (is("--seed"))
            o.seed = whole(option, value(), 0, UINT32_MAX);
        else
            throw UsageError(option + ": no such option");
    }
    if (o.model.empty()) throw UsageError("-m is missing: the language model, a GGUF file");
    if (!has_prompt) throw UsageError("-p is missing: the question");
    if (!o.images.empty() && o.mmproj.empty())
        throw UsageError("pictures need the model's vision file: give --mmproj too");
    if (!o.embeddings.empty() && o.images.empty())
        throw UsageError("--embeddings has no use without --image");
    if (o.n_predict == 0) throw UsageError("-n 0: must be at least 1, or -1 for as many as fit");
    if (o.chunk > o.n_batch)
        throw UsageError("--chunk " + std::to_string(o.chunk) + ": more than --batch-size " +
                         std::to_string(o.n_batch));
    return o;
}

// ---------------------------------------------------------------------------------------------------- log

struct Log {
    bool verbose = false;
    std::deque<std::string> lines;  // the last warnings and errors

    // The most telling of them, without function names.
    std::string reason() const {
        for (const char* mark : {"error loading model: ", "failed to allocate", "failed to "})
            for (const std::string& line : lines)
                if (const size_t at = line.find(mark); at != std::string::npos)
                    return line.substr(mark[std::strlen(mark) - 2] == ':' ? at + std::strlen(mark) : at);
        return lines.empty() ? "no reason given" : lines.back();
    }
};

Log log_kept;

void receive_log(ggml_log_level level, const char* text, void*) {
    if (log_kept.verbose) std::fputs(text, stderr);
    if (level != GGML_LOG_LEVEL_WARN && level != GGML_LOG_LEVEL_ERROR) return;
    std::string line = text;
    while (!line.empty() && (line.back() == '\n' || line.back() == ' ')) line.pop_back();
    if (line.empty()) return;
    log_kept.lines.push_back(line);
    if (log_kept.lines.size() > 32) log_kept.lines.pop_front();
}

// ------------------------------------------------------------------------------------------------- handles

struct Free {
    void operator()(bluelm_vision* p) const { bluelm_vision_free(p); }
    void operator()(llama_model* p) const { llama_model_free(p); }
    void operator()(llama_context* p) const { llama_free(p); }
    void operator()(llama_sampler* p) const { llama_sampler_free(p); }
    void operator()(FILE* p) const { std::fclose(p); }
};
template <class T>
using Owned = std::unique_ptr<T, Free>;

class Clock {
public:
    double ms() const {
        return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start_).count();
    }

private:
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// What libbluelm says, as a Failure; Ctrl-C as Interrupted.
void check(bluelm_status status) {
    if (status == BLUELM_OK) return;
    if (status == BLUELM_ERR_CANCELLED && interrupted) throw Interrupted();
    throw Failure(bluelm_last_error());
}

// Weights are mapped: more than memory holds does not fail, but is read from storage again and again.
void warn_of_memory(const Options& o) {
    double need = 0;
    for (const std::string& path : {o.model, o.mmproj}) {
        struct stat status;
        if (!path.empty() && stat(path.c_str(), &status) == 0) need += static_cast<double>(status.st_size);
    }
    const std::optional<uint64_t> available = bench::available_memory();
    if (!available || need <= static_cast<double>(*available)) return;
    std::fprintf(stderr,
                 "warning: the weights take %s, and %s of memory are free: this may be very slow, or end\n",
                 bench::bytes_text(need).c_str(), bench::bytes_text(static_cast<double>(*available)).c_str());
}

Owned<llama_model> load_model(const Options& o) {
    if (FILE* file = std::fopen(o.model.c_str(), "rb")) {
        std::fclose(file);
    } else {
        throw Failure(o.model + ": cannot be read (" + std::strerror(errno) + ")");
    }
    llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = 0;
    params.progress_callback = [](float, void*) { return interrupted == 0; };
    Owned<llama_model> model(llama_model_load_from_file(o.model.c_str(), params));
    if (interrupted) throw Interrupted();
    if (!model) throw Failure(o.model + ": llama.cpp cannot load it (" + log_kept.reason() + ")");
    if (llama_model_has_encoder(model.get()) || !llama_model_has_decoder(model.get()))
        throw Failure(o.model + ": not a decoder-only language model");
    if (llama_vocab_n_tokens(llama_model_get_vocab(model.get())) <= 0)
        throw Failure(o.model + ": the file holds no tokenizer");
    return model;
}

Owned<bluelm_vision> load_vision(const Options& o, const llama_model* model) {
    if (o.mmproj.empty()) return nullptr;
    bluelm_vision_params params;
    check(bluelm_vision_params_default(&params));
    params.n_threads = o.n_threads;
    params.batch = o.tile_batch;
    bluelm_vision* made = nullptr;
    check(bluelm_vision_init(o.mmproj.c_str(), &params, &made));
    Owned<bluelm_vision> vision(made);
    bluelm_vision_info info = {};
    info.struct_size = sizeof info;
    check(bluelm_vision_get_info(made, &info));
    if (info.n_embd_out != llama_model_n_embd_inp(model)) {
        throw Failure(o.mmproj + " makes embeddings of width " + std::to_string(info.n_embd_out) + ", but " +
                      o.model + " needs " + std::to_string(llama_model_n_embd_inp(model)) +
                      ": they do not belong together");
    }
    return vision;
}

Owned<llama_context> make_context(const Options& o, llama_model* model) {
    llama_context_params params = llama_context_default_params();
    const int n_ctx = o.n_ctx > 0 ? o.n_ctx : std::min(4096, llama_model_n_ctx_train(model));
    params.n_ctx = static_cast<uint32_t>(n_ctx);
    params.n_batch = static_cast<uint32_t>(std::min(o.n_batch, n_ctx));
    params.n_ubatch = params.n_batch;
    params.n_seq_max = 1;
    params.n_threads = params.n_threads_batch = o.n_threads;
    params.no_perf = true;
    Owned<llama_context> ctx(llama_init_from_model(model, params));
    if (!ctx) {
        throw Failure(o.model + ": no context of " + std::to_string(n_ctx) + " tokens (" + log_kept.reason() +
                      "); try a smaller -c");
    }
    return ctx;
}

Owned<llama_sampler> make_sampler(const Options& o, const llama_vocab* vocab, const Prompt& prompt) {
    Owned<llama_sampler> chain(llama_sampler_chain_init(llama_sampler_chain_default_params()));
    const auto add = [&](llama_sampler* sampler) { llama_sampler_chain_add(chain.get(), sampler); };
    constexpr int kPenaltyTokens = 64;
    if (o.repeat_penalty != 1) {
        add(llama_sampler_init_penalties(llama_vocab_n_tokens(vocab), kPenaltyTokens,
                                         static_cast<float>(o.repeat_penalty), 0, 0));
    }
    if (o.temp <= 0) {
        add(llama_sampler_init_greedy());
    } else {
        if (o.top_k > 0) add(llama_sampler_init_top_k(o.top_k));
        if (o.top_p < 1) add(llama_sampler_init_top_p(static_cast<float>(o.top_p), 1));
        if (o.min_p > 0) add(llama_sampler_init_min_p(static_cast<float>(o.min_p), 1));
        add(llama_sampler_init_temp(static_cast<float>(o.temp)));
        add(llama_sampler_init_dist(o.seed < 0 ? LLAMA_DEFAULT_SEED : static_cast<uint32_t>(o.seed)));
    }
    if (o.repeat_penalty != 1) {
        std::vector<llama_token> history;
        for (const Segment& segment : prompt.segments)
            history.insert(history.end(), segment.tokens.begin(), segment.tokens.end());
        const size_t first = history.size() > kPenaltyTokens ? history.size() - kPenaltyTokens : 0;
        for (size_t i = first; i < history.size(); ++i) llama_sampler_accept(chain.get(), history[i]);
    }
    return chain;
}

// ------------------------------------------------------------------------------------------------ pictures

struct Encoded {
    bluelm_tile_plan plan = {};
    int64_t n_tokens = 0;
    std::vector<float> embd;  // [n_tokens, n_embd]
    uint32_t pixels_crc = 0, views_crc = 0;
};

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

void encode(bluelm_vision* vision, const Picture& picture, int n_embd, Encoded& out) {
    out.embd.resize(static_cast<size_t>(out.n_tokens) * static_cast<size_t>(n_embd));
    check(bluelm_vision_encode(vision, nullptr, picture.rgb.data(), picture.width, picture.height,
                               not_interrupted, nullptr, out.embd.data(), out.embd.size(), &out.n_tokens,
                               nullptr));
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

// -------------------------------------------------------------------------------------------------- answer

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

class Run {
public:
    explicit Run(const Options& options) : o_(options) {}

    void operator()() {
        Clock loading;
        model_ = load_model(o_);
        vision_ = load_vision(o_, model_.get());
        vocab_ = llama_model_get_vocab(model_.get());
        ctx_ = make_context(o_, model_.get());
        reply_.load_ms = loading.ms();

        Clock total;
        const int n_embd = llama_model_n_embd_inp(model_.get());
        std::vector<Picture> pictures;
        for (const std::string& path : o_.images) {
            pictures.push_back(load_picture(path));
            encoded_.push_back(plan_picture(vision_.get(), pictures.back(), o_.json));
            reply_.image_tokens += encoded_.back().n_tokens;
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
        Clock encoding;
        for (size_t i = 0; i < pictures.size(); ++i) encode(vision_.get(), pictures[i], n_embd, encoded_[i]);
        if (!pictures.empty()) reply_.encode_ms = encoding.ms();
        if (!o_.embeddings.empty()) write_embeddings(o_.embeddings, encoded_);

        prefill(prompt, n_embd);
        decode(prompt, static_cast<int>(n_prompt), static_cast<int>(limit), total);
        reply_.total_ms = total.ms();
        if (o_.json) print_json();
        print_times();
        if (interrupted) throw Interrupted();
    }

private:
    Prompt make_prompt() {
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

    void prefill(const Prompt& prompt, int n_embd) {
        Clock clock;
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
                check(bluelm_prefill_embd(ctx_.get(), &params, encoded.embd.data(), n, n_embd, pos, last,
                                          not_interrupted, nullptr, nullptr));
            } else {
                n = static_cast<int64_t>(segment.tokens.size());
                check(bluelm_prefill_tokens(ctx_.get(), &params, segment.tokens.data(), n, pos, last,
                                            not_interrupted, nullptr, nullptr));
            }
            pos += static_cast<int32_t>(n);
        }
        reply_.prefill_ms = clock.ms();
    }

    void decode(const Prompt& prompt, int pos, int n_ctx, const Clock& total) {
        const Owned<llama_sampler> sampler = make_sampler(o_, vocab_, prompt);
        const bool is_terminal = isatty(STDOUT_FILENO) != 0;
        TextStream stream(prompt.stop);
        const auto show = [&](const std::string& text) {
            reply_.text += text;
            if (o_.json) return;
            const std::string shown = is_terminal ? printable(text) : text;
            std::fwrite(shown.data(), 1, shown.size(), stdout);
            std::fflush(stdout);
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
            if (interrupted) {
                reply_.finish_reason = "cancelled";
                break;
            }
            if (static_cast<int>(reply_.tokens.size()) == o_.n_predict || pos >= n_ctx) {
                reply_.finish_reason = "length";
                break;
            }
            Clock step;
            check(bluelm_prefill_tokens(ctx_.get(), &params, &token, 1, pos++, true, nullptr, nullptr,
                                        nullptr));
            token = llama_sampler_sample(sampler.get(), ctx_.get(), -1);
            ++reply_.n_steps;
            reply_.decode_ms += step.ms();
        }
        show(stream.finish());
        if (!o_.json) std::puts("");
    }

    void print_json() const {
        std::printf("{\"text\": %s, \"finish_reason\": \"%s\", \"tokens\": [",
                    json_string(reply_.text).c_str(), reply_.finish_reason.c_str());
        for (size_t i = 0; i < reply_.tokens.size(); ++i) std::printf(i ? ", %d" : "%d", reply_.tokens[i]);
        std::printf(
            "], \"timings\": {\"load_ms\": %.3f, \"encode_ms\": %.3f, \"prefill_ms\": %.3f, \"prefill_tps\": "
            "%.3f, "
            "\"decode_ms\": %.3f, \"decode_tps\": %.3f, \"ttft_ms\": %.3f, \"total_ms\": %.3f, "
            "\"image_tokens\": %" PRId64 ", \"text_tokens\": %" PRId64
            ", \"generated_tokens\": %zu}, \"images\": [",
            reply_.load_ms, reply_.encode_ms, reply_.prefill_ms, reply_.prefill_tps(), reply_.decode_ms,
            reply_.decode_tps(), reply_.ttft_ms, reply_.total_ms, reply_.image_tokens, reply_.text_tokens,
            reply_.tokens.size());
        for (size_t i = 0; i < encoded_.size(); ++i) {
            const Encoded& e = encoded_[i];
            std::printf(
                "%s{\"width\": %d, \"height\": %d, \"cols\": %d, \"rows\": %d, \"n_tiles\": %d, "
                "\"image_tokens\": %" PRId64 ", \"pixels_crc32\": \"%08x\", \"views_crc32\": \"%08x\"}",
                i ? ", " : "", e.plan.width, e.plan.height, e.plan.cols, e.plan.rows, e.plan.n_tiles,
                e.n_tokens, e.pixels_crc, e.views_crc);
        }
        std::printf("], \"build\": %s}\n", json_string(bluelm_build_info()).c_str());
    }

    void print_times() const {
        std::fprintf(stderr, "load %.0f ms", reply_.load_ms);
        if (!encoded_.empty()) std::fprintf(stderr, " | image %.0f ms", reply_.encode_ms);
        std::fprintf(stderr,
                     " | prefill %" PRId64
                     " tokens, %.1f token/s | decode %zu tokens, %.1f token/s | first token "
                     "after %.0f ms\n",
                     reply_.image_tokens + reply_.text_tokens, reply_.prefill_tps(), reply_.tokens.size(),
                     reply_.decode_tps(), reply_.ttft_ms);
    }

    const Options& o_;
    Owned<llama_model> model_;  // freed last
    Owned<bluelm_vision> vision_;
    Owned<llama_context> ctx_;
    const llama_vocab* vocab_ = nullptr;
    std::vector<Encoded> encoded_;
    Reply reply_;
};

}  // namespace

int main(int argc, char** argv) {
    try {
        Options options = parse(argc, argv);
        const std::vector<bench::Cpu> cpus = bench::parse_cpu_mask(options.cpu_mask);
        bench::set_affinity(cpus);
        if (options.n_threads == 0) options.n_threads = bench::physical_cores(cpus);
        warn_of_memory(options);
        log_kept.verbose = options.verbose;
        llama_log_set(receive_log, nullptr);
        std::signal(SIGINT, [](int) { interrupted = 1; });
        llama_backend_init();
        check(bluelm_llama_prepare());
        Run run(options);
        run();
        return 0;
    } catch (const UsageError& e) {
        std::fprintf(stderr, "error: %s (bluelm-run --help)\n", e.what());
        return 2;
    } catch (const Interrupted&) {
        return 130;
    } catch (const Failure& e) {
        std::fprintf(stderr, "error: %s\n", e.what());
    } catch (const std::bad_alloc&) {
        std::fprintf(stderr, "error: not enough memory\n");
    } catch (const std::exception& e) {
        std::fprintf(stderr, "error: %s\n", e.what());
    }
    return 1;
}
