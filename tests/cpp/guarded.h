// Buffers that end where the process's memory ends: an access past the end crashes, in every build. With the
// address sanitizer the gaps that alignment leaves are watched too.
//
// BLUELM_TESTS_SLACK=BYTES in the environment moves the end of memory that far behind a buffer's: QEMU 7.2
// itself crashes on some AVX2 code at such an end, though CPUs and valgrind run it.
#ifndef BLUELM_TESTS_GUARDED_H
#define BLUELM_TESTS_GUARDED_H

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define BLUELM_TESTS_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define BLUELM_TESTS_ASAN 1
#endif
#endif
#ifdef BLUELM_TESTS_ASAN
#include <sanitizer/asan_interface.h>
#endif

namespace check {

// `bytes` bytes, their start a multiple of `alignment` (a power of two, at most a page), and behind them an
// unmapped page: at once where bytes is a multiple of alignment, else after what rounding up takes. Filled
// with `fill`, by default with what is a NaN as float, as double and as bf16.
class Guarded {
public:
    explicit Guarded(size_t bytes, size_t alignment = 1, uint8_t fill = 0xff) : bytes_(bytes) {
        const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
        const char* slack = std::getenv("BLUELM_TESTS_SLACK");
        const size_t wanted = bytes + (slack ? std::strtoul(slack, nullptr, 10) : 0);
        const size_t room = (wanted + alignment - 1) / alignment * alignment;
        const size_t pages = (room + page - 1) / page * page;
        mapped_ = pages + 2 * page;  // one before, one behind
        void* memory = mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED ||
            (pages && mprotect(static_cast<char*>(memory) + page, pages, PROT_READ | PROT_WRITE) != 0)) {
            std::fprintf(stderr, "no memory for a test's buffer of %zu bytes\n", bytes);
            std::exit(2);
        }
        memory_ = static_cast<char*>(memory);
        data = reinterpret_cast<uint8_t*>(memory_ + page + pages - room);
        if (bytes) std::memset(data, fill, bytes);
#ifdef BLUELM_TESTS_ASAN
        __asan_poison_memory_region(memory_ + page, pages - room);
        __asan_poison_memory_region(data + bytes, room - bytes);
#endif
    }
    // A copy of `values`.
    template <class T>
    explicit Guarded(const std::vector<T>& values, size_t alignment = alignof(T))
        : Guarded(values.size() * sizeof(T), alignment) {
        if (bytes_) std::memcpy(data, values.data(), bytes_);
    }
    ~Guarded() {
#ifdef BLUELM_TESTS_ASAN
        __asan_unpoison_memory_region(memory_, mapped_);
#endif
        munmap(memory_, mapped_);
    }
    Guarded(const Guarded&) = delete;
    Guarded& operator=(const Guarded&) = delete;

    template <class T>
    T* as() const {
        return reinterpret_cast<T*>(data);
    }
    size_t size() const { return bytes_; }

    uint8_t* data;

private:
    char* memory_;
    size_t mapped_, bytes_;
};

}  // namespace check

#endif  // BLUELM_TESTS_GUARDED_H
