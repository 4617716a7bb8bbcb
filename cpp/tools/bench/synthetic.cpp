#include "synthetic.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <tuple>
#include <vector>

#include "common/program.h"
#include "common/system.h"
#include "gguf.h"

namespace tools {
namespace {

// demo: the shape of the embedded demo model. 0.5b: Qwen2-0.5B's. 3b: a Llama of the paper's size, every
// matrix Q4_0. The latter two carry the paper's vision tower.
const SyntheticShape kShapes[] = {
    {"demo", "llama", GGML_TYPE_Q8_0, GGML_TYPE_Q8_0, 256, 4, 4, 4, 512, 477, false, false,  //
     192, 5, 6, 768, 768, 768},
    {"0.5b", "qwen2", GGML_TYPE_Q4_0, GGML_TYPE_Q8_0, 896, 24, 14, 2, 4864, 151936, true, true,  //
     1152, 27, 16, 4352, 4304, 896},
    {"3b", "llama", GGML_TYPE_Q4_0, GGML_TYPE_Q4_0, 2560, 32, 20, 20, 6912, 49152, false, false,  //
     1152, 27, 16, 4352, 4304, 2560},
};

constexpr int kImageSize = 384, kPatchSize = 14, kPatches = 729;
constexpr uint32_t kFtypeQ4_0 = 2, kFtypeQ8_0 = 7;  // gguf.LlamaFileType

struct Random {
    uint64_t state = 0x9e3779b97f4a7c15u;
    uint64_t next() {  // xorshift64*, Vigna 2016
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        return state * 0x2545f4914f6cdd1du;
    }
    float uniform() { return static_cast<float>(next() >> 40) * 0x1p-23f - 1.0f; }  // [-1, 1)
};

// A GGUF in the making: metadata and tensor shapes first, then the data straight into the file.
class Writer {
public:
    Writer() : gguf_(gguf_init_empty(), gguf_free) {
        // 27 layers of 16 tensors and some; the context only holds descriptions.
        ctx_.reset(ggml_init({1024 * ggml_tensor_overhead(), nullptr, true}), ggml_free);
        if (!gguf_ || !ctx_) throw std::bad_alloc();
    }
    gguf_context* gguf() { return gguf_.get(); }

    void tensor(const std::string& name, ggml_type type, std::initializer_list<int64_t> ne) {
        ggml_tensor* t = ggml_new_tensor(ctx_.get(), type, static_cast<int>(ne.size()), ne.begin());
        ggml_set_name(t, name.c_str());
        gguf_add_tensor(gguf_.get(), t);
        tensors_.push_back(t);
    }
    void linear(const std::string& name, ggml_type type, int64_t out, int64_t in, bool bias) {
        tensor(name + ".weight", type, {in, out});
        if (bias) tensor(name + ".bias", GGML_TYPE_F32, {out});
    }
    void norm(const std::string& name, int64_t n, bool bias) {
        tensor(name + ".weight", GGML_TYPE_F32, {n});
        if (bias) tensor(name + ".bias", GGML_TYPE_F32, {n});
    }

    uint64_t bytes() const {
        uint64_t n = gguf_get_meta_size(gguf_.get());
        for (const ggml_tensor* t : tensors_) n += GGML_PAD(ggml_nbytes(t), GGUF_DEFAULT_ALIGNMENT);
        return n;
    }

    void write(const std::string& path) {
        const std::string part = path + ".part";
        remove_at_end(part);
        std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(part.c_str(), "wb"), std::fclose);
        if (!file) throw Failure(strf("%s: %s", part.c_str(), std::strerror(errno)));
        const auto put = [&](const void* data, size_t n) {
            errno = 0;
            if (std::fwrite(data, 1, n, file.get()) == n) return;
            throw Failure(
                strf("%s: %s, %s are needed; choose another directory with --synthetic-dir or TMPDIR",
                     part.c_str(), errno ? std::strerror(errno) : "cannot be written",
                     bytes_text(static_cast<double>(bytes())).c_str()));
        };
        try {
            std::vector<uint8_t> meta(gguf_get_meta_size(gguf_.get()));
            gguf_get_meta_data(gguf_.get(), meta.data());
            put(meta.data(), meta.size());
            static const char zeros[GGUF_DEFAULT_ALIGNMENT] = {};
            for (const ggml_tensor* t : tensors_) {
                const std::vector<uint8_t>& pattern = values(t);
                const size_t size = ggml_nbytes(t);
                for (size_t at = 0; at < size; at += pattern.size()) {
                    check_stopped();
                    put(pattern.data(), std::min(pattern.size(), size - at));
                }
                put(zeros, GGML_PAD(size, GGUF_DEFAULT_ALIGNMENT) - size);
            }
            if (std::fflush(file.get()) != 0) put("", 1);
        } catch (...) {
            file.reset();
            unlink(part.c_str());
            throw;
        }
        file.reset();
        if (std::rename(part.c_str(), path.c_str()) != 0) {
            const int error = errno;
            unlink(part.c_str());
            throw Failure(strf("%s: %s", path.c_str(), std::strerror(error)));
        }
    }

private:
    // Whole blocks of random values, about 1 MiB, of the size that keeps activations in range: weights with a
    // standard deviation of 1 / sqrt(inputs), vectors near 1 (norms) or near 0 (biases). Used again and
    // again.
    const std::vector<uint8_t>& values(const ggml_tensor* t) {
        const std::string name = t->name;
        const bool is_vector = t->ne[1] == 1;
        const bool is_norm = is_vector && name.find(".weight") != std::string::npos;
        const float mean = is_norm ? 1.0f : 0.0f;
        const float scale = is_vector ? 0.01f : 1.0f / std::sqrt(static_cast<float>(t->ne[0]));
        const auto key = std::make_tuple(t->type, mean, scale);
        std::vector<uint8_t>& data = patterns_[key];
        if (!data.empty()) return data;
        const size_t block = ggml_type_size(t->type);
        const size_t n = (size_t(1) << 20) / block;
        data.resize(n * block);
        for (size_t i = 0; i < n; ++i) {
            uint8_t* at = &data[i * block];
            switch (t->type) {
                case GGML_TYPE_F32: {
                    const float value = mean + scale * random_.uniform();
                    std::memcpy(at, &value, sizeof value);
                    break;
                }
                case GGML_TYPE_F16: {
                    const ggml_fp16_t value = ggml_fp32_to_fp16(mean + scale * random_.uniform());
                    std::memcpy(at, &value, sizeof value);
                    break;
                }
                default: {  // Q8_0 and Q4_0: an F16 scale, then integers of which every value is valid
                    const float deviation = t->type == GGML_TYPE_Q8_0 ? 74.0f : 4.6f;
                    const ggml_fp16_t d = ggml_fp32_to_fp16(scale / deviation);
                    std::memcpy(at, &d, sizeof d);
                    for (size_t k = sizeof d; k < block; ++k)
                        at[k] = static_cast<uint8_t>(random_.next() >> 56);
                }
            }
        }
        return data;
    }

    std::shared_ptr<gguf_context> gguf_;
    std::shared_ptr<ggml_context> ctx_;
    std::vector<const ggml_tensor*> tensors_;
    std::map<std::tuple<ggml_type, float, float>, std::vector<uint8_t>> patterns_;
    Random random_;
};

// A SentencePiece vocabulary: the three control tokens, the 256 bytes, and words that are just numbers.
void add_vocabulary(gguf_context* gguf, int32_t n_vocab) {
    std::vector<std::string> words = {"<unk>", "<s>", "</s>"};
    std::vector<int32_t> types = {2, 3, 3};
    for (int i = 0; i < 256; ++i) {
        words.push_back(strf("<0x%02X>", i));
        types.push_back(6);
    }
    while (static_cast<int32_t>(words.size()) < n_vocab) {
        words.push_back(strf("\xe2\x96\x81w%zu", words.size()));
        types.push_back(1);
    }
    std::vector<const char*> pointers;
    for (const std::string& word : words) pointers.push_back(word.c_str());
    const std::vector<float> scores(words.size(), 0.0f);
    gguf_set_val_str(gguf, "tokenizer.ggml.model", "llama");
    gguf_set_arr_str(gguf, "tokenizer.ggml.tokens", pointers.data(), pointers.size());
    gguf_set_arr_data(gguf, "tokenizer.ggml.scores", GGUF_TYPE_FLOAT32, scores.data(), scores.size());
    gguf_set_arr_data(gguf, "tokenizer.ggml.token_type", GGUF_TYPE_INT32, types.data(), types.size());
    gguf_set_val_u32(gguf, "tokenizer.ggml.bos_token_id", 1);
    gguf_set_val_u32(gguf, "tokenizer.ggml.eos_token_id", 2);
    gguf_set_val_u32(gguf, "tokenizer.ggml.unknown_token_id", 0);
}

void describe_llm(const SyntheticShape& s, Writer& w) {
    gguf_context* g = w.gguf();
    const auto key = [&s](const char* name) { return std::string(s.architecture) + "." + name; };
    const auto set = [&](const char* name, int32_t value) {
        gguf_set_val_u32(g, key(name).c_str(), static_cast<uint32_t>(value));
    };
    gguf_set_val_str(g, "general.architecture", s.architecture);
    gguf_set_val_str(g, "general.type", "model");
    gguf_set_val_str(g, "general.name", strf("synthetic %s", s.name).c_str());
    gguf_set_val_u32(g, "general.file_type", s.llm_type == GGML_TYPE_Q8_0 ? kFtypeQ8_0 : kFtypeQ4_0);
    gguf_set_val_u32(g, "general.quantization_version", 2);
    set("vocab_size", s.n_vocab);
    set("context_length", 32768);
    set("embedding_length", s.n_embd);
    set("block_count", s.n_layer);
    set("feed_forward_length", s.n_ff);
    set("attention.head_count", s.n_head);
    set("attention.head_count_kv", s.n_head_kv);
    set("rope.dimension_count", s.n_embd / s.n_head);
    gguf_set_val_f32(g, key("attention.layer_norm_rms_epsilon").c_str(), 1e-5f);
    gguf_set_val_f32(g, key("rope.freq_base").c_str(), 10000.0f);
    add_vocabulary(g, s.n_vocab);

    const int64_t d = s.n_embd, kv = int64_t(s.n_embd) / s.n_head * s.n_head_kv;
    w.linear("token_embd", s.embedding_type, s.n_vocab, d, false);
    for (int i = 0; i < s.n_layer; ++i) {
        const std::string blk = strf("blk.%d.", i);
        w.norm(blk + "attn_norm", d, false);
        w.linear(blk + "attn_q", s.llm_type, d, d, s.qkv_bias);
        w.linear(blk + "attn_k", s.llm_type, kv, d, s.qkv_bias);
        w.linear(blk + "attn_v", s.llm_type, kv, d, s.qkv_bias);
        w.linear(blk + "attn_output", s.llm_type, d, d, false);
        w.norm(blk + "ffn_norm", d, false);
        w.linear(blk + "ffn_gate", s.llm_type, s.n_ff, d, false);
        w.linear(blk + "ffn_up", s.llm_type, s.n_ff, d, false);
        w.linear(blk + "ffn_down", s.llm_type, d, s.n_ff, false);
    }
    w.norm("output_norm", d, false);
    if (!s.tied) w.linear("output", s.llm_type, s.n_vocab, d, false);
}

// Keys and tensors as docs/mmproj.md lists them.
void describe_mmproj(const SyntheticShape& s, Writer& w) {
    gguf_context* g = w.gguf();
    const auto u32 = [g](const char* key, int32_t value) {
        gguf_set_val_u32(g, key, static_cast<uint32_t>(value));
    };
    gguf_set_val_str(g, "general.architecture", "clip");
    gguf_set_val_str(g, "general.type", "mmproj");
    gguf_set_val_str(g, "general.name", strf("synthetic %s", s.name).c_str());
    gguf_set_val_u32(g, "general.file_type", kFtypeQ8_0);
    gguf_set_val_u32(g, "general.quantization_version", 2);
    gguf_set_val_bool(g, "clip.has_vision_encoder", true);
    gguf_set_val_bool(g, "clip.use_gelu", true);
    gguf_set_val_str(g, "clip.projector_type", "bluelm");
    u32("clip.vision.image_size", kImageSize);
    u32("clip.vision.patch_size", kPatchSize);
    u32("clip.vision.embedding_length", s.v_embd);
    u32("clip.vision.feed_forward_length", s.v_ff);
    u32("clip.vision.block_count", s.v_layer);
    u32("clip.vision.attention.head_count", s.v_head);
    u32("clip.vision.projection_dim", s.n_embd);
    gguf_set_val_f32(g, "clip.vision.attention.layer_norm_epsilon", 1e-6f);
    const float half[3] = {0.5f, 0.5f, 0.5f};
    gguf_set_arr_data(g, "clip.vision.image_mean", GGUF_TYPE_FLOAT32, half, 3);
    gguf_set_arr_data(g, "clip.vision.image_std", GGUF_TYPE_FLOAT32, half, 3);
    u32("bluelm.version", 1);
    u32("bluelm.vision.feed_forward_length_unpadded", s.v_ff_unpadded);
    gguf_set_val_bool(g, "bluelm.vision.post_layernorm", false);
    u32("bluelm.projector.downsample", 2);
    gguf_set_val_str(g, "bluelm.projector.token_order", "row_major");
    gguf_set_val_str(g, "bluelm.projector.hidden_act", "gelu");
    gguf_set_val_f32(g, "bluelm.projector.layer_norm_epsilon", 1e-5f);
    gguf_set_val_str(g, "bluelm.tiler.method", "relaxed");
    gguf_set_val_f32(g, "bluelm.tiler.alpha", 0.1f);
    std::vector<int32_t> grids;  // up to 4:4, as the paper fine-tuned
    for (int32_t columns = 1; columns <= 4; ++columns) {
        for (int32_t rows = 1; rows <= 4; ++rows) grids.insert(grids.end(), {columns, rows});
    }
    gguf_set_arr_data(g, "bluelm.tiler.grids", GGUF_TYPE_INT32, grids.data(), grids.size());
    gguf_set_val_str(g, "bluelm.tiler.thumbnail", "first");
    gguf_set_val_bool(g, "bluelm.tiler.thumbnail_for_single", false);
    gguf_set_val_str(g, "bluelm.tiler.fit", "pad_center");
    gguf_set_val_str(g, "bluelm.tiler.resize", "bicubic");
    const int32_t black[3] = {0, 0, 0};
    gguf_set_arr_data(g, "bluelm.tiler.pad_rgb", GGUF_TYPE_INT32, black, 3);

    const int64_t d = s.v_embd;
    const ggml_type type = GGML_TYPE_Q8_0;
    w.tensor("v.patch_embd.weight", GGML_TYPE_F16, {kPatchSize, kPatchSize, 3, d});
    w.tensor("v.patch_embd.bias", GGML_TYPE_F32, {d});
    w.tensor("v.position_embd.weight", GGML_TYPE_F32, {d, kPatches});
    for (int i = 0; i < s.v_layer; ++i) {
        const std::string blk = strf("v.blk.%d.", i);
        w.norm(blk + "ln1", d, true);
        for (const char* name : {"attn_q", "attn_k", "attn_v", "attn_out"})
            w.linear(blk + name, type, d, d, true);
        w.norm(blk + "ln2", d, true);
        w.linear(blk + "ffn_up", type, s.v_ff, d, true);
        w.linear(blk + "ffn_down", type, d, s.v_ff, true);
    }
    w.linear("mm.0", type, s.v_hidden, 4 * d, true);
    w.linear("mm.2", type, s.n_embd, s.v_hidden, true);
}

uint64_t file_size(const std::string& path) {
    struct stat info = {};
    return stat(path.c_str(), &info) == 0 ? static_cast<uint64_t>(info.st_size) : 0;
}

// A new directory of our own, removed at the end.
std::string make_temporary() {
    const std::string base = temporary_directory();
    std::string name = base + "/bluelm-bench-XXXXXX";
    if (!mkdtemp(&name[0])) {
        throw Failure(
            strf("%s: cannot make a directory there (%s); choose another with --synthetic-dir or TMPDIR",
                 base.c_str(), std::strerror(errno)));
    }
    return name;
}

}  // namespace

const SyntheticShape* all_shapes(size_t* n) {
    *n = sizeof kShapes / sizeof *kShapes;
    return kShapes;
}

const SyntheticShape* find_shape(const std::string& name) {
    for (const SyntheticShape& shape : kShapes) {
        if (name == shape.name) return &shape;
    }
    return nullptr;
}

uint64_t llm_file_bytes(const SyntheticShape& shape) {
    Writer w;
    describe_llm(shape, w);
    return w.bytes();
}

uint64_t mmproj_file_bytes(const SyntheticShape& shape) {
    Writer w;
    describe_mmproj(shape, w);
    return w.bytes();
}

LlmCost llm_cost(const SyntheticShape& shape) {
    Writer w;
    describe_llm(shape, w);
    return llm_cost(w.gguf());
}

SyntheticFiles write_synthetic(const SyntheticShape& shape, const std::string& directory) {
    std::string where = directory;
    if (where.empty()) {
        where = make_temporary();
    } else if (mkdir(where.c_str(), 0777) != 0 && errno != EEXIST) {
        throw Failure(strf("%s: %s", where.c_str(), std::strerror(errno)));
    }
    const char* type = shape.llm_type == GGML_TYPE_Q8_0 ? "Q8_0" : "Q4_0";
    SyntheticFiles files = {strf("%s/synthetic-%s-%s.gguf", where.c_str(), shape.name, type),
                            strf("%s/mmproj-synthetic-%s-Q8_0.gguf", where.c_str(), shape.name)};
    if (directory.empty()) {
        for (const std::string& path : {where, files.llm, files.mmproj}) remove_at_end(path);
    }
    Writer llm, mmproj;
    describe_llm(shape, llm);
    describe_mmproj(shape, mmproj);
    const bool have_llm = file_size(files.llm) == llm.bytes();
    const bool have_mmproj = file_size(files.mmproj) == mmproj.bytes();
    const uint64_t need = (have_llm ? 0 : llm.bytes()) + (have_mmproj ? 0 : mmproj.bytes());
    const std::optional<uint64_t> room = free_disk(where);
    if (room && *room < need) {
        throw Failure(
            strf("%s: --synthetic %s needs %s there, %s are free; choose another directory with "
                 "--synthetic-dir or TMPDIR, or a smaller model",
                 where.c_str(), shape.name, bytes_text(static_cast<double>(need)).c_str(),
                 bytes_text(static_cast<double>(*room)).c_str()));
    }
    if (!have_llm) llm.write(files.llm);
    if (!have_mmproj) mmproj.write(files.mmproj);
    return files;
}

}  // namespace tools
