// What every file of the programs needs: their errors, printf into a string, and the end by a signal.
#ifndef BLUELM_TOOLS_PROGRAM_H
#define BLUELM_TOOLS_PROGRAM_H

#include <chrono>
#include <stdexcept>
#include <string>

#if defined(__GNUC__)
#define BENCH_PRINTF(format_index, first_arg) __attribute__((format(printf, format_index, first_arg)))
#else
#define BENCH_PRINTF(format_index, first_arg)
#endif

namespace tools {

// A command line that makes no sense: exit code 2.
struct UsageError : std::runtime_error {
    using std::runtime_error::runtime_error;
};
// Something did not work: exit code 1.
struct Failure : std::runtime_error {
    using std::runtime_error::runtime_error;
};
// A signal asked for the end: what was measured is printed, exit code 128 + signal.
struct Interrupted : std::exception {};

std::string strf(const char* fmt, ...) BENCH_PRINTF(1, 2);

// "1.5 GiB", "12.3 MiB".
std::string bytes_text(double bytes);

// SIGINT, SIGTERM and SIGHUP are noted, and a second one ends the process at once; SIGPIPE and SIGXFSZ become
// errors of the write.
void install_signal_handlers();
int stop_signal();     // 0, or the signal that came
void check_stopped();  // throws Interrupted

// Removed at the end of the process, also by a second signal: files, and before them the directory that is
// made for them.
void remove_at_end(const std::string& path);
void remove_now();

class Stopwatch {
public:
    double ms() const {
        return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start_).count();
    }

private:
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace tools

#endif  // BLUELM_TOOLS_PROGRAM_H
