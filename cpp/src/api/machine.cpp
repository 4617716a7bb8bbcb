// The C API of what the machine gives.
#include <vector>

#include "base/cores.h"
#include "base/error.h"
#include "base/memory.h"
#include "bluelm.h"

using bluelm::require;

bluelm_status bluelm_machine_cores(const int32_t* cpus, int32_t n_cpus, int32_t* out) {
    return bluelm::guard([&] {
        require(out != nullptr, "out is NULL");
        require(cpus == nullptr || n_cpus >= 1, "n_cpus must be at least 1");
        *out =
            cpus ? bluelm::physical_cores(std::vector<int>(cpus, cpus + n_cpus)) : bluelm::physical_cores();
    });
}

bluelm_status bluelm_machine_memory(int64_t* out) {
    return bluelm::guard([&] {
        require(out != nullptr, "out is NULL");
        *out = bluelm::available_memory().value_or(-1);
    });
}

bluelm_status bluelm_drop_mapped_pages(const char* path, int64_t* n_bytes_out) {
    return bluelm::guard([&] {
        require(path != nullptr, "path is NULL");
        const int64_t n_bytes = bluelm::drop_mapped_pages(path);
        if (n_bytes_out) *n_bytes_out = n_bytes;
    });
}
