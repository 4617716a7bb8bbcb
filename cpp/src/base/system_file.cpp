#include "base/system_file.h"

#include <cstdlib>
#include <fstream>

namespace bluelm {
namespace {

std::optional<int64_t> number(const char* text) {
    char* end = nullptr;
    const long long value = std::strtoll(text, &end, 10);
    if (end == text) return std::nullopt;
    return value;
}

}  // namespace

std::optional<std::string> first_line(const std::string& path) {
    std::ifstream file(path);
    std::string line;
    if (!file || !std::getline(file, line)) return std::nullopt;
    return line;
}

std::optional<int64_t> read_number(const std::string& path) {
    const std::optional<std::string> line = first_line(path);
    return line ? number(line->c_str()) : std::nullopt;
}

std::optional<int64_t> kilobytes_of(const std::string& path, const std::string& key) {
    std::ifstream file(path);
    std::string line;
    while (file && std::getline(file, line)) {
        if (line.compare(0, key.size() + 1, key + ":") != 0) continue;
        const std::optional<int64_t> value = number(line.c_str() + key.size() + 1);
        if (value) return *value * 1024;
    }
    return std::nullopt;
}

}  // namespace bluelm
