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
    explicit AlignedMemory(size_t bytes);  // throws std::bad_alloc
    char* data() const { return data_.get(); }
    size_t bytes() const { return bytes_; }

private:
    std::unique_ptr<char, FreeMemory> data_;
    size_t bytes_ = 0;
};

}  // namespace bluelm

#endif  // BLUELM_ALIGNED_MEMORY_H
