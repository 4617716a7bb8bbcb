// The smallest thing that lets a test fail: CHECK prints and counts, main returns finish().
//
// Random input comes from random_seed(), printed by every failure; BLUELM_TEST_SEED=N repeats a run.
#ifndef BLUELM_TESTS_CHECK_H
#define BLUELM_TESTS_CHECK_H

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>

namespace check {

inline int failures = 0;

inline uint32_t random_seed() {
    static const uint32_t seed = [] {
        const char* given = std::getenv("BLUELM_TEST_SEED");
        return given ? static_cast<uint32_t>(std::strtoul(given, nullptr, 10)) : std::random_device{}();
    }();
    return seed;
}

inline std::mt19937& random_engine() {
    static std::mt19937 engine(random_seed());
    return engine;
}

// A whole number from low to high.
inline int uniform(int low, int high) {
    return std::uniform_int_distribution<int>(low, high)(random_engine());
}
inline float normal() { return std::normal_distribution<float>()(random_engine()); }

inline void failed(const char* file, int line, const char* what) {
    // A test in a loop would bury its first failure under the others.
    if (++failures > 20) return;
    std::fprintf(stderr, "%s:%d: failed: %s (BLUELM_TEST_SEED=%u)\n", file, line, what, random_seed());
}

inline int finish() {
    if (failures) std::fprintf(stderr, "%d checks failed\n", failures);
    return failures ? 1 : 0;
}

}  // namespace check

#define CHECK(condition)                                                 \
    do {                                                                 \
        if (!(condition)) check::failed(__FILE__, __LINE__, #condition); \
    } while (0)

// With values: CHECK_F(x == y, "x %d, y %d", x, y).
#define CHECK_F(condition, ...)                                        \
    do {                                                               \
        if (!(condition)) {                                            \
            char check_text[512];                                      \
            std::snprintf(check_text, sizeof check_text, __VA_ARGS__); \
            check::failed(__FILE__, __LINE__, check_text);             \
        }                                                              \
    } while (0)

#endif  // BLUELM_TESTS_CHECK_H
