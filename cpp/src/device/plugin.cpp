// The device as a plugin: what ggml looks for in a library that GGML_BACKEND_PATH names. Not in libbluelm.
#include <cstdio>
#include <exception>

#include "device/device.h"

extern "C" __attribute__((visibility("default"))) ggml_backend_reg_t ggml_backend_init(void) {
    try {
        return bluelm::encoder_device_registry();
    } catch (const std::exception& e) {
        std::fprintf(stderr, "BLUELM: %s\n", e.what());
        return nullptr;
    }
}
