#include "common/mapped_pages.h"

#include <sys/stat.h>

#include "bluelm.h"

namespace tools {

PageDropper::PageDropper(const std::string& path) : path_(path) {
    struct stat info = {};
    if (stat(path.c_str(), &info) == 0) bytes_ = static_cast<double>(info.st_size);
}

void PageDropper::report(float done) {
    if (done < 1 && (done - dropped_at_) * bytes_ < 64 << 20) return;
    dropped_at_ = done;
    (void)bluelm_drop_mapped_pages(path_.c_str(), nullptr);  // where it cannot be: more memory is taken
}

}  // namespace tools
