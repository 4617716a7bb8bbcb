#include "kernels/cpu_level.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include "base/error.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace bluelm {
namespace {

#if defined(__x86_64__) && defined(__GNUC__)

bool bit(uint32_t word, int index) { return (word >> index & 1) != 0; }

// The register states that the operating system saves (XCR0).
uint64_t saved_states() {
    uint32_t low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return static_cast<uint64_t>(high) << 32 | low;
}

// Linux saves the 8 KB of tiles only for processes that ask for it (arch_prctl ARCH_REQ_XCOMP_PERM).
bool tiles_granted() {
#if defined(__linux__)
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
    return false;
#endif
}

std::vector<CpuLevel> detect() {
    std::vector<CpuLevel> levels = {CpuLevel::kGeneric};
    uint32_t a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return levels;
    const bool fma = bit(c, 12), f16c = bit(c, 29), osxsave = bit(c, 27);
    uint32_t b7 = 0, c7 = 0, d7 = 0, a71 = 0;
    if (!osxsave || !__get_cpuid_count(7, 0, &a, &b7, &c7, &d7)) return levels;
    uint32_t unused[3];
    if (a >= 1) __get_cpuid_count(7, 1, &a71, &unused[0], &unused[1], &unused[2]);
    const uint64_t states = saved_states();
    const bool ymm = (states & 0x6) == 0x6, zmm = (states & 0xe6) == 0xe6,
               tiles = (states & 0x60000) == 0x60000;

    if (!(ymm && fma && f16c && bit(b7, 5))) return levels;
    levels.push_back(CpuLevel::kAvx2);
    if (bit(a71, 4)) levels.push_back(CpuLevel::kAvxVnni);
    const bool f = bit(b7, 16), dq = bit(b7, 17), bw = bit(b7, 30), vl = bit(b7, 31), vnni = bit(c7, 11);
    if (!(zmm && f && dq && bw && vl && vnni)) return levels;
    levels.push_back(CpuLevel::kAvx512Vnni);
    if (!bit(a71, 5)) return levels;
    levels.push_back(CpuLevel::kAvx512Bf16);
    const bool amx_bf16 = bit(d7, 22), amx_tile = bit(d7, 24), amx_int8 = bit(d7, 25);
    if (tiles && amx_bf16 && amx_tile && amx_int8 && tiles_granted()) levels.push_back(CpuLevel::kAmx);
    return levels;
}

#elif defined(__aarch64__)

std::vector<CpuLevel> detect() {
    std::vector<CpuLevel> levels = {CpuLevel::kGeneric, CpuLevel::kNeon};
    bool dotprod = false, i8mm = false;
#if defined(__linux__)
    dotprod = (getauxval(AT_HWCAP) >> 20 & 1) != 0;  // HWCAP_ASIMDDP
    i8mm = (getauxval(AT_HWCAP2) >> 13 & 1) != 0;    // HWCAP2_I8MM
#elif defined(__APPLE__)
    const auto has = [](const char* name) {
        int value = 0;
        size_t size = sizeof value;
        return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
    };
    dotprod = has("hw.optional.arm.FEAT_DotProd");
    i8mm = has("hw.optional.arm.FEAT_I8MM");
#endif
    if (dotprod) levels.push_back(CpuLevel::kDotprod);
    if (dotprod && i8mm) levels.push_back(CpuLevel::kI8mm);
    return levels;
}

#else

std::vector<CpuLevel> detect() { return {CpuLevel::kGeneric}; }

#endif

}  // namespace

bool cpu_has_arm_bf16() {
#if defined(__aarch64__) && defined(__linux__)
    return (getauxval(AT_HWCAP2) >> 14 & 1) != 0;  // HWCAP2_BF16
#elif defined(__aarch64__) && defined(__APPLE__)
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname("hw.optional.arm.FEAT_BF16", &value, &size, nullptr, 0) == 0 && value != 0;
#else
    return false;
#endif
}

const char* cpu_level_name(CpuLevel level) {
    switch (level) {
        case CpuLevel::kGeneric: return "generic";
        case CpuLevel::kAvx2: return "avx2";
        case CpuLevel::kAvxVnni: return "avx-vnni";
        case CpuLevel::kAvx512Vnni: return "avx512-vnni";
        case CpuLevel::kAvx512Bf16: return "avx512-bf16";
        case CpuLevel::kAmx: return "amx";
        case CpuLevel::kNeon: return "neon";
        case CpuLevel::kDotprod: return "dotprod";
        case CpuLevel::kI8mm: return "i8mm";
    }
    return "unknown";
}

const std::vector<CpuLevel>& cpu_levels() {
    static const std::vector<CpuLevel> levels = detect();
    return levels;
}

CpuLevel cpu_level() {
    const std::vector<CpuLevel>& levels = cpu_levels();
    const char* asked = std::getenv("BLUELM_CPU_LEVEL");
    if (!asked || !*asked) return levels.back();
    std::string known;
    for (CpuLevel level : levels) {
        const char* name = cpu_level_name(level);
        if (std::strcmp(asked, name) == 0) return level;
        known += (known.empty() ? "" : ", ") + std::string(name);
    }
    throw Error(BLUELM_ERR_INVALID_ARGUMENT,
                format("BLUELM_CPU_LEVEL is '%.40s': this CPU runs %s; set one of these or unset it", asked,
                       known.c_str()));
}

}  // namespace bluelm
