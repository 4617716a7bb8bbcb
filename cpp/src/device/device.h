// A ggml device that runs the encoders of libmtmd with our kernels: any tower of vision or sound, in
// llama.cpp unpatched.
//
// mtmd_context_params.device takes it (use_gpu has to be true). Weights and activations lie in plain CPU
// memory; the graph is run by ggml's own CPU backend, with nodes of ours in it (device/plan.h). Nothing has
// to be registered for that, so a language model beside it never sees the device. Loaded into a stock program
// as a plugin (device/plugin.cpp) it is registered, and supports no buffer but its own: the language model's
// graph stays on the CPU.
//
// Environment: BLUELM_THREADS (physical cores), BLUELM_DEVICE_PRECISION (int8; bf16: float32 where the CPU
// has no bf16; f32), BLUELM_CPU_LEVEL.
#ifndef BLUELM_DEVICE_DEVICE_H
#define BLUELM_DEVICE_DEVICE_H

#include "device/call.h"
#include "ggml-backend.h"

namespace bluelm {

// The device, "BLUELM"; the same for all callers, never freed. Thread-safe. Throws Error UNSUPPORTED where
// this ggml is not the one the device was written for (its version, or the layout of its structs, as far as
// they can be compared).
ggml_backend_dev_t encoder_device();

// Whether it is faster than ggml's own kernels on this CPU. Throws Error INVALID_ARGUMENT for an unknown
// BLUELM_CPU_LEVEL.
bool encoder_device_is_fast();

// The registry entry that holds it. Throws as encoder_device() does.
ggml_backend_reg_t encoder_device_registry();

}  // namespace bluelm

#endif  // BLUELM_DEVICE_DEVICE_H
