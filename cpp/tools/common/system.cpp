#include "common/system.h"

#include <dirent.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>
#include <thread>

#include "bluelm.h"
#include "common/program.h"

namespace tools {
namespace {

std::optional<std::string> first_line(const std::string& path) {
    std::ifstream file(path);
    std::string line;
    if (!file || !std::getline(file, line)) return std::nullopt;
    return line;
}

std::optional<long> read_number(const std::string& path) {
    const std::optional<std::string> line = first_line(path);
    if (!line) return std::nullopt;
    char* end = nullptr;
    const long value = std::strtol(line->c_str(), &end, 10);
    if (end == line->c_str()) return std::nullopt;
    return value;
}

// "key : value" of one line of /proc/cpuinfo.
bool split_line(const std::string& line, std::string& key, std::string& value) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos) return false;
    key = line.substr(0, line.find_last_not_of(" \t", colon - 1) + 1);
    const size_t start = line.find_first_not_of(" \t", colon + 1);
    value = start == std::string::npos ? "" : line.substr(start);
    return true;
}

// Part numbers of implementer 0x41 (Arm), Linux's arch/arm64/include/asm/cputype.h.
const char* arm_part(long part) {
    switch (part) {
        case 0xd03: return "Cortex-A53";
        case 0xd04: return "Cortex-A35";
        case 0xd05: return "Cortex-A55";
        case 0xd07: return "Cortex-A57";
        case 0xd08: return "Cortex-A72";
        case 0xd09: return "Cortex-A73";
        case 0xd0a: return "Cortex-A75";
        case 0xd0b: return "Cortex-A76";
        case 0xd0c: return "Neoverse-N1";
        case 0xd0d: return "Cortex-A77";
        case 0xd40: return "Neoverse-V1";
        case 0xd41: return "Cortex-A78";
        case 0xd44: return "Cortex-X1";
        case 0xd46: return "Cortex-A510";
        case 0xd47: return "Cortex-A710";
        case 0xd48: return "Cortex-X2";
        case 0xd49: return "Neoverse-N2";
        case 0xd4d: return "Cortex-A715";
        case 0xd4e: return "Cortex-X3";
        case 0xd4f: return "Neoverse-V2";
        case 0xd80: return "Cortex-A520";
        case 0xd81: return "Cortex-A720";
        case 0xd82: return "Cortex-X4";
        case 0xd85: return "Cortex-X925";
        case 0xd87: return "Cortex-A725";
        default: return nullptr;
    }
}

// CPU number -> its name, as far as /proc/cpuinfo tells.
std::map<int, std::string> cpu_names() {
    std::map<int, std::string> names;
    std::ifstream file("/proc/cpuinfo");
    std::string line, key, value;
    int cpu = 0;
    long implementer = 0;
    while (file && std::getline(file, line)) {
        if (!split_line(line, key, value)) continue;
        if (key == "processor") cpu = std::atoi(value.c_str());
        if (key == "model name") names[cpu] = value;
        if (key == "CPU implementer") implementer = std::strtol(value.c_str(), nullptr, 16);
        if (key == "CPU part") {
            const long part = std::strtol(value.c_str(), nullptr, 16);
            const char* name = implementer == 0x41 ? arm_part(part) : nullptr;
            names[cpu] = name ? name : strf("CPU 0x%02lx/0x%03lx", implementer, part);
        }
    }
    return names;
}

std::vector<int> affinity() {
    std::vector<int> cpus;
#if defined(__linux__)
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) == 0) {
        for (int i = 0; i < CPU_SETSIZE; ++i) {
            if (CPU_ISSET(static_cast<size_t>(i), &set)) cpus.push_back(i);
        }
    }
#endif
    if (cpus.empty()) {
        for (int i = 0; i < std::max(1, static_cast<int>(std::thread::hardware_concurrency())); ++i)
            cpus.push_back(i);
    }
    return cpus;
}

std::vector<Cpu> read_cpus() {
    const std::map<int, std::string> names = cpu_names();
    std::vector<Cpu> cpus;
    for (const int id : affinity()) {
        const std::string base = strf("/sys/devices/system/cpu/cpu%d/", id);
        Cpu cpu;
        cpu.id = id;
        cpu.capacity = read_number(base + "cpu_capacity");
        cpu.max_khz = read_number(base + "cpufreq/cpuinfo_max_freq");
        const auto name = names.find(id);
        if (name != names.end()) cpu.name = name->second;
        cpus.push_back(cpu);
    }
    return cpus;
}

// A value of a "Key:   123 kB" file under /proc, in bytes.
std::optional<uint64_t> proc_bytes(const char* path, const char* wanted) {
    std::ifstream file(path);
    std::string line, key, value;
    while (file && std::getline(file, line)) {
        if (split_line(line, key, value) && key == wanted) {
            return static_cast<uint64_t>(std::strtoull(value.c_str(), nullptr, 10)) * 1024;
        }
    }
    return std::nullopt;
}

}  // namespace

const std::vector<Cpu>& usable_cpus() {
    static const std::vector<Cpu> cpus = read_cpus();
    return cpus;
}

std::vector<int> ids(const std::vector<Cpu>& cpus) {
    std::vector<int> out;
    for (const Cpu& cpu : cpus) out.push_back(cpu.id);
    return out;
}

int physical_cores(const std::vector<Cpu>& cpus) {
    const std::vector<int> numbers = ids(cpus);
    int32_t n = 0;
    if (bluelm_machine_cores(numbers.data(), static_cast<int32_t>(numbers.size()), &n) != BLUELM_OK)
        throw Failure(bluelm_last_error());
    return n;
}

std::vector<Cpu> big_cpus() {
    const std::vector<Cpu>& all = usable_cpus();
    for (std::optional<long> Cpu::* measure : {&Cpu::capacity, &Cpu::max_khz}) {
        long most = 0;
        bool known = true;
        for (const Cpu& cpu : all) {
            known = known && cpu.*measure;
            most = std::max(most, (cpu.*measure).value_or(0));
        }
        if (!known) continue;
        std::vector<Cpu> big;
        for (const Cpu& cpu : all) {
            if (2 * *(cpu.*measure) > most) big.push_back(cpu);
        }
        return big;
    }
    return all;
}

std::string cpu_description() {
    // Counted in the order of their numbers, the fastest kind first.
    std::vector<std::pair<std::string, int>> kinds;
    std::map<std::string, long> speed;
    for (const Cpu& cpu : usable_cpus()) {
        const auto found =
            std::find_if(kinds.begin(), kinds.end(), [&](auto& k) { return k.first == cpu.name; });
        if (found == kinds.end()) {
            kinds.push_back({cpu.name, 1});
        } else {
            ++found->second;
        }
        speed[cpu.name] = std::max(speed[cpu.name], cpu.capacity.value_or(cpu.max_khz.value_or(0)));
    }
    std::stable_sort(kinds.begin(), kinds.end(),
                     [&](auto& a, auto& b) { return speed[a.first] > speed[b.first]; });
    if (kinds.size() == 1) return kinds[0].first.empty() ? "unknown CPU" : kinds[0].first;
    std::string text;
    for (const auto& [name, n] : kinds) {
        text += strf("%s%dx %s", text.empty() ? "" : " + ", n, name.empty() ? "unknown" : name.c_str());
    }
    return text;
}

std::vector<Cpu> parse_cpu_mask(const std::string& text) {
    const std::vector<Cpu>& all = usable_cpus();
    if (text == "all" || text == "0x0" || text == "0") return all;  // 0x0 is llama-bench's "no mask"
    if (text == "big") return big_cpus();
    const std::string digits = text.rfind("0x", 0) == 0 || text.rfind("0X", 0) == 0 ? text.substr(2) : text;
    if (digits.empty() || digits.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos) {
        throw UsageError(
            strf("-C %s: not a hexadecimal mask (0xf0: CPUs 4 to 7), 'all' or 'big'", text.c_str()));
    }
    std::vector<Cpu> chosen;
    for (size_t i = 0; i < digits.size(); ++i) {
        const char c = digits[digits.size() - 1 - i];
        const int value = static_cast<int>(std::strtol(std::string(1, c).c_str(), nullptr, 16));
        for (int bit = 0; bit < 4; ++bit) {
            if (!(value >> bit & 1)) continue;
            const int id = static_cast<int>(i) * 4 + bit;
            const auto cpu = std::find_if(all.begin(), all.end(), [&](auto& a) { return a.id == id; });
            if (cpu == all.end()) {
                throw UsageError(
                    strf("-C %s: there is no CPU %d, or this process may not use it; it may use %s",
                         text.c_str(), id, mask_text(all).c_str()));
            }
            chosen.push_back(*cpu);
        }
    }
    return chosen.empty() ? all : chosen;
}

std::string mask_text(const std::vector<Cpu>& cpus) {
    int highest = 0;
    for (const Cpu& cpu : cpus) highest = std::max(highest, cpu.id);
    std::string digits(static_cast<size_t>(highest / 4 + 1), '0');
    for (const Cpu& cpu : cpus) {
        char& digit = digits[digits.size() - 1 - static_cast<size_t>(cpu.id / 4)];
        const int value = static_cast<int>(std::strtol(std::string(1, digit).c_str(), nullptr, 16));
        digit = "0123456789abcdef"[value | 1 << cpu.id % 4];
    }
    return "0x" + digits;
}

void warn_of_threads(const char* program, int threads, const std::vector<Cpu>& cpus) {
    if (threads <= static_cast<int>(cpus.size())) return;
    std::fprintf(stderr,
                 "%swarning: %d threads on %zu CPU%s share them: expect less speed and more deviation\n",
                 program, threads, cpus.size(), cpus.size() == 1 ? "" : "s");
}

void set_affinity(const std::vector<Cpu>& cpus) {
#if defined(__linux__)
    cpu_set_t set;
    CPU_ZERO(&set);
    for (const Cpu& cpu : cpus) CPU_SET(static_cast<size_t>(cpu.id), &set);
    // Worker threads that are kept between computations have a mask of their own.
    std::vector<pid_t> threads = {0};
    if (DIR* tasks = opendir("/proc/self/task")) {
        while (const dirent* entry = readdir(tasks)) {
            if (entry->d_name[0] != '.') threads.push_back(static_cast<pid_t>(std::atoi(entry->d_name)));
        }
        closedir(tasks);
    }
    for (const pid_t thread : threads) {
        if (sched_setaffinity(thread, sizeof set, &set) != 0 && thread == 0) {
            throw Failure(strf("-C %s: %s", mask_text(cpus).c_str(), std::strerror(errno)));
        }
    }
#else
    if (cpus.size() != usable_cpus().size()) throw Failure("-C: CPU masks work on Linux and Android only");
#endif
}

std::optional<double> frequency_mhz(const std::vector<Cpu>& cpus) {
    double sum = 0;
    for (const Cpu& cpu : cpus) {
        const auto khz = read_number(strf("/sys/devices/system/cpu/cpu%d/cpufreq/scaling_cur_freq", cpu.id));
        if (!khz) return std::nullopt;
        sum += static_cast<double>(*khz) / 1e3;
    }
    if (cpus.empty()) return std::nullopt;
    return sum / static_cast<double>(cpus.size());
}

std::optional<double> temperature_c() {
    std::optional<double> hottest;
    for (int zone = 0; zone < 200; ++zone) {
        const std::string base = strf("/sys/class/thermal/thermal_zone%d/", zone);
        const auto type = first_line(base + "type");
        if (!type) {
            if (zone > 0) break;  // numbered without gaps
            continue;
        }
        const bool is_cpu =
            type->find("cpu") != std::string::npos || type->find("CPU") != std::string::npos ||
            type->find("pkg_temp") != std::string::npos || type->find("soc") != std::string::npos;
        const auto value = read_number(base + "temp");
        if (!is_cpu || !value) continue;
        // Millidegrees by the kernel's documentation; some phones' drivers give degrees or tenths.
        double celsius = static_cast<double>(*value);
        if (celsius > 1000) celsius /= 1000;
        if (celsius > 150) celsius /= 10;
        if (celsius > 0) hottest = std::max(hottest.value_or(0), celsius);
    }
    return hottest;
}

std::optional<uint64_t> available_memory() {
    int64_t n_bytes = -1;
    if (bluelm_machine_memory(&n_bytes) != BLUELM_OK || n_bytes < 0) return std::nullopt;
    return static_cast<uint64_t>(n_bytes);
}

void check_memory(const std::string& what, double weights, double kv_cache) {
    const std::optional<uint64_t> available = available_memory();
    if (!available || weights + kv_cache <= static_cast<double>(*available)) return;
    throw Failure(strf(
        "%s: %s of memory for the weights and %s for the KV cache, %s are available: take a smaller model or "
        "fewer tokens, or close other programs (--no-memory-check tries all the same)",
        what.c_str(), bytes_text(weights).c_str(), bytes_text(kv_cache).c_str(),
        bytes_text(static_cast<double>(*available)).c_str()));
}

std::optional<uint64_t> free_disk(const std::string& directory) {
    struct statvfs info = {};
    if (statvfs(directory.c_str(), &info) != 0) return std::nullopt;
    return static_cast<uint64_t>(info.f_bavail) * info.f_frsize;
}

std::optional<uint64_t> peak_rss() {
    if (const auto peak = proc_bytes("/proc/self/status", "VmHWM")) return peak;
    rusage usage = {};
    if (getrusage(RUSAGE_SELF, &usage) != 0 || usage.ru_maxrss <= 0) return std::nullopt;
#if defined(__APPLE__)
    return static_cast<uint64_t>(usage.ru_maxrss);
#else
    return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
#endif
}

void reset_peak_rss() {
    std::ofstream file("/proc/self/clear_refs");
    if (file) file << "5";  // proc(5): resets the peak, nothing else
}

std::string temporary_directory() {
    const char* chosen = std::getenv("TMPDIR");
    if (chosen && *chosen) return chosen;
    if (access("/tmp", W_OK) != 0 && access("/data/local/tmp", W_OK) == 0) return "/data/local/tmp";
    return "/tmp";
}

}  // namespace tools
