// Losses of a row of numbers: margins between classes, distances between vectors.
#pragma once

#include "blocks.h"
#include "parallel.h"

namespace losskit::LOSSKIT_ISA {
namespace {

// Rows of one chunk: about as many elements as the pointwise losses take.
inline int64_t rows_per_sum(const FusedArgs& a) {
    int64_t rows = kPointwiseChunk / (a.width > 0 ? a.width : 1);
    return rows < 1 ? 1 : rows;
}

inline int64_t row_chunks(const FusedArgs& a) {
    int64_t step = rows_per_sum(a);
    return (a.n + step - 1) / step;
}

inline void fused_rows(const FusedArgs&) {}

}  // namespace
}  // namespace losskit::LOSSKIT_ISA
