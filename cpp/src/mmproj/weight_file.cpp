#include "mmproj/weight_file.h"

#include <cerrno>
#include <cstring>

#if !defined(_WIN32)
#include <sys/types.h>
#include <unistd.h>
#endif

#include "base/error.h"

namespace bluelm {
namespace {

int seek(std::FILE* file, uint64_t offset, int whence) {
#if defined(_WIN32)
    return _fseeki64(file, static_cast<int64_t>(offset), whence);
#else
    return fseeko(file, static_cast<off_t>(offset), whence);
#endif
}

uint64_t tell(std::FILE* file) {
#if defined(_WIN32)
    return static_cast<uint64_t>(_ftelli64(file));
#else
    return static_cast<uint64_t>(ftello(file));
#endif
}

}  // namespace

WeightFile::WeightFile(const std::string& path) : path_(path), file_(std::fopen(path.c_str(), "rb")) {
    if (!file_) throw Error(BLUELM_ERR_IO, format("%s: %s", path.c_str(), std::strerror(errno)));
}

WeightFile::~WeightFile() { std::fclose(file_); }

uint64_t WeightFile::size() const {
    if (seek(file_, 0, SEEK_END) != 0) throw Error(BLUELM_ERR_IO, path_ + ": cannot seek");
    const uint64_t bytes = tell(file_);
    seek(file_, 0, SEEK_SET);
    return bytes;
}

void WeightFile::read(uint64_t offset, void* out, size_t bytes) const {
    bool good = true;
#if defined(_WIN32)
    const std::lock_guard<std::mutex> lock(mutex_);
    good = seek(file_, offset, SEEK_SET) == 0 && std::fread(out, 1, bytes, file_) == bytes;
#else
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
#endif
    if (!good)
        throw Error(BLUELM_ERR_IO, path_ + ": reading failed; did the file change since it was loaded?");
}

}  // namespace bluelm
