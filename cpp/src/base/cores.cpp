#include "base/cores.h"

#include <algorithm>
#include <set>
#include <string>
#include <thread>

#if defined(__linux__)
#include <sched.h>

#include <fstream>
#endif

#include "base/error.h"

namespace bluelm {

int physical_cores() {
    const int logical = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
#if defined(__linux__)
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return logical;
    std::set<std::string> cores;  // a core is known by its list of siblings, "0,64"
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (!CPU_ISSET(cpu, &allowed)) continue;
        std::ifstream file(format("/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu));
        std::string siblings;
        if (!std::getline(file, siblings)) return logical;
        cores.insert(siblings);
    }
    if (!cores.empty()) return static_cast<int>(cores.size());
#endif
    return logical;
}

}  // namespace bluelm
