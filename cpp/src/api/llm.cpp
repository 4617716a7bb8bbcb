// The C API of the language model's kernels.
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "bluelm.h"
#include "kernels/llm/kernels.h"
#include "llama/buffer_type.h"

namespace {

void enable(bool is_on) {
    const char* wanted = std::getenv("BLUELM_LLM_KERNELS");
    const bool is_off = wanted && std::strcmp(wanted, "0") == 0;
    const auto& kernels = bluelm::llm_kernels_at(bluelm::cpu_level());
    // The plain form is slower than llama.cpp's own kernels.
    const bool is_plain = &kernels == &bluelm::llm_kernels_reference();
    bluelm::llm_door_enable(is_on && !is_off && !is_plain);
}

}  // namespace

bluelm_status bluelm_llm_kernels_register(void) {
    return bluelm::guard([] {
        bluelm::llm_door_install();
        enable(true);
    });
}

bluelm_status bluelm_llm_kernels_enable(bool is_on) {
    return bluelm::guard([is_on] {
        bluelm::llm_door_install();
        enable(is_on);
    });
}

const char* bluelm_llm_kernels_name(void) {
    try {
        return bluelm::llm_door_is_enabled() ? bluelm::llm_kernels_at(bluelm::cpu_level()).name : "";
    } catch (...) {  // BLUELM_CPU_LEVEL was changed to no level
        return "";
    }
}
