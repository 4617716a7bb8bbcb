#include "device/layout.h"

#include <cstring>
#include <memory>

#include "base/error.h"
#include "ggml-cpu.h"

#ifndef BLUELM_GGML_VERSION
#define BLUELM_GGML_VERSION ""
#endif

namespace bluelm {
namespace {

void require_layout(bool is_known, const char* name) {
    if (is_known) return;
    throw Error(BLUELM_ERR_UNSUPPORTED,
                format("this llama.cpp's %s is not laid out as in llama-cpp-python %s; use that version",
                       name, BLUELM_LLAMA_CPP_VERSION));
}

void check_structs() {
    const ggml_backend_reg_t registry = ggml_backend_cpu_reg();
    require_layout(registry->api_version == kGgmlBackendApiVersion &&
                       registry->iface.get_name(registry) == ggml_backend_reg_name(registry),
                   "ggml_backend_reg");
    const ggml_backend_dev_t device = ggml_backend_reg_dev_get(registry, 0);
    require_layout(device->reg == registry && device->iface.get_type(device) == ggml_backend_dev_type(device),
                   "ggml_backend_device");
    const ggml_backend_buffer_type_t type = ggml_backend_cpu_buffer_type();
    require_layout(type->iface.get_name(type) == ggml_backend_buft_name(type) &&
                       type->device == ggml_backend_buft_get_device(type),
                   "ggml_backend_buffer_type");
    const std::unique_ptr<ggml_backend_buffer, decltype(&ggml_backend_buffer_free)> buffer(
        ggml_backend_buft_alloc_buffer(type, 192), ggml_backend_buffer_free);
    if (!buffer) throw std::bad_alloc();
    ggml_backend_buffer_set_usage(buffer.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    require_layout(buffer->buft == type && buffer->size == ggml_backend_buffer_get_size(buffer.get()) &&
                       buffer->usage == GGML_BACKEND_BUFFER_USAGE_WEIGHTS &&
                       buffer->iface.get_base(buffer.get()) == ggml_backend_buffer_get_base(buffer.get()),
                   "ggml_backend_buffer");

    const std::unique_ptr<ggml_context, decltype(&ggml_free)> context(ggml_init({1 << 16, nullptr, true}),
                                                                      ggml_free);
    if (!context) throw std::bad_alloc();
    ggml_tensor* x = ggml_new_tensor_1d(context.get(), GGML_TYPE_F32, 4);
    ggml_tensor* y = ggml_add(context.get(), x, x);
    ggml_cgraph* graph = ggml_new_graph_custom(context.get(), 8, false);
    ggml_build_forward_expand(graph, y);
    bool is_counted = false;
    for (size_t i = 0; graph->visited_hash_set.size < 1024 && i < graph->visited_hash_set.size; ++i)
        is_counted = is_counted || (graph->visited_hash_set.keys[i] == x && graph->use_counts[i] == 2);
    require_layout(graph->size == ggml_graph_size(graph) && graph->n_nodes == 1 &&
                       graph->nodes == ggml_graph_nodes(graph) && is_counted,
                   "ggml_cgraph");
}

}  // namespace

void require_linked_ggml() {
    static const bool checked = [] {
        const char* version = ggml_version();
        if (*BLUELM_GGML_VERSION && std::strcmp(version, BLUELM_GGML_VERSION) != 0) {
            throw Error(
                BLUELM_ERR_UNSUPPORTED,
                format("this is ggml %s, the device was built for ggml %s (llama-cpp-python %s); use that "
                       "version",
                       version, BLUELM_GGML_VERSION, BLUELM_LLAMA_CPP_VERSION));
        }
        check_structs();
        return true;
    }();
    (void)checked;
}

void require_graph(const ggml_cgraph* graph) {
    constexpr int kMostNodes = 1 << 20;
    bool is_known = graph->n_nodes >= 0 && graph->n_nodes < kMostNodes &&
                    (graph->nodes || graph->n_nodes == 0) && graph->use_counts &&
                    graph->visited_hash_set.size > 0 && graph->visited_hash_set.used;
    for (int i = 0; is_known && i < graph->n_nodes; ++i) {
        const ggml_tensor* node = graph->nodes[i];
        is_known = node && node->type >= 0 && node->type < GGML_TYPE_COUNT && node->op >= 0 &&
                   node->op < GGML_OP_COUNT && node->ne[0] >= 0 && node->ne[1] >= 0 && node->ne[2] >= 0 &&
                   node->ne[3] >= 0 && std::memchr(node->name, 0, GGML_MAX_NAME);
        // One operand at least has a result's strides.
        is_known = is_known && (node->op == GGML_OP_NONE || node->src[0] || node->op == GGML_OP_ARANGE ||
                                node->op == GGML_OP_CUSTOM || node->op == GGML_OP_TIMESTEP_EMBEDDING);
    }
    if (is_known) return;
    throw Error(
        BLUELM_ERR_UNSUPPORTED,
        format("this program's ggml is not laid out as in llama-cpp-python %s; build it from that version",
               BLUELM_LLAMA_CPP_VERSION));
}

}  // namespace bluelm
