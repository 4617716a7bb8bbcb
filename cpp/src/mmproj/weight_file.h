// The mmproj file as bytes: what the loader and the packing of weights read from.
#ifndef BLUELM_WEIGHT_FILE_H
#define BLUELM_WEIGHT_FILE_H

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>

namespace bluelm {

// An open file. read() may be called by any number of threads at a time.
class WeightFile {
public:
    explicit WeightFile(const std::string& path);  // throws Error IO
    ~WeightFile();
    WeightFile(const WeightFile&) = delete;
    WeightFile& operator=(const WeightFile&) = delete;
    const std::string& path() const { return path_; }
    // For reading the header, before any other thread reads; at the start of the file.
    std::FILE* stream() const { return file_; }
    uint64_t size() const;  // now; moves stream() to the start
    // Throws Error IO, also at the end of a file that became shorter.
    void read(uint64_t offset, void* out, size_t bytes) const;

private:
    std::string path_;
    std::FILE* file_;
};

}  // namespace bluelm

#endif  // BLUELM_WEIGHT_FILE_H
