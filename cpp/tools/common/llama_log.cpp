#include "common/llama_log.h"

#include <cstdio>
#include <deque>

#include "llama.h"

namespace tools {
namespace {

struct Log {
    bool verbose = false;
    std::deque<std::string> lines;
} kept;

void receive(ggml_log_level level, const char* text, void*) {
    if (kept.verbose) std::fputs(text, stderr);
    if (level != GGML_LOG_LEVEL_WARN && level != GGML_LOG_LEVEL_ERROR) return;
    std::string line = text;
    while (!line.empty() && (line.back() == '\n' || line.back() == ' ')) line.pop_back();
    if (line.empty()) return;
    kept.lines.push_back(line);
    if (kept.lines.size() > 32) kept.lines.pop_front();
}

// "llama_model_load: error ...": what follows the function's name.
std::string without_function(const std::string& line) {
    const size_t colon = line.find(": ");
    return colon != std::string::npos && line.find(' ') > colon ? line.substr(colon + 2) : line;
}

}  // namespace

void catch_llama_log(bool verbose) {
    kept.verbose = verbose;
    llama_log_set(receive, nullptr);
}

void forget_llama_log() { kept.lines.clear(); }

std::string llama_reason() {
    const std::string loading = "error loading model: ";
    for (const std::string& line : kept.lines) {
        if (const size_t at = line.find(loading); at != std::string::npos)
            return line.substr(at + loading.size());
    }
    for (const char* mark : {"failed to allocate", "failed to "}) {
        for (const std::string& line : kept.lines) {
            if (line.find(mark) != std::string::npos) return without_function(line);
        }
    }
    return kept.lines.empty() ? "no reason given; -v shows its log" : without_function(kept.lines.back());
}

}  // namespace tools
