// Runs something that may abort in a child process first.
#ifndef BLUELM_MTMD_CHILD_H
#define BLUELM_MTMD_CHILD_H

#include <functional>
#include <string>

namespace bluelm {

struct ChildResult {
    bool is_sound;       // it returned true; or nothing is known: no fork here, or it took too long
    bool is_killed;      // a signal ended it: an assertion, or a memory error
    std::string output;  // what it wrote to stderr
};

// Calls `body` in a forked child, where libmtmd's and ggml's logs go to stderr, and which may take as much
// memory as is free. `body` returns whether all is well, must not start threads, and may leave by _exit(0)
// instead. Linux only: elsewhere nothing is run, and the result is sound.
ChildResult run_in_child(const std::function<bool()>& body, unsigned timeout_s);

// The telling line of what a child wrote: the assertion, or libmtmd's last error.
std::string telling_line(const std::string& output);

}  // namespace bluelm

#endif  // BLUELM_MTMD_CHILD_H
