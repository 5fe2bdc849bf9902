#include "native/threads.h"

#include <stdexcept>
#include <string>

namespace native {

ThreadPool::ThreadPool(int threads) {
    if (threads < 1)
        throw std::invalid_argument("threads must be at least 1, not " + std::to_string(threads));
    workers_.reserve(static_cast<std::size_t>(threads - 1));
    for (int thread = 1; thread < threads; ++thread) workers_.emplace_back([this, thread] { work(thread); });
}

ThreadPool::~ThreadPool() {
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    start_.notify_all();
    for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(std::int64_t count, const std::function<void(std::int64_t, int)>& body) {
    const std::lock_guard caller(caller_);
    next_.store(0, std::memory_order_relaxed);
    // Waking a worker costs more than a short loop saves.
    if (workers_.empty() || count <= 1) {
        drain(body, count, 0);
        return;
    }
    {
        const std::lock_guard lock(mutex_);
        body_ = &body;
        count_ = count;
        busy_ = static_cast<int>(workers_.size());
        ++loop_;
    }
    start_.notify_all();
    drain(body, count, 0);
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return busy_ == 0; });
    body_ = nullptr;
}

void ThreadPool::work(int thread) {
    std::uint64_t seen = 0;
    std::unique_lock lock(mutex_);
    while (true) {
        start_.wait(lock, [&] { return stopping_ || loop_ != seen; });
        if (stopping_) return;
        seen = loop_;
        const auto* body = body_;
        const std::int64_t count = count_;
        lock.unlock();
        drain(*body, count, thread);
        lock.lock();
        if (--busy_ == 0) done_.notify_one();
    }
}

void ThreadPool::drain(const std::function<void(std::int64_t, int)>& body, std::int64_t count, int thread) {
    for (std::int64_t index = next_.fetch_add(1, std::memory_order_relaxed); index < count;
         index = next_.fetch_add(1, std::memory_order_relaxed)) {
        body(index, thread);
    }
}

}  // namespace native
