// The device's memory: plain CPU memory, with packed copies of matrices beside it.
//
// libmtmd reads a file's tensors straight into it. When a graph first multiplies with a matrix, it is packed
// for the kernels (device/packed_matrix.h), and where the graph uses it for nothing else, its original pages
// go back to the system.
#ifndef BLUELM_DEVICE_BUFFER_H
#define BLUELM_DEVICE_BUFFER_H

#include <memory>
#include <mutex>
#include <unordered_map>
#include <unordered_set>

#include "base/aligned_memory.h"
#include "device/ggml_private.h"
#include "device/packed_matrix.h"

namespace bluelm {

class DeviceBuffer {
public:
    explicit DeviceBuffer(size_t bytes);

    char* data() const { return memory_.data(); }

    // Guards what follows, for as long as it is held.
    std::unique_lock<std::mutex> lock() { return std::unique_lock<std::mutex>(mutex_); }
    // The packed copy of a matrix in this buffer, or NULL.
    std::shared_ptr<const PackedMatrix> packed(const ggml_tensor* matrix) const;
    void keep(const ggml_tensor* matrix, std::shared_ptr<const PackedMatrix> packed);
    // Gives the pages that lie wholly in the matrix back; its values are gone.
    void drop(const ggml_tensor* matrix);
    // Somebody writes new values into a matrix: it is packed anew when it is next used. Locks.
    void forget(const ggml_tensor* matrix);
    bool is_dropped(const ggml_tensor* tensor) const { return dropped_.count(tensor->data) > 0; }

private:
    AlignedMemory memory_;
    std::mutex mutex_;
    std::unordered_map<const void*, std::shared_ptr<const PackedMatrix>> packed_;
    std::unordered_set<const void*> dropped_;
};

// The device's buffer type; never freed. `device`: whose it is, on the first call.
ggml_backend_buffer_type_t device_buffer_type(ggml_backend_dev_t device);

// The buffer a tensor's memory is in, if it is of this type and has memory; else NULL.
DeviceBuffer* device_buffer(const ggml_tensor* tensor);

}  // namespace bluelm

#endif  // BLUELM_DEVICE_BUFFER_H
