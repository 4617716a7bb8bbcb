// The few private declarations of ggml that a CPU buffer type of our own needs, as they are in llama.cpp at
// commit 0c1e570 (inside the llama-cpp-python that pyproject.toml pins): ggml/src/ggml-backend-impl.h,
// ggml/src/ggml-cpu/traits.h, ggml/src/ggml-cpu/ggml-cpu-impl.h. llama/buffer_type.cpp compares what it can
// with the public API before it relies on them. The functions are weak: where a build of ggml does not export
// them they are null, and there is no fast path.
#ifndef BLUELM_GGML_CPU_PRIVATE_H
#define BLUELM_GGML_CPU_PRIVATE_H

#include <cstddef>
#include <cstdint>
#include <vector>

#include "ggml-backend.h"
#include "ggml.h"

struct ggml_threadpool;

extern "C" {

struct ggml_compute_params {
    int ith, nth;
    size_t wsize;
    void* wdata;
    struct ggml_threadpool* threadpool;
    bool use_ref;
};

struct ggml_backend_buffer_type_i {
    const char* (*get_name)(ggml_backend_buffer_type_t);
    ggml_backend_buffer_t (*alloc_buffer)(ggml_backend_buffer_type_t, size_t);
    size_t (*get_alignment)(ggml_backend_buffer_type_t);
    size_t (*get_max_size)(ggml_backend_buffer_type_t);
    size_t (*get_alloc_size)(ggml_backend_buffer_type_t, const ggml_tensor*);
    bool (*is_host)(ggml_backend_buffer_type_t);
};

struct ggml_backend_buffer_type {
    ggml_backend_buffer_type_i iface;
    ggml_backend_dev_t device;
    void* context;
};

struct ggml_backend_buffer_i {
    void (*free_buffer)(ggml_backend_buffer_t);
    void* (*get_base)(ggml_backend_buffer_t);
    enum ggml_status (*init_tensor)(ggml_backend_buffer_t, ggml_tensor*);
    void (*memset_tensor)(ggml_backend_buffer_t, ggml_tensor*, uint8_t value, size_t offset, size_t size);
    void (*set_tensor)(ggml_backend_buffer_t, ggml_tensor*, const void* data, size_t offset, size_t size);
    void (*get_tensor)(ggml_backend_buffer_t, const ggml_tensor*, void* data, size_t offset, size_t size);
    void (*set_tensor_2d)(ggml_backend_buffer_t, ggml_tensor*, const void*, size_t, size_t, size_t, size_t,
                          size_t);
    void (*get_tensor_2d)(ggml_backend_buffer_t, const ggml_tensor*, void*, size_t, size_t, size_t, size_t,
                          size_t);
    bool (*cpy_tensor)(ggml_backend_buffer_t, const ggml_tensor* src, ggml_tensor* dst);
    void (*clear)(ggml_backend_buffer_t, uint8_t value);
    void (*reset)(ggml_backend_buffer_t);
};

struct ggml_backend_buffer {
    ggml_backend_buffer_i iface;
    ggml_backend_buffer_type_t buft;
    void* context;
    size_t size;
    enum ggml_backend_buffer_usage usage;
};

#define BLUELM_WEAK __attribute__((weak))

ggml_backend_buffer_t ggml_backend_buffer_init(ggml_backend_buffer_type_t, ggml_backend_buffer_i,
                                               void* context, size_t size) BLUELM_WEAK;
void ggml_barrier(struct ggml_threadpool*) BLUELM_WEAK;
void ggml_threadpool_chunk_set(struct ggml_threadpool*, int value) BLUELM_WEAK;
int ggml_threadpool_chunk_add(struct ggml_threadpool*, int value) BLUELM_WEAK;

}  // extern "C"

std::vector<ggml_backend_buffer_type_t>& ggml_backend_cpu_get_extra_buffer_types() BLUELM_WEAK;

namespace bluelm {

// ggml::cpu::tensor_traits and ggml::cpu::extra_buffer_type under names of our own: ggml calls them through
// the virtual table only, and without their type information nothing has to be linked. Both are never
// destroyed.
class TensorTraits {
public:
    virtual ~TensorTraits() = default;
    // Bytes of work memory the operation needs; false: not ours.
    virtual bool work_size(int n_threads, const ggml_tensor* op, size_t& size) = 0;
    // Called by each thread of the pool; false: not ours.
    virtual bool compute_forward(ggml_compute_params* params, ggml_tensor* op) = 0;
};

class ExtraBufferType {
public:
    virtual ~ExtraBufferType() = default;
    virtual bool supports_op(ggml_backend_dev_t, const ggml_tensor* op) = 0;
    virtual TensorTraits* get_tensor_traits(const ggml_tensor* op) = 0;
};

}  // namespace bluelm

#endif  // BLUELM_GGML_CPU_PRIVATE_H
