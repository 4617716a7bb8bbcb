#include "mtmd/child.h"

#include "ggml.h"
#include "mtmd-helper.h"

#if defined(__linux__)
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#endif

namespace bluelm {

#if defined(__linux__)

namespace {

constexpr size_t kMostOutput = 1 << 16;

void to_stderr(ggml_log_level, const char* text, void*) {
    const ssize_t n = write(STDERR_FILENO, text, std::strlen(text));
    (void)n;
}

// This process's address space, and what is free beside it; 0 where it cannot be told.
size_t most_address_space() {
    size_t pages = 0, free_kib = 0;
    if (FILE* file = std::fopen("/proc/self/statm", "r")) {
        if (std::fscanf(file, "%zu", &pages) != 1) pages = 0;
        std::fclose(file);
    }
    if (FILE* file = std::fopen("/proc/meminfo", "r")) {
        char line[128];
        while (!free_kib && std::fgets(line, sizeof line, file)) {
            if (std::sscanf(line, "MemAvailable: %zu", &free_kib) != 1) free_kib = 0;
        }
        std::fclose(file);
    }
    if (!pages || !free_kib) return 0;
    return pages * static_cast<size_t>(sysconf(_SC_PAGESIZE)) + free_kib * 1024;
}

[[noreturn]] void be_child(const std::function<bool()>& body, int out, unsigned timeout_s) {
    for (const int number : {SIGALRM, SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL}) std::signal(number, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    std::signal(SIGINT, SIG_IGN);  // the parent's to handle
    alarm(timeout_s);
    dup2(out, STDERR_FILENO);
    const int null = open("/dev/null", O_WRONLY);
    if (null >= 0) dup2(null, STDOUT_FILENO);
    const rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    if (const size_t most = most_address_space()) {
        const rlimit memory = {most, most};
        setrlimit(RLIMIT_AS, &memory);
    }
    setenv("GGML_NO_BACKTRACE", "1", 1);  // it would start a debugger
    // The parent's loggers call Python, whose lock nobody here holds.
    ggml_log_set(to_stderr, nullptr);
    mtmd_helper_log_set(to_stderr, nullptr);
    bool is_sound = false;
    try {
        is_sound = body();
    } catch (const std::exception& error) {
        to_stderr(GGML_LOG_LEVEL_ERROR, error.what(), nullptr);
    } catch (...) {
    }
    _exit(is_sound ? 0 : 1);
}

}  // namespace

ChildResult run_in_child(const std::function<bool()>& body, unsigned timeout_s) {
    const ChildResult unknown = {true, false, ""};
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return unknown;
    const pid_t child = fork();
    if (child < 0) {
        close(ends[0]);
        close(ends[1]);
        return unknown;
    }
    if (child == 0) be_child(body, ends[1], timeout_s);
    close(ends[1]);
    ChildResult result = unknown;
    char buffer[4096];
    for (;;) {
        const ssize_t n = read(ends[0], buffer, sizeof buffer);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        result.output.append(buffer, static_cast<size_t>(n));
        if (result.output.size() > kMostOutput) result.output.erase(0, result.output.size() - kMostOutput);
    }
    close(ends[0]);
    int status = 0;
    while (waitpid(child, &status, 0) < 0) {
        if (errno != EINTR) return unknown;  // somebody else reaps children here
    }
    if (WIFSIGNALED(status)) {
        result.is_killed = WTERMSIG(status) != SIGALRM;
        result.is_sound = !result.is_killed;
    } else {
        result.is_sound = WEXITSTATUS(status) == 0;
    }
    return result;
}

#else

ChildResult run_in_child(const std::function<bool()>&, unsigned) { return {true, false, ""}; }

#endif

std::string telling_line(const std::string& output) {
    std::string last;
    for (size_t at = 0; at < output.size();) {
        size_t end = output.find('\n', at);
        if (end == std::string::npos) end = output.size();
        const std::string line = output.substr(at, end - at);
        at = end + 1;
        if (line.empty()) continue;
        // "/path/clip.cpp:123: GGML_ASSERT(a == b) failed"
        const size_t assertion = line.find("GGML_ASSERT(");
        if (assertion != std::string::npos) return line.substr(assertion);
        if (line.find("mismatch between") != std::string::npos) return line;
        if (line.find("error") != std::string::npos || line.find("failed") != std::string::npos ||
            line.find("unable") != std::string::npos || line.find(": ") != std::string::npos) {
            last = line;
        }
    }
    return last;
}

}  // namespace bluelm
