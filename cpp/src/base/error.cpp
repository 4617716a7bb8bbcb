#include "base/error.h"

#include <cstdarg>
#include <cstring>
#include <vector>

#include "base/check.h"

namespace bluelm {
namespace {

thread_local std::string last_message;

}  // namespace

std::string format(const char* fmt, ...) {
    va_list args;
    va_start(args, fmt);
    va_list again;
    va_copy(again, args);
    const int length = std::vsnprintf(nullptr, 0, fmt, args);
    va_end(args);
    std::vector<char> buffer(length > 0 ? static_cast<size_t>(length) + 1 : 1, '\0');
    std::vsnprintf(buffer.data(), buffer.size(), fmt, again);
    va_end(again);
    return std::string(buffer.data());
}

bluelm_status set_last_error(bluelm_status status, const char* message) noexcept {
    try {
        last_message = message;
    } catch (...) {
        last_message.clear();  // no memory even for the message: the status alone must do
    }
    return status;
}

const char* last_error() noexcept { return last_message.c_str(); }

void check_failed(const char* condition, const char* file, int line) {
    const char* name = std::strrchr(file, '/');
    throw Error(BLUELM_ERR_INTERNAL, format("a defect of libbluelm: %s does not hold (%s:%d)", condition,
                                            name ? name + 1 : file, line));
}

}  // namespace bluelm
