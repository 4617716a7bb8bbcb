#include "common/program.h"

#include <unistd.h>

#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace tools {

namespace {

volatile std::sig_atomic_t stopped_by = 0;

// Fixed memory: a signal handler reads it.
constexpr int kMaxPaths = 8;
constexpr size_t kMaxPath = 4096;
char paths[kMaxPaths][kMaxPath];
volatile std::sig_atomic_t n_paths = 0;

// Only async-signal-safe calls. The last first: files before the directory that was made for them.
void remove_paths() {
    for (int i = n_paths - 1; i >= 0; --i) {
        if (unlink(paths[i]) != 0) rmdir(paths[i]);
    }
    n_paths = 0;
}

extern "C" void on_signal(int signal) {
    if (stopped_by != 0) {
        remove_paths();
        _exit(128 + signal);
    }
    stopped_by = signal;
}

}  // namespace

std::string strf(const char* fmt, ...) {
    va_list args;
    va_start(args, fmt);
    va_list again;
    va_copy(again, args);
    const int length = std::vsnprintf(nullptr, 0, fmt, args);
    va_end(args);
    std::vector<char> buffer(length > 0 ? static_cast<size_t>(length) + 1 : 1, '\0');
    std::vsnprintf(buffer.data(), buffer.size(), fmt, again);
    va_end(again);
    return buffer.data();
}

std::string bytes_text(double bytes) {
    const double gib = 1024.0 * 1024.0 * 1024.0;
    return bytes >= gib ? strf("%.2f GiB", bytes / gib) : strf("%.1f MiB", bytes / (1024.0 * 1024.0));
}

void install_signal_handlers() {
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
        struct sigaction action = {};
        action.sa_handler = on_signal;
        action.sa_flags = SA_RESTART;  // a slow reader loses nothing
        sigemptyset(&action.sa_mask);
        sigaction(signal, &action, nullptr);
    }
    std::signal(SIGPIPE, SIG_IGN);
    std::signal(SIGXFSZ, SIG_IGN);
    std::atexit(remove_now);
}

int stop_signal() { return stopped_by; }

void check_stopped() {
    if (stopped_by != 0) throw Interrupted();
}

void remove_at_end(const std::string& path) {
    if (n_paths >= kMaxPaths || path.size() >= kMaxPath) {
        throw Failure(strf("%s: the name is too long", path.c_str()));
    }
    std::snprintf(paths[n_paths], kMaxPath, "%s", path.c_str());
    n_paths = n_paths + 1;
}

void remove_now() { remove_paths(); }

}  // namespace tools
