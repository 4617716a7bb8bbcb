// A QEMU plugin that counts the guest's instructions and says so at exit: "instructions: N" on stderr, or in
// the file given as out=FILE.
//
//     cc -shared -fPIC -O2 -o count.so plugin.c
//     qemu-aarch64 -plugin ./count.so -cpu max PROGRAM ...
//
// Debian's qemu-user (the dynamic one) loads plugins but its header is not packaged, so what is used of it is
// declared here: API version 1, QEMU 4.2 to 8.2. Counting is inline in the translated code and exact; on one
// thread a program that asks neither the clock nor for random numbers gives the same figure every time.
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
typedef void (*translated_t)(qemu_plugin_id_t, struct qemu_plugin_tb*);
typedef void (*at_exit_t)(qemu_plugin_id_t, void*);
enum { QEMU_PLUGIN_INLINE_ADD_U64 = 0 };

extern void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, translated_t);
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb*, int, void*, uint64_t);
extern void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, at_exit_t, void*);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb*);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

static uint64_t n_instructions;
static char out_path[4096];

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb* block) {
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_inline(block, QEMU_PLUGIN_INLINE_ADD_U64, &n_instructions,
                                             qemu_plugin_tb_n_insns(block));
}

static void at_exit(qemu_plugin_id_t id, void* unused) {
    (void)id;
    (void)unused;
    const int file = *out_path ? open(out_path, O_WRONLY | O_CREAT | O_TRUNC, 0644) : STDERR_FILENO;
    if (file >= 0) dprintf(file, "instructions: %" PRIu64 "\n", n_instructions);
}

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id, const void* info,
                                                               int argc, char** argv) {
    (void)info;
    for (int i = 0; i < argc; ++i) {
        if (strncmp(argv[i], "out=", 4) != 0) {
            fprintf(stderr, "count: %s: only out=FILE is known\n", argv[i]);
            return 1;
        }
        snprintf(out_path, sizeof out_path, "%s", argv[i] + 4);
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, at_exit, NULL);
    return 0;
}
