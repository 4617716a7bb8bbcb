#include "base/error.h"

#include <cstdarg>
#include <vector>

namespace bluelm {

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

}  // namespace bluelm
