// Which of the language model's matmul kernels a CPU level gets.
#include "kernels/llm/matmul.h"

namespace bluelm {
namespace {

constexpr LlmKernels kReference = {"reference", &kLlmGemvReference, nullptr};
#if defined(__x86_64__) && defined(__GNUC__)
constexpr LlmKernels kAvx2 = {"avx2", &kLlmGemv4x16Avx2, &kLlmGemm4x16Avx2};
constexpr LlmKernels kAvxVnni = {"avx-vnni", &kLlmGemv4x16AvxVnni, &kLlmGemm6x16AvxVnni};
constexpr LlmKernels kAvx512Vnni = {"avx512-vnni", &kLlmGemv4x16Avx512Vnni, &kLlmGemm6x32Avx512Vnni};
constexpr LlmKernels kAmx = {"amx", &kLlmGemv4x16Avx512Vnni, &kLlmGemm32x32Amx};
#elif defined(__aarch64__) && defined(__GNUC__)
constexpr LlmKernels kDotprod = {"dotprod", &kLlmGemv4x16Dotprod, &kLlmGemm8x12Dotprod};
constexpr LlmKernels kI8mm = {"i8mm", &kLlmGemv4x16Dotprod, &kLlmGemm8x12I8mm};
#endif

}  // namespace

const LlmKernels& llm_kernels_reference() { return kReference; }

const LlmKernels& llm_kernels_at(CpuLevel level) {
    switch (level) {
#if defined(__x86_64__) && defined(__GNUC__)
        case CpuLevel::kAvx2: return kAvx2;
        case CpuLevel::kAvxVnni: return kAvxVnni;
        case CpuLevel::kAvx512Vnni:
        case CpuLevel::kAvx512Bf16: return kAvx512Vnni;  // 8 bits are twice as fast as bf16
        case CpuLevel::kAmx: return kAmx;
#elif defined(__aarch64__) && defined(__GNUC__)
        case CpuLevel::kDotprod: return kDotprod;
        case CpuLevel::kI8mm: return kI8mm;
#endif
        default: return kReference;
    }
}

}  // namespace bluelm
