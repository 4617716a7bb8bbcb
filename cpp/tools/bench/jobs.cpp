#include "jobs.h"

#include <algorithm>

#include "common/program.h"

namespace tools {
namespace {

// 1, 2, 4 .. and the number of cores itself.
std::vector<int> thread_sweep(int n_cores) {
    std::vector<int> threads;
    for (int n = 1; n < n_cores; n *= 2) threads.push_back(n);
    threads.push_back(n_cores);
    return threads;
}

// Masks and threads: they go together, since the default of one comes from the other.
std::vector<Config> placements(const Options& o) {
    std::vector<Config> out;
    std::vector<std::string> masks = o.cpu_masks;
    if (masks.empty()) masks = {"big"};
    for (const std::string& mask : masks) {
        Config c;
        c.cpus = parse_cpu_mask(mask);
        const int cores = physical_cores(c.cpus);
        std::vector<int> threads = o.threads;
        if (threads.empty())
            threads = o.sweep == Sweep::kThreads ? thread_sweep(cores) : std::vector<int>{cores};
        for (const int n : threads) {
            warn_of_threads("bluelm-bench: ", n, c.cpus);
            c.threads = n;
            out.push_back(c);
        }
    }
    return out;
}

// Every config with every value of a list.
template <class T, class Set>
void multiply(std::vector<Config>& configs, const std::vector<T>& values, Set set) {
    std::vector<Config> out;
    for (const Config& c : configs) {
        for (const T& value : values) {
            out.push_back(c);
            set(out.back(), value);
        }
    }
    configs = out;
}

struct Settings {
    std::vector<Config> vision, prompt, generate, both;
};

Settings all_settings(const Options& o) {
    std::vector<Config> base = placements(o);
    const auto vision = [&o](std::vector<Config>& configs) {
        multiply(configs, o.tile_batch, [](Config& c, int v) { c.tile_batch = v; });
        multiply(configs, o.pipeline, [](Config& c, int v) { c.pipeline = v; });
        multiply(configs, o.vision_weights, [](Config& c, int v) { c.vision_weights = v; });
        multiply(configs, o.activations, [](Config& c, int v) { c.activations = v; });
    };
    const auto llm = [&o](std::vector<Config>& configs, bool chunked) {
        std::vector<int> chunks = o.chunk;
        if (!chunked) chunks.resize(1);
        multiply(configs, chunks, [](Config& c, int v) { c.chunk = c.n_batch = c.n_ubatch = v; });
        if (!o.n_batch.empty()) {
            multiply(configs, o.n_batch, [](Config& c, int v) { c.n_batch = v; });
        }
        if (!o.n_ubatch.empty()) {
            multiply(configs, o.n_ubatch, [](Config& c, int v) {
                c.n_ubatch = v;
                c.n_batch = std::max(c.n_batch, v);
            });
        }
        multiply(configs, o.llm_kernels.empty() ? std::vector<int>{1} : o.llm_kernels,
                 [](Config& c, int v) { c.llm_kernels = v; });
        multiply(configs, o.type_k, [](Config& c, ggml_type v) { c.type_k = v; });
        multiply(configs, o.type_v, [](Config& c, ggml_type v) { c.type_v = v; });
        multiply(configs, o.flash_attn, [](Config& c, int v) { c.flash_attn = v; });
    };
    Settings s = {base, base, base, base};
    vision(s.vision);
    llm(s.prompt, true);
    llm(s.generate, false);
    vision(s.both);
    llm(s.both, true);
    return s;
}

}  // namespace

std::string Job::name() const {
    const std::string depth = n_depth ? strf(" @ d%d", n_depth) : "";
    switch (kind) {
        case Kind::kLoad: return "load";
        case Kind::kImage: return strf("img %dx%d", image.width, image.height);
        case Kind::kPrompt: return strf("pp%d", n_prompt) + depth;
        case Kind::kGenerate: return strf("tg%d", n_gen) + depth;
        case Kind::kE2e: return strf("e2e %dx%d+%d+%d", image.width, image.height, n_prompt, n_gen);
        case Kind::kTable5: return "table5";
    }
    return "";
}

std::vector<Job> plan_jobs(const Options& o) {
    const Settings settings = all_settings(o);
    std::vector<Job> jobs;
    const auto add = [&jobs](Kind kind, const Config& config, Size image, int n_prompt, int n_gen,
                             int n_depth) {
        jobs.push_back({kind, config, image, n_prompt, n_gen, n_depth});
    };
    add(Kind::kLoad, settings.both[0], {}, 0, 0, 0);
    for (const Size& image : o.images) {
        for (const Config& c : settings.vision) add(Kind::kImage, c, image, 0, 0, 0);
    }
    for (const int depth : o.n_depth) {
        for (const int n : o.n_prompt) {
            if (n == 0) continue;  // as in llama-bench: no such test
            for (const Config& c : settings.prompt) add(Kind::kPrompt, c, {}, n, 0, depth);
        }
        for (const int n : o.n_gen) {
            if (n == 0) continue;
            for (const Config& c : settings.generate) add(Kind::kGenerate, c, {}, 0, n, depth);
        }
    }
    for (const Size& image : o.e2e) {
        for (const Config& c : settings.both) add(Kind::kE2e, c, image, o.e2e_prompt, o.e2e_gen, 0);
    }
    if (o.table5) {
        // 2048 tokens of input, the image's among them; the run counts them.
        const int n_gen = o.n_gen.empty() || o.n_gen[0] == 0 ? 128 : o.n_gen[0];
        for (const Config& c : settings.both) add(Kind::kTable5, c, {768, 1536}, 2048, n_gen, 0);
    }
    return jobs;
}

}  // namespace tools
