#include "common/cost.h"

#include <memory>

namespace tools {
namespace {

// An unsigned 32-bit value of the model's architecture, or `otherwise` (absent, or a list with one value for
// each layer).
double number(const gguf_context* gguf, const std::string& key, double otherwise) {
    const int64_t id = gguf_find_key(gguf, key.c_str());
    if (id < 0 || gguf_get_kv_type(gguf, id) != GGUF_TYPE_UINT32) return otherwise;
    return gguf_get_val_u32(gguf, id);
}

}  // namespace

double LlmCost::kv_bytes(int64_t positions, ggml_type k, ggml_type v) const {
    const auto per_value = [](ggml_type type) {
        return static_cast<double>(ggml_type_size(type)) / static_cast<double>(ggml_blck_size(type));
    };
    return static_cast<double>(positions) * kv_values / 2 * (per_value(k) + per_value(v));
}

LlmCost llm_cost(const gguf_context* gguf) {
    LlmCost cost;
    const bool tied = gguf_find_tensor(gguf, "output.weight") < 0;
    for (int64_t i = 0; i < gguf_get_n_tensors(gguf); ++i) {
        const std::string name = gguf_get_tensor_name(gguf, i);
        const int64_t* ne = gguf_get_tensor_ne(gguf, i);
        const bool is_embedding = name == "token_embd.weight";
        if (is_embedding && !tied) continue;  // one row of it is read
        cost.bytes_per_token += gguf_get_tensor_size(gguf, i);
        if (ne[1] == 1) continue;
        const double ops = 2.0 * static_cast<double>(ne[0]) * static_cast<double>(ne[1] * ne[2]);
        (is_embedding || name == "output.weight" ? cost.ops_output : cost.ops_per_token) += ops;
    }
    const int64_t id = gguf_find_key(gguf, "general.architecture");
    if (id < 0 || gguf_get_kv_type(gguf, id) != GGUF_TYPE_STRING) return cost;
    const std::string arch = gguf_get_val_str(gguf, id);
    const double layers = number(gguf, arch + ".block_count", 0);
    const double heads = number(gguf, arch + ".attention.head_count", 1);
    const double kv_heads = number(gguf, arch + ".attention.head_count_kv", heads);
    const double head_dim = number(gguf, arch + ".attention.key_length",
                                   number(gguf, arch + ".embedding_length", 0) / (heads > 0 ? heads : 1));
    cost.n_ctx_train = static_cast<int64_t>(number(gguf, arch + ".context_length", 0));
    cost.kv_values = 2 * layers * kv_heads * head_dim;
    cost.ops_per_position = 4 * layers * heads * head_dim;
    return cost;
}

LlmCost llm_cost(const std::string& path) {
    if (path.empty()) return {};
    const std::unique_ptr<gguf_context, void (*)(gguf_context*)> gguf(
        gguf_init_from_file(path.c_str(), {true, nullptr}), gguf_free);
    return gguf ? llm_cost(gguf.get()) : LlmCost();
}

}  // namespace tools
