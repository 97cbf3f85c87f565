// Blocks of a tensor as float32, whatever the tensor's dtype.
#pragma once

#include <cstdint>

#include "kernels.h"
#include "numerics.h"

namespace losskit::LOSSKIT_ISA {
namespace {

template <class T>
inline void load_block(const T* from, float* to, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) to[i] = load(from[i]);
}

template <class T>
inline void store_block(const float* from, T* to, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) store(to + i, from[i]);
}

inline void load_any(const void* from, DType dtype, int64_t offset, float* to, int64_t n) {
    switch (dtype) {
        case DType::bfloat16: return load_block(static_cast<const bfloat16*>(from) + offset, to, n);
        case DType::float16: return load_block(static_cast<const float16*>(from) + offset, to, n);
        case DType::float64: {
            const double* source = static_cast<const double*>(from) + offset;
            for (int64_t i = 0; i < n; ++i) to[i] = static_cast<float>(source[i]);
            return;
        }
        default: return load_block(static_cast<const float*>(from) + offset, to, n);
    }
}

inline void store_any(const float* from, void* to, DType dtype, int64_t offset, int64_t n) {
    switch (dtype) {
        case DType::bfloat16: return store_block(from, static_cast<bfloat16*>(to) + offset, n);
        case DType::float16: return store_block(from, static_cast<float16*>(to) + offset, n);
        case DType::float64: {
            double* target = static_cast<double*>(to) + offset;
            for (int64_t i = 0; i < n; ++i) target[i] = from[i];
            return;
        }
        default: return store_block(from, static_cast<float*>(to) + offset, n);
    }
}

}  // namespace
}  // namespace losskit::LOSSKIT_ISA
