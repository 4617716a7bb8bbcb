// The header of an mmproj GGUF, and its keys with their types and ranges checked.
#ifndef BLUELM_MMPROJ_HEADER_H
#define BLUELM_MMPROJ_HEADER_H

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "bluelm.h"
#include "gguf.h"
#include "mmproj/weight_file.h"

namespace bluelm {

// A parsed header; `problems` collects what is wrong with its contents, so that one message tells all of it.
class MmprojHeader {
public:
    // Throws Error IO; FORMAT for what is no GGUF file or a damaged one.
    explicit MmprojHeader(const WeightFile& file);

    const std::string& path() const { return path_; }
    uint64_t file_bytes() const { return file_bytes_; }
    gguf_context* gguf() const { return gguf_.get(); }

    // Values and bytes of all tensors.
    int64_t n_params() const;
    int64_t tensor_bytes() const;

    std::vector<std::string> problems;
    // "path: problem; problem; ... (and 12 more)", if there are any.
    void throw_problems() const;

    // Getters: the value, or a note in `problems` and an unusable value (0, empty, false).

    bool has(const char* key) const { return gguf_find_key(gguf_.get(), key) >= 0; }
    uint32_t u32(const char* key, uint32_t min, uint32_t max);
    // A finite float in [min, max].
    float f32(const char* key, float min, float max);
    void f32_triple(const char* key, float min, float max, float out[3]);
    bool boolean(const char* key);
    // Empty if the key is not there.
    std::string optional_string(const char* key);
    // The value's position in `names`.
    int choice(const char* key, std::initializer_list<const char*> names);
    // The elements of an i32 array with between min_n and max_n of them; *n is 0 if there is a problem.
    const int32_t* i32_array(const char* key, size_t min_n, size_t max_n, size_t* n);

private:
    struct GgufDeleter {
        void operator()(gguf_context* gguf) const { gguf_free(gguf); }
    };
    int64_t find(const char* key, gguf_type type);
    const void* array(const char* key, gguf_type type, size_t min_n, size_t max_n);
    float in_range(const char* key, float value, float min, float max);

    std::string path_;
    std::unique_ptr<gguf_context, GgufDeleter> gguf_;
    uint64_t file_bytes_ = 0;
};

}  // namespace bluelm

#endif  // BLUELM_MMPROJ_HEADER_H
