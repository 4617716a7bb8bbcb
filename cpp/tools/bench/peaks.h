// Loops that do nothing but multiply and add, on registers: how fast this CPU can be.
#ifndef BLUELM_BENCH_PEAKS_H
#define BLUELM_BENCH_PEAKS_H

#include <cstdint>

namespace tools {

struct PeakLoop {
    const char* name;      // "AVX-512 VNNI"
    double ops_per_round;  // multiplications plus additions
    void (*run)(int64_t n_rounds);
};

// The fastest loop that this CPU runs, or one with run == nullptr.
PeakLoop int8_loop();
PeakLoop bf16_loop();
PeakLoop f32_loop();

// The sum of n 64-bit words; n is a multiple of 64.
uint64_t sum_words(const uint64_t* words, int64_t n);

}  // namespace tools

#endif  // BLUELM_BENCH_PEAKS_H
