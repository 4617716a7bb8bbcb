#include "common/mapped_pages.h"

#include <sys/mman.h>
#include <sys/stat.h>
#if defined(__linux__)
#include <sys/sysmacros.h>
#endif

#include <cstdio>
#include <fstream>

namespace tools {

void drop_mapped_pages(const std::string& path) {
#if defined(__linux__)
    struct stat info = {};
    if (stat(path.c_str(), &info) != 0) return;
    std::ifstream maps("/proc/self/maps");
    std::string line;
    while (maps && std::getline(maps, line)) {
        // address-address permissions offset device inode path
        unsigned long begin = 0, end = 0, inode = 0;
        unsigned device_major = 0, device_minor = 0;
        char permissions[5] = {};
        if (std::sscanf(line.c_str(), "%lx-%lx %4s %*x %x:%x %lu", &begin, &end, permissions, &device_major,
                        &device_minor, &inode) != 6) {
            continue;
        }
        const bool is_it = inode == info.st_ino && device_major == major(info.st_dev) &&
                           device_minor == minor(info.st_dev) && permissions[1] != 'w';
        if (is_it) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
    }
#else
    (void)path;
#endif
}

PageDropper::PageDropper(const std::string& path) : path_(path) {
    struct stat info = {};
    if (stat(path.c_str(), &info) == 0) bytes_ = static_cast<double>(info.st_size);
}

void PageDropper::report(float done) {
    if (done < 1 && (done - dropped_at_) * bytes_ < 64 << 20) return;
    dropped_at_ = done;
    drop_mapped_pages(path_);
}

}  // namespace tools
