#include "mmproj/weight_file.h"

#include <sys/types.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace bluelm {
WeightFile::WeightFile(const std::string& path) : path_(path), file_(std::fopen(path.c_str(), "rb")) {
    if (!file_) throw Error(BLUELM_ERR_IO, format("%s: %s", path.c_str(), std::strerror(errno)));
}

WeightFile::~WeightFile() { std::fclose(file_); }

uint64_t WeightFile::size() const {
    if (fseeko(file_, 0, SEEK_END) != 0) throw Error(BLUELM_ERR_IO, path_ + ": cannot seek");
    const auto bytes = static_cast<uint64_t>(ftello(file_));
    fseeko(file_, 0, SEEK_SET);
    return bytes;
}

void WeightFile::read(uint64_t offset, void* out, size_t bytes) const {
    bool good = true;
    char* to = static_cast<char*>(out);
    while (good && bytes > 0) {
        const ssize_t n = pread(fileno(file_), to, bytes, static_cast<off_t>(offset));
        if (n < 0 && errno == EINTR) continue;
        good = n > 0;
        if (!good) break;
        to += n;
        offset += static_cast<uint64_t>(n);
        bytes -= static_cast<size_t>(n);
    }
    if (!good)
        throw Error(BLUELM_ERR_IO, path_ + ": reading failed; did the file change since it was loaded?");
}

}  // namespace bluelm
