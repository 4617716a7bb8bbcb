// A few threads that run one function together and meet at barriers.
//
// They live for one encode (starting one takes some 20 microseconds, an encode a tenth of a second and more),
// so nothing idles between encodes and nothing has to survive a fork. A barrier spins for a moment and then
// sleeps, so more threads than cores do not starve each other.
#ifndef BLUELM_TEAM_H
#define BLUELM_TEAM_H

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <vector>

#include "base/check.h"

namespace bluelm {

class Team {
public:
    // Runs body(thread) for thread 0..n_threads-1, 0 on the calling thread, and returns when all have
    // returned. Where the system starts fewer threads, size() is smaller. The first exception of a body stops
    // the others at their next barrier and is thrown again here.
    static void run(int n_threads, const std::function<void(Team&, int thread)>& body);

    int size() const { return size_; }

    // Waits for all threads. False: somebody called stop(), return from the body.
    bool barrier();
    void stop();
    bool stopped() const { return stopped_.load(std::memory_order_relaxed); }

    // Shares out the numbers 0..n-1 of a piece of work, each to one thread: 0 or more, or -1 when there are
    // none left. All threads have to pass a barrier before they take from the next piece.
    class Work {
    public:
        int64_t take(int64_t n) {
            const int64_t i = next_.fetch_add(1, std::memory_order_relaxed);
            return i < n ? i : -1;
        }

    private:
        std::atomic<int64_t> next_{0};
    };

    // The pieces of work of a run, one after the other: every thread goes through them in the same order.
    class WorkList {
    public:
        explicit WorkList(size_t n) : work_(n) {}
        Work& operator[](size_t index) {
            BLUELM_CHECK(index < work_.size());
            return work_[index];
        }

    private:
        std::vector<Work> work_;
    };

private:
    Team() = default;

    std::mutex mutex_;
    std::condition_variable changed_;
    int size_ = 0;  // set before any body runs
    bool started_ = false;
    std::atomic<int> waiting_{0};
    std::atomic<uint32_t> round_{0};
    std::atomic<bool> stopped_{false};
};

}  // namespace bluelm

#endif  // BLUELM_TEAM_H
