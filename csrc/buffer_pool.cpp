#include "buffer_pool.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <mutex>
#include <vector>

namespace losskit {
namespace {

constexpr size_t kHuge = size_t{2} << 20;

// Buffers taken and given back since a buffer became idle, after which the system may have its pages. At once would cost
// a training loop, which takes the same buffer again at its next step, as much as writing a part of it.
constexpr uint64_t kPatience = 16;

uint64_t default_limit() {
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGE_SIZE);
    // A quarter of the machine. What is idle for long can be reclaimed, so this bounds address space more than memory.
    return pages > 0 && size > 0 ? static_cast<uint64_t>(pages) * static_cast<uint64_t>(size) / 4 : uint64_t{4} << 30;
}

struct Idle {
    Buffer buffer;
    uint64_t since;
    // Whether the system may have its pages.
    bool offered;
};

struct Pool {
    std::mutex mutex;
    // Longest idle first.
    std::vector<Idle> idle;
    // Buffers taken and given back.
    uint64_t clock = 0;
    PoolStats stats{0, 0, 0, default_limit(), 0, 0};
};

// Never destroyed: tensors that own a buffer may outlive static objects.
Pool& pool() {
    static Pool* instance = new Pool;
    return *instance;
}

std::atomic<bool> in_forked_child{false};

size_t round_up(size_t bytes, size_t step) { return (bytes + step - 1) / step * step; }

void* map(size_t capacity) {
    size_t slack = capacity >= kHuge ? kHuge : 0;
    void* raw = mmap(nullptr, capacity + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (raw == MAP_FAILED) return nullptr;
    if (slack == 0) return raw;
    char* begin = static_cast<char*>(raw);
    char* aligned = reinterpret_cast<char*>(round_up(reinterpret_cast<size_t>(begin), kHuge));
    if (aligned > begin) munmap(begin, aligned - begin);
    size_t tail = begin + capacity + slack - (aligned + capacity);
    if (tail) munmap(aligned + capacity, tail);
#ifdef MADV_HUGEPAGE
    madvise(aligned, capacity, MADV_HUGEPAGE);
#endif
    return aligned;
}

void trim(Pool& p, uint64_t limit) {
    size_t gone = 0;
    while (p.stats.cached_bytes > limit && gone < p.idle.size()) {
        const Buffer& buffer = p.idle[gone].buffer;
        munmap(buffer.data, buffer.capacity);
        p.stats.cached_bytes -= buffer.capacity;
        ++gone;
    }
    p.idle.erase(p.idle.begin(), p.idle.begin() + static_cast<std::ptrdiff_t>(gone));
}

// What has been idle for long goes to the system where it needs memory, and what is more than a quarter of the limit.
void offer(Pool& p) {
#ifdef MADV_FREE
    uint64_t kept = 0;
    for (size_t i = p.idle.size(); i-- > 0;) {
        Idle& idle = p.idle[i];
        if (idle.offered) continue;
        kept += idle.buffer.capacity;
        if (p.clock - idle.since < kPatience && kept <= p.stats.limit_bytes / 4) continue;
        if (idle.buffer.capacity >= kHuge) madvise(idle.buffer.data, idle.buffer.capacity, MADV_FREE);
        idle.offered = true;
    }
#endif
}

}  // namespace

Buffer acquire_buffer(size_t bytes) {
    size_t need = round_up(bytes, bytes >= kHuge ? kHuge : size_t{4096});
    Pool& p = pool();
    {
        std::lock_guard<std::mutex> lock(p.mutex);
        ++p.clock;
        size_t best = p.idle.size();
        // From the most recently used: of equal sizes, that one is still in the cache.
        for (size_t i = p.idle.size(); i-- > 0;) {
            size_t capacity = p.idle[i].buffer.capacity;
            if (capacity >= need && capacity <= need + need / 4 &&
                (best == p.idle.size() || capacity < p.idle[best].buffer.capacity)) {
                best = i;
            }
        }
        if (best < p.idle.size()) {
            Buffer found = p.idle[best].buffer;
            p.idle.erase(p.idle.begin() + static_cast<std::ptrdiff_t>(best));
            p.stats.cached_bytes -= found.capacity;
            p.stats.active_bytes += found.capacity;
            if (p.stats.active_bytes > p.stats.peak_active_bytes) p.stats.peak_active_bytes = p.stats.active_bytes;
            ++p.stats.hits;
            return found;
        }
    }
    void* data = map(need);
    if (!data) {
        // What lies idle may be what is missing.
        empty_cache();
        data = map(need);
        if (!data) return {nullptr, 0};
    }
    std::lock_guard<std::mutex> lock(p.mutex);
    p.stats.active_bytes += need;
    if (p.stats.active_bytes > p.stats.peak_active_bytes) p.stats.peak_active_bytes = p.stats.active_bytes;
    ++p.stats.misses;
    return {data, need};
}

void release_buffer(Buffer buffer) {
    Pool& p = pool();
    std::lock_guard<std::mutex> lock(p.mutex);
    p.stats.active_bytes -= buffer.capacity;
    p.stats.cached_bytes += buffer.capacity;
    p.idle.push_back({buffer, ++p.clock, false});
    trim(p, p.stats.limit_bytes);
    offer(p);
}

void empty_cache() {
    Pool& p = pool();
    std::lock_guard<std::mutex> lock(p.mutex);
    trim(p, 0);
}

void set_cache_limit(uint64_t bytes) {
    Pool& p = pool();
    std::lock_guard<std::mutex> lock(p.mutex);
    p.stats.limit_bytes = bytes;
    trim(p, bytes);
}

PoolStats pool_stats() {
    Pool& p = pool();
    std::lock_guard<std::mutex> lock(p.mutex);
    return p.stats;
}

void install_fork_handlers() {
    pthread_atfork([] { pool().mutex.lock(); }, [] { pool().mutex.unlock(); },
                   [] {
                       pool().mutex.unlock();
                       in_forked_child.store(true, std::memory_order_relaxed);
                   });
}

bool forked() { return in_forked_child.load(std::memory_order_relaxed); }

}  // namespace losskit
