// Memory for matrices: 64-byte aligned, zeroed, in large pages where the system has them.
#ifndef BLUELM_ALIGNED_MEMORY_H
#define BLUELM_ALIGNED_MEMORY_H

#include <cstddef>
#include <memory>

namespace bluelm {

// Of the heap, or a mapping of `mapped` bytes of the system's.
struct FreeMemory {
    size_t mapped = 0;
    void operator()(char* p) const;
};

class AlignedMemory {
public:
    AlignedMemory() = default;
    // For one run: of the heap, which has it at hand the next time. Throws std::bad_alloc.
    explicit AlignedMemory(size_t bytes);
    // For weights: pages of the system's own, which it zeroes at their first touch, by whichever thread gets
    // there, and has back as soon as they are freed. Throws std::bad_alloc.
    static AlignedMemory mapped(size_t bytes);
    char* data() const { return data_.get(); }
    size_t bytes() const { return bytes_; }

private:
    std::unique_ptr<char, FreeMemory> data_;
    size_t bytes_ = 0;
};

}  // namespace bluelm

#endif  // BLUELM_ALIGNED_MEMORY_H
