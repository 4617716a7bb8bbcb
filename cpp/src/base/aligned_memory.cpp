#include "base/aligned_memory.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace bluelm {
namespace {

constexpr size_t kLargePage = size_t(2) << 20;

size_t rounded(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

void use_large_pages(char* data, size_t bytes) {
#if defined(__linux__)
    if (bytes >= kLargePage) madvise(data, bytes, MADV_HUGEPAGE);
#else
    (void)data, (void)bytes;
#endif
}

}  // namespace

AlignedMemory::AlignedMemory(size_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    const size_t alignment = bytes >= kLargePage ? kLargePage : 64;
    bytes = rounded(bytes, alignment);
    data_.reset(static_cast<char*>(std::aligned_alloc(alignment, bytes)));
    if (!data_) throw std::bad_alloc();
    use_large_pages(data_.get(), bytes);
    std::memset(data_.get(), 0, bytes);
}

AlignedMemory AlignedMemory::mapped(size_t bytes) {
    if (bytes < kLargePage) return AlignedMemory(bytes);
    const size_t room = rounded(bytes, kLargePage) + kLargePage;
    void* all = mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) throw std::bad_alloc();
    // Large pages begin at multiples of their size: what lies outside goes back.
    const auto address = reinterpret_cast<uintptr_t>(all);
    char *begin = static_cast<char*>(all), *end = begin + room;
    char *first = begin + (rounded(address, kLargePage) - address),
         *last = first + rounded(bytes, kLargePage);
    if (first != begin) munmap(begin, static_cast<size_t>(first - begin));
    if (last != end) munmap(last, static_cast<size_t>(end - last));
    AlignedMemory memory;
    memory.bytes_ = bytes;
    memory.data_ = std::unique_ptr<char, FreeMemory>(first, FreeMemory{static_cast<size_t>(last - first)});
    use_large_pages(first, static_cast<size_t>(last - first));
    return memory;
}

void FreeMemory::operator()(char* p) const {
    if (mapped > 0) {
        munmap(p, mapped);
    } else {
        std::free(p);
    }
}

}  // namespace bluelm
