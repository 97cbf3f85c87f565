// One loop over chunks. Which thread runs a chunk never changes a result: chunks are fixed by the shape alone.
#pragma once

#include <cstdint>

#include "isa.h"

namespace losskit::LOSSKIT_ISA {
namespace {

template <class Body>
inline void for_chunks(int64_t chunks, int threads, Body body) {
    // Without a team: in a forked child the threads of the parent's team do not exist, and waiting for them hangs.
    if (threads <= 1 || chunks <= 1) {
        for (int64_t chunk = 0; chunk < chunks; ++chunk) body(chunk);
        return;
    }
    // Dynamic: a core that another process slows down does not hold up the rest.
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t chunk = 0; chunk < chunks; ++chunk) body(chunk);
}

}  // namespace
}  // namespace losskit::LOSSKIT_ISA
