// Errors inside the library: thrown as Error, turned into a status and the thread's last error by guard() at
// the C API.
#ifndef BLUELM_ERROR_H
#define BLUELM_ERROR_H

#include <cstdio>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>

#include "bluelm.h"

namespace bluelm {

class Error : public std::runtime_error {
public:
    Error(bluelm_status code, const std::string& message) : std::runtime_error(message), status(code) {}
    const bluelm_status status;
};

// printf into a std::string.
std::string format(const char* fmt, ...) __attribute__((format(printf, 1, 2)));

// Keeps `message` as this thread's last error; returns `status`.
bluelm_status set_last_error(bluelm_status status, const char* message) noexcept;
// That message; empty before the first one. Valid until this thread's next error.
const char* last_error() noexcept;

// Runs `body` (returning nothing) and maps whatever it throws to a status.
template <class Body>
bluelm_status guard(Body&& body) noexcept {
    try {
        body();
        return BLUELM_OK;
    } catch (const Error& e) {
        return set_last_error(e.status, e.what());
    } catch (const std::bad_alloc&) {
        return set_last_error(BLUELM_ERR_OUT_OF_MEMORY, "out of memory");
    } catch (const std::exception& e) {
        return set_last_error(BLUELM_ERR_INTERNAL, e.what());
    } catch (...) {
        return set_last_error(BLUELM_ERR_INTERNAL, "unknown C++ exception");
    }
}

// Throws INVALID_ARGUMENT with `message` unless `condition` holds.
inline void require(bool condition, const char* message) {
    if (!condition) throw Error(BLUELM_ERR_INVALID_ARGUMENT, message);
}

// A parameter struct is accepted when the caller's struct_size is the one this library was built with: the
// ABI number already guards layouts, this guards a struct that nobody filled with *_default.
template <class Struct>
void require_struct(const Struct* s, const char* name) {
    require(s != nullptr, name);
    if (s->struct_size != sizeof(Struct)) {
        throw Error(BLUELM_ERR_INVALID_ARGUMENT,
                    std::string(name) + ": struct_size is not set; fill the struct with its *_default first");
    }
}

}  // namespace bluelm

#endif  // BLUELM_ERROR_H
