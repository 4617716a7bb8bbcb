#include "base/team.h"

#include <exception>
#include <thread>
#include <vector>

namespace bluelm {

void Team::run(int n_threads, const std::function<void(Team&, int)>& body) {
    Team team;
    std::exception_ptr failure;
    const auto guarded = [&](int thread) {
        try {
            body(team, thread);
        } catch (...) {
            {
                const std::lock_guard<std::mutex> lock(team.mutex_);
                if (!failure) failure = std::current_exception();
            }
            team.stop();
        }
    };
    std::vector<std::thread> threads;
    threads.reserve(static_cast<size_t>(n_threads > 1 ? n_threads - 1 : 0));
    try {
        for (int i = 1; i < n_threads; ++i) {
            threads.emplace_back([&, i] {
                {
                    std::unique_lock<std::mutex> lock(team.mutex_);
                    team.changed_.wait(lock, [&] { return team.started_; });
                }
                guarded(i);
            });
        }
    } catch (const std::exception&) {
        // A limit on threads, or no memory for another one: those that run have to do.
    }
    {
        const std::lock_guard<std::mutex> lock(team.mutex_);
        team.size_ = static_cast<int>(threads.size()) + 1;
        team.started_ = true;
    }
    team.changed_.notify_all();
    guarded(0);
    for (std::thread& thread : threads) thread.join();
    if (failure) std::rethrow_exception(failure);
}

bool Team::barrier() {
    constexpr int kSpins = 2000;  // some 50 microseconds
    if (stopped()) return false;
    if (size_ == 1) return true;
    const uint32_t round = round_.load(std::memory_order_acquire);
    if (waiting_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
        waiting_.store(0, std::memory_order_relaxed);
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            round_.store(round + 1, std::memory_order_release);
        }
        changed_.notify_all();
        return !stopped();
    }
    const auto over = [&] { return round_.load(std::memory_order_acquire) != round || stopped(); };
    for (int i = 0; i < kSpins; ++i) {
        if (over()) return !stopped();
#if defined(__x86_64__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ volatile("yield");
#endif
    }
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, over);
    return !stopped();
}

void Team::stop() {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        stopped_.store(true);
    }
    changed_.notify_all();
}

}  // namespace bluelm
