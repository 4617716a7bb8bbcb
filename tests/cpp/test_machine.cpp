// What the machine gives, read from files as Linux writes them: cores, a container's quota, memory.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "base/cores.h"
#include "base/memory.h"
#include "bluelm.h"
#include "check.h"

namespace {

namespace fs = std::filesystem;

// A directory in place of /, removed at the end.
class Root {
public:
    Root() {
        std::string name = (fs::temp_directory_path() / "bluelm-machine-XXXXXX").string();
        if (!mkdtemp(name.data())) std::perror("mkdtemp");
        path = name;
    }
    ~Root() { fs::remove_all(path); }
    void write(const std::string& name, const std::string& text) const {
        fs::create_directories(fs::path(path + name).parent_path());
        std::ofstream(path + name) << text;
    }
    void siblings(int cpu, const std::string& text) const {
        write("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list",
              text + "\n");
    }
    std::string path;
};

void test_cores() {
    const Root root;
    CHECK(bluelm::physical_cores({0, 1, 2}, root.path) == 3);  // nobody tells
    for (int cpu = 0; cpu < 8; ++cpu)
        root.siblings(cpu, std::to_string(cpu % 4) + "," + std::to_string(cpu % 4 + 4));
    CHECK(bluelm::physical_cores({0, 1, 2, 3, 4, 5, 6, 7}, root.path) == 4);
    CHECK(bluelm::physical_cores({1, 5}, root.path) == 1);
    CHECK(bluelm::physical_cores({1, 6, 9}, root.path) == 3);  // 9: no such file
    CHECK(bluelm::physical_cores({}, root.path) == 1);
}

void test_quota() {
    struct Case {
        const char *name, *quota, *period;
        int expected;
    };
    for (const Case& c : {Case{"v2", "250000 100000\n", nullptr, 2}, Case{"v2", "50000 100000\n", nullptr, 1},
                          Case{"v2", "max 100000\n", nullptr, 4}, Case{"v2", "900000 100000\n", nullptr, 4},
                          Case{"v2", "nonsense\n", nullptr, 4}, Case{"v2", "100000 0\n", nullptr, 4},
                          Case{"v1", "300000\n", "100000\n", 3}, Case{"v1", "-1\n", "100000\n", 4},
                          Case{"v1", "300000\n", "0\n", 4}, Case{"v1", "300000\n", "", 4}}) {
        const Root root;
        if (c.period) {
            root.write("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", c.quota);
            root.write("/sys/fs/cgroup/cpu/cpu.cfs_period_us", c.period);
        } else {
            root.write("/sys/fs/cgroup/cpu.max", c.quota);
        }
        const int found = bluelm::physical_cores({0, 1, 2, 3}, root.path);
        CHECK_F(found == c.expected, "%s %s: %d, not %d", c.name, c.quota, found, c.expected);
    }
}

void test_memory() {
    const Root root;
    CHECK(!bluelm::available_memory(root.path));
    root.write("/proc/meminfo", "MemTotal:  9000 kB\nMemAvailable:    5000 kB\n");
    CHECK(bluelm::available_memory(root.path) == 5000 * 1024);
    root.write("/sys/fs/cgroup/memory.max", "max\n");
    root.write("/sys/fs/cgroup/memory.current", "1000000\n");
    CHECK(bluelm::available_memory(root.path) == 5000 * 1024);
    root.write("/sys/fs/cgroup/memory.max", "3000000\n");
    CHECK(bluelm::available_memory(root.path) == 2000000);
    root.write("/sys/fs/cgroup/memory.current", "4000000\n");
    CHECK(bluelm::available_memory(root.path) == 0);

    const Root old;
    old.write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "3000000\n");
    old.write("/sys/fs/cgroup/memory/memory.usage_in_bytes", "500000\n");
    CHECK(bluelm::available_memory(old.path) == 2500000);
    old.write("/proc/meminfo", "MemAvailable: 1 kB\n");
    CHECK(bluelm::available_memory(old.path) == 1024);
}

void test_api() {
    int32_t all = 0, one = 0;
    const int32_t cpu = 0;
    CHECK(bluelm_machine_cores(nullptr, 0, &all) == BLUELM_OK && all >= 1);
    CHECK(bluelm_machine_cores(&cpu, 1, &one) == BLUELM_OK && one == 1);
    CHECK(bluelm_machine_cores(&cpu, 0, &one) == BLUELM_ERR_INVALID_ARGUMENT);
    CHECK(bluelm_machine_cores(nullptr, 0, nullptr) == BLUELM_ERR_INVALID_ARGUMENT);
    int64_t memory = 0;
    CHECK(bluelm_machine_memory(&memory) == BLUELM_OK && memory >= -1);
    CHECK(bluelm_machine_memory(nullptr) == BLUELM_ERR_INVALID_ARGUMENT);
    int64_t dropped = -1;
    CHECK(bluelm_drop_mapped_pages("/no/such/file", &dropped) == BLUELM_OK && dropped == 0);
    CHECK(bluelm_drop_mapped_pages("/no/such/file", nullptr) == BLUELM_OK);
    CHECK(bluelm_drop_mapped_pages(nullptr, &dropped) == BLUELM_ERR_INVALID_ARGUMENT);
}

}  // namespace

int main() {
    test_cores();
    test_quota();
    test_memory();
    test_api();
    return check::finish();
}
