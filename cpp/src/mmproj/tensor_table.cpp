#include "mmproj/tensor_table.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "base/error.h"

namespace bluelm {
namespace {

using Kind = TensorInfo::Kind;

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

}  // namespace

std::vector<TensorInfo> tensor_table(VisionWeights& w) {
    const VisionConfig& c = w.config;
    const int64_t d = c.n_embd, f = c.n_ff, p = c.patch_size, h = c.n_hidden, m = c.n_merged();
    std::vector<TensorInfo> table;
    const auto add = [&table](std::string name, std::vector<int64_t> shape, Kind kind, ggml_tensor** slot,
                              StoredTensor* stored = nullptr) {
        table.push_back({std::move(name), std::move(shape), kind, slot, stored, -1});
    };
    const auto linear = [&add](const std::string& name, int64_t out, int64_t in, Linear& l) {
        add(name + ".weight", {out, in}, Kind::kWeight, nullptr, &l.stored);
        add(name + ".bias", {out}, Kind::kF32, &l.b);
    };
    const auto norm = [&add](const std::string& name, int64_t n, Norm& l) {
        add(name + ".weight", {n}, Kind::kF32, &l.w);
        add(name + ".bias", {n}, Kind::kF32, &l.b);
    };
    add("v.patch_embd.weight", {d, 3, p, p}, Kind::kPatch, nullptr, &w.patch.stored);
    add("v.patch_embd.bias", {d}, Kind::kF32, &w.patch.b);
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

void find_tensors(MmprojHeader& header, std::vector<TensorInfo>& table) {
    std::unordered_set<std::string> known;
    for (TensorInfo& info : table) {
        known.insert(info.name);
        info.id = gguf_find_tensor(header.gguf(), info.name.c_str());
        if (info.id < 0) {
            header.problems.push_back("tensor " + info.name + " is missing");
            continue;
        }
        int64_t want[GGML_MAX_DIMS] = {1, 1, 1, 1};
        for (size_t i = 0; i < info.shape.size(); ++i) want[i] = info.shape[info.shape.size() - 1 - i];
        const int64_t* have = gguf_get_tensor_ne(header.gguf(), info.id);
        if (!std::equal(want, want + GGML_MAX_DIMS, have)) {
            header.problems.push_back(format("tensor %s is %s, not %s", info.name.c_str(),
                                             shape_text(have).c_str(), shape_text(want).c_str()));
        }
        const ggml_type type = gguf_get_tensor_type(header.gguf(), info.id);
        if (!type_allowed(info.kind, type)) {
            header.problems.push_back(format("tensor %s is of type %s, not one of %s", info.name.c_str(),
                                             ggml_type_name(type), allowed_types(info.kind)));
        }
        const uint64_t end = gguf_get_data_offset(header.gguf()) +
                             gguf_get_tensor_offset(header.gguf(), info.id) +
                             gguf_get_tensor_size(header.gguf(), info.id);
        if (end > header.file_bytes()) {
            header.problems.push_back(format("tensor %s ends at byte %llu of a file of %llu: truncated",
                                             info.name.c_str(), static_cast<unsigned long long>(end),
                                             static_cast<unsigned long long>(header.file_bytes())));
        }
    }
    // A tensor nobody reads would be a step nobody computes: wrong features without a word.
    for (int64_t i = 0; i < gguf_get_n_tensors(header.gguf()); ++i) {
        const char* name = gguf_get_tensor_name(header.gguf(), i);
        if (!known.count(name)) header.problems.push_back(format("tensor %s is not known", name));
    }
    header.throw_problems();
}

}  // namespace bluelm
