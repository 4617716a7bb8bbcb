#include "encoder/stored_rows.h"

#include <cstring>

#include "ggml-cpu.h"

namespace bluelm {

void to_floats(const RowOps& ops, ggml_type type, const char* from, int64_t n, float* out) {
    switch (type) {
        case GGML_TYPE_F32: std::memcpy(out, from, static_cast<size_t>(n) * sizeof(float)); break;
        case GGML_TYPE_F16: ggml_cpu_fp16_to_fp32(reinterpret_cast<const ggml_fp16_t*>(from), out, n); break;
        case GGML_TYPE_BF16: ops.to_float(reinterpret_cast<const uint16_t*>(from), n, out); break;
        case GGML_TYPE_Q8_0: ops.q8_0_to_float(from, n, out); break;
        default: ggml_get_type_traits(type)->to_float(from, out, n);
    }
}

}  // namespace bluelm
