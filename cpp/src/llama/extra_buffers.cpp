#include "llama/extra_buffers.h"

#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "llama/ggml_cpu_private.h"

namespace bluelm {
namespace {

[[noreturn]] void unsupported(const char* message) { throw Error(BLUELM_ERR_UNSUPPORTED, message); }

// The copy that llama.cpp asks, ended by NULL; null where this ggml has none. Closes the list.
ggml_backend_buffer_type_t* closed_list() {
    const ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    if (!cpu) return nullptr;
    const auto get = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(ggml_backend_reg_get_proc_address(
        ggml_backend_dev_backend_reg(cpu), "ggml_backend_dev_get_extra_bufts"));
    return get ? get(cpu) : nullptr;
}

bool holds(const ggml_backend_buffer_type_t* list, ggml_backend_buffer_type_t type) {
    for (; *list; ++list)
        if (*list == type) return true;
    return false;
}

// The vector with `types` in front. The array it had stays allocated: a thread that walks through it all the
// same reads what was there.
void put_in_front(const std::vector<ggml_backend_buffer_type_t>& types) {
    // Never freed, but found by who looks for leaks.
    static auto* const former = new std::vector<std::vector<ggml_backend_buffer_type_t>>;
    auto& list = ggml_backend_cpu_get_extra_buffer_types();
    std::vector<ggml_backend_buffer_type_t>& longer = former->emplace_back(types);
    longer.insert(longer.end(), list.begin(), list.end());
    list.swap(longer);
}

// Whether the list was closed before. ggml has no question for that, and asking llama.cpp's closes it, so a
// child process tries it: it inserts, closes the list, and looks whether what it inserted is there.
bool is_closed(const std::vector<ggml_backend_buffer_type_t>& types) {
    constexpr int kTimeoutMs = 5000;
    int ends[2];
    if (pipe(ends) != 0) return true;
    const pid_t child = fork();
    if (child == 0) {
        signal(SIGALRM, SIG_DFL);
        alarm(kTimeoutMs / 1000);  // a lock that another thread held when the process was copied
        put_in_front(types);
        const ggml_backend_buffer_type_t* list = closed_list();
        const char is_open = list && holds(list, types.front()) ? 1 : 0;
        _exit(write(ends[1], &is_open, 1) == 1 ? 0 : 1);
    }
    close(ends[1]);
    char is_open = 0;
    pollfd readable = {ends[0], POLLIN, 0};
    int ready = -1;
    if (child > 0) {
        while ((ready = poll(&readable, 1, kTimeoutMs)) < 0 && errno == EINTR) {
        }
    }
    if (ready > 0 && read(ends[0], &is_open, 1) != 1) is_open = 0;
    close(ends[0]);
    if (child > 0) {
        if (ready <= 0) kill(child, SIGKILL);
        while (waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
        }
    }
    return is_open != 1;
}

}  // namespace

void insert_extra_buffer_types(const std::vector<ggml_backend_buffer_type_t>& types) {
    if (!ggml_backend_cpu_get_extra_buffer_types || !ggml_backend_buffer_init || !ggml_barrier ||
        !ggml_threadpool_chunk_set || !ggml_threadpool_chunk_add) {
        unsupported("this llama.cpp does not export what the kernels need; it runs with its own");
    }
    for (const ggml_backend_buffer_type_t t : ggml_backend_cpu_get_extra_buffer_types()) {
        if (t->iface.get_name == nullptr || t->iface.get_name(t) != ggml_backend_buft_name(t) ||
            t->device != ggml_backend_buft_get_device(t)) {
            unsupported("this llama.cpp is not the one the kernels were built for; it runs with its own");
        }
    }
    if (is_closed(types))
        unsupported("a model was loaded by llama.cpp before; turn the kernels on before the first one");
    put_in_front(types);
    const ggml_backend_buffer_type_t* list = closed_list();
    if (!list) unsupported("this llama.cpp has no extra buffer types; it runs with its own kernels");
    if (!holds(list, types.front())) unsupported("llama.cpp loaded a model while the kernels were turned on");
}

void remove_amx_buffer_type() {
    ggml_backend_buffer_type_t* const list = closed_list();
    if (!list) return;
    ggml_backend_buffer_type_t* end = list;
    while (*end) ++end;
    ggml_backend_buffer_type_t* const kept = std::remove_if(list, end, [](ggml_backend_buffer_type_t type) {
        return std::strcmp(ggml_backend_buft_name(type), "AMX") == 0;
    });
    if (kept != end) *kept = nullptr;
}

}  // namespace bluelm
