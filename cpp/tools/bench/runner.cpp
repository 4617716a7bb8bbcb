#include "runner.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <random>
#include <thread>

#include "common/program.h"

namespace tools {
namespace {

bool go_on(int32_t, int64_t, int64_t, void*) { return stop_signal() == 0; }

// A picture that is neither flat nor pure noise; its content does not change the time.
std::vector<uint8_t> make_picture(const Size& size) {
    std::vector<uint8_t> rgb(static_cast<size_t>(size.width) * static_cast<size_t>(size.height) * 3);
    std::minstd_rand random(1);
    for (size_t i = 0; i < rgb.size(); ++i) rgb[i] = static_cast<uint8_t>((i / 3 + (random() >> 8)) & 0xff);
    return rgb;
}

std::vector<int32_t> random_tokens(int64_t n, int32_t n_vocab) {
    std::minstd_rand random(1);
    std::vector<int32_t> tokens(static_cast<size_t>(n));
    for (int32_t& token : tokens) token = static_cast<int32_t>(random() % static_cast<unsigned>(n_vocab));
    return tokens;
}

bluelm_prefill_params prefill_params(llama_context* ctx, const Config& c) {
    bluelm_prefill_params params;
    check(bluelm_prefill_params_default(&params));
    // A context smaller than a chunk has an n_batch of its own size.
    params.chunk = std::min(c.chunk, static_cast<int>(llama_n_batch(ctx)));
    return params;
}

void prefill(llama_context* ctx, const Config& c, const std::vector<int32_t>& tokens, int32_t pos0,
             bool logits) {
    const bluelm_prefill_params params = prefill_params(ctx, c);
    check(bluelm_prefill_tokens(ctx, &params, tokens.data(), static_cast<int64_t>(tokens.size()), pos0,
                                logits, go_on, nullptr, nullptr));
    llama_synchronize(ctx);
    // bluelm_prefill_* takes the context's abort callback away.
    llama_set_abort_callback(ctx, [](void*) { return stop_signal() != 0; }, nullptr);
}

// Leaves the tokens `before` in the context, and nothing else: by cutting off what came after them or, where
// the model's memory cannot be cut, from the start.
void go_back(llama_context* ctx, const Config& c, const std::vector<int32_t>& before) {
    const llama_memory_t memory = llama_get_memory(ctx);
    const auto depth = static_cast<llama_pos>(before.size());
    if (depth > 0 && llama_memory_seq_pos_max(memory, 0) >= depth - 1 &&
        llama_memory_seq_rm(memory, 0, depth, -1))
        return;
    llama_memory_clear(memory, false);
    if (depth > 0) prefill(ctx, c, before, 0, false);
}

void decode_one(llama_context* ctx, int32_t token) {
    const int32_t status = llama_decode(ctx, llama_batch_get_one(&token, 1));
    check_stopped();
    if (status != 0) throw Failure(strf("llama_decode failed with %d", status));
    llama_synchronize(ctx);
}

int32_t likeliest(llama_context* ctx, int32_t n_vocab) {
    const float* logits = llama_get_logits_ith(ctx, -1);
    return static_cast<int32_t>(std::max_element(logits, logits + n_vocab) - logits);
}

std::string base_name(const std::string& path) { return path.substr(path.find_last_of('/') + 1); }

}  // namespace

double mean(const std::vector<double>& values) {
    double sum = 0;
    for (const double v : values) sum += v;
    return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

double deviation(const std::vector<double>& values) {
    if (values.size() < 2) return 0;
    const double m = mean(values);
    double sum = 0;
    for (const double v : values) sum += (v - m) * (v - m);
    return std::sqrt(sum / static_cast<double>(values.size() - 1));
}

Part& Result::part(const char* name, const char* label, double n, const char* of) {
    for (Part& p : parts) {
        if (std::string(p.name) == name) return p;
    }
    parts.push_back({name, label, n, of, {}});
    return parts.back();
}

const Part* Result::find(const char* name) const {
    for (const Part& p : parts) {
        if (std::string(p.name) == name) return &p;
    }
    return nullptr;
}

Runner::Runner(const Options& options, std::string llm_path, std::string vision_path)
    : options_(options), llm_path_(std::move(llm_path)), vision_path_(std::move(vision_path)) {}

// Loads what the job needs and is not there with the same settings.
void Runner::load(const Job& job) {
    const Config& c = job.config;
    if (job.needs_vision() && !vision_path_.empty()) {
        const Config& have = vision_config_;
        if (!vision_ || have.threads != c.threads || have.tile_batch != c.tile_batch ||
            have.pipeline != c.pipeline || have.vision_weights != c.vision_weights ||
            have.activations != c.activations) {
            vision_.reset();  // before the new one takes its memory
            vision_ = std::make_unique<Vision>(vision_path_, c);
            vision_config_ = c;
        }
    }
    if (job.needs_llm() && !llm_path_.empty() && (!llm_ || llm_config_.llm_kernels != c.llm_kernels)) {
        llm_.reset();
        llm_ = std::make_unique<Llm>(llm_path_, c);
        llm_config_ = c;
    }
    check_stopped();
}

void Runner::describe(const Job& job, Result& r) const {
    if (llm_ && job.needs_llm()) {
        r.llm_type = llm_->type();
        r.llm_kernels = llm_->kernels();
        r.llm_file = base_name(llm_path_);
        r.llm_bytes = static_cast<int64_t>(llama_model_size(llm_->get()));
        r.llm_params = static_cast<int64_t>(llama_model_n_params(llm_->get()));
    }
    if (vision_ && job.needs_vision()) {
        r.vision_type = vision_->type();
        r.vision_file = base_name(vision_path_);
        r.vision_bytes = vision_->info().weight_bytes;
        r.vision_params = vision_->info().n_params;
    }
}

Result Runner::run(const Job& job) {
    Result result;
    result.job = job;
    result.unix_time = static_cast<int64_t>(std::time(nullptr));
    set_affinity(job.config.cpus);
    reset_peak_rss();
    try {
        if (job.kind == Kind::kLoad || job.kind == Kind::kTable5) llm_.reset(), vision_.reset();
        load(job);
        describe(job, result);
        for (int s = 0; s < 10 * options_.delay; ++s) {
            check_stopped();
            std::this_thread::sleep_for(std::chrono::milliseconds(100));
        }
        switch (job.kind) {
            case Kind::kLoad: measure_load(job, result); break;
            case Kind::kImage: measure_image(job, result); break;
            case Kind::kPrompt: measure_prompt(job, result); break;
            case Kind::kGenerate: measure_generate(job, result); break;
            case Kind::kE2e:
            case Kind::kTable5: measure_e2e(job, result); break;
        }
    } catch (const Interrupted&) {  // the caller sees the signal
    }
    result.peak_rss = peak_rss();
    return result;
}

// Calls body(index), which returns the milliseconds that count.
template <class Body>
void Runner::repeat(const Job& job, Result& r, const Body& body) {
    for (int i = 0; i < options_.repetitions; ++i) {
        const double ms = body();
        r.ms.push_back(ms);
        r.mhz_last = frequency_mhz(job.config.cpus);
        r.celsius_last = temperature_c();
        if (i == 0) r.mhz_first = r.mhz_last, r.celsius_first = r.celsius_last;
    }
}

void Runner::measure_load(const Job&, Result& r) {
    double total = 0;
    if (vision_) {
        r.part("load_mmproj", "mmproj").ms.push_back(vision_->load_ms());
        total += vision_->load_ms();
    }
    if (llm_) {
        r.part("load_llm", "language model").ms.push_back(llm_->load_ms());
        total += llm_->load_ms();
    }
    r.ms.push_back(total);
}

int64_t Runner::image_tokens(const Size& size, int* n_tiles) const {
    int64_t n = 0;
    check(bluelm_vision_encode(vision_->get(), nullptr, nullptr, size.width, size.height, nullptr, nullptr,
                               nullptr, 0, &n, nullptr));
    bluelm_tiler_params tiler;
    bluelm_tile_plan plan;
    check(bluelm_vision_get_tiler(vision_->get(), &tiler));
    check(bluelm_tiler_plan(&tiler, size.width, size.height, &plan));
    *n_tiles = plan.n_tiles;
    return n;
}

// One batch of tiles: as much memory and as many threads as a whole picture takes.
void Runner::warm_up_vision(int n_tiles) {
    const bluelm_vision_info& info = vision_->info();
    const size_t n = static_cast<size_t>(n_tiles), side = static_cast<size_t>(info.image_size);
    const std::vector<uint8_t> tiles(n * 3 * side * side, 128);
    std::vector<float> features(n * static_cast<size_t>(info.tokens_per_tile) *
                                static_cast<size_t>(info.n_embd_out));
    check(bluelm_vision_encode_tiles(vision_->get(), tiles.data(), n_tiles, go_on, nullptr, features.data(),
                                     features.size(), nullptr));
}

void Runner::measure_image(const Job& job, Result& r) {
    const std::vector<uint8_t> rgb = make_picture(job.image);
    const int64_t n_tokens = image_tokens(job.image, &r.n_tiles);
    r.image_tokens = static_cast<int>(n_tokens);
    r.units = r.n_tiles;
    r.unit = "tiles";
    std::vector<float> out(static_cast<size_t>(n_tokens) * static_cast<size_t>(vision_->info().n_embd_out));
    if (options_.warmup) warm_up_vision(std::min(r.n_tiles, job.config.tile_batch));
    repeat(job, r, [&] {
        Stopwatch encoding;
        check(bluelm_vision_encode(vision_->get(), nullptr, rgb.data(), job.image.width, job.image.height,
                                   go_on, nullptr, out.data(), out.size(), nullptr, nullptr));
        const double ms = encoding.ms();
        bluelm_vision_profile p = {};
        p.struct_size = sizeof p;
        check(bluelm_vision_get_profile(vision_->get(), &p));
        r.ops = 2.0 * static_cast<double>(p.multiply_adds);
        r.part("resize", "resize, cut").ms.push_back(p.resize_ms);
        r.part("patch_embd", "patch embedding").ms.push_back(p.patch_embd_ms);
        const double blocks =
            p.norm_ms + p.qkv_ms + p.attention_ms + p.attn_out_ms + p.ffn_up_ms + p.ffn_down_ms + p.pack_ms;
        r.part("vit", "ViT").ms.push_back(blocks);
        r.part("norm", "  LayerNorm").ms.push_back(p.norm_ms);
        r.part("qkv", "  Q, K, V").ms.push_back(p.qkv_ms);
        r.part("attention", "  attention").ms.push_back(p.attention_ms);
        r.part("attn_out", "  attention output").ms.push_back(p.attn_out_ms);
        r.part("ffn_up", "  FFN up").ms.push_back(p.ffn_up_ms);
        r.part("ffn_down", "  FFN down").ms.push_back(p.ffn_down_ms);
        if (p.pack_ms > 0) r.part("pack", "  reading weights").ms.push_back(p.pack_ms);
        r.part("projector", "projector").ms.push_back(p.projector_ms);
        return ms;
    });
}

void Runner::measure_prompt(const Job& job, Result& r) {
    const int n = job.n_prompt, depth = job.n_depth;
    const Llm::Context ctx = llm_->make_context(job.config, depth + n);
    const std::vector<int32_t> tokens = random_tokens(n, llm_->n_vocab());
    const std::vector<int32_t> before = random_tokens(depth, llm_->n_vocab());
    const LlmCost& cost = llm_->cost();
    r.units = n;
    r.unit = "t";
    r.ops = n * (cost.ops_per_token + cost.ops_per_position * (depth + 0.5 * n)) + cost.ops_output;
    const auto run = [&] {
        go_back(ctx.get(), job.config, before);
        Stopwatch running;
        prefill(ctx.get(), job.config, tokens, depth, true);
        return running.ms();
    };
    if (options_.warmup) run();
    repeat(job, r, run);
}

void Runner::measure_generate(const Job& job, Result& r) {
    const int n = job.n_gen, depth = job.n_depth;
    const Llm::Context ctx = llm_->make_context(job.config, depth + n);
    const std::vector<int32_t> tokens = random_tokens(n, llm_->n_vocab());
    const std::vector<int32_t> before = random_tokens(depth, llm_->n_vocab());
    const LlmCost& cost = llm_->cost();
    r.units = n;
    r.unit = "t";
    r.bytes = n * (static_cast<double>(cost.bytes_per_token) +
                   cost.kv_bytes(depth, job.config.type_k, job.config.type_v)) +
              cost.kv_bytes(int64_t(n) * n / 2, job.config.type_k, job.config.type_v);
    const auto run = [&](int count) {
        go_back(ctx.get(), job.config, before);
        Stopwatch running;
        for (int i = 0; i < count; ++i) decode_one(ctx.get(), tokens[static_cast<size_t>(i)]);
        return running.ms();
    };
    if (options_.warmup) run(1);
    repeat(job, r, [&] { return run(n); });
}

// A picture, a question, the first token, the others: the way of one answer. Table 5 fills the question up to
// job.n_prompt tokens in all.
void Runner::measure_e2e(const Job& job, Result& r) {
    if (vision_->info().n_embd_out != llm_->n_embd()) {
        throw Failure(strf("%s makes embeddings of width %d, %s takes %d: the files do not belong together",
                           vision_path_.c_str(), vision_->info().n_embd_out, llm_path_.c_str(),
                           llm_->n_embd()));
    }
    const std::vector<uint8_t> rgb = make_picture(job.image);
    const int64_t n_image = image_tokens(job.image, &r.n_tiles);
    const int64_t n_text =
        job.kind == Kind::kTable5 ? std::max<int64_t>(1, job.n_prompt - n_image) : job.n_prompt;
    const int32_t n_vocab = llm_->n_vocab(), n_embd = llm_->n_embd();
    const std::vector<int32_t> question = random_tokens(n_text, n_vocab);
    std::vector<float> embd(static_cast<size_t>(n_image) * static_cast<size_t>(n_embd));
    const Llm::Context ctx = llm_->make_context(job.config, n_image + n_text + job.n_gen);
    const bluelm_prefill_params params = prefill_params(ctx.get(), job.config);
    r.image_tokens = static_cast<int>(n_image);
    if (job.kind == Kind::kTable5) {
        r.part("load_mmproj", "load mmproj").ms = {vision_->load_ms()};
        r.part("load_llm", "load language model").ms = {llm_->load_ms()};
    }

    const auto run = [&](bool counts) {
        llama_memory_clear(llama_get_memory(ctx.get()), false);
        Stopwatch all;
        check(bluelm_vision_encode(vision_->get(), nullptr, rgb.data(), job.image.width, job.image.height,
                                   go_on, nullptr, embd.data(), embd.size(), nullptr, nullptr));
        const double encoded = all.ms();
        check(bluelm_prefill_embd(ctx.get(), &params, embd.data(), n_image, n_embd, 0, false, go_on, nullptr,
                                  nullptr));
        prefill(ctx.get(), job.config, question, static_cast<int32_t>(n_image), true);
        const double prefilled = all.ms();
        int32_t token = likeliest(ctx.get(), n_vocab);
        const double first = all.ms();
        for (int i = 1; i < job.n_gen; ++i) {
            decode_one(ctx.get(), token);
            token = likeliest(ctx.get(), n_vocab);
        }
        const double total = all.ms();
        if (!counts) return total;
        r.part("encode", "encode", r.n_tiles, "tiles").ms.push_back(encoded);
        r.part("prefill", "prefill", static_cast<double>(n_image + n_text), "t")
            .ms.push_back(prefilled - encoded);
        r.part("first_token", "first token after").ms.push_back(first);
        r.part("decode", "generation", job.n_gen - 1, "t").ms.push_back(total - first);
        return total;
    };
    if (options_.warmup) {  // a first short run of each stage
        warm_up_vision(std::min(r.n_tiles, job.config.tile_batch));
        prefill(ctx.get(), job.config, random_tokens(std::min<int64_t>(job.config.chunk, n_image), n_vocab),
                0, true);
        decode_one(ctx.get(), likeliest(ctx.get(), n_vocab));
    }
    repeat(job, r, [&] { return run(true); });
}

}  // namespace tools
