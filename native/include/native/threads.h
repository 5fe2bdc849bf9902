// A persistent pool of threads for loops whose iterations are independent.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace native {

// Runs loops on a fixed number of threads, the calling one included; the others sleep between loops.
// A pool is not usable in a child made by fork(): create it after forking.
class ThreadPool {
  public:
    // threads >= 1; starts threads - 1 workers. Throws std::invalid_argument with the value otherwise.
    explicit ThreadPool(int threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int size() const { return static_cast<int>(workers_.size()) + 1; }

    // Calls body(index, thread) once for every index in [0, count), thread in [0, size()), and returns when
    // all are done. Indices go to whichever thread is free, so body must not care which. body must not throw.
    // Calls from several threads wait for one another.
    void run(std::int64_t count, const std::function<void(std::int64_t, int)>& body);

  private:
    void work(int thread);
    void drain(const std::function<void(std::int64_t, int)>& body, std::int64_t count, int thread);

    std::mutex caller_;  // one loop at a time
    std::mutex mutex_;   // guards everything below but next_
    std::condition_variable start_;
    std::condition_variable done_;
    const std::function<void(std::int64_t, int)>* body_ = nullptr;
    std::int64_t count_ = 0;
    std::uint64_t loop_ = 0;  // number of loops started
    int busy_ = 0;            // workers still inside the current loop
    bool stopping_ = false;
    std::atomic<std::int64_t> next_{0};
    std::vector<std::thread> workers_;
};

}  // namespace native
