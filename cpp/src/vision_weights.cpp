#include "vision_weights.h"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <unordered_set>
#include <utility>

#if !defined(_WIN32)
#include <sys/types.h>
#include <unistd.h>
#endif

#include "cpu_buffers.h"
#include "error.h"
#include "ggml-cpu.h"
#include "gguf.h"
#include "tiler.h"

namespace bluelm {
namespace {

struct FileCloser {
    void operator()(std::FILE* file) const { std::fclose(file); }
};
struct GgufDeleter {
    void operator()(gguf_context* gguf) const { gguf_free(gguf); }
};
using FilePtr = std::unique_ptr<std::FILE, FileCloser>;
using GgufPtr = std::unique_ptr<gguf_context, GgufDeleter>;

int seek(std::FILE* file, uint64_t offset, int whence) {
#if defined(_WIN32)
    return _fseeki64(file, static_cast<int64_t>(offset), whence);
#else
    return fseeko(file, static_cast<off_t>(offset), whence);
#endif
}

uint64_t tell(std::FILE* file) {
#if defined(_WIN32)
    return static_cast<uint64_t>(_ftelli64(file));
#else
    return static_cast<uint64_t>(ftello(file));
#endif
}

// ------------------------------------------------------------------------------------------------ file

// An open mmproj whose header has been parsed; `problems` collects what is wrong with its contents.
class MmprojFile {
public:
    explicit MmprojFile(const std::string& path) : path_(path) {
        file_.reset(std::fopen(path.c_str(), "rb"));
        if (!file_) throw Error(BLUELM_ERR_IO, format("%s: %s", path.c_str(), std::strerror(errno)));
        // fopen opens a directory too; only reading tells.
        char magic[4] = {};
        const size_t n = std::fread(magic, 1, sizeof magic, file_.get());
        if (std::ferror(file_.get()))
            throw Error(BLUELM_ERR_IO, format("%s: %s", path.c_str(), std::strerror(errno)));
        if (n != sizeof magic || std::memcmp(magic, GGUF_MAGIC, sizeof magic) != 0) {
            throw Error(BLUELM_ERR_FORMAT, path + ": not a GGUF file");
        }
        if (seek(file_.get(), 0, SEEK_END) != 0) throw Error(BLUELM_ERR_IO, path + ": cannot seek");
        size_ = tell(file_.get());
        seek(file_.get(), 0, SEEK_SET);
        // gguf checks the header against the file's size and returns NULL on anything odd; with ctx == NULL
        // it neither creates tensors nor reads their data.
        gguf_init_params params = {};
        params.no_alloc = true;
        gguf_.reset(gguf_init_from_file_ptr(file_.get(), params));
        if (!gguf_) {
            throw Error(BLUELM_ERR_FORMAT,
                        path + ": the GGUF header is truncated or corrupt; copy or convert the file again");
        }
    }

    const std::string& path() const { return path_; }
    uint64_t size() const { return size_; }
    gguf_context* gguf() const { return gguf_.get(); }
    std::vector<std::string> problems;

    void read(uint64_t offset, void* out, size_t bytes) const {
        if (seek(file_.get(), offset, SEEK_SET) != 0 || std::fread(out, 1, bytes, file_.get()) != bytes) {
            throw Error(BLUELM_ERR_IO, path_ + ": reading failed; did the file change while it was loaded?");
        }
    }

    // Getters: the value, or a note in `problems` and an unusable value (0, empty, false).

    uint32_t u32(const char* key, uint32_t min, uint32_t max) {
        const int64_t id = find(key, GGUF_TYPE_UINT32);
        if (id < 0) return 0;
        const uint32_t value = gguf_get_val_u32(gguf_.get(), id);
        if (value >= min && value <= max) return value;
        problems.push_back(format("%s is %u, not in %u..%u", key, value, min, max));
        return 0;
    }

    // A finite float in [min, max].
    float f32(const char* key, float min, float max) {
        const int64_t id = find(key, GGUF_TYPE_FLOAT32);
        if (id < 0) return 0;
        return in_range(key, gguf_get_val_f32(gguf_.get(), id), min, max);
    }

    bool boolean(const char* key) {
        const int64_t id = find(key, GGUF_TYPE_BOOL);
        return id >= 0 && gguf_get_val_bool(gguf_.get(), id);
    }

    // Empty if the key is not there.
    std::string optional_string(const char* key) {
        const int64_t id = has(key) ? find(key, GGUF_TYPE_STRING) : -1;
        return id < 0 ? std::string() : gguf_get_val_str(gguf_.get(), id);
    }

    // The value's position in `names`.
    int choice(const char* key, std::initializer_list<const char*> names) {
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

    void f32_triple(const char* key, float min, float max, float out[3]) {
        const float* values = static_cast<const float*>(array(key, GGUF_TYPE_FLOAT32, 3, 3));
        for (int i = 0; values && i < 3; ++i) out[i] = in_range(key, values[i], min, max);
    }

    // The elements of an i32 array with between min_n and max_n of them; *n is 0 if there is a problem.
    const int32_t* i32_array(const char* key, size_t min_n, size_t max_n, size_t* n) {
        const void* values = array(key, GGUF_TYPE_INT32, min_n, max_n);
        *n = values ? gguf_get_arr_n(gguf_.get(), gguf_find_key(gguf_.get(), key)) : 0;
        return static_cast<const int32_t*>(values);
    }

    bool has(const char* key) const { return gguf_find_key(gguf_.get(), key) >= 0; }

private:
    // gguf_get_* abort the process on a type that is not the stored one: this looks first.
    int64_t find(const char* key, gguf_type type) {
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
        // A one-element array of `type` reports the type GGUF_TYPE_ARRAY, so it does not come this far.
        return id;
    }

    const void* array(const char* key, gguf_type type, size_t min_n, size_t max_n) {
        const int64_t id = find(key, GGUF_TYPE_ARRAY);
        if (id < 0) return nullptr;
        if (gguf_get_arr_type(gguf_.get(), id) != type) {
            problems.push_back(format("key %s is an array of %s, not of %s", key,
                                      gguf_type_name(gguf_get_arr_type(gguf_.get(), id)),
                                      gguf_type_name(type)));
            return nullptr;
        }
        const size_t n = gguf_get_arr_n(gguf_.get(), id);
        if (n < min_n || n > max_n) {
            problems.push_back(format("key %s has %zu elements, not %zu..%zu", key, n, min_n, max_n));
            return nullptr;
        }
        return gguf_get_arr_data(gguf_.get(), id);
    }

    float in_range(const char* key, float value, float min, float max) {
        if (std::isfinite(value) && value >= min && value <= max) return value;
        problems.push_back(format("%s is %g, not in %g..%g", key, value, min, max));
        return 0;
    }

    std::string path_;
    FilePtr file_;
    GgufPtr gguf_;
    uint64_t size_ = 0;
};

// "path: problem; problem; ... (and 12 more)". A message is one line that a person reads.
[[noreturn]] void throw_problems(const MmprojFile& file, bluelm_status status) {
    constexpr size_t kShown = 60;
    std::string message = file.path() + ": ";
    for (size_t i = 0; i < file.problems.size() && i < kShown; ++i)
        message += (i ? "; " : "") + file.problems[i];
    if (file.problems.size() > kShown) message += format(" (and %zu more)", file.problems.size() - kShown);
    throw Error(status, message);
}

// -------------------------------------------------------------------------------------------- metadata

// A GGUF that is sound but something else: said plainly, before its missing keys are listed.
void check_kind(const MmprojFile& file) {
    const auto text = [&file](const char* key) -> std::string {
        const int64_t id = gguf_find_key(file.gguf(), key);
        if (id < 0 || gguf_get_kv_type(file.gguf(), id) != GGUF_TYPE_STRING) return {};
        return std::string(gguf_get_val_str(file.gguf(), id)).substr(0, 40);
    };
    const std::string architecture = text("general.architecture");
    const std::string projector = text("clip.projector_type");
    if (!architecture.empty() && architecture != "clip") {
        throw Error(BLUELM_ERR_UNSUPPORTED,
                    format("%s: a language model (architecture %s), not an mmproj; give it as the model",
                           file.path().c_str(), architecture.c_str()));
    }
    if (!projector.empty() && projector != "bluelm") {
        throw Error(
            BLUELM_ERR_UNSUPPORTED,
            format("%s: an mmproj with projector type '%s'; this library runs 'bluelm', which bluelm-gguf "
                   "convert writes",
                   file.path().c_str(), projector.c_str()));
    }
}

std::string ftype_name(uint32_t ftype) {
    switch (ftype) {
        case GGML_FTYPE_ALL_F32: return "f32";
        case GGML_FTYPE_MOSTLY_F16: return "f16";
        case GGML_FTYPE_MOSTLY_Q4_0: return "q4_0";
        case GGML_FTYPE_MOSTLY_Q8_0: return "q8_0";
        // gguf.LlamaFileType.MOSTLY_BF16 is 32 where ggml_ftype has 24: files carry the former
        case 32: return "bf16";
        default: return format("ftype %u", ftype);
    }
}

void read_tiler(MmprojFile& file, VisionConfig& c) {
    bluelm_tiler_params& t = c.tiler;
    t = default_tiler_params();
    t.tile = c.image_size;
    t.method = file.choice("bluelm.tiler.method", {"relaxed", "llava_next", "internvl", "single"});
    t.alpha = file.f32("bluelm.tiler.alpha", 0.0f, 1.0f);
    t.thumbnail = file.choice("bluelm.tiler.thumbnail", {"none", "first", "last"});
    t.thumbnail_for_single = file.boolean("bluelm.tiler.thumbnail_for_single");
    t.fit = file.choice("bluelm.tiler.fit", {"pad_center", "pad_top_left", "stretch"});
    t.filter = file.choice("bluelm.tiler.resize", {"bicubic", "bilinear"});
    if (file.has("bluelm.tiler.fit_rounding"))
        t.fit_rounding = static_cast<uint8_t>(file.choice("bluelm.tiler.fit_rounding", {"floor", "ceil"}));
    size_t n = 0;
    if (const int32_t* rgb = file.i32_array("bluelm.tiler.pad_rgb", 3, 3, &n)) {
        for (int i = 0; i < 3; ++i) {
            if (rgb[i] < 0 || rgb[i] > 255) file.problems.push_back("bluelm.tiler.pad_rgb is not in 0..255");
            t.pad_rgb[i] = static_cast<uint8_t>(rgb[i]);
        }
    }
    if (const int32_t* grids = file.i32_array("bluelm.tiler.grids", 2, 2 * BLUELM_MAX_GRIDS, &n)) {
        if (n % 2 != 0) file.problems.push_back("bluelm.tiler.grids has an odd number of elements");
        t.n_grids = static_cast<int32_t>(n / 2);
        std::memset(t.grids, 0, sizeof t.grids);
        std::memcpy(t.grids, grids, static_cast<size_t>(t.n_grids) * 2 * sizeof(int32_t));
    }
    if (!file.problems.empty()) return;
    try {
        check_tiler_params(t);
    } catch (const Error& e) {
        file.problems.push_back(std::string("bluelm.tiler.*: ") + e.what());
    }
}

// Files from before these keys have none of them: views one after the other.
void read_assembly(MmprojFile& file, VisionConfig& c) {
    c.assembly.column_major = c.column_major;
    if (c.patch_size && c.downsample) c.assembly.side = c.merged_grid();
    if (!file.has("bluelm.assembly.method")) return;
    c.assembly.anyres = file.choice("bluelm.assembly.method", {"concat", "anyres"}) == 1;
    if (!c.assembly.anyres) return;
    c.assembly.max_tiles = static_cast<int32_t>(file.u32("bluelm.assembly.max_tiles", 0, kMaxGridTiles));
}

VisionConfig read_config(MmprojFile& file) {
    VisionConfig c;
    // Absurd sizes end here: what passes is still compared with every tensor's shape, and the tensors with
    // the file's size, before anything is allocated.
    file.u32("bluelm.version", 1, 1);
    if (!file.boolean("clip.has_vision_encoder"))
        file.problems.push_back("clip.has_vision_encoder is not true");
    if (!file.boolean("clip.use_gelu")) file.problems.push_back("clip.use_gelu is not true");
    c.image_size = static_cast<int32_t>(file.u32("clip.vision.image_size", 1, kMaxTile));
    c.patch_size = static_cast<int32_t>(file.u32("clip.vision.patch_size", 1, 256));
    c.n_embd = static_cast<int32_t>(file.u32("clip.vision.embedding_length", 1, 1 << 15));
    c.n_ff = static_cast<int32_t>(file.u32("clip.vision.feed_forward_length", 1, 1 << 17));
    c.n_ff_unpadded =
        static_cast<int32_t>(file.u32("bluelm.vision.feed_forward_length_unpadded", 1, 1 << 17));
    c.n_layer = static_cast<int32_t>(file.u32("clip.vision.block_count", 1, 256));
    c.n_head = static_cast<int32_t>(file.u32("clip.vision.attention.head_count", 1, 1 << 10));
    c.n_embd_out = static_cast<int32_t>(file.u32("clip.vision.projection_dim", 1, 1 << 16));
    c.layer_norm_eps = file.f32("clip.vision.attention.layer_norm_epsilon", 1e-12f, 1e-2f);
    file.f32_triple("clip.vision.image_mean", -1e3f, 1e3f, c.image_mean);
    file.f32_triple("clip.vision.image_std", 1e-6f, 1e3f, c.image_std);
    c.post_layernorm = file.boolean("bluelm.vision.post_layernorm");
    c.downsample = static_cast<int32_t>(file.u32("bluelm.projector.downsample", 1, 2));
    c.column_major = file.choice("bluelm.projector.token_order", {"row_major", "column_major"}) == 1;
    c.projector_gelu_tanh = file.choice("bluelm.projector.hidden_act", {"gelu", "gelu_tanh"}) == 1;
    c.input_norm = gguf_find_tensor(file.gguf(), "mm.input_norm.weight") >= 0 ||
                   gguf_find_tensor(file.gguf(), "mm.input_norm.bias") >= 0;
    if (c.input_norm) c.projector_eps = file.f32("bluelm.projector.layer_norm_epsilon", 1e-12f, 1e-2f);
    // gguf-py does not write empty strings: an absent one is empty.
    c.prompt_prefix = file.optional_string("bluelm.prompt.image_prefix");
    c.prompt_suffix = file.optional_string("bluelm.prompt.image_suffix");
    c.name = file.optional_string("general.name");
    c.ftype = file.has("general.file_type") ? ftype_name(file.u32("general.file_type", 0, UINT32_MAX)) : "";

    if (c.image_size && c.patch_size) {
        if (c.patch_size > c.image_size)
            file.problems.push_back("the patch is larger than the image");
        else if (c.n_patches() > (1 << 14))
            file.problems.push_back(format("%d patches a tile", c.n_patches()));
    }
    if (c.n_embd && c.n_head && c.n_embd % c.n_head != 0) {
        file.problems.push_back(
            format("embedding_length %d is no multiple of head_count %d", c.n_embd, c.n_head));
    }
    if (c.n_ff_unpadded > c.n_ff) file.problems.push_back("feed_forward_length is below the unpadded one");
    read_tiler(file, c);
    read_assembly(file, c);
    if (!file.problems.empty()) throw_problems(file, BLUELM_ERR_FORMAT);
    return c;
}

// ----------------------------------------------------------------------------------------------- table

enum class Kind {
    kF32,     // norms, biases, positions
    kWeight,  // a matmul's weight: any of the file's types, may lie in a repacked buffer
    kPatch,   // the patch convolution: F32, F16 or BF16, rows padded when loaded
};

struct TensorInfo {
    std::string name;
    std::vector<int64_t> shape;  // rows first, as in docs/mmproj.md
    Kind kind;
    ggml_tensor** slot;              // where the loaded tensor goes
    StoredTensor* stored = nullptr;  // of a matrix: where it lies in the file
    int64_t id = -1;                 // in the file
};

// Every tensor that this config needs. `blocks` must have its final size: slots point into it.
std::vector<TensorInfo> tensor_table(VisionWeights& w) {
    const VisionConfig& c = w.config;
    const int64_t d = c.n_embd, f = c.n_ff, p = c.patch_size, h = c.n_hidden, m = c.n_merged();
    std::vector<TensorInfo> table;
    const auto add = [&table](std::string name, std::vector<int64_t> shape, Kind kind, ggml_tensor** slot,
                              StoredTensor* stored = nullptr) {
        table.push_back({std::move(name), std::move(shape), kind, slot, stored, -1});
    };
    const auto linear = [&add](const std::string& name, int64_t out, int64_t in, Linear& l) {
        add(name + ".weight", {out, in}, Kind::kWeight, &l.w, &l.stored);
        add(name + ".bias", {out}, Kind::kF32, &l.b);
    };
    const auto norm = [&add](const std::string& name, int64_t n, Norm& l) {
        add(name + ".weight", {n}, Kind::kF32, &l.w);
        add(name + ".bias", {n}, Kind::kF32, &l.b);
    };
    add("v.patch_embd.weight", {d, 3, p, p}, Kind::kPatch, &w.patch_w);
    add("v.patch_embd.bias", {d}, Kind::kF32, &w.patch_b);
    add("v.position_embd.weight", {c.n_patches(), d}, Kind::kF32, &w.position);
    for (int32_t i = 0; i < c.n_layer; ++i) {
        const std::string name = format("v.blk.%d.", i);
        VitBlock& b = w.blocks[static_cast<size_t>(i)];
        norm(name + "ln1", d, b.ln1);
        norm(name + "ln2", d, b.ln2);
        linear(name + "attn_q", d, d, b.q);
        linear(name + "attn_k", d, d, b.k);
        linear(name + "attn_v", d, d, b.v);
        linear(name + "attn_out", d, d, b.out);
        linear(name + "ffn_up", f, d, b.up);
        linear(name + "ffn_down", d, f, b.down);
    }
    if (c.post_layernorm) norm("v.post_ln", d, w.post_ln);
    if (c.input_norm) norm("mm.input_norm", m, w.input_norm);
    linear("mm.0", h, m, w.mm0);
    linear("mm.2", c.n_embd_out, h, w.mm2);
    if (c.assembly.anyres) add("mm.image_newline", {c.n_embd_out}, Kind::kF32, &w.image_newline);
    return table;
}

// The projector's width is no key: it is the number of rows of mm.0.weight.
int32_t projector_width(MmprojFile& file) {
    const int64_t id = gguf_find_tensor(file.gguf(), "mm.0.weight");
    if (id < 0) return 0;  // the table reports it as missing
    const int64_t h = gguf_get_tensor_ne(file.gguf(), id)[1];
    if (h >= 1 && h <= (1 << 17)) return static_cast<int32_t>(h);
    file.problems.push_back(format("mm.0.weight has %lld rows", static_cast<long long>(h)));
    return 0;
}

std::string shape_text(const int64_t* ne) {
    int n = GGML_MAX_DIMS;
    while (n > 1 && ne[n - 1] == 1) --n;
    std::string text = "[";
    for (int i = n - 1; i >= 0; --i) text += format("%lld%s", static_cast<long long>(ne[i]), i ? ", " : "]");
    return text;
}

const char* allowed_types(Kind kind) {
    switch (kind) {
        case Kind::kF32: return "f32";
        case Kind::kPatch: return "f32, f16, bf16";
        default: return "f32, f16, bf16, q8_0, q4_0";
    }
}

bool type_allowed(Kind kind, ggml_type type) {
    if (type == GGML_TYPE_F32) return true;
    if (type == GGML_TYPE_F16 || type == GGML_TYPE_BF16) return kind != Kind::kF32;
    return kind == Kind::kWeight && (type == GGML_TYPE_Q8_0 || type == GGML_TYPE_Q4_0);
}

void check_table(MmprojFile& file, std::vector<TensorInfo>& table) {
    std::unordered_set<std::string> known;
    for (TensorInfo& info : table) {
        known.insert(info.name);
        info.id = gguf_find_tensor(file.gguf(), info.name.c_str());
        if (info.id < 0) {
            file.problems.push_back("tensor " + info.name + " is missing");
            continue;
        }
        int64_t want[GGML_MAX_DIMS] = {1, 1, 1, 1};
        for (size_t i = 0; i < info.shape.size(); ++i) want[i] = info.shape[info.shape.size() - 1 - i];
        const int64_t* have = gguf_get_tensor_ne(file.gguf(), info.id);
        if (!std::equal(want, want + GGML_MAX_DIMS, have)) {
            file.problems.push_back(format("tensor %s is %s, not %s", info.name.c_str(),
                                           shape_text(have).c_str(), shape_text(want).c_str()));
        }
        const ggml_type type = gguf_get_tensor_type(file.gguf(), info.id);
        if (!type_allowed(info.kind, type)) {
            file.problems.push_back(format("tensor %s is of type %s, not one of %s", info.name.c_str(),
                                           ggml_type_name(type), allowed_types(info.kind)));
        }
        const uint64_t end = gguf_get_data_offset(file.gguf()) +
                             gguf_get_tensor_offset(file.gguf(), info.id) +
                             gguf_get_tensor_size(file.gguf(), info.id);
        if (end > file.size()) {
            file.problems.push_back(format("tensor %s ends at byte %llu of a file of %llu: truncated",
                                           info.name.c_str(), static_cast<unsigned long long>(end),
                                           static_cast<unsigned long long>(file.size())));
        }
    }
    // A tensor nobody reads would be a step nobody computes: wrong features without a word.
    for (int64_t i = 0; i < gguf_get_n_tensors(file.gguf()); ++i) {
        const char* name = gguf_get_tensor_name(file.gguf(), i);
        if (!known.count(name)) file.problems.push_back(format("tensor %s is not known", name));
    }
    if (!file.problems.empty()) throw_problems(file, BLUELM_ERR_FORMAT);
}

// -------------------------------------------------------------------------------------------- loading

// Whether matmuls of `weight` with F32 activations run from this buffer type. A kernel that is not there
// would assert when the graph runs; this asks first, about a matmul of the real shape.
bool buffer_type_runs(ggml_backend_dev_t cpu, ggml_backend_buffer_type_t type, ggml_type weight_type,
                      const std::vector<int64_t>& shape, int64_t n_rows) {
    const GgmlContextPtr ctx(ggml_init({4 * ggml_tensor_overhead(), nullptr, true}));
    const GgmlBufferPtr empty(ggml_backend_buft_alloc_buffer(type, 0));
    if (!ctx || !empty) return false;
    ggml_tensor* w = ggml_new_tensor_2d(ctx.get(), weight_type, shape[1], shape[0]);
    w->buffer = empty.get();
    ggml_tensor* x = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, shape[1], n_rows);
    return ggml_backend_dev_supports_op(cpu, ggml_mul_mat(ctx.get(), w, x));
}

// How a tensor lies in memory.
enum class Layout {
    kAsStored,    // as in the file, or as the buffer type rearranges it
    kPaddedRows,  // the patch convolution [D, 3, 14, 14] as a matmul: rows of 588 values, zeros up to 608
};
using Place = std::pair<ggml_backend_buffer_type_t, Layout>;

ggml_tensor* new_tensor(ggml_context* ctx, const MmprojFile& file, const TensorInfo& info, Layout layout) {
    const ggml_type type = gguf_get_tensor_type(file.gguf(), info.id);
    const int64_t* ne = gguf_get_tensor_ne(file.gguf(), info.id);
    ggml_tensor* tensor = nullptr;
    switch (layout) {
        case Layout::kAsStored:
            tensor = ggml_new_tensor(ctx, type, static_cast<int>(info.shape.size()), ne);
            break;
        case Layout::kPaddedRows:
            tensor = ggml_new_tensor_2d(ctx, type, (ne[0] * ne[1] * ne[2] + 31) / 32 * 32, ne[3]);
            break;
    }
    ggml_set_name(tensor, info.name.c_str());
    return tensor;
}

// Rows as stored into a tensor with longer rows, zeros behind them.
void pad_rows(const std::vector<uint8_t>& raw, ggml_tensor* tensor) {
    const size_t n_rows = static_cast<size_t>(tensor->ne[1]), row = raw.size() / n_rows;
    std::memset(tensor->data, 0, ggml_nbytes(tensor));
    for (size_t r = 0; r < n_rows; ++r) {
        std::memcpy(static_cast<char*>(tensor->data) + r * tensor->nb[1], &raw[r * row], row);
    }
}

}  // namespace

WeightFile::WeightFile(const std::string& path) : path_(path), file_(std::fopen(path.c_str(), "rb")) {
    if (!file_) throw Error(BLUELM_ERR_IO, format("%s: %s", path.c_str(), std::strerror(errno)));
}

WeightFile::~WeightFile() { std::fclose(file_); }

void WeightFile::read(uint64_t offset, void* out, size_t bytes) const {
    bool good = true;
#if defined(_WIN32)
    const std::lock_guard<std::mutex> lock(mutex_);
    good = seek(file_, offset, SEEK_SET) == 0 && std::fread(out, 1, bytes, file_) == bytes;
#else
    char* to = static_cast<char*>(out);
    while (good && bytes > 0) {
        const ssize_t n = pread(fileno(file_), to, bytes, static_cast<off_t>(offset));
        if (n < 0 && errno == EINTR) continue;
        good = n > 0;
        if (!good) break;
        to += n;
        offset += static_cast<uint64_t>(n);
        bytes -= static_cast<size_t>(n);
    }
#endif
    if (!good)
        throw Error(BLUELM_ERR_IO, path_ + ": reading failed; did the file change since it was loaded?");
}

VisionWeights::VisionWeights(const std::string& path, WeightLoading loading) : file(path) {
    MmprojFile gguf_file(path);
    check_kind(gguf_file);
    config = read_config(gguf_file);
    config.n_hidden = projector_width(gguf_file);
    blocks.resize(static_cast<size_t>(config.n_layer));
    std::vector<TensorInfo> table = tensor_table(*this);
    check_table(gguf_file, table);

    ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    if (!cpu) throw Error(BLUELM_ERR_INTERNAL, "ggml has no CPU backend");
    ggml_backend_buffer_type_t plain = ggml_backend_cpu_buffer_type();
    const std::vector<ggml_backend_buffer_type_t> repacked =
        loading == WeightLoading::kRepacked ? cpu_buffer_types() : std::vector<ggml_backend_buffer_type_t>();

    // One context and one buffer for each place in use.
    std::map<Place, std::vector<const TensorInfo*>> by_place;
    for (const TensorInfo& info : table) {
        const ggml_type type = gguf_get_tensor_type(gguf_file.gguf(), info.id);
        weight_bytes += static_cast<int64_t>(gguf_get_tensor_size(gguf_file.gguf(), info.id));
        int64_t n = 1;
        for (int64_t extent : info.shape) n *= extent;
        n_params += n;
        Place place = {plain, info.kind == Kind::kPatch ? Layout::kPaddedRows : Layout::kAsStored};
        if (info.kind == Kind::kWeight) {
            ++matrices;
            *info.stored = {
                type,
                gguf_get_data_offset(gguf_file.gguf()) + gguf_get_tensor_offset(gguf_file.gguf(), info.id),
                info.shape[0], info.shape[1]};
            if (loading == WeightLoading::kInFile) continue;
        }
        if (info.kind == Kind::kWeight && ggml_is_quantized(type)) {
            for (ggml_backend_buffer_type_t candidate : repacked) {
                if (!buffer_type_runs(cpu, candidate, type, info.shape, config.n_patches())) continue;
                place.first = candidate;
                ++repacked_tensors;
                break;
            }
        }
        by_place[place].push_back(&info);
    }

    std::vector<uint8_t> raw;
    for (const auto& [place, infos] : by_place) {
        const auto [buffer_type, layout] = place;
        GgmlContextPtr ctx(ggml_init({(infos.size() + 1) * ggml_tensor_overhead(), nullptr, true}));
        if (!ctx) throw std::bad_alloc();
        for (const TensorInfo* info : infos) *info->slot = new_tensor(ctx.get(), gguf_file, *info, layout);
        GgmlBufferPtr buffer(ggml_backend_alloc_ctx_tensors_from_buft(ctx.get(), buffer_type));
        if (!buffer) {
            throw Error(BLUELM_ERR_OUT_OF_MEMORY,
                        format("%s: not enough memory for %lld MB of weights", path.c_str(),
                               static_cast<long long>(weight_bytes >> 20)));
        }
        ggml_backend_buffer_set_usage(buffer.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
        for (const TensorInfo* info : infos) {
            ggml_tensor* tensor = *info->slot;
            const uint64_t offset =
                gguf_get_data_offset(gguf_file.gguf()) + gguf_get_tensor_offset(gguf_file.gguf(), info->id);
            const size_t bytes = gguf_get_tensor_size(gguf_file.gguf(), info->id);
            if (layout == Layout::kAsStored && buffer_type == plain) {
                gguf_file.read(offset, tensor->data, bytes);
                continue;
            }
            raw.resize(bytes);
            gguf_file.read(offset, raw.data(), bytes);
            switch (layout) {
                case Layout::kAsStored: ggml_backend_tensor_set(tensor, raw.data(), 0, raw.size()); break;
                case Layout::kPaddedRows: pad_rows(raw, tensor); break;
            }
        }
        contexts_.push_back(std::move(ctx));
        buffers_.push_back(std::move(buffer));
    }
}

}  // namespace bluelm
