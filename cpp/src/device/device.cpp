#include "device/device.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "base/error.h"
#include "device/buffer.h"
#include "device/layout.h"
#include "device/packing.h"
#include "device/plan.h"
#include "ggml-cpu.h"

namespace bluelm {
namespace {

ggml_backend_dev_t cpu_device() { return ggml_backend_reg_dev_get(ggml_backend_cpu_reg(), 0); }

DevicePrecision precision_asked_for() {
    const char* given = std::getenv("BLUELM_DEVICE_PRECISION");
    if (!given || std::strcmp(given, "int8") == 0) return DevicePrecision::kInt8;
    if (std::strcmp(given, "bf16") == 0) return DevicePrecision::kWide;
    if (std::strcmp(given, "f32") == 0) return DevicePrecision::kFloat;
    throw Error(BLUELM_ERR_INVALID_ARGUMENT,
                format("BLUELM_DEVICE_PRECISION is \"%s\", not int8, bf16 or f32", given));
}

// What a backend of the device needs to run graphs.
struct Context {
    DeviceKernels kernels{cpu_level()};
    DevicePrecision precision = precision_asked_for();
    std::unique_ptr<ggml_backend, decltype(&ggml_backend_free)> cpu{ggml_backend_cpu_init(),
                                                                    ggml_backend_free};
    StepMemory memory;
    bool is_layout_known = false;
};

Context& context_of(ggml_backend_t backend) { return *static_cast<Context*>(backend->context); }

// Runs `body`, which may throw; ggml knows no reasons, so they go to stderr.
template <class Body>
enum ggml_status guarded(Body&& body) {
    try {
        return body();
    } catch (const std::bad_alloc&) {
        return GGML_STATUS_ALLOC_FAILED;
    } catch (const std::exception& e) {
        std::fprintf(stderr, "BLUELM: %s\n", e.what());
        return GGML_STATUS_FAILED;
    }
}

// A graph while it runs: asked by ggml after each node, on the thread that called.
struct Running {
    const Plan& plan;
    Watch& watch;
    size_t n_done = 0;
    static bool after_node(void* data) {
        auto& self = *static_cast<Running*>(data);
        if (self.n_done < self.plan.costs().size()) self.watch.done(self.plan.costs()[self.n_done++]);
        return self.watch.stopped(0, nullptr);
    }
};

// The first graph of a program whose ggml is not the one we are linked with: whether it looks like one of
// ours.
void require_known_layout(Context& context, const ggml_cgraph* graph) {
    if (context.is_layout_known) return;
    require_graph(graph);
    context.is_layout_known = true;
}

enum ggml_status compute(Context& context, ggml_cgraph* cgraph) {
    require_known_layout(context, cgraph);
    const int n_threads = device_threads();
    ggml_backend_t cpu = context.cpu.get();
    ggml_backend_cpu_set_n_threads(cpu, n_threads);
    const Graph graph(cgraph);
    if (context.kernels.is_fast) pack_weights(graph, context.kernels, context.precision, n_threads);
    const DeviceCall* call = DeviceCall::current();
    Watch watch(call);
    const Plan plan(graph, context.kernels, context.memory, watch, n_threads);
    double cost = 0;
    for (double of_node : plan.costs()) cost += of_node;
    watch.begin(cost);
    Running running = {plan, watch};
    ggml_backend_cpu_set_abort_callback(cpu, call ? Running::after_node : nullptr, &running);
    const enum ggml_status status = ggml_backend_graph_compute(cpu, plan.graph());
    ggml_backend_cpu_set_abort_callback(cpu, nullptr, nullptr);
    return status;
}

// ------------------------------------------------------------------------------------------------- backend

const char* backend_name(ggml_backend_t) { return "BLUELM"; }

void free_backend(ggml_backend_t backend) {
    delete &context_of(backend);
    delete backend;
}

enum ggml_status graph_compute(ggml_backend_t backend, ggml_cgraph* graph) {
    return guarded([&] { return compute(context_of(backend), graph); });
}

// Called when a graph has been split, while libmtmd warms up for one: weights are packed before the first
// picture.
void graph_optimize(ggml_backend_t backend, ggml_cgraph* cgraph, ggml_backend_graph_optimize_params*) {
    guarded([&] {
        Context& context = context_of(backend);
        require_known_layout(context, cgraph);
        const DeviceCall* call = DeviceCall::current();
        if (context.kernels.is_fast && !(call && call->is_rehearsal()))
            pack_weights(Graph(cgraph), context.kernels, context.precision, device_threads());
        return GGML_STATUS_SUCCESS;
    });
}

ggml_backend_t init_backend(ggml_backend_dev_t device, const char*) {
    ggml_backend_t backend = nullptr;
    guarded([&] {
        static const uint8_t id[16] = {0x62, 0x6c, 0x75, 0x65, 0x6c, 0x6d, 0x2d, 0x65,
                                       0x6e, 0x63, 0x6f, 0x64, 0x65, 0x72, 0x00, 0x01};
        auto context = std::make_unique<Context>();
        if (!context->cpu) throw std::bad_alloc();
        ggml_backend_i iface = {};
        iface.get_name = backend_name;
        iface.free = free_backend;
        iface.graph_compute = graph_compute;
        iface.graph_optimize = graph_optimize;
        backend = new ggml_backend{const_cast<ggml_guid_t>(&id), iface, device, context.get()};
        context.release();
        return GGML_STATUS_SUCCESS;
    });
    return backend;
}

// -------------------------------------------------------------------------------------------------- device

const char* device_name(ggml_backend_dev_t) { return "BLUELM"; }

const char* device_description(ggml_backend_dev_t) {
    static const std::string text = [] {
        try {
            return std::string("BlueLM's encoder kernels, ") + cpu_level_name(cpu_level());
        } catch (const std::exception&) {
            return std::string("BlueLM's encoder kernels");
        }
    }();
    return text.c_str();
}

void device_memory(ggml_backend_dev_t, size_t* free, size_t* total) {
    ggml_backend_dev_memory(cpu_device(), free, total);
}

enum ggml_backend_dev_type device_type(ggml_backend_dev_t) { return GGML_BACKEND_DEVICE_TYPE_ACCEL; }

void device_props(ggml_backend_dev_t device, ggml_backend_dev_props* props) {
    *props = {};
    props->name = device_name(device);
    props->description = device_description(device);
    props->type = device_type(device);
    device_memory(device, &props->memory_free, &props->memory_total);
}

// What ggml's CPU backend computes. Not for weights of a language model, which asks with a buffer of no
// bytes.
bool supports_op(ggml_backend_dev_t device, const ggml_tensor* op) {
    for (const ggml_tensor* source : op->src) {
        if (source && source->buffer && source->buffer->buft == device_buffer_type(device) &&
            source->buffer->size == 0) {
            return false;
        }
    }
    return ggml_backend_dev_supports_op(cpu_device(), op);
}

// Nothing else, not even plain CPU memory: the scheduler of a language model would bring its nodes here.
bool supports_buft(ggml_backend_dev_t device, ggml_backend_buffer_type_t type) {
    return type == device_buffer_type(device);
}

// ------------------------------------------------------------------------------------------------ registry

const char* registry_name(ggml_backend_reg_t) { return "BLUELM"; }
size_t device_count(ggml_backend_reg_t) { return 1; }
ggml_backend_dev_t device_at(ggml_backend_reg_t registry, size_t);
void* proc_address(ggml_backend_reg_t, const char*) { return nullptr; }

ggml_backend_reg* registry() {
    static ggml_backend_reg entry = {
        kGgmlBackendApiVersion, {registry_name, device_count, device_at, proc_address}, nullptr};
    return &entry;
}

ggml_backend_dev_t device_at(ggml_backend_reg_t, size_t) {
    static ggml_backend_device device = [] {
        ggml_backend_device_i iface = {};
        iface.get_name = device_name;
        iface.get_description = device_description;
        iface.get_memory = device_memory;
        iface.get_type = device_type;
        iface.get_props = device_props;
        iface.init_backend = init_backend;
        iface.get_buffer_type = device_buffer_type;
        iface.supports_op = supports_op;
        iface.supports_buft = supports_buft;
        return ggml_backend_device{iface, registry(), nullptr};
    }();
    device_buffer_type(&device);
    return &device;
}

}  // namespace

ggml_backend_reg_t encoder_device_registry() {
    require_linked_ggml();
    return registry();
}

ggml_backend_dev_t encoder_device() {
    require_linked_ggml();
    return device_at(registry(), 0);
}

bool encoder_device_is_fast() { return cpu_level() != CpuLevel::kGeneric; }

}  // namespace bluelm
