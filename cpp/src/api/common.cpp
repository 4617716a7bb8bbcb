// Version, build information and the thread's last error.
#include <string>

#include "base/error.h"
#include "bluelm.h"
#include "ggml-cpu.h"
#include "kernels/cpu_level.h"

#ifndef BLUELM_VERSION
#define BLUELM_VERSION "unknown"
#endif
#ifndef BLUELM_LLAMA_CPP_VERSION
#define BLUELM_LLAMA_CPP_VERSION "unknown"
#endif

namespace bluelm {

namespace {
std::string describe_build() {
    std::string features;
    const auto add = [&features](int present, const char* name) {
        if (present) features += std::string(features.empty() ? "" : " ") + name;
    };
    add(ggml_cpu_has_avx2(), "AVX2");
    add(ggml_cpu_has_avx512(), "AVX512");
    add(ggml_cpu_has_avx512_vnni(), "AVX512_VNNI");
    add(ggml_cpu_has_avx512_bf16(), "AVX512_BF16");
    add(ggml_cpu_has_neon(), "NEON");
    add(ggml_cpu_has_dotprod(), "DOTPROD");
    add(ggml_cpu_has_matmul_int8(), "I8MM");
    add(ggml_cpu_has_sve(), "SVE");
    if (features.empty()) features = "no SIMD extensions";
    return BLUELM_VERSION " (llama-cpp-python " BLUELM_LLAMA_CPP_VERSION "; ggml built with " + features +
           ")";
}
}  // namespace

}  // namespace bluelm

int32_t bluelm_abi_version(void) { return BLUELM_ABI_VERSION; }

const char* bluelm_build_info(void) {
    static const std::string info = bluelm::describe_build();
    return info.c_str();
}

const char* bluelm_cpu_level(void) {
    const char* name = nullptr;
    bluelm::guard([&] { name = bluelm::cpu_level_name(bluelm::cpu_level()); });
    return name;
}

const char* bluelm_last_error(void) { return bluelm::last_error(); }

const char* bluelm_status_name(bluelm_status status) {
    switch (status) {
        case BLUELM_OK: return "ok";
        case BLUELM_ERR_INVALID_ARGUMENT: return "invalid argument";
        case BLUELM_ERR_IO: return "cannot read file";
        case BLUELM_ERR_FORMAT: return "malformed file";
        case BLUELM_ERR_UNSUPPORTED: return "unsupported";
        case BLUELM_ERR_MISMATCH: return "mismatch";
        case BLUELM_ERR_OUT_OF_MEMORY: return "out of memory";
        case BLUELM_ERR_CANCELLED: return "cancelled";
        case BLUELM_ERR_CONTEXT_FULL: return "context full";
        case BLUELM_ERR_DECODE: return "llama_decode failed";
        case BLUELM_ERR_INTERNAL: return "internal error";
        default: return "unknown status";
    }
}
