// What the caller of an encode decides for it: threads, and a callback that hears of progress and may cancel.
#ifndef BLUELM_DEVICE_CALL_H
#define BLUELM_DEVICE_CALL_H

#include <atomic>
#include <chrono>

#include "kernels/encoder/matmul.h"

namespace bluelm {

// Holds for graphs that the device computes on this thread while the object lives: around mtmd_encode_chunk,
// say. Not nested.
class DeviceCall {
public:
    // fraction: 0..1 of the graph, done. False: cancel; mtmd_encode_chunk then returns 1, and the context can
    // be used again.
    using Progress = bool (*)(float fraction, void* user_data);

    // A rehearsal ends before anything is computed: no weights are packed for it.
    enum class Kind { kEncode, kRehearsal };

    // n_threads 0: BLUELM_THREADS in the environment, or the physical cores. progress NULL: none.
    DeviceCall(int n_threads, Progress progress, void* user_data, Kind kind = Kind::kEncode);
    ~DeviceCall();
    DeviceCall(const DeviceCall&) = delete;
    DeviceCall& operator=(const DeviceCall&) = delete;

    // This thread's, or NULL.
    static const DeviceCall* current();

    int n_threads() const { return n_threads_; }
    bool is_rehearsal() const { return kind_ == Kind::kRehearsal; }
    bool report(float fraction) const { return !progress_ || progress_(fraction, user_data_); }

private:
    int n_threads_;
    Progress progress_;
    void* user_data_;
    Kind kind_;
};

// Threads of an encode on this thread: those of its DeviceCall, or the environment's, or the physical cores.
int device_threads();

// Asks a DeviceCall's callback now and then while a graph runs.
class Watch {
public:
    explicit Watch(const DeviceCall* call) : call_(call) {}

    // The graph's cost, and what has been done of it.
    void begin(double total) { total_ = total > 0 ? total : 1; }
    void done(double cost) { done_ += cost; }

    // Thread 0 of ggml's, which is the caller's: asks if it is time. kernel: left meanwhile (AMX's tiles),
    // may be NULL. All: true when the caller wants to stop.
    bool stopped(int ith, const MatmulKernel* kernel);

private:
    using Clock = std::chrono::steady_clock;

    const DeviceCall* call_;
    double total_ = 1, done_ = 0;
    Clock::time_point asked_;  // long ago: the first node asks
    std::atomic<bool> stopped_{false};
};

}  // namespace bluelm

#endif  // BLUELM_DEVICE_CALL_H
