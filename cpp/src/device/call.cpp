#include "device/call.h"

#include <algorithm>
#include <cstdlib>

#include "base/cores.h"

namespace bluelm {
namespace {

constexpr int kMostThreads = 512;
thread_local const DeviceCall* current_call = nullptr;

}  // namespace

DeviceCall::DeviceCall(int n_threads, Progress progress, void* user_data, Kind kind)
    : n_threads_(n_threads), progress_(progress), user_data_(user_data), kind_(kind) {
    current_call = this;
}

DeviceCall::~DeviceCall() { current_call = nullptr; }

const DeviceCall* DeviceCall::current() { return current_call; }

int device_threads() {
    int n = current_call ? current_call->n_threads() : 0;
    if (n <= 0) {
        const char* given = std::getenv("BLUELM_THREADS");
        n = given ? std::atoi(given) : 0;
    }
    static const int cores = physical_cores();
    return n > 0 ? std::min(n, kMostThreads) : cores;
}

bool Watch::stopped(int ith, const MatmulKernel* kernel) {
    constexpr auto kEvery = std::chrono::milliseconds(20);
    if (ith == 0 && call_ && !stopped_.load(std::memory_order_relaxed)) {
        const Clock::time_point now = Clock::now();
        if (now - asked_ >= kEvery) {
            asked_ = now;
            // Anybody's code: it gets the CPU as it expects it.
            if (kernel && kernel->leave) kernel->leave();
            if (!call_->report(static_cast<float>(std::min(1.0, done_ / total_)))) stopped_.store(true);
            if (kernel && kernel->enter) kernel->enter();
        }
    }
    return stopped_.load(std::memory_order_relaxed);
}

}  // namespace bluelm
