// The memory that is left, and pages of it that can be given back.
#ifndef BLUELM_MEMORY_H
#define BLUELM_MEMORY_H

#include <cstdint>
#include <optional>
#include <string>

namespace bluelm {

// Bytes that can still be had without swapping: the system's, within the container's limit (cgroup v2, else
// v1) and the process's (RLIMIT_AS); nothing where nobody says. root: what stands before /proc and /sys, for
// tests.
std::optional<int64_t> available_memory(const std::string& root = "");

// Gives back the pages of a file's read-only mappings in this process; what is still used comes back from the
// page cache when it is touched. Returns how many bytes are mapped so. Linux and Android; elsewhere 0. While
// it runs no other thread may unmap the file: something else could take its place.
int64_t drop_mapped_pages(const std::string& path);

}  // namespace bluelm

#endif  // BLUELM_MEMORY_H
