// The C API of the language model: its file, and the kernels inside llama.cpp.
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "bluelm.h"
#include "kernels/llm/matmul.h"
#include "llama/buffer_type.h"
#include "llama/llm_file.h"
#include "llama/mul_mat.h"

namespace {

void enable(bool is_on) {
    const char* wanted = std::getenv("BLUELM_LLM_KERNELS");
    const bool is_off = wanted && std::strcmp(wanted, "0") == 0;
    bluelm::cpu_level();  // throws for a name that is no level, also when the kernels were chosen before
    // The plain form is slower than llama.cpp's own kernels.
    const bool is_plain = &bluelm::llm_kernels_in_use() == &bluelm::llm_kernels_reference();
    bluelm::enable_buffer_type(is_on && !is_off && !is_plain);
}

}  // namespace

bluelm_status bluelm_llm_check(const char* path) {
    return bluelm::guard([path] {
        bluelm::require(path != nullptr, "path is NULL");
        bluelm::check_llm_file(path);
    });
}

bluelm_status bluelm_llama_prepare(void) {
    const bluelm_status status = bluelm::guard([] { bluelm::install_buffer_type(); });
    return status == BLUELM_ERR_UNSUPPORTED ? BLUELM_OK : status;  // llama.cpp runs with its own kernels
}

bluelm_status bluelm_llm_kernels_register(void) { return bluelm_llm_kernels_enable(true); }

bluelm_status bluelm_llm_kernels_enable(bool is_on) {
    return bluelm::guard([is_on] {
        bluelm::install_buffer_type();
        enable(is_on);
    });
}

const char* bluelm_llm_kernels_name(void) {
    const char* name = "";
    bluelm::guard([&] {
        if (bluelm::is_buffer_type_enabled()) name = bluelm::llm_kernels_in_use().name;
    });
    return name;
}
