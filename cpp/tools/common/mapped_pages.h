// A mapped file's pages that were read and copied elsewhere: given back, so that weights are in memory once.
#ifndef BLUELM_TOOLS_MAPPED_PAGES_H
#define BLUELM_TOOLS_MAPPED_PAGES_H

#include <cstdint>
#include <string>

namespace tools {

// Gives back the pages of the file's read-only mappings, as the Python package does while it loads a model
// (docs/memory.md). What is still used comes back when it is touched. Linux and Android; elsewhere nothing.
void drop_mapped_pages(const std::string& path);

// To be told how far loading is, 0 to 1: drops what was read every 64 MiB.
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
