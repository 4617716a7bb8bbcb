#include "llama/buffer_type.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#include "base/error.h"
#include "ggml-cpu.h"
#include "kernels/llm/kernels.h"
#include "llama/attention.h"
#include "llama/ggml_cpu_private.h"
#include "llama/mul_mat.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace bluelm {
namespace {

constexpr size_t kAlignment = 64;
std::atomic<bool> enabled{false};

ggml_backend_buffer_type* buffer_type();

bool is_ours(const ggml_tensor* t) { return t && t->buffer && t->buffer->buft == buffer_type(); }

// ------------------------------------------------------------------------------------------------ the buffer

const char* type_name(ggml_backend_buffer_type_t) { return "BLUELM"; }

void free_buffer(ggml_backend_buffer_t buffer) { std::free(buffer->context); }

void* base_of(ggml_backend_buffer_t buffer) { return buffer->context; }

void set_memory(ggml_backend_buffer_t, ggml_tensor* tensor, uint8_t value, size_t offset, size_t size) {
    std::memset(static_cast<char*>(tensor->data) + offset, value, size);
}

void clear(ggml_backend_buffer_t buffer, uint8_t value) { std::memset(buffer->context, value, buffer->size); }

// llama.cpp writes whole tensors, one after the other on one thread.
void set_tensor(ggml_backend_buffer_t, ggml_tensor* tensor, const void* data, size_t offset, size_t size) {
    LlmType type;
    if (offset != 0 || size != ggml_nbytes(tensor) || !llm_type(tensor->type, &type))
        GGML_ABORT("%s: only whole tensors can be packed", tensor->name);
    const int64_t n_in = tensor->ne[0], n_out = ggml_nrows(tensor), n_panels = llm_panels(n_out);
    constexpr int64_t kShare = 8;  // panels
    std::atomic<int64_t> next{0};
    const auto work = [&] {
        for (int64_t p; (p = next.fetch_add(kShare)) < n_panels;)
            llm_pack(type, data, n_out, n_in, p, std::min(p + kShare, n_panels),
                     static_cast<uint8_t*>(tensor->data));
    };
    const int64_t most = std::min<int64_t>(n_panels / (4 * kShare), std::thread::hardware_concurrency());
    std::vector<std::thread> helpers;
    try {
        for (int64_t i = 1; i < std::min<int64_t>(most, 8); ++i) helpers.emplace_back(work);
    } catch (const std::exception&) {  // no thread to be had: this one does it all
    }
    work();
    for (std::thread& t : helpers) t.join();
}

ggml_backend_buffer_t alloc_buffer(ggml_backend_buffer_type_t type, size_t size) {
    constexpr size_t kHuge = size_t{2} << 20;
    const size_t alignment = size >= kHuge ? kHuge : kAlignment;
    const size_t rounded = (size + alignment - 1) / alignment * alignment;
    void* memory = std::aligned_alloc(alignment, rounded);
    if (!memory) return nullptr;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (size >= kHuge)
        madvise(memory, rounded, MADV_HUGEPAGE);  // weights are read from end to end: fewer TLB misses
#endif
    ggml_backend_buffer_i iface = {};
    iface.free_buffer = free_buffer;
    iface.get_base = base_of;
    iface.memset_tensor = set_memory;
    iface.set_tensor = set_tensor;
    iface.clear = clear;
    return ggml_backend_buffer_init(type, iface, memory, size);
}

size_t alignment_of(ggml_backend_buffer_type_t) { return kAlignment; }

size_t alloc_size(ggml_backend_buffer_type_t, const ggml_tensor* t) {
    LlmType type;
    if (!llm_type(t->type, &type) || t->ne[0] % ggml_blck_size(t->type) != 0) return ggml_nbytes(t);
    return static_cast<size_t>(llm_panels(ggml_nrows(t))) * llm_panel_bytes(type, t->ne[0]);
}

bool is_host(ggml_backend_buffer_type_t) { return false; }

// ------------------------------------------------------------------------------------------- the operations

class MatmulTraits final : public TensorTraits {
public:
    bool work_size(int n_threads, const ggml_tensor* op, size_t& size) override {
        size = llm_matmul_work_size(n_threads, op);
        return true;
    }
    bool compute_forward(ggml_compute_params* params, ggml_tensor* op) override {
        llm_matmul(*params, op);
        return true;
    }
};

// Attention has no weights, and no buffer of ours that says whether it is to be used: that is decided when
// ggml plans a graph, and noted in the node, so that all threads do the same.
class AttentionTraits final : public TensorTraits {
public:
    bool work_size(int n_threads, const ggml_tensor* op, size_t& size) override {
        const bool is_used = enabled.load() && llm_attention_supports(op);
        const_cast<ggml_tensor*>(op)->extra = is_used ? this : nullptr;
        if (is_used) size = llm_attention_work_size(n_threads, op);
        return is_used;
    }
    bool compute_forward(ggml_compute_params* params, ggml_tensor* op) override {
        if (op->extra != this) return false;
        llm_attention(*params, op);
        return true;
    }
};

class BufferType final : public ExtraBufferType {
public:
    bool supports_op(ggml_backend_dev_t, const ggml_tensor* op) override {
        if (op->op != GGML_OP_MUL_MAT || !is_ours(op->src[0])) return false;
        // A buffer of no bytes is llama.cpp's question whether a weight may come here.
        if (op->src[0]->buffer->size == 0 && !enabled.load()) return false;
        const ggml_tensor* x = op->src[1];
        if (x->buffer && !ggml_backend_buft_is_host(ggml_backend_buffer_get_type(x->buffer))) return false;
        return llm_matmul_supports(op);
    }
    TensorTraits* get_tensor_traits(const ggml_tensor* op) override {
        static MatmulTraits matmul;
        static AttentionTraits attention;
        if (op->op == GGML_OP_FLASH_ATTN_EXT) return &attention;
        return op->op == GGML_OP_MUL_MAT && is_ours(op->src[0]) ? &matmul : nullptr;
    }
};

ggml_backend_buffer_type* buffer_type() {
    static BufferType context;
    static ggml_backend_buffer_type type = {
        {type_name, alloc_buffer, alignment_of, nullptr, alloc_size, is_host},
        ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU),
        static_cast<ExtraBufferType*>(&context)};
    return &type;
}

// -------------------------------------------------------------------------------------------------- the list

[[noreturn]] void unsupported(const char* message) { throw Error(BLUELM_ERR_UNSUPPORTED, message); }

void install() {
#if defined(_WIN32)
    unsupported("this build has no way into llama.cpp's CPU backend");
#else
    if (!ggml_backend_cpu_get_extra_buffer_types || !ggml_backend_buffer_init || !ggml_barrier ||
        !ggml_threadpool_chunk_set || !ggml_threadpool_chunk_add) {
        unsupported("this llama.cpp does not export what the kernels need; it runs with its own");
    }
    const ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    auto& types = ggml_backend_cpu_get_extra_buffer_types();
    for (const ggml_backend_buffer_type_t t : types) {
        if (t->iface.get_name == nullptr || t->iface.get_name(t) != ggml_backend_buft_name(t) ||
            t->device != ggml_backend_buft_get_device(t)) {
            unsupported("this llama.cpp is not the one the kernels were built for; it runs with its own");
        }
    }
    const auto get =
        cpu ? reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(ggml_backend_reg_get_proc_address(
                  ggml_backend_dev_backend_reg(cpu), "ggml_backend_dev_get_extra_bufts"))
            : nullptr;
    if (!get) unsupported("this llama.cpp has no extra buffer types; it runs with its own kernels");

    types.insert(types.begin(), buffer_type());
    // llama.cpp reads a copy that is made when it is first asked for.
    ggml_backend_buffer_type_t* copy = get(cpu);
    ggml_backend_buffer_type_t* end = copy;
    while (*end) ++end;
    if (std::find(copy, end, buffer_type()) != end) return;
    // Made before: there is room only where AMX stands, whose kernels are not used (see _native.py).
    for (ggml_backend_buffer_type_t* t = copy; t != end; ++t) {
        if (std::strcmp(ggml_backend_buft_name(*t), "AMX") == 0) {
            std::copy_backward(copy, t, t + 1);
            *copy = buffer_type();
            return;
        }
    }
    types.erase(types.begin());
    unsupported("a model was loaded by llama.cpp before; turn the kernels on before the first one");
#endif
}

}  // namespace

void llm_door_install() {
    static std::mutex mutex;
    static bool is_installed = false;
    const std::lock_guard<std::mutex> lock(mutex);
    if (is_installed) return;
    install();
    is_installed = true;
}

void llm_door_try_install() noexcept {
    try {
        llm_door_install();
    } catch (...) {  // llama.cpp runs with its own kernels
    }
}

void llm_door_enable(bool is_on) { enabled.store(is_on); }
bool llm_door_is_enabled() { return enabled.load(); }

}  // namespace bluelm
