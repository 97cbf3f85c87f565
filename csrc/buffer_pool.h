// Memory for the tensors that the kernels return.
//
// A. For 64 KiB and more; what is smaller, the C library hands out well.
// B. Buffers are mapped, and on release kept for the next call: a fresh mapping costs the zeroing of its pages, which
//    for the gradient of a large batch of logits is most of what PyTorch's cross entropy spends. From 2 MiB on they are
//    aligned and marked for huge pages, and what lies idle while many other buffers come and go is marked MADV_FREE: the
//    kernel may take the pages when it is short of memory.
// C. What lies idle is capped; the buffer that has waited longest goes first.
#pragma once

#include <cstddef>
#include <cstdint>

namespace losskit {

constexpr size_t kPooled = size_t{64} << 10;

struct Buffer {
    void* data;
    size_t capacity;
};

struct PoolStats {
    uint64_t active_bytes, cached_bytes, peak_active_bytes, limit_bytes, hits, misses;
};

// data is null where memory cannot be had.
Buffer acquire_buffer(size_t bytes);
void release_buffer(Buffer);
void empty_cache();
void set_cache_limit(uint64_t bytes);
PoolStats pool_stats();
// Takes and gives back the lock around fork(), so that no child inherits it locked.
void install_fork_handlers();
bool forked();

}  // namespace losskit
