#include "llama/llm_file.h"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "base/error.h"
#include "ggml-cpu.h"
#include "gguf.h"
#include "llama.h"

namespace bluelm {
namespace {

constexpr uint32_t kMaxLayers = 512, kMaxExperts = 1024;  // llama.cpp's LLAMA_MAX_LAYERS, LLAMA_MAX_EXPERTS
constexpr uint32_t kTensorAlignment = 32;                 // of ggml's CPU buffers, mapped files included

using Gguf = std::unique_ptr<gguf_context, void (*)(gguf_context*)>;

Gguf read_head(const std::string& path) {
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
    char magic[4] = {};
    const size_t n = file ? std::fread(magic, 1, sizeof magic, file.get()) : 0;
    if (!file || std::ferror(file.get()))
        throw Error(BLUELM_ERR_IO, format("%s: %s", path.c_str(), std::strerror(errno)));
    if (n != sizeof magic || std::memcmp(magic, GGUF_MAGIC, sizeof magic) != 0)
        throw Error(BLUELM_ERR_FORMAT, path + ": not a GGUF file");
    std::rewind(file.get());
    gguf_init_params params = {};
    params.no_alloc = true;
    Gguf gguf(gguf_init_from_file_ptr(file.get(), params), gguf_free);
    if (!gguf) {
        throw Error(BLUELM_ERR_FORMAT,
                    path + ": the GGUF header is truncated or corrupt; copy or convert the file again");
    }
    std::fseek(file.get(), 0, SEEK_END);
    const long size = std::ftell(file.get());
    size_t end = gguf_get_data_offset(gguf.get());
    const int64_t n_tensors = gguf_get_n_tensors(gguf.get());
    if (n_tensors > 0)  // the data of the last one ends last: gguf makes sure of the order
        end += gguf_get_tensor_offset(gguf.get(), n_tensors - 1) +
               gguf_get_tensor_size(gguf.get(), n_tensors - 1);
    if (size < 0 || end > static_cast<size_t>(size)) {
        throw Error(BLUELM_ERR_FORMAT,
                    format("%s: the GGUF file is truncated (%ld bytes; its tensors need %zu)", path.c_str(),
                           size, end));
    }
    return gguf;
}

// What llama.cpp's graphs of an architecture take for granted (src/models/ at the pinned version):
//   k  keys and values have heads of one size, and the queries' heads are a multiple of theirs
//   r  all of a head is rotated
//   s  queries are as wide as the embedding
struct Assumptions {
    const char* architecture;
    const char* letters;
};
constexpr Assumptions kAssumptions[] = {
    {"afmoe", "k"},
    {"apertus", "kr"},
    {"arcee", "kr"},
    {"arctic", "krs"},
    {"baichuan", "krs"},
    {"bailingmoe2", "k"},
    {"bitnet", "k"},
    {"bloom", "k"},
    {"chameleon", "krs"},
    {"chatglm", "k"},
    {"codeshell", "krs"},
    {"cogvlm", "kr"},
    {"cohere2", "ks"},
    {"cohere2moe", "kr"},
    {"command-r", "ks"},
    {"dbrx", "kr"},
    {"deci", "kr"},
    {"deepseek", "krs"},
    {"dots1", "kr"},
    {"dream", "krs"},
    {"ernie4_5", "kr"},
    {"ernie4_5-moe", "kr"},
    {"exaone", "kr"},
    {"exaone-moe", "r"},
    {"exaone4", "r"},
    {"falcon", "kr"},
    {"glm4", "k"},
    {"glm4moe", "k"},
    {"gpt2", "k"},
    {"gptneox", "k"},
    {"granite", "kr"},
    {"granite_swa", "kr"},
    {"granitemoe", "kr"},
    {"graniteswitch", "kr"},
    {"grok", "krs"},
    {"grovemoe", "kr"},
    {"hunyuan-dense", "kr"},
    {"hunyuan-moe", "kr"},
    {"hunyuan_vl", "kr"},
    {"hy_v3", "kr"},
    {"internlm2", "krs"},
    {"jais", "k"},
    {"jais2", "kr"},
    {"laguna", "k"},
    {"llada", "kr"},
    {"llada-moe", "krs"},
    {"llama", "kr"},
    {"llama4", "kr"},
    {"maincoder", "kr"},
    {"mellum", "kr"},
    {"minimax-01", "kr"},
    {"minimax-m2", "kr"},
    {"minimax-m3", "kr"},
    {"mistral3", "kr"},
    {"mpt", "k"},
    {"muse-glimmer", "k"},
    {"nanbeige", "k"},
    {"nemotron", "krs"},
    {"olmo", "krs"},
    {"olmo2", "krs"},
    {"olmoe", "krs"},
    {"openelm", "k"},
    {"orion", "krs"},
    {"paddleocr", "kr"},
    {"pangu-embedded", "kr"},
    {"phi2", "ks"},
    {"phi3", "ks"},
    {"phimoe", "ks"},
    {"plamo", "krs"},
    {"qwen", "k"},
    {"qwen2", "krs"},
    {"qwen2moe", "krs"},
    {"qwen2vl", "krs"},
    {"qwen3", "kr"},
    {"qwen35", "k"},
    {"qwen35moe", "k"},
    {"qwen3moe", "kr"},
    {"qwen3next", "k"},
    {"qwen3vl", "kr"},
    {"qwen3vlmoe", "kr"},
    {"refact", "k"},
    {"rnd1", "kr"},
    {"seed_oss", "kr"},
    {"smallthinker", "kr"},
    {"smollm3", "kr"},
    {"spark2_5", "k"},
    {"stablelm", "ks"},
    {"starcoder", "k"},
    {"starcoder2", "krs"},
    {"talkie", "kr"},
    {"xverse", "krs"},
};

// Architectures that llama.cpp knows and that answer no questions: encoders, drafts for another model,
// speech.
constexpr const char* kNoAnswers[] = {"bert",           "clip",
                                      "dflash",         "eagle3",
                                      "eurobert",       "gemma-embedding",
                                      "jina-bert-v2",   "jina-bert-v3",
                                      "llama-embed",    "modern-bert",
                                      "neo-bert",       "nomic-bert",
                                      "nomic-bert-moe", "gemma4-assistant",
                                      "t5encoder",      "pockettts",
                                      "qwen3tts",       "wavtokenizer-dec"};

bool ends_with(std::string_view text, std::string_view end) {
    return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

bool is_one_of(std::string_view text, std::initializer_list<const char*> values) {
    return std::find(values.begin(), values.end(), text) != values.end();
}

class Check {
public:
    Check(const gguf_context* gguf, const std::string& path) : gguf_(gguf), path_(path) {}

    void run() {
        architecture();
        hyperparameters();
        attention();
        vocabulary();
        tensors(gguf_);
        finish();
    }

    // Of the other parts of a split model, only their tensors.
    void run_part() {
        tensors(gguf_);
        finish();
    }

    uint16_t n_parts() const {
        const int64_t id = find("split.count", GGUF_TYPE_UINT16);
        return id < 0 ? 0 : gguf_get_val_u16(gguf_, id);
    }

private:
    // A key of that type, or -1: absent, or of another type, which llama.cpp refuses itself.
    int64_t find(const std::string& key, gguf_type type) const {
        const int64_t id = gguf_find_key(gguf_, key.c_str());
        return id >= 0 && gguf_get_kv_type(gguf_, id) == type ? id : -1;
    }
    uint32_t number(const char* key, uint32_t otherwise) const {
        const int64_t id = find(arch_ + "." + key, GGUF_TYPE_UINT32);
        return id < 0 ? otherwise : gguf_get_val_u32(gguf_, id);
    }
    std::string text(const std::string& key, const char* otherwise = "") const {
        const int64_t id = find(key, GGUF_TYPE_STRING);
        return id < 0 ? otherwise : gguf_get_val_str(gguf_, id);
    }
    // One number for each layer: an array, or one that counts for all.
    std::vector<uint32_t> per_layer(const char* key, uint32_t otherwise) const {
        std::vector<uint32_t> values(n_layer_, number(key, otherwise));
        const int64_t id = find(arch_ + "." + key, GGUF_TYPE_ARRAY);
        if (id < 0) return values;
        const gguf_type type = gguf_get_arr_type(gguf_, id);
        if ((type != GGUF_TYPE_UINT32 && type != GGUF_TYPE_INT32) || gguf_get_arr_n(gguf_, id) != n_layer_)
            return values;
        std::memcpy(values.data(), gguf_get_arr_data(gguf_, id), n_layer_ * sizeof(uint32_t));
        return values;
    }
    template <class... Values>
    void require_that(bool holds, const char* what, Values... values) {
        if (!holds) problems_.push_back(format(what, values...));
    }
    void finish() const {
        if (problems_.empty()) return;
        constexpr size_t kShown = 8;
        std::string message = path_ + ": not a sound language model: ";
        for (size_t i = 0; i < problems_.size() && i < kShown; ++i) message += (i ? "; " : "") + problems_[i];
        if (problems_.size() > kShown) message += format(" (and %zu more)", problems_.size() - kShown);
        throw Error(BLUELM_ERR_FORMAT, message);
    }
    [[noreturn]] void unsupported(const std::string& what) const {
        throw Error(BLUELM_ERR_UNSUPPORTED, path_ + ": " + what);
    }

    void architecture() {
        arch_ = text("general.architecture");
        if (arch_.empty())
            throw Error(BLUELM_ERR_FORMAT, path_ + ": a GGUF file without a language model in it");
        for (const char* name : kNoAnswers) {
            if (arch_ == name)
                unsupported("architecture " + arch_ + " generates no text by itself; give a language model");
        }
        for (const Assumptions& a : kAssumptions)
            if (arch_ == a.architecture) letters_ = a.letters;
    }

    void hyperparameters() {
        n_layer_ = number("block_count", 1);  // what is missing llama.cpp names itself
        require_that(n_layer_ >= 1 && n_layer_ <= kMaxLayers, "block_count is %u, not in 1..%u", n_layer_,
                     kMaxLayers);
        n_layer_ = std::min(n_layer_, kMaxLayers);
        const uint32_t n_nextn = number("nextn_predict_layers", 0);
        require_that(n_nextn < std::max(n_layer_, 1u), "nextn_predict_layers is %u of %u layers", n_nextn,
                     n_layer_);
        for (const char* key : {"context_length", "embedding_length"})
            require_that(number(key, 1) > 0, "%s is 0", key);
        for (const char* key : {"ssm.conv_kernel", "ssm.inner_size", "ssm.state_size", "wkv.head_size"})
            require_that(number(key, 1) > 0, "%s is 0", key);

        const uint32_t n_expert = number("expert_count", 0), n_groups = number("expert_group_count", 0);
        uint32_t n_used = 0;
        for (const uint32_t n : per_layer("expert_used_count", 0)) n_used = std::max(n_used, n);
        require_that(n_expert <= kMaxExperts, "expert_count is %u, more than %u", n_expert, kMaxExperts);
        require_that(n_used <= n_expert && (n_used > 0 || n_expert == 0), "%u of %u experts are used", n_used,
                     n_expert);
        if (n_groups > 0) {
            const uint32_t n_groups_used = number("expert_group_used_count", 0);
            require_that(n_groups < n_expert && n_expert % n_groups == 0, "%u experts in %u groups", n_expert,
                         n_groups);
            require_that(n_groups == 1 || (n_groups_used > 0 && n_groups_used < n_groups),
                         "%u of %u groups of experts are used", n_groups_used, n_groups);
        }
        const std::string scaling = text(arch_ + ".rope.scaling.type", "none");
        require_that(is_one_of(scaling, {"none", "linear", "yarn", "longrope"}),
                     "rope.scaling.type is '%.40s', not one of none, linear, yarn, longrope",
                     scaling.c_str());
        for (const char* key : {"attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon",
                                "attention.group_norm_epsilon"}) {
            const int64_t id = find(arch_ + "." + key, GGUF_TYPE_FLOAT32);
            require_that(id < 0 || gguf_get_val_f32(gguf_, id) >= 0, "%s is not a number above 0", key);
        }
    }

    void attention() {
        const std::vector<uint32_t> n_head = per_layer("attention.head_count", 0);
        if (find(arch_ + ".embedding_length", GGUF_TYPE_UINT32) < 0) return;  // llama.cpp says so
        const uint32_t n_embd = number("embedding_length", 0);
        if (n_head.empty() || n_head[0] == 0) {
            require_that(letters_.empty(), "attention.head_count is 0");
            return;
        }
        const uint32_t key = number("attention.key_length", n_embd / n_head[0]);
        const uint32_t value = number("attention.value_length", n_embd / n_head[0]);
        const uint32_t rotated = number("rope.dimension_count", key);
        const auto needs = [&](char letter) { return letters_.find(letter) != std::string::npos; };
        require_that(key > 0 && value > 0, "attention heads of %u keys and %u values", key, value);
        require_that(rotated <= key && rotated % 2 == 0 && (rotated > 0 || letters_.empty()),
                     "rope.dimension_count is %u, for heads of %u", rotated, key);
        require_that(!needs('k') || key == value, "heads of %u keys, but %u values", key, value);
        require_that(!needs('r') || rotated == key, "rope.dimension_count is %u, not %u", rotated, key);
        const std::vector<uint32_t> n_head_kv = per_layer("attention.head_count_kv", n_head[0]);
        for (size_t i = 0; i < n_head.size() && needs('k'); ++i) {
            if (n_head[i] == 0 || n_head_kv[i] == 0) continue;  // a layer without attention
            const bool fits =
                n_head[i] % n_head_kv[i] == 0 && (!needs('s') || uint64_t(n_head[i]) * key == n_embd);
            require_that(fits, "layer %zu has %u heads of %u, %u of them for keys, in a width of %u", i,
                         n_head[i], key, n_head_kv[i], n_embd);
            if (!fits) return;  // the others, too
        }
        const int64_t sections = find(arch_ + ".rope.dimension_sections", GGUF_TYPE_ARRAY);
        if (sections >= 0 && gguf_get_arr_type(gguf_, sections) == GGUF_TYPE_INT32) {
            const auto* n = static_cast<const int32_t*>(gguf_get_arr_data(gguf_, sections));
            const size_t count = gguf_get_arr_n(gguf_, sections);
            int64_t sum = 0;
            bool sound = true;
            for (size_t i = 0; i < count; ++i) sound = sound && n[i] >= 0, sum += n[i];
            require_that(sound && sum > 0 && sum <= rotated, "rope.dimension_sections do not fit heads of %u",
                         key);
        }
    }

    void vocabulary() {
        const std::string kind = text("tokenizer.ggml.model");
        if (is_one_of(kind, {"none", "no_vocab", "test"})) unsupported("the file holds no tokenizer");
        if (kind == "bert") unsupported("a tokenizer of encoders; give a language model");
        const int64_t id = find("tokenizer.ggml.tokens", GGUF_TYPE_ARRAY);
        if (id < 0 || gguf_get_arr_type(gguf_, id) != GGUF_TYPE_STRING) return;  // llama.cpp says so
        const size_t n = gguf_get_arr_n(gguf_, id);
        require_that(n > 0, "the vocabulary is empty");
        std::unordered_set<std::string_view> known;
        known.reserve(n);
        for (size_t i = 0; i < n; ++i) {
            const std::string_view token = gguf_get_arr_str(gguf_, id, i);
            // llama.cpp calls an empty one [EMPTY_i].
            if (!token.empty() && known.insert(token).second) continue;
            if (token.empty() && known.insert(keep("[EMPTY_" + std::to_string(i) + "]")).second) continue;
            require_that(false, "token '%.40s' is in the vocabulary twice, the second time as number %zu",
                         std::string(token).c_str(), i);
            return;
        }
        if (kind != "llama") return;
        // Text without a token of its own is spelled in bytes.
        for (int byte = 0; byte < 256; ++byte) {
            const std::string name = format("<0x%02X>", byte), alone(1, static_cast<char>(byte));
            if (known.count(name) || (byte != 0 && known.count(alone))) continue;
            require_that(byte == 0, "the vocabulary has no token %s", name.c_str());
            if (byte != 0) return;
        }
    }

    void tensors(const gguf_context* gguf) {
        require_that(gguf_get_alignment(gguf) % kTensorAlignment == 0,
                     "tensors are aligned to %zu bytes, not %u", gguf_get_alignment(gguf), kTensorAlignment);
        require_that(gguf_get_n_tensors(gguf) > 0, "there are no tensors");
        std::unordered_set<std::string_view> names;
        for (int64_t i = 0; i < gguf_get_n_tensors(gguf); ++i) {
            const char* name = gguf_get_tensor_name(gguf, i);
            const int64_t* ne = gguf_get_tensor_ne(gguf, i);
            const ggml_type type = gguf_get_tensor_type(gguf, i);
            names.insert(name);
            require_that(ne[0] > 0 && ne[1] > 0 && ne[2] > 0 && ne[3] > 0, "tensor %s is empty", name);
            const bool is_vector = ends_with(name, "norm.weight") || ends_with(name, ".bias") ||
                                   ends_with(name, ".scale") || std::strstr(name, "rope_f") != nullptr;
            if (is_vector) {
                require_that(type == GGML_TYPE_F32, "tensor %s is %s, not F32", name, ggml_type_name(type));
            } else if (is_matrix(name)) {
                require_that(ggml_get_type_traits_cpu(type)->vec_dot != nullptr,
                             "tensor %s is %s, which nothing multiplies with", name, ggml_type_name(type));
            }
        }
        if (letters_.find('s') == std::string::npos || n_parts() > 1) return;
        // Not required by llama.cpp's loader for some of these architectures, but by their graphs.
        for (uint32_t i = 0; i < n_layer_; ++i) {
            const auto has = [&](const char* what) {
                return names.count(keep(format("blk.%u.%s.weight", i, what))) != 0;
            };
            const bool complete = has("attn_qkv") || (has("attn_q") && has("attn_k") && has("attn_v"));
            require_that(complete, "layer %u has no queries, keys and values", i);
            if (!complete) return;
        }
    }

    // Weights that tokens are looked up in or multiplied with, in every architecture.
    static bool is_matrix(std::string_view name) {
        if (!ends_with(name, ".weight")) return false;
        for (const char* part : {"token_embd", "output", ".attn_q", ".attn_k", ".attn_v", ".attn_output",
                                 ".ffn_gate", ".ffn_up", ".ffn_down"}) {
            if (name.find(part) != std::string_view::npos) return true;
        }
        return false;
    }

    std::string_view keep(std::string text) { return *kept_.insert(std::move(text)).first; }

    const gguf_context* gguf_;
    const std::string& path_;
    std::string arch_, letters_;
    uint32_t n_layer_ = 0;
    std::vector<std::string> problems_;
    std::unordered_set<std::string> kept_;
};

// The other parts of a model that is split into several files, as llama.cpp finds them.
void check_parts(const std::string& path, uint16_t n_parts) {
    char prefix[4096], part[4096];
    if (llama_split_prefix(prefix, sizeof prefix, path.c_str(), 0, n_parts) <= 0) {
        throw Error(BLUELM_ERR_FORMAT, format("%s: the first of %u parts of a model; its name must end with "
                                              "-00001-of-%05u.gguf",
                                              path.c_str(), n_parts, n_parts));
    }
    for (uint16_t i = 1; i < n_parts; ++i) {
        if (llama_split_path(part, sizeof part, prefix, i, n_parts) <= 0)
            throw Error(BLUELM_ERR_FORMAT, path + ": the names of its parts are too long");
        const std::string name = part;
        const Gguf gguf = read_head(name);
        const int64_t id = gguf_find_key(gguf.get(), "split.no");
        if (id < 0 || gguf_get_kv_type(gguf.get(), id) != GGUF_TYPE_UINT16)
            throw Error(BLUELM_ERR_FORMAT, name + ": does not say which part of a model it is (split.no)");
        Check(gguf.get(), name).run_part();
    }
}

}  // namespace

void check_llm_file(const std::string& path) {
    const Gguf gguf = read_head(path);
    Check check(gguf.get(), path);
    check.run();
    if (check.n_parts() > 1) check_parts(path, check.n_parts());
}

}  // namespace bluelm
