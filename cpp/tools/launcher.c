// Starts the program of its own name that was built for this CPU: DIR/LEVEL/NAME, where DIR holds the
// launcher.
//
// ggml's kernels are chosen when it is compiled and a static program holds one set, so there is one program
// for each level of Arm CPU (cpp/src/kernels/cpu_level.h). What the CPU has is asked of the kernel, in the
// auxiliary vector.
//
//     bluelm-bench ...                    the best level that this CPU has
//     bluelm-bench --level                says which one that is
//     bluelm-bench --level dotprod ...    that level: what do the newer instructions bring?
// BLUELM_CPU_LEVEL in the environment does the same as --level, and libbluelm's own kernels follow it, too.
#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

struct level {
    const char* name;
    int runs;
    const char* needs;
};

enum { N_LEVELS = 3 };

static void find_levels(struct level out[N_LEVELS]) {
    int dotprod = 0, i8mm = 0;
#if defined(__aarch64__)
    // The bits are the kernel's ABI (arch/arm64/include/uapi/asm/hwcap.h); older headers lack some of the
    // names.
    const unsigned long hwcap = getauxval(AT_HWCAP), hwcap2 = getauxval(26 /* AT_HWCAP2 */);
    const unsigned long atomics = 1ul << 8, fphp = 1ul << 9, asimdhp = 1ul << 10, asimdrdm = 1ul << 12;
    const unsigned long asimddp = 1ul << 20, all = atomics | fphp | asimdhp | asimdrdm | asimddp;
    dotprod = (hwcap & all) == all;
    i8mm = dotprod && (hwcap2 & 1ul << 13) != 0;
#endif
    const struct level levels[N_LEVELS] = {
        // The best first.
        {"i8mm", i8mm, "8-bit matrix products and what dotprod needs"},
        {"dotprod", dotprod, "8-bit dot products and half-precision arithmetic"},
        {"neon", 1, "nothing that a 64-bit Arm lacks"},
    };
    memcpy(out, levels, sizeof levels);
}

int main(int argc, char** argv) {
    char self[PATH_MAX], copy[PATH_MAX], path[PATH_MAX + 32];
    const ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (length < 0) {
        fprintf(stderr, "error: /proc/self/exe cannot be read (%s)\n", strerror(errno));
        return 1;
    }
    self[length] = '\0';
    memcpy(copy, self, (size_t)length + 1);
    const char* name = basename(copy);
    const char* directory = dirname(self);

    const int is_option = argc > 1 && strcmp(argv[1], "--level") == 0;
    if (is_option && argc > 2) {
        setenv("BLUELM_CPU_LEVEL", argv[2], 1);
        argv[2] = argv[0];
        argv += 2;
    }
    const int is_question = is_option && argc == 2;
    const char* wanted = getenv("BLUELM_CPU_LEVEL");
    if (wanted && !*wanted) wanted = NULL;
    if (wanted && strcmp(wanted, "generic") == 0)
        wanted = "neon";  // libbluelm's plain C++; ggml has no such kernels

    struct level levels[N_LEVELS];
    find_levels(levels);
    int is_known = !wanted;
    for (int i = 0; i < N_LEVELS; ++i) {
        const struct level* level = &levels[i];
        if (wanted && strcmp(wanted, level->name) != 0) continue;
        is_known = 1;
        if (wanted && !level->runs) {
            fprintf(stderr, "error: level %s needs %s, which this CPU does not have\n", wanted, level->needs);
            return 1;
        }
        snprintf(path, sizeof path, "%s/%s/%s", directory, level->name, name);
        if (!level->runs || access(path, F_OK) != 0) continue;
        if (is_question) {
            printf("%s: %s\n", level->name, path);
            return 0;
        }
        execv(path, argv);
        fprintf(stderr,
                "error: %s cannot be started (%s); is it executable, on a file system that allows it?\n",
                path, strerror(errno));
        return 1;
    }
    if (!is_known) {
        fprintf(stderr, "error: level %s: there are neon, dotprod and i8mm\n", wanted);
        return 2;
    }
    fprintf(stderr, "error: %s/%s/%s is missing: copy the whole folder with its subfolders\n", directory,
            wanted ? wanted : "neon", name);
    return 1;
}
