// A mapped file's pages that were read and copied elsewhere: given back, so that weights are in memory once.
#ifndef BLUELM_TOOLS_MAPPED_PAGES_H
#define BLUELM_TOOLS_MAPPED_PAGES_H

#include <cstdint>
#include <string>

namespace tools {

// To be told how far loading is, 0 to 1: drops what was read every 64 MiB
// (bluelm_drop_mapped_pages), as the Python package does.
class PageDropper {
public:
    explicit PageDropper(const std::string& path);
    void report(float done);

private:
    std::string path_;
    double bytes_ = 0, dropped_at_ = 0;
};

}  // namespace tools

#endif  // BLUELM_TOOLS_MAPPED_PAGES_H
