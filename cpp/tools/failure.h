// How the programs end early.
#ifndef BLUELM_TOOLS_FAILURE_H
#define BLUELM_TOOLS_FAILURE_H

#include <stdexcept>
#include <string>

// Ends a program with exit code 1 and this line on stderr.
class Failure : public std::runtime_error {
public:
    explicit Failure(const std::string& message) : std::runtime_error(message) {}
};

// A wrong command line: exit code 2.
class UsageError : public std::runtime_error {
public:
    explicit UsageError(const std::string& message) : std::runtime_error(message) {}
};

#endif  // BLUELM_TOOLS_FAILURE_H
