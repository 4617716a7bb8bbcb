// The CPU's levels. Usage: test_cpu_level [BEST]: which level must be the best one. With `generic` on x86-64
// the CPU must also refuse AVX2: an emulator that runs what its CPU lacks would prove nothing.
#include <csetjmp>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <string>

#include "base/error.h"
#include "check.h"
#include "kernels/cpu_level.h"

using namespace bluelm;

namespace {

#if defined(__x86_64__) && defined(__GNUC__)
sigjmp_buf before;

// vpaddd of 256 bits.
bool runs_avx2() {
    struct sigaction action = {}, old = {};
    action.sa_handler = [](int) { siglongjmp(before, 1); };
    sigaction(SIGILL, &action, &old);
    volatile bool ran = false;
    if (sigsetjmp(before, 1) == 0) {
        __asm__ volatile("vpaddd %%ymm0, %%ymm0, %%ymm0" ::: "xmm0");
        ran = true;
    }
    sigaction(SIGILL, &old, nullptr);
    return ran;
}
#endif

void force(const char* name) { setenv("BLUELM_CPU_LEVEL", name, 1); }

void test_forced_levels() {
    for (const CpuLevel level : cpu_levels()) {
        force(cpu_level_name(level));
        CHECK(cpu_level() == level);
    }
    force("");
    CHECK(cpu_level() == cpu_levels().back());
    for (const char* name : {"pentium", "AVX2", "generic "}) {
        force(name);
        try {
            cpu_level();
            CHECK_F(false, "BLUELM_CPU_LEVEL='%s' was taken", name);
        } catch (const Error& e) {
            CHECK_F(std::strstr(e.what(), name) && std::strstr(e.what(), "this CPU runs generic"), "%s",
                    e.what());
        }
    }
    unsetenv("BLUELM_CPU_LEVEL");
}

}  // namespace

int main(int argc, char** argv) {
    CHECK(cpu_levels().front() == CpuLevel::kGeneric);
    if (argc > 1) {
        const std::string best = cpu_level_name(cpu_levels().back());
        CHECK_F(best == argv[1], "the best level is %s, not %s", best.c_str(), argv[1]);
#if defined(__x86_64__) && defined(__GNUC__)
        CHECK_F(runs_avx2() == (best != "generic"), "AVX2 instructions run: %d", int(runs_avx2()));
#endif
    }
    test_forced_levels();
    return check::finish();
}
