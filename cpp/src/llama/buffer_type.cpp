#include "llama/buffer_type.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#include "base/error.h"
#include "ggml-cpu.h"
#include "kernels/llm/matmul.h"
#include "llama/attention.h"
#include "llama/extra_buffers.h"
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

// What a buffer holds. A tensor may be written in parts, through a call that cannot fail: they are kept until
// they make a whole.
struct Memory {
    void* bytes;
    std::mutex mutex;
    struct Parts {
        std::vector<uint8_t> bytes;
        size_t n_written = 0;
    };
    std::map<const ggml_tensor*, Parts> parts;

    explicit Memory(void* allocated) : bytes(allocated) {}
    ~Memory() { std::free(bytes); }
};

Memory& memory_of(ggml_backend_buffer_t buffer) { return *static_cast<Memory*>(buffer->context); }

void free_buffer(ggml_backend_buffer_t buffer) { delete &memory_of(buffer); }

void* base_of(ggml_backend_buffer_t buffer) { return memory_of(buffer).bytes; }

void set_memory(ggml_backend_buffer_t, ggml_tensor* tensor, uint8_t value, size_t offset, size_t size) {
    std::memset(static_cast<char*>(tensor->data) + offset, value, size);
}

void clear(ggml_backend_buffer_t buffer, uint8_t value) { std::memset(base_of(buffer), value, buffer->size); }

// Whether a tensor of this buffer type is stored in the kernels' order; others are stored as they are.
bool is_packed(const ggml_tensor* t, LlmType* type) {
    return llm_type(t->type, type) && t->ne[0] % ggml_blck_size(t->type) == 0;
}

void pack(const ggml_tensor* tensor, LlmType type, const void* data) {
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

// llama.cpp writes whole tensors, one after the other on one thread.
void set_tensor(ggml_backend_buffer_t buffer, ggml_tensor* tensor, const void* data, size_t offset,
                size_t size) {
    LlmType type;
    const size_t n_bytes = ggml_nbytes(tensor);
    if (!is_packed(tensor, &type)) {
        std::memcpy(static_cast<char*>(tensor->data) + offset, data, size);
    } else if (offset == 0 && size == n_bytes) {
        pack(tensor, type, data);
    } else {
        Memory& memory = memory_of(buffer);
        const std::lock_guard<std::mutex> lock(memory.mutex);
        Memory::Parts& parts = memory.parts[tensor];
        parts.bytes.resize(n_bytes);
        std::memcpy(parts.bytes.data() + offset, data, size);
        parts.n_written += size;
        if (parts.n_written < n_bytes) return;
        pack(tensor, type, parts.bytes.data());
        memory.parts.erase(tensor);
    }
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
    auto* context = new (std::nothrow) Memory(memory);
    if (!context) std::free(memory);
    return context ? ggml_backend_buffer_init(type, iface, context, size) : nullptr;
}

size_t alignment_of(ggml_backend_buffer_type_t) { return kAlignment; }

size_t alloc_size(ggml_backend_buffer_type_t, const ggml_tensor* t) {
    LlmType type;
    if (!is_packed(t, &type)) return ggml_nbytes(t);
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
// ggml plans a graph, and noted in the node's `extra`, which is the backend's, so that all threads do the
// same. ggml asks with a pointer to const, but a node of a graph is no const object (ggml.h).
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

}  // namespace

void install_buffer_type() {
    static std::mutex mutex;
    static bool is_installed = false;
    const std::lock_guard<std::mutex> lock(mutex);
    if (is_installed) return;
    try {
        insert_extra_buffer_types({buffer_type()});
    } catch (const Error&) {
        remove_amx_buffer_type();
        throw;
    }
    remove_amx_buffer_type();
    is_installed = true;
}

void enable_buffer_type(bool is_on) { enabled.store(is_on); }
bool is_buffer_type_enabled() { return enabled.load(); }

}  // namespace bluelm
