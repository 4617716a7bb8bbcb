#include "mmproj/vision_weights.h"

#include <new>

#include "base/error.h"
#include "mmproj/tensor_table.h"

namespace bluelm {

VisionWeights::VisionWeights(const std::string& path) : file(path) {
    MmprojHeader header(file);
    config = read_config(header);
    blocks.resize(static_cast<size_t>(config.n_layer));
    std::vector<TensorInfo> table = tensor_table(*this);
    find_tensors(header, table);
    n_params = header.n_params();
    weight_bytes = header.tensor_bytes();

    context_.reset(ggml_init({(table.size() + 1) * ggml_tensor_overhead(), nullptr, true}));
    if (!context_) throw std::bad_alloc();
    const auto offset = [&header](const TensorInfo& info) {
        return gguf_get_data_offset(header.gguf()) + gguf_get_tensor_offset(header.gguf(), info.id);
    };
    for (const TensorInfo& info : table) {
        const ggml_type type = gguf_get_tensor_type(header.gguf(), info.id);
        int64_t n = 1;
        for (int64_t extent : info.shape) n *= extent;
        const int64_t n_out = info.shape[0], n_in = n / n_out;
        if (info.stored) {
            *info.stored = {type, offset(info), n_out, n_in};
            continue;
        }
        *info.slot = ggml_new_tensor(context_.get(), type, static_cast<int>(info.shape.size()),
                                     gguf_get_tensor_ne(header.gguf(), info.id));
        ggml_set_name(*info.slot, info.name.c_str());
    }
    buffer_.reset(ggml_backend_alloc_ctx_tensors_from_buft(context_.get(), ggml_backend_cpu_buffer_type()));
    if (!buffer_) {
        throw Error(BLUELM_ERR_OUT_OF_MEMORY,
                    format("%s: not enough memory for %lld MB of weights", path.c_str(),
                           static_cast<long long>(weight_bytes >> 20)));
    }
    ggml_backend_buffer_set_usage(buffer_.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    for (const TensorInfo& info : table) {
        if (info.slot) file.read(offset(info), (*info.slot)->data, ggml_nbytes(*info.slot));
    }
}

}  // namespace bluelm
