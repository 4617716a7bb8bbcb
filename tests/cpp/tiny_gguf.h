// Small random GGUF files, written with ggml's own writer: what test_vision and test_prefill read back.
#ifndef BLUELM_TESTS_TINY_GGUF_H
#define BLUELM_TESTS_TINY_GGUF_H

#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "check.h"
#include "ggml.h"
#include "gguf.h"

// A file in the making. Tensors keep their values, as the file will give them back, in `values`.
class TinyGguf {
public:
    TinyGguf() : gguf_(gguf_init_empty()), ctx_(ggml_init({size_t(16) << 20, nullptr, false})) {}
    ~TinyGguf() {
        gguf_free(gguf_);
        ggml_free(ctx_);
    }
    TinyGguf(const TinyGguf&) = delete;
    TinyGguf& operator=(const TinyGguf&) = delete;

    void set(const std::string& key, const char* value) { gguf_set_val_str(gguf_, key.c_str(), value); }
    void set(const std::string& key, int value) {
        gguf_set_val_u32(gguf_, key.c_str(), static_cast<uint32_t>(value));
    }
    void set(const std::string& key, float value) { gguf_set_val_f32(gguf_, key.c_str(), value); }
    void set(const std::string& key, bool value) { gguf_set_val_bool(gguf_, key.c_str(), value); }
    void set(const std::string& key, const std::vector<float>& values_) {
        gguf_set_arr_data(gguf_, key.c_str(), GGUF_TYPE_FLOAT32, values_.data(), values_.size());
    }
    void set(const std::string& key, const std::vector<int32_t>& values_) {
        gguf_set_arr_data(gguf_, key.c_str(), GGUF_TYPE_INT32, values_.data(), values_.size());
    }

    // Normal noise around `mean`; shape in ggml's order, columns first. F32 or a type that ggml quantises to.
    void tensor(const std::string& name, const std::vector<int64_t>& shape, ggml_type type, float scale,
                float mean = 0) {
        ggml_tensor* t = ggml_new_tensor(ctx_, type, static_cast<int>(shape.size()), shape.data());
        ggml_set_name(t, name.c_str());
        std::vector<float>& v = values[name];
        v.resize(static_cast<size_t>(ggml_nelements(t)));
        for (float& value : v) value = mean + scale * check::normal();
        if (type == GGML_TYPE_F32) {
            std::memcpy(t->data, v.data(), v.size() * sizeof(float));
        } else {
            ggml_quantize_chunk(type, v.data(), t->data, 0, ggml_nrows(t), t->ne[0], nullptr);
            ggml_get_type_traits(type)->to_float(t->data, v.data(), ggml_nelements(t));
        }
        gguf_add_tensor(gguf_, t);
    }

    // Into a new temporary file; the path. remove_files() takes all of them away.
    std::string write() const {
        const char* directory = std::getenv("TMPDIR");
        std::string path = std::string(directory ? directory : "/tmp") + "/bluelm-test-XXXXXX";
        const int file = mkstemp(&path[0]);
        if (file < 0 || close(file) != 0 || !gguf_write_to_file(gguf_, path.c_str(), false)) {
            std::fprintf(stderr, "%s cannot be written\n", path.c_str());
            std::exit(1);
        }
        paths().push_back(path);
        return path;
    }
    static void remove_files() {
        for (const std::string& path : paths()) unlink(path.c_str());
    }

    std::map<std::string, std::vector<float>> values;

private:
    static std::vector<std::string>& paths() {
        static std::vector<std::string> list;
        return list;
    }

    gguf_context* gguf_;
    ggml_context* ctx_;
};

// Largest difference, as a part of the root mean square of `expected`.
inline double error_of(const std::vector<float>& found, const std::vector<double>& expected) {
    double square = 0, largest = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
        square += expected[i] * expected[i];
        const double difference = std::fabs(static_cast<double>(found[i]) - expected[i]);
        if (!(difference <= largest)) largest = difference;  // a NaN counts
    }
    return largest / std::sqrt(square / static_cast<double>(expected.size()));
}

#endif  // BLUELM_TESTS_TINY_GGUF_H
