// The limits of this machine, measured, and what they mean for generating tokens.
#ifndef BLUELM_BENCH_ROOFLINE_H
#define BLUELM_BENCH_ROOFLINE_H

#include <optional>
#include <string>

#include "options.h"

namespace tools {

// What the machine can do at most on some threads.
struct Limits {
    double bandwidth_gbs = 0;  // reading, 1e9 bytes a second; 0: not known
    double int8_gops = 0;      // multiplications and additions; 0: no kernel for this CPU
    double bf16_gflops = 0;    // 0: no instruction for it
    double f32_gflops = 0;
    std::string int8_name, bf16_name, f32_name;  // with which instructions
    int threads = 0;
};

// Bandwidth: all threads sum up a buffer that no cache holds, the best of several passes. Peaks: the fastest
// instruction of this CPU on registers alone, the best of several runs. Takes about three seconds.
// Throws Failure (no memory), Interrupted.
Limits measure_limits(int threads, std::optional<double> given_bandwidth_gbs);

// Limits, and for the shapes of --synthetic and a model file (may be empty) tokens/s = bandwidth / bytes per
// token at several context sizes, as markdown.
std::string calculator_text(const Limits& limits, const std::string& llm_path, ggml_type type_k,
                            ggml_type type_v);

}  // namespace tools

#endif  // BLUELM_BENCH_ROOFLINE_H
