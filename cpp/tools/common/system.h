// What this machine says about itself. Whatever cannot be read (another system, a phone that locks sysfs) is
// unknown, never an error.
#ifndef BLUELM_TOOLS_SYSTEM_H
#define BLUELM_TOOLS_SYSTEM_H

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace tools {

struct Cpu {
    int id = 0;
    std::optional<long> capacity;  // /sys/devices/system/cpu/cpuN/cpu_capacity, 1024 for the fastest
    std::optional<long> max_khz;   // cpufreq/cpuinfo_max_freq
    std::string name;              // "Cortex-X4", from /proc/cpuinfo; empty if unknown
};

// The CPUs that this process may use, by its affinity at the first call.
const std::vector<Cpu>& usable_cpus();
std::vector<int> ids(const std::vector<Cpu>& cpus);
// Distinct cores among these CPUs, at most the container's quota.
int physical_cores(const std::vector<Cpu>& cpus);
// The CPUs with more than half of the fastest one's capacity (or of its highest frequency, where no capacity
// is told); all of them on a machine of equal cores.
std::vector<Cpu> big_cpus();
// "Intel(R) Xeon(R) Processor", "1x Cortex-X4 + 5x Cortex-A720 + 2x Cortex-A520", or "unknown CPU".
std::string cpu_description();

// A mask as -C takes it: hexadecimal with or without 0x, "all" or "big". Throws UsageError if it is no such
// thing or names a CPU that this process may not use.
std::vector<Cpu> parse_cpu_mask(const std::string& text);
std::string mask_text(const std::vector<Cpu>& cpus);
// A line on stderr, after `program` ("bluelm-bench: "), where threads have to share CPUs.
void warn_of_threads(const char* program, int threads, const std::vector<Cpu>& cpus);
// All threads of this process, and those it will start. Throws Failure.
void set_affinity(const std::vector<Cpu>& cpus);

std::optional<double> frequency_mhz(const std::vector<Cpu>& cpus);  // now, the mean
std::optional<double> temperature_c();                              // the hottest zone that is a CPU's

std::optional<uint64_t> available_memory();  // bytes: free, the container's and the process's limit
// Throws Failure where `what` ("the files") needs more than that: bytes of weights and of KV cache.
void check_memory(const std::string& what, double weights, double kv_cache);
std::optional<uint64_t> free_disk(const std::string& directory);
std::optional<uint64_t> peak_rss();
// Lets peak_rss start again from what is resident now, where the system can (Linux).
void reset_peak_rss();

// Where temporary files go: $TMPDIR, else /tmp, else Android's /data/local/tmp.
std::string temporary_directory();

}  // namespace tools

#endif  // BLUELM_TOOLS_SYSTEM_H
