// Small text files of /proc and /sys. What cannot be read is unknown, never an error.
#ifndef BLUELM_SYSTEM_FILE_H
#define BLUELM_SYSTEM_FILE_H

#include <cstdint>
#include <optional>
#include <string>

namespace bluelm {

std::optional<std::string> first_line(const std::string& path);
// The number that the file begins with; nothing for "max".
std::optional<int64_t> read_number(const std::string& path);
// A line "Key:   123 kB", in bytes.
std::optional<int64_t> kilobytes_of(const std::string& path, const std::string& key);

}  // namespace bluelm

#endif  // BLUELM_SYSTEM_FILE_H
