#include "llama/cpu_buffers.h"

#include <cstring>
#include <mutex>
#include <vector>

#include "ggml-backend.h"
#include "llama/buffer_type.h"

namespace bluelm {

void prepare_cpu_buffers() {
    static std::mutex changing;
    const std::lock_guard<std::mutex> lock(changing);
    std::vector<ggml_backend_buffer_type_t> kept;
    llm_door_try_install();
    ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    if (!cpu) return;
    const auto get = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(ggml_backend_reg_get_proc_address(
        ggml_backend_dev_backend_reg(cpu), "ggml_backend_dev_get_extra_bufts"));
    ggml_backend_buffer_type_t* types = get ? get(cpu) : nullptr;  // ends with NULL
    if (!types) return;
    for (ggml_backend_buffer_type_t* type = types; *type; ++type) {
        if (std::strcmp(ggml_backend_buft_name(*type), "AMX") != 0) kept.push_back(*type);
    }
    for (size_t i = 0; i < kept.size(); ++i) {
        if (types[i] != kept[i]) types[i] = kept[i];
    }
    if (types[kept.size()]) types[kept.size()] = nullptr;
}

}  // namespace bluelm
