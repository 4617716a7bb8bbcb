#include "options.h"

#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>

#include "bluelm.h"
#include "common/program.h"

namespace tools {
namespace {

const char* const kHelp = R"(usage: bluelm-bench [options]

Measures bluelm: encoding pictures, prefill, generation, and all of it one after the other.
Without a model, --synthetic demo is measured; without a test: --image 768x1536 -p 512 -n 128.

models:
  -m, --model FILE            language model, GGUF
  -mm, --mmproj FILE          vision file that belongs to it, GGUF
  --synthetic demo|0.5b|3b    random weights of full size instead of files: the embedded demo model's shape,
                              Qwen2-0.5B's, or the paper's (2.8B, Q4_0); vision tower in Q8_0
  --synthetic-dir DIR         keep those files there and use them again [a temporary directory, removed at the end]

tests:
  --image WxH                 img: encode a picture of this size (parts: resize, patch embedding, ViT and projector)
  -p, --n-prompt N            pp: prefill N tokens
  -n, --n-gen N               tg: generate N tokens
  -d, --n-depth N             pp and tg behind N tokens of context [0]
  --e2e WxH                   a picture, a question of --e2e-prompt tokens [32], an answer of --e2e-gen [32]
  --sweep batch               tiles per ViT run 1,2,4,6,9 at a 2:4 picture (the paper's Fig. 7)
  --sweep chunk               tokens per prefill step 32,128,512,2048 at 2048 tokens (Fig. 8)
  --sweep threads             1, 2, 4 .. all cores
  --table5                    the paper's Table 5 as one line: a 768x1536 picture, 2048 tokens of input
  --roofline                  measure read bandwidth and matmul peaks first, and print results as a part of them
  --bandwidth GB/S            with --roofline: calculate with this read bandwidth instead of measuring it

how (several values, separated by commas or as first-last[+step|*factor], are measured one after the other):
  -t, --threads N             [the physical cores of the mask]
  -C, --cpu-mask HEX          CPUs to run on, 0xf0: 4 to 7; or 'all', or 'big': the cores with more than half of
                              the fastest one's capacity [big]
  --chunk N                   tokens per prefill step [128]
  -b, --batch-size N          n_batch of the context [the chunk]
  -ub, --ubatch-size N        n_ubatch of the context [the chunk]
  --tile-batch N              tiles per ViT run, 1 to 17 [4]
  --pipeline 0|1              patch embedding of the next batch beside the ViT of this one [0]
  -ctk, --cache-type-k TYPE   f16, bf16, f32, q8_0, q4_0, ... [f16]
  -ctv, --cache-type-v TYPE   [f16]
  -fa, --flash-attn on|off|auto  [auto]
  --vision-weights resident|streamed   vision weights in memory, or read block by block [resident]
  --activations auto|int8|float        in front of the ViT's matmuls [auto: as the file's type]
  --llm-kernels 0|1           this library's matmul kernels inside llama.cpp [1 where this CPU has them]
  -r, --repetitions N         [5]
  --no-warmup                 no run before the measured ones
  --delay S                   seconds to wait before each test, so that a phone cools down [0]
  --no-memory-check           try even where memory seems too small

output:
  -o, --output md|json|jsonl|csv  [md]
  --json FILE                 write the results as JSON into a file too
  --progress                  say on stderr what is being measured
  -v, --verbose               show llama.cpp's log
  -h, --help, --version

Ctrl-C ends early and prints what was measured. Exit codes: 0, 1 (failed), 2 (usage), 130 (Ctrl-C).
)";

int parse_int(const std::string& text, const char* option, int min, int max) {
    char* end = nullptr;
    errno = 0;
    const long value = std::strtol(text.c_str(), &end, 10);
    if (text.empty() || *end || errno || value < min || value > max)
        throw UsageError(strf("%s %s: not a number from %d to %d", option, text.c_str(), min, max));
    return static_cast<int>(value);
}

std::vector<std::string> split(const std::string& text) {
    std::vector<std::string> parts(1);
    for (const char c : text) {
        if (c == ',') {
            parts.emplace_back();
        } else {
            parts.back() += c;
        }
    }
    return parts;
}

// "8", "1-4", "1-9+2", "1-16*2".
void add_ints(std::vector<int>& out, const std::string& text, const char* option, int min, int max) {
    for (const std::string& part : split(text)) {
        const size_t dash = part.find('-', 1);
        if (dash == std::string::npos) {
            out.push_back(parse_int(part, option, min, max));
            continue;
        }
        const size_t op = part.find_first_of("+*", dash);
        const int first = parse_int(part.substr(0, dash), option, min, max);
        const int last = parse_int(part.substr(dash + 1, op - dash - 1), option, min, max);
        const int step = op == std::string::npos ? 1 : parse_int(part.substr(op + 1), option, 1, max);
        const bool times = op != std::string::npos && part[op] == '*';
        if (times && (step < 2 || first < 1))
            throw UsageError(strf("%s %s: multiplying like this never ends", option, part.c_str()));
        for (long n = first; n <= last; n = times ? n * step : n + step) out.push_back(static_cast<int>(n));
    }
}

void add_sizes(std::vector<Size>& out, const std::string& text, const char* option) {
    for (const std::string& part : split(text)) {
        const size_t x = part.find_first_of("xX");
        if (x == std::string::npos)
            throw UsageError(strf("%s %s: a size as WIDTHxHEIGHT is needed", option, part.c_str()));
        Size size;
        size.width = parse_int(part.substr(0, x), option, 1, 20000);
        size.height = parse_int(part.substr(x + 1), option, 1, 20000);
        out.push_back(size);
    }
}

ggml_type parse_cache_type(const std::string& text, const char* option) {
    std::string known;
    for (const ggml_type type : {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0,
                                 GGML_TYPE_Q4_1, GGML_TYPE_IQ4_NL, GGML_TYPE_Q5_0, GGML_TYPE_Q5_1}) {
        if (text == ggml_type_name(type)) return type;
        known += (known.empty() ? "" : ", ") + std::string(ggml_type_name(type));
    }
    throw UsageError(strf("%s %s: not one of %s", option, text.c_str(), known.c_str()));
}

template <class T>
T choose(const std::string& text, const char* option, const std::vector<std::pair<const char*, T>>& choices) {
    std::string known;
    for (const auto& [name, value] : choices) {
        if (text == name) return value;
        known += (known.empty() ? "" : ", ") + std::string(name);
    }
    throw UsageError(strf("%s %s: not one of %s", option, text.c_str(), known.c_str()));
}

// Options that take a value. A list given on the command line replaces the default; given twice, it grows.
class Parser {
public:
    explicit Parser(Options& o) : o_(o) {
        add({"-m", "--model"}, [this](auto& v, auto) { o_.model = v; });
        add({"-mm", "--mmproj"}, [this](auto& v, auto) { o_.mmproj = v; });
        add({"--synthetic"}, [this](auto& v, auto) { o_.synthetic = v; });
        add({"--synthetic-dir"}, [this](auto& v, auto) { o_.synthetic_dir = v; });
        add({"--image"}, [this](auto& v, auto name) { add_sizes(o_.images, v, name); });
        add({"--e2e"}, [this](auto& v, auto name) { add_sizes(o_.e2e, v, name); });
        ints({"-p", "--n-prompt"}, o_.n_prompt, 0, 1 << 20);
        ints({"-n", "--n-gen"}, o_.n_gen, 0, 1 << 20);
        ints({"-d", "--n-depth"}, o_.n_depth, 0, 1 << 20);
        add({"--e2e-prompt"}, [this](auto& v, auto name) { o_.e2e_prompt = parse_int(v, name, 1, 1 << 20); });
        add({"--e2e-gen"}, [this](auto& v, auto name) { o_.e2e_gen = parse_int(v, name, 1, 1 << 20); });
        add({"--sweep"}, [this](auto& v, auto name) {
            o_.sweep = choose<Sweep>(
                v, name, {{"batch", Sweep::kBatch}, {"chunk", Sweep::kChunk}, {"threads", Sweep::kThreads}});
        });
        add({"--bandwidth"}, [this](auto& v, auto name) {
            char* end = nullptr;
            const double value = std::strtod(v.c_str(), &end);
            if (v.empty() || *end || !(value > 0 && value < 1e6))
                throw UsageError(strf("%s %s: not a bandwidth in GB/s", name, v.c_str()));
            o_.bandwidth_gbs = value;
        });
        ints({"-t", "--threads"}, o_.threads, 1, 512);
        add({"-C", "--cpu-mask"}, [this](auto& v, auto) {
            for (const std::string& part : split(v)) o_.cpu_masks.push_back(part);
        });
        ints({"-b", "--batch-size"}, o_.n_batch, 1, 1 << 20);
        ints({"-ub", "--ubatch-size"}, o_.n_ubatch, 1, 1 << 20);
        ints({"--chunk"}, o_.chunk, 1, 1 << 20);
        ints({"--tile-batch"}, o_.tile_batch, 1, 17);
        ints({"--pipeline"}, o_.pipeline, 0, 1);
        ints({"--llm-kernels"}, o_.llm_kernels, 0, 1);
        types({"-ctk", "--cache-type-k"}, o_.type_k);
        types({"-ctv", "--cache-type-v"}, o_.type_v);
        choices({"-fa", "--flash-attn"}, o_.flash_attn,
                {{"auto", -1}, {"off", 0}, {"on", 1}, {"0", 0}, {"1", 1}});
        choices({"--vision-weights"}, o_.vision_weights,
                {{"resident", BLUELM_WEIGHTS_RESIDENT}, {"streamed", BLUELM_WEIGHTS_STREAMED}});
        choices({"--activations"}, o_.activations,
                {{"auto", BLUELM_ACTIVATIONS_AUTO},
                 {"int8", BLUELM_ACTIVATIONS_INT8},
                 {"float", BLUELM_ACTIVATIONS_FLOAT}});
        add({"-r", "--repetitions"},
            [this](auto& v, auto name) { o_.repetitions = parse_int(v, name, 1, 1000); });
        add({"--delay"}, [this](auto& v, auto name) { o_.delay = parse_int(v, name, 0, 3600); });
        add({"-o", "--output"}, [this](auto& v, auto name) {
            o_.format = choose<Format>(v, name,
                                       {{"md", Format::kMarkdown},
                                        {"json", Format::kJson},
                                        {"jsonl", Format::kJsonl},
                                        {"csv", Format::kCsv}});
        });
        add({"--json"}, [this](auto& v, auto) { o_.json_path = v; });
        flag({"--table5"}, o_.table5, true);
        flag({"--roofline"}, o_.roofline, true);
        flag({"--no-warmup"}, o_.warmup, false);
        flag({"--no-memory-check"}, o_.memory_check, false);
        flag({"--progress"}, o_.progress, true);
        flag({"-v", "--verbose"}, o_.verbose, true);
    }

    void parse(int argc, char** argv) {
        for (int i = 1; i < argc; ++i) {
            std::string name = argv[i], value;
            const size_t equals = name.rfind("--", 0) == 0 ? name.find('=') : std::string::npos;
            if (equals != std::string::npos) {
                value = name.substr(equals + 1);
                name.resize(equals);
            }
            if (name == "-h" || name == "--help") print_and_exit(help());
            if (name == "--version") print_and_exit(strf("bluelm-bench %s\n", bluelm_build_info()));
            const auto flag = flags_.find(name);
            if (flag != flags_.end() && equals == std::string::npos) {
                flag->second();
                continue;
            }
            const auto option = options_.find(name);
            if (option == options_.end())
                throw UsageError(strf("%s: no such option; --help lists them", argv[i]));
            if (equals == std::string::npos) {
                if (++i >= argc) throw UsageError(strf("%s: a value is missing", name.c_str()));
                value = argv[i];
            }
            option->second(value, name.c_str());
        }
    }

private:
    using Action = std::function<void(const std::string& value, const char* name)>;

    void add(std::initializer_list<const char*> names, const Action& action) {
        for (const char* name : names) options_[name] = action;
    }
    void flag(std::initializer_list<const char*> names, bool& target, bool value) {
        for (const char* name : names) flags_[name] = [&target, value] { target = value; };
    }
    void ints(std::initializer_list<const char*> names, std::vector<int>& target, int min, int max) {
        add(names, [this, &target, min, max](auto& v, auto name) {
            clear_once(target);
            add_ints(target, v, name, min, max);
        });
    }
    void choices(std::initializer_list<const char*> names, std::vector<int>& target,
                 std::vector<std::pair<const char*, int>> allowed) {
        add(names, [this, &target, allowed](auto& v, auto name) {
            clear_once(target);
            for (const std::string& part : split(v)) target.push_back(choose<int>(part, name, allowed));
        });
    }
    void types(std::initializer_list<const char*> names, std::vector<ggml_type>& target) {
        add(names, [this, &target](auto& v, auto name) {
            clear_once(target);
            for (const std::string& part : split(v)) target.push_back(parse_cache_type(part, name));
        });
    }
    template <class T>
    void clear_once(std::vector<T>& target) {
        if (given_[&target]) return;
        given_[&target] = true;
        target.clear();
    }
    static std::string help() { return kHelp; }
    [[noreturn]] static void print_and_exit(const std::string& text) {
        std::fputs(text.c_str(), stdout);
        std::exit(std::fflush(stdout) == 0 ? 0 : 1);
    }

    Options& o_;
    std::map<std::string, Action> options_;
    std::map<std::string, std::function<void()>> flags_;
    std::map<const void*, bool> given_;
};

}  // namespace

Options parse_options(int argc, char** argv) {
    Options o;
    Parser(o).parse(argc, argv);
    if (!o.synthetic.empty() && !(o.model.empty() && o.mmproj.empty()))
        throw UsageError("--synthetic excludes -m and --mmproj");
    if (!o.synthetic_dir.empty() && o.synthetic.empty())
        throw UsageError("--synthetic-dir says where --synthetic puts its files: give --synthetic too");
    if (o.model.empty() && o.mmproj.empty() && o.synthetic.empty()) o.synthetic = "demo";
    if (o.bandwidth_gbs && !o.roofline) throw UsageError("--bandwidth belongs to --roofline");
    const bool has_llm = o.mmproj.empty() || !o.model.empty();
    const bool has_vision = o.model.empty() || !o.mmproj.empty();
    if (o.sweep == Sweep::kBatch) {
        if (o.images.empty()) o.images = {{768, 1536}};
        o.tile_batch = {1, 2, 4, 6, 9};
    }
    if (o.sweep == Sweep::kChunk) {
        if (o.n_prompt.empty()) o.n_prompt = {2048};
        o.chunk = {32, 128, 512, 2048};
    }
    if (o.images.empty() && o.e2e.empty() && o.n_prompt.empty() && o.n_gen.empty() && !o.table5) {
        if (has_vision) o.images = {{768, 1536}};
        if (has_llm) o.n_prompt = {512}, o.n_gen = {128};
    }
    const auto need = [](bool wanted, bool has, const char* test, const char* option) {
        if (wanted && !has) throw UsageError(strf("%s needs %s", test, option));
    };
    need(!o.images.empty(), has_vision, "--image", "a vision file: --mmproj FILE");
    need(!o.e2e.empty(), has_vision && has_llm, "--e2e", "both files: -m FILE --mmproj FILE");
    need(o.table5, has_vision && has_llm, "--table5", "both files: -m FILE --mmproj FILE");
    need(!o.n_prompt.empty() || !o.n_gen.empty(), has_llm, "-p and -n", "a language model: -m FILE");
    for (const int chunk : o.chunk) {
        for (const int n_batch : o.n_batch) {
            if (chunk > n_batch) throw UsageError(strf("--chunk %d does not fit into -b %d", chunk, n_batch));
        }
    }
    return o;
}

}  // namespace tools
