// How many threads are worth starting.
#ifndef BLUELM_CORES_H
#define BLUELM_CORES_H

#include <string>
#include <vector>

namespace bluelm {

// Physical cores among these CPUs (the system's numbers), at most the container's CPU quota (cgroup v2, else
// v1), at least 1. Hyper-threads share the units that matrix kernels saturate, so a core counts once; a CPU
// whose siblings nobody tells counts for itself. root: what stands before /sys, for tests.
int physical_cores(const std::vector<int>& cpus, const std::string& root = "");
// Of the CPUs that this process may run on.
int physical_cores();

}  // namespace bluelm

#endif  // BLUELM_CORES_H
