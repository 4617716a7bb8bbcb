#include "base/progress.h"

namespace bluelm {

bool Progress::report(int64_t done) {
    done_ = done;
    asked_ = Clock::now();
    if (callback_ && !cancelled_) cancelled_ = !callback_(stage_, done_, total_, user_data_);
    return !cancelled_;
}

}  // namespace bluelm
