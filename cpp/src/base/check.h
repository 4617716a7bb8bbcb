// Bounds that code relies on, tested in release builds too: outside of inner loops, where nothing else would
// notice.
#ifndef BLUELM_CHECK_H
#define BLUELM_CHECK_H

namespace bluelm {

// Throws Error INTERNAL: a defect of this library, not of what the caller gave.
[[noreturn]] void check_failed(const char* condition, const char* file, int line);

}  // namespace bluelm

// Not where an exception may not pass: in code that ggml's threads call.
#define BLUELM_CHECK(condition)                                                   \
    do {                                                                          \
        if (!(condition)) ::bluelm::check_failed(#condition, __FILE__, __LINE__); \
    } while (false)

#endif  // BLUELM_CHECK_H
