// Which instructions the kernels may use, decided when the program runs: one build serves every x86-64 and
// every armv8-a.
//
// A level stands for a set of instructions, each with what the compiler calls them:
//   generic       plain C++, the reference for all others
//   avx2          AVX2, FMA, F16C (Haswell, Zen)
//   avx-vnni      + AVX-VNNI, 8-bit dot products in 256 bits (Alder Lake, Zen 5)
//   avx512-vnni   AVX-512 F, BW, DQ, VL and VNNI (Ice Lake, Zen 4)
//   avx512-bf16   + AVX512_BF16 (Cooper Lake, Sapphire Rapids, Zen 4)
//   amx           + AMX-TILE, AMX-INT8, AMX-BF16 (Sapphire Rapids); Linux grants the tiles on request
//   neon          armv8-a baseline
//   dotprod       + 8-bit dot products (Cortex-A55/A75 and later, Apple A11 and later)
//   i8mm          + 8-bit matrix products (Cortex-A510/A710 and later, Apple M2 and later)
// BLUELM_CPU_LEVEL in the environment forces a level that the CPU has, for tests and for comparisons.
#ifndef BLUELM_CPU_LEVEL_H
#define BLUELM_CPU_LEVEL_H

#include <vector>

namespace bluelm {

enum class CpuLevel {
    kGeneric,
    kAvx2,
    kAvxVnni,
    kAvx512Vnni,
    kAvx512Bf16,
    kAmx,
    kNeon,
    kDotprod,
    kI8mm,
};

// "avx512-vnni"; static.
const char* cpu_level_name(CpuLevel level);

// Every level that this CPU and its operating system run, from generic to the best. The first call on a CPU
// with AMX asks the kernel for the tile registers; where it refuses, amx is not in the list.
const std::vector<CpuLevel>& cpu_levels();

// The level in use: the best, or what BLUELM_CPU_LEVEL asks for (read anew by each call).
// Throws Error INVALID_ARGUMENT for a name that is not in cpu_levels().
CpuLevel cpu_level();

// Whether an Arm CPU has bfmmla and bfcvt: most with i8mm do, and the level i8mm then computes floats with
// them.
bool cpu_has_arm_bf16();

}  // namespace bluelm

#endif  // BLUELM_CPU_LEVEL_H
