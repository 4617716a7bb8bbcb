#include "mmproj/mmproj_header.h"

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "base/error.h"

namespace bluelm {

MmprojHeader::MmprojHeader(const WeightFile& file) : path_(file.path()) {
    // fopen opens a directory too; only reading tells.
    char magic[4] = {};
    const size_t n = std::fread(magic, 1, sizeof magic, file.stream());
    if (std::ferror(file.stream()))
        throw Error(BLUELM_ERR_IO, format("%s: %s", path_.c_str(), std::strerror(errno)));
    if (n != sizeof magic || std::memcmp(magic, GGUF_MAGIC, sizeof magic) != 0)
        throw Error(BLUELM_ERR_FORMAT, path_ + ": not a GGUF file");
    file_bytes_ = file.size();
    // gguf checks the header against the file's size and returns NULL on anything odd; with ctx == NULL it
    // neither creates tensors nor reads their data.
    gguf_init_params params = {};
    params.no_alloc = true;
    gguf_.reset(gguf_init_from_file_ptr(file.stream(), params));
    if (!gguf_) {
        throw Error(BLUELM_ERR_FORMAT,
                    path_ + ": the GGUF header is truncated or corrupt; copy or convert the file again");
    }
}

int64_t MmprojHeader::n_params() const {
    int64_t sum = 0;
    for (int64_t i = 0; i < gguf_get_n_tensors(gguf_.get()); ++i) {
        const int64_t* ne = gguf_get_tensor_ne(gguf_.get(), i);
        sum += ne[0] * ne[1] * ne[2] * ne[3];
    }
    return sum;
}

int64_t MmprojHeader::tensor_bytes() const {
    size_t sum = 0;
    for (int64_t i = 0; i < gguf_get_n_tensors(gguf_.get()); ++i) sum += gguf_get_tensor_size(gguf_.get(), i);
    return static_cast<int64_t>(sum);
}

void MmprojHeader::throw_problems() const {
    if (problems.empty()) return;
    constexpr size_t kShown = 60;
    std::string message = path_ + ": ";
    for (size_t i = 0; i < problems.size() && i < kShown; ++i) message += (i ? "; " : "") + problems[i];
    if (problems.size() > kShown) message += format(" (and %zu more)", problems.size() - kShown);
    throw Error(BLUELM_ERR_FORMAT, message);
}

uint32_t MmprojHeader::u32(const char* key, uint32_t min, uint32_t max) {
    const int64_t id = find(key, GGUF_TYPE_UINT32);
    if (id < 0) return 0;
    const uint32_t value = gguf_get_val_u32(gguf_.get(), id);
    if (value >= min && value <= max) return value;
    problems.push_back(format("%s is %u, not in %u..%u", key, value, min, max));
    return 0;
}

float MmprojHeader::f32(const char* key, float min, float max) {
    const int64_t id = find(key, GGUF_TYPE_FLOAT32);
    if (id < 0) return 0;
    return in_range(key, gguf_get_val_f32(gguf_.get(), id), min, max);
}

bool MmprojHeader::boolean(const char* key) {
    const int64_t id = find(key, GGUF_TYPE_BOOL);
    return id >= 0 && gguf_get_val_bool(gguf_.get(), id);
}

std::string MmprojHeader::optional_string(const char* key) {
    const int64_t id = has(key) ? find(key, GGUF_TYPE_STRING) : -1;
    return id < 0 ? std::string() : gguf_get_val_str(gguf_.get(), id);
}

int MmprojHeader::choice(const char* key, std::initializer_list<const char*> names) {
    const int64_t id = find(key, GGUF_TYPE_STRING);
    if (id < 0) return 0;
    const char* value = gguf_get_val_str(gguf_.get(), id);
    int index = 0;
    std::string known;
    for (const char* name : names) {
        if (std::strcmp(name, value) == 0) return index;
        known += (index++ ? ", " : "") + std::string(name);
    }
    problems.push_back(format("%s is '%.40s', not one of %s", key, value, known.c_str()));
    return 0;
}

void MmprojHeader::f32_triple(const char* key, float min, float max, float out[3]) {
    const float* values = static_cast<const float*>(array(key, GGUF_TYPE_FLOAT32, 3, 3));
    for (int i = 0; values && i < 3; ++i) out[i] = in_range(key, values[i], min, max);
}

const int32_t* MmprojHeader::i32_array(const char* key, size_t min_n, size_t max_n, size_t* n) {
    const void* values = array(key, GGUF_TYPE_INT32, min_n, max_n);
    *n = values ? gguf_get_arr_n(gguf_.get(), gguf_find_key(gguf_.get(), key)) : 0;
    return static_cast<const int32_t*>(values);
}

int64_t MmprojHeader::find(const char* key, gguf_type type) {
    const int64_t id = gguf_find_key(gguf_.get(), key);
    if (id < 0) {
        problems.push_back(format("key %s is missing", key));
        return -1;
    }
    const gguf_type found = gguf_get_kv_type(gguf_.get(), id);
    if (found != type) {
        problems.push_back(
            format("key %s is of type %s, not %s", key, gguf_type_name(found), gguf_type_name(type)));
        return -1;
    }
    return id;
}

const void* MmprojHeader::array(const char* key, gguf_type type, size_t min_n, size_t max_n) {
    const int64_t id = find(key, GGUF_TYPE_ARRAY);
    if (id < 0) return nullptr;
    if (gguf_get_arr_type(gguf_.get(), id) != type) {
        problems.push_back(format("key %s is an array of %s, not of %s", key,
                                  gguf_type_name(gguf_get_arr_type(gguf_.get(), id)), gguf_type_name(type)));
        return nullptr;
    }
    const size_t n = gguf_get_arr_n(gguf_.get(), id);
    if (n < min_n || n > max_n) {
        problems.push_back(format("key %s has %zu elements, not %zu..%zu", key, n, min_n, max_n));
        return nullptr;
    }
    return gguf_get_arr_data(gguf_.get(), id);
}

float MmprojHeader::in_range(const char* key, float value, float min, float max) {
    if (std::isfinite(value) && value >= min && value <= max) return value;
    problems.push_back(format("%s is %g, not in %g..%g", key, value, min, max));
    return 0;
}

}  // namespace bluelm
