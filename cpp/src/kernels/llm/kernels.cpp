// Which of the language model's matmuls this CPU gets.
#include "kernels/llm/kernels.h"

#include "kernels/cpu_level.h"

namespace bluelm {

const LlmKernels& llm_kernels_at(CpuLevel level) {
#if defined(__x86_64__) && defined(__GNUC__)
    switch (level) {
        case CpuLevel::kAvx2: return llm_kernels_avx2();
        case CpuLevel::kAvxVnni: return llm_kernels_avx_vnni();
        case CpuLevel::kAvx512Vnni:
        case CpuLevel::kAvx512Bf16: return llm_kernels_avx512_vnni();  // 8 bits are twice as fast as bf16
        case CpuLevel::kAmx: return llm_kernels_amx();
        default: break;
    }
#elif defined(__aarch64__) && defined(__GNUC__)
    switch (level) {
        case CpuLevel::kDotprod: return llm_kernels_dotprod();
        case CpuLevel::kI8mm: return llm_kernels_i8mm();
        default: break;
    }
#else
    (void)level;
#endif
    return llm_kernels_reference();
}

}  // namespace bluelm
