#include "base/memory.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#if defined(__linux__)
#include <sys/sysmacros.h>
#endif

#include <algorithm>
#include <cstdio>
#include <fstream>

#include "base/system_file.h"

namespace bluelm {
namespace {

std::optional<int64_t> cgroup_memory(const std::string& root) {
    static const char* const pairs[][2] = {
        {"memory.max", "memory.current"},
        {"memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"},
    };
    const std::string directory = root + "/sys/fs/cgroup/";
    for (const auto& pair : pairs) {
        const auto limit = read_number(directory + pair[0]), used = read_number(directory + pair[1]);
        if (limit && used) return std::max<int64_t>(0, *limit - *used);
    }
    return std::nullopt;
}

std::optional<int64_t> address_space() {
    rlimit limit = {};
    if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return std::nullopt;
    const int64_t used = kilobytes_of("/proc/self/status", "VmSize").value_or(0);
    return std::max<int64_t>(0, static_cast<int64_t>(limit.rlim_cur) - used);
}

}  // namespace

std::optional<int64_t> available_memory(const std::string& root) {
    std::optional<int64_t> least = kilobytes_of(root + "/proc/meminfo", "MemAvailable");
    for (const auto& value : {cgroup_memory(root), address_space()}) {
        if (value) least = std::min(least.value_or(*value), *value);
    }
    return least;
}

int64_t drop_mapped_pages(const std::string& path) {
    int64_t n_bytes = 0;
#if defined(__linux__)
    struct stat info = {};
    if (stat(path.c_str(), &info) != 0) return 0;
    std::ifstream maps("/proc/self/maps");
    std::string line;
    while (maps && std::getline(maps, line)) {
        // address-address permissions offset device inode path
        unsigned long begin = 0, end = 0, inode = 0;
        unsigned device_major = 0, device_minor = 0;
        char permissions[5] = {};
        if (std::sscanf(line.c_str(), "%lx-%lx %4s %*x %x:%x %lu", &begin, &end, permissions, &device_major,
                        &device_minor, &inode) != 6) {
            continue;
        }
        const bool is_it = inode == info.st_ino && device_major == major(info.st_dev) &&
                           device_minor == minor(info.st_dev) && permissions[1] != 'w';
        if (is_it && madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED) == 0)
            n_bytes += static_cast<int64_t>(end - begin);
    }
#else
    (void)path;
#endif
    return n_bytes;
}

}  // namespace bluelm
