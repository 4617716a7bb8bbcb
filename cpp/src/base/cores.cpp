#include "base/cores.h"

#include <algorithm>
#include <cstdio>
#include <numeric>
#include <set>
#include <string>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

#include "base/error.h"
#include "base/system_file.h"

namespace bluelm {
namespace {

// CPUs granted by the container, at least 1; 0 for no limit.
int cgroup_cpus(const std::string& root) {
    const std::string directory = root + "/sys/fs/cgroup/";
    long long quota = 0, period = 0;
    if (const auto line = first_line(directory + "cpu.max")) {
        // "max 100000" is no limit.
        if (std::sscanf(line->c_str(), "%lld %lld", &quota, &period) != 2) return 0;
    } else {
        quota = read_number(directory + "cpu/cpu.cfs_quota_us").value_or(0);
        period = read_number(directory + "cpu/cpu.cfs_period_us").value_or(0);
    }
    if (quota <= 0 || period <= 0) return 0;  // v1: -1 is no limit
    return static_cast<int>(std::clamp(quota / period, 1LL, 1LL << 20));
}

std::vector<int> usable_cpus() {
    std::vector<int> cpus;
#if defined(__linux__)
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) {
        for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
            if (CPU_ISSET(static_cast<size_t>(cpu), &allowed)) cpus.push_back(cpu);
        }
    }
#endif
    if (cpus.empty()) {
        cpus.resize(std::max(1u, std::thread::hardware_concurrency()));
        std::iota(cpus.begin(), cpus.end(), 0);
    }
    return cpus;
}

}  // namespace

int physical_cores(const std::vector<int>& cpus, const std::string& root) {
    std::set<std::string> cores;  // a core is known by its list of siblings, "0,64"
    for (const int cpu : cpus) {
        const auto siblings =
            first_line(root + format("/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu));
        cores.insert(siblings.value_or(format("%d", cpu)));
    }
    const int n = std::max(1, static_cast<int>(cores.size())), quota = cgroup_cpus(root);
    return quota > 0 ? std::min(n, quota) : n;
}

int physical_cores() { return physical_cores(usable_cpus()); }

}  // namespace bluelm
