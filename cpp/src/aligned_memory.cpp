#include "aligned_memory.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#if !defined(_WIN32)
#include <sys/mman.h>
#endif

namespace bluelm {
namespace {

constexpr size_t kLargePage = size_t(2) << 20;

size_t rounded(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

}  // namespace

AlignedMemory::AlignedMemory(size_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
#if !defined(_WIN32)
    // The system zeroes each page at its first touch, which whichever thread gets there does: 400 MB of
    // weights need not be cleared by one thread first. And what is freed goes back to the system at once.
    if (bytes >= kLargePage) {
        const size_t mapped = rounded(bytes, kLargePage) + kLargePage;
        void* all = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (all == MAP_FAILED) throw std::bad_alloc();
        // Large pages begin at multiples of their size: what lies outside goes back.
        char *begin = static_cast<char*>(all), *end = begin + mapped;
        char* first = begin + (rounded(reinterpret_cast<uintptr_t>(begin), kLargePage) -
                               reinterpret_cast<uintptr_t>(begin));
        char* last = first + rounded(bytes, kLargePage);
        if (first != begin) munmap(begin, static_cast<size_t>(first - begin));
        if (last != end) munmap(last, static_cast<size_t>(end - last));
#if defined(__linux__)
        madvise(first, static_cast<size_t>(last - first), MADV_HUGEPAGE);
#endif
        data_ = std::unique_ptr<char, FreeMemory>(first, FreeMemory{static_cast<size_t>(last - first)});
        return;
    }
#endif
    constexpr size_t kAlignment = 64;
    bytes = rounded(bytes, kAlignment);
#if defined(_WIN32)
    data_.reset(static_cast<char*>(_aligned_malloc(bytes, kAlignment)));
#else
    data_.reset(static_cast<char*>(std::aligned_alloc(kAlignment, bytes)));
#endif
    if (!data_) throw std::bad_alloc();
    std::memset(data_.get(), 0, bytes);
}

void FreeMemory::operator()(char* p) const {
#if defined(_WIN32)
    _aligned_free(p);
#else
    if (mapped > 0) {
        munmap(p, mapped);
    } else {
        std::free(p);
    }
#endif
}

}  // namespace bluelm
