// How far a call is, told to the caller's callback, which may cancel it.
#ifndef BLUELM_PROGRESS_H
#define BLUELM_PROGRESS_H

#include <chrono>
#include <cstdint>

#include "bluelm.h"

namespace bluelm {

// Used by the thread that made the call alone.
class Progress {
public:
    // stage: BLUELM_STAGE_*. callback NULL: nobody is asked, nothing is cancelled.
    Progress(bluelm_progress callback, void* user_data, int32_t stage, int64_t total)
        : callback_(callback), user_data_(user_data), stage_(stage), total_(total) {}

    // Tells that `done` units are done. False: stop. Once the caller has said so, it is not asked again.
    bool report(int64_t done);
    // The same with the last `done`, if due(). For use inside of a unit of work. False: stop.
    bool poll() { return due() ? report(done_) : !cancelled_; }
    // Whether poll() would ask: 50 ms have passed since the caller was asked.
    bool due() const { return callback_ && !cancelled_ && Clock::now() - asked_ >= kPatience; }
    bool cancelled() const { return cancelled_; }

private:
    using Clock = std::chrono::steady_clock;
    static constexpr std::chrono::milliseconds kPatience{50};

    bluelm_progress callback_;
    void* user_data_;
    int32_t stage_;
    int64_t total_, done_ = 0;
    bool cancelled_ = false;
    Clock::time_point asked_ = Clock::now();
};

}  // namespace bluelm

#endif  // BLUELM_PROGRESS_H
