#include "device/buffer.h"

#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace bluelm {
namespace {

constexpr size_t kAlignment = 64;

DeviceBuffer* context_of(ggml_backend_buffer_t buffer) { return static_cast<DeviceBuffer*>(buffer->context); }

const char* type_name(ggml_backend_buffer_type_t) { return "BLUELM"; }
size_t alignment_of(ggml_backend_buffer_type_t) { return kAlignment; }
bool is_host(ggml_backend_buffer_type_t) { return true; }

void free_buffer(ggml_backend_buffer_t buffer) { delete context_of(buffer); }
void* base_of(ggml_backend_buffer_t buffer) { return context_of(buffer)->data(); }

void set_memory(ggml_backend_buffer_t, ggml_tensor* tensor, uint8_t value, size_t offset, size_t size) {
    std::memset(static_cast<char*>(tensor->data) + offset, value, size);
}
void set_tensor(ggml_backend_buffer_t buffer, ggml_tensor* tensor, const void* data, size_t offset,
                size_t size) {
    context_of(buffer)->forget(tensor);
    std::memcpy(static_cast<char*>(tensor->data) + offset, data, size);
}
void get_tensor(ggml_backend_buffer_t, const ggml_tensor* tensor, void* data, size_t offset, size_t size) {
    std::memcpy(data, static_cast<const char*>(tensor->data) + offset, size);
}
bool copy_tensor(ggml_backend_buffer_t, const ggml_tensor* src, ggml_tensor* dst) {
    if (!src->buffer || !ggml_backend_buffer_is_host(src->buffer)) return false;
    std::memcpy(dst->data, src->data, ggml_nbytes(src));
    return true;
}
void clear(ggml_backend_buffer_t buffer, uint8_t value) { std::memset(base_of(buffer), value, buffer->size); }

ggml_backend_buffer_t alloc_buffer(ggml_backend_buffer_type_t type, size_t size) {
    DeviceBuffer* context;
    try {
        context = new DeviceBuffer(size);
    } catch (const std::exception&) {
        return nullptr;  // out of memory
    }
    ggml_backend_buffer_i iface = {};
    iface.free_buffer = free_buffer;
    iface.get_base = base_of;
    iface.memset_tensor = set_memory;
    iface.set_tensor = set_tensor;
    iface.get_tensor = get_tensor;
    iface.cpy_tensor = copy_tensor;
    iface.clear = clear;
    return ggml_backend_buffer_init(type, iface, context, size);
}

}  // namespace

DeviceBuffer::DeviceBuffer(size_t bytes) : memory_(AlignedMemory::mapped(bytes)) {}

std::shared_ptr<const PackedMatrix> DeviceBuffer::packed(const ggml_tensor* matrix) const {
    const auto found = packed_.find(matrix->data);
    return found == packed_.end() ? nullptr : found->second;
}

void DeviceBuffer::keep(const ggml_tensor* matrix, std::shared_ptr<const PackedMatrix> packed) {
    packed_[matrix->data] = std::move(packed);
}

void DeviceBuffer::drop(const ggml_tensor* matrix) {
#if defined(__linux__)
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const auto begin = reinterpret_cast<uintptr_t>(matrix->data), end = begin + ggml_nbytes(matrix);
    const uintptr_t first = (begin + page - 1) / page * page, last = end / page * page;
    if (first >= last || madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED) != 0) return;
    dropped_.insert(matrix->data);
#else
    (void)matrix;
#endif
}

void DeviceBuffer::forget(const ggml_tensor* matrix) {
    const auto held = lock();
    packed_.erase(matrix->data);
    dropped_.erase(matrix->data);
}

ggml_backend_buffer_type_t device_buffer_type(ggml_backend_dev_t device) {
    static ggml_backend_buffer_type type = {
        {type_name, alloc_buffer, alignment_of, nullptr, nullptr, is_host}, device, nullptr};
    return &type;
}

DeviceBuffer* device_buffer(const ggml_tensor* tensor) {
    const ggml_tensor* owner = tensor->view_src ? tensor->view_src : tensor;
    const ggml_backend_buffer_t buffer = owner->buffer;
    if (!buffer || buffer->size == 0 || buffer->buft != device_buffer_type(nullptr)) return nullptr;
    return context_of(buffer);
}

}  // namespace bluelm
