#include "options.h"

#include <climits>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "bluelm.h"
#include "common/program.h"

using tools::UsageError;

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
      --no-memory-check    try even where memory seems too small
      --json               print one object with text, times, token ids, and checksums of the pixels
      --embeddings FILE    write the pictures' embeddings: float32, [tokens, width], pictures one after the other
      --verbose            show llama.cpp's own log
      --version            print the build and the CPU's features
  -h, --help

Ctrl-C ends the answer, a second one the program. Exit codes: 0, 1 (failed), 2 (usage), 130 (Ctrl-C).
)";

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

}  // namespace

Options parse_options(int argc, char** argv) {
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
        if (is("--no-memory-check")) {
            o.memory_check = false;
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
