#include "roofline.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <thread>
#include <vector>

#include "common/program.h"
#include "common/system.h"
#include "peaks.h"
#include "synthetic.h"

namespace tools {
namespace {

// Seconds from the first thread's start to the last one's end; all start together.
double seconds_together(int threads, const std::function<void(int)>& body) {
    std::atomic<int> waiting{threads};
    std::vector<std::thread> others;
    const auto work = [&](int index) {
        --waiting;
        while (waiting > 0) std::this_thread::yield();
        body(index);
    };
    for (int i = 1; i < threads; ++i) others.emplace_back(work, i);
    --waiting;
    while (waiting > 0) std::this_thread::yield();
    Stopwatch running;
    body(0);
    for (std::thread& other : others) other.join();
    return running.ms() / 1e3;
}

double measure_bandwidth(int threads) {
    // Far beyond any cache, but no more than a small phone can spare.
    const uint64_t spare = available_memory().value_or(uint64_t(1) << 30) / 4;
    const uint64_t bytes = std::clamp<uint64_t>(spare, uint64_t(64) << 20, uint64_t(1) << 30);
    const int64_t per_thread = static_cast<int64_t>(bytes / sizeof(uint64_t)) / threads / 64 * 64;
    std::vector<uint64_t> words(static_cast<size_t>(per_thread * threads));
    std::vector<uint64_t> sums(static_cast<size_t>(threads));
    seconds_together(threads, [&](int i) {  // each thread brings its own part into memory
        std::fill_n(words.begin() + i * per_thread, per_thread, uint64_t(i) + 1);
    });
    double best = 0;
    for (int pass = 0; pass < 8; ++pass) {
        check_stopped();
        const double seconds = seconds_together(threads, [&](int i) {
            sums[static_cast<size_t>(i)] = sum_words(words.data() + i * per_thread, per_thread);
        });
        best = std::max(best, static_cast<double>(words.size() * sizeof(uint64_t)) / seconds / 1e9);
    }
    for (int i = 0; i < threads; ++i) {  // the sums are used, so that they are computed
        if (sums[static_cast<size_t>(i)] != static_cast<uint64_t>(per_thread) * (uint64_t(i) + 1))
            throw Failure("reading memory gave wrong sums: this machine's memory is faulty");
    }
    return best;
}

// 1e9 operations a second.
double measure_peak(const PeakLoop& loop, int threads) {
    if (!loop.run) return 0;
    int64_t rounds = 1000;
    double best = 0;
    // Longer until a run takes 0.1 s, then five of them.
    for (int timed = 0; timed < 5;) {
        check_stopped();
        const double seconds = seconds_together(threads, [&](int) { loop.run(rounds); });
        if (seconds < 0.1 && rounds < (int64_t(1) << 40)) {
            rounds *= seconds < 0.01 ? 8 : 2;
            continue;
        }
        ++timed;
        best = std::max(best, loop.ops_per_round * static_cast<double>(rounds) * threads / seconds / 1e9);
    }
    return best;
}

}  // namespace

Limits measure_limits(int threads, std::optional<double> given_bandwidth_gbs) {
    Limits limits;
    limits.threads = threads;
    const PeakLoop int8 = int8_loop(), bf16 = bf16_loop(), f32 = f32_loop();
    limits.int8_name = int8.name;
    limits.bf16_name = bf16.name;
    limits.f32_name = f32.name;
    limits.int8_gops = measure_peak(int8, threads);
    limits.bf16_gflops = measure_peak(bf16, threads);
    limits.f32_gflops = measure_peak(f32, threads);
    limits.bandwidth_gbs = given_bandwidth_gbs ? *given_bandwidth_gbs : measure_bandwidth(threads);
    return limits;
}

std::string calculator_text(const Limits& l, const std::string& llm_path, ggml_type type_k,
                            ggml_type type_v) {
    const auto peak = [](double value, const std::string& name, const char* unit) {
        return value > 0 ? strf("%.0f %s (%s)", value, unit, name.c_str()) : std::string("n/a");
    };
    std::string text =
        strf("limits on %d thread%s: reading %.1f GB/s; int8 %s; bf16 %s; f32 %s\n\n", l.threads,
             l.threads == 1 ? "" : "s", l.bandwidth_gbs, peak(l.int8_gops, l.int8_name, "GOP/s").c_str(),
             peak(l.bf16_gflops, l.bf16_name, "GFLOP/s").c_str(),
             peak(l.f32_gflops, l.f32_name, "GFLOP/s").c_str());
    const int contexts[] = {0, 1024, 2048, 4096};
    text += strf("tokens/s limit = bandwidth / bytes per token (weights + KV cache, K %s, V %s)\n",
                 ggml_type_name(type_k), ggml_type_name(type_v));
    text += "| model                      |  weights |";
    for (const int n : contexts) text += strf(" at %4d tokens |", n);
    text += "\n|----------------------------|---------:|";
    for (size_t i = 0; i < sizeof contexts / sizeof *contexts; ++i) text += "---------------:|";
    text += "\n";
    const auto row = [&](const std::string& name, const LlmCost& cost) {
        if (cost.bytes_per_token == 0) return;
        text += strf("| %-26s | %8s |", name.c_str(),
                     bytes_text(static_cast<double>(cost.bytes_per_token)).c_str());
        for (const int n : contexts) {
            const double bytes = static_cast<double>(cost.bytes_per_token) + cost.kv_bytes(n, type_k, type_v);
            text += strf(" %10.1f t/s |", 1e9 * l.bandwidth_gbs / bytes);
        }
        text += "\n";
    };
    size_t n_shapes = 0;
    const SyntheticShape* shapes = all_shapes(&n_shapes);
    for (size_t i = 0; i < n_shapes; ++i) row(strf("--synthetic %s", shapes[i].name), llm_cost(shapes[i]));
    if (!llm_path.empty()) row(llm_path.substr(llm_path.find_last_of('/') + 1), llm_cost(llm_path));
    return text + "\n";
}

}  // namespace tools
