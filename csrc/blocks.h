// Blocks of a tensor as float32, whatever the tensor's dtype, and the transposes of such blocks.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __SSE2__
#include <immintrin.h>
#endif

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

// Not inlined: the loops of every dtype at every call make a compilation several times as long.
__attribute__((noinline)) void load_any(const void* from, DType dtype, int64_t offset, float* to, int64_t n) {
    switch (dtype) {
        case DType::bfloat16: return load_block(static_cast<const bfloat16*>(from) + offset, to, n);
        case DType::float16: return load_block(static_cast<const float16*>(from) + offset, to, n);
        case DType::float64: {
            const double* source = static_cast<const double*>(from) + offset;
            for (int64_t i = 0; i < n; ++i) to[i] = static_cast<float>(source[i]);
            return;
        }
        default: std::memcpy(to, static_cast<const float*>(from) + offset, static_cast<size_t>(n) * sizeof(float));
    }
}

__attribute__((noinline)) void store_any(const float* from, void* to, DType dtype, int64_t offset, int64_t n) {
    switch (dtype) {
        case DType::bfloat16: return store_block(from, static_cast<bfloat16*>(to) + offset, n);
        case DType::float16: return store_block(from, static_cast<float16*>(to) + offset, n);
        case DType::float64: {
            double* target = static_cast<double*>(to) + offset;
            for (int64_t i = 0; i < n; ++i) target[i] = from[i];
            return;
        }
        default: std::memcpy(static_cast<float*>(to) + offset, from, static_cast<size_t>(n) * sizeof(float));
    }
}

__attribute__((noinline)) double sum_in_double(const float* values, int64_t n) {
    double sum = 0.0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i) sum += values[i];
    return sum;
}

// In double, but for the innermost sums of four: a conversion for each element costs more than many a loss, and what four
// lose is less than the rounding of the elements.
inline double sum_of(const float* values, int64_t n) {
    const int64_t quarter = n / 4;
    const float *second = values + quarter, *third = second + quarter, *fourth = third + quarter;
    double sum = 0.0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < quarter; ++i) sum += (values[i] + second[i]) + (third[i] + fourth[i]);
    for (int64_t i = 4 * quarter; i < n; ++i) sum += values[i];
    // Four large ones may go beyond float where their sum in double does not.
    return sum - sum == 0.0 ? sum : sum_in_double(values, n);
}

inline float load_one(const void* from, DType dtype, int64_t offset) {
    float value;
    load_any(from, dtype, offset, &value, 1);
    return value;
}

inline void store_one(float value, void* to, DType dtype, int64_t offset) { store_any(&value, to, dtype, offset, 1); }

inline int64_t bytes_of(DType dtype) { return dtype == DType::float64 ? 8 : dtype == DType::float32 ? 4 : 2; }

// Transposes between rows of few classes and classes of many rows, in square tiles that stay in the registers. A row of a
// tile is read and written as a whole vector, also where the row of the matrix ends before it: `room` is how many floats
// there are at the rows' address, and no access goes beyond. What a store spills into the next row is written later.
// Floats beyond the end that are enough for every tile.
constexpr int64_t kTileRoom = 16;

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define LOSSKIT_SHUFFLEVECTOR
#endif
#endif

// The first `count` classes of rows that lie `step` apart, one by one.
inline void rows_in(const float* from, float* to, float* maxima, int64_t rows, int64_t count, int64_t step, int64_t stride) {
    for (int64_t i = 0; i < rows; ++i) {
        for (int64_t k = 0; k < count; ++k) {
            float v = from[i * step + k];
            to[k * stride + i] = v;
            if (maxima) maxima[i] = v > maxima[i] ? v : maxima[i];
        }
    }
}

inline void rows_out(const float* from, const float* factors, float* to, int64_t rows, int64_t count, int64_t step,
                     int64_t stride) {
    for (int64_t i = 0; i < rows; ++i) {
        for (int64_t k = 0; k < count; ++k) to[i * step + k] = from[k * stride + i] * (factors ? factors[i] : 1.0f);
    }
}

#ifdef LOSSKIT_SHUFFLEVECTOR
typedef float Vector4 __attribute__((vector_size(16)));

LOSSKIT_INLINE Vector4 zip_low(Vector4 a, Vector4 b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
LOSSKIT_INLINE Vector4 zip_high(Vector4 a, Vector4 b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }

#ifdef __AVX__
typedef float Vector8 __attribute__((vector_size(32)));

LOSSKIT_INLINE Vector8 zip_low(Vector8 a, Vector8 b) {
    return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
}
LOSSKIT_INLINE Vector8 zip_high(Vector8 a, Vector8 b) {
    return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
}
#else
typedef Vector4 Vector8;
#endif

#ifdef __AVX512F__
typedef float Vector16 __attribute__((vector_size(64)));

LOSSKIT_INLINE Vector16 zip_low(Vector16 a, Vector16 b) {
    return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
LOSSKIT_INLINE Vector16 zip_high(Vector16 a, Vector16 b) {
    return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
#else
typedef Vector8 Vector16;
#endif

template <class Vector>
constexpr int64_t kWidth = static_cast<int64_t>(sizeof(Vector) / sizeof(float));

// Interleaving the first half of the rows with the second half, once for each bit of a row's number, transposes.
template <class Vector>
LOSSKIT_INLINE void transpose_tile(Vector* tile) {
    constexpr int64_t width = kWidth<Vector>;
#pragma GCC unroll 4
    for (int64_t bit = 1; bit < width; bit *= 2) {
        Vector zipped[width];
#pragma GCC unroll 8
        for (int64_t j = 0; j < width / 2; ++j) {
            zipped[2 * j] = zip_low(tile[j], tile[j + width / 2]);
            zipped[2 * j + 1] = zip_high(tile[j], tile[j + width / 2]);
        }
#pragma GCC unroll 16
        for (int64_t j = 0; j < width; ++j) tile[j] = zipped[j];
    }
}

#ifdef __AVX__
// Within the halves of the rows first: a shuffle across the halves is slow before AVX-512.
LOSSKIT_INLINE void transpose_tile(Vector8* tile) {
    Vector8 zipped[8];
#pragma GCC unroll 4
    for (int64_t j = 0; j < 8; j += 2) {
        zipped[j] = __builtin_shufflevector(tile[j], tile[j + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        zipped[j + 1] = __builtin_shufflevector(tile[j], tile[j + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    Vector8 quarters[8];
#pragma GCC unroll 4
    for (int64_t j = 0; j < 4; ++j) {
        Vector8 a = zipped[j < 2 ? j : j + 2], b = zipped[j < 2 ? j + 2 : j + 4];
        // Of rows 0 to 3, or 4 to 7: columns 2 j and 2 j + 1, and below them those that lie four further.
        quarters[2 * j] = __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13);
        quarters[2 * j + 1] = __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
    }
#pragma GCC unroll 4
    for (int64_t j = 0; j < 4; ++j) {
        tile[j] = __builtin_shufflevector(quarters[j], quarters[j + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        tile[j + 4] = __builtin_shufflevector(quarters[j], quarters[j + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
}
#endif

// The first `count` rows of a tile, which lie `step` apart.
template <class Vector>
LOSSKIT_INLINE void load_tile(Vector* tile, const float* from, int64_t step, int64_t count) {
#pragma GCC unroll 16
    for (int64_t j = 0; j < kWidth<Vector>; ++j) {
        Vector row{};
        if (j < count) std::memcpy(&row, from + j * step, sizeof(Vector));
        tile[j] = row;
    }
}

template <class Vector>
LOSSKIT_INLINE void store_tile(const Vector* tile, float* to, int64_t step, int64_t count) {
#pragma GCC unroll 16
    for (int64_t j = 0; j < kWidth<Vector>; ++j) {
        Vector row = tile[j];
        if (j < count) std::memcpy(to + j * step, &row, sizeof(Vector));
    }
}

// Rows that lie `step` apart become `count` columns; `maxima`, one per row, are raised to what is in them.
template <class Vector>
LOSSKIT_INLINE void tile_in(const float* from, int64_t step, float* to, float* maxima, int64_t stride, int64_t count) {
    Vector tile[kWidth<Vector>], most;
    load_tile(tile, from, step, kWidth<Vector>);
    transpose_tile(tile);
    store_tile(tile, to, stride, count);
    if (!maxima) return;
    std::memcpy(&most, maxima, sizeof(Vector));
#pragma GCC unroll 16
    for (int64_t j = 0; j < kWidth<Vector>; ++j) {
        if (j < count) most = tile[j] > most ? tile[j] : most;
    }
    std::memcpy(maxima, &most, sizeof(Vector));
}

// `count` columns, each times its row's factor, become rows that lie `step` apart.
template <class Vector>
LOSSKIT_INLINE void tile_out(const float* from, const float* factors, int64_t stride, int64_t count, float* to, int64_t step) {
    Vector tile[kWidth<Vector>], factor;
    load_tile(tile, from, stride, count);
    if (factors) {
        std::memcpy(&factor, factors, sizeof(Vector));
#pragma GCC unroll 16
        for (int64_t j = 0; j < kWidth<Vector>; ++j) tile[j] *= factor;
    }
    transpose_tile(tile);
    store_tile(tile, to, step, kWidth<Vector>);
}

// How many columns the tiles of the `rest` classes after the last whole tile have.
template <class Vector>
LOSSKIT_INLINE int64_t columns_of_rest(int64_t rest) {
    return kWidth<Vector> == 8 && rest <= 4 ? 4 : kWidth<Vector>;
}

template <class Vector>
inline void transpose_in_tiles(const float* from, int64_t room, float* to, float* maxima, int64_t rows, int64_t classes,
                               int64_t stride) {
    constexpr int64_t width = kWidth<Vector>;
    const int64_t whole = classes / width * width, rest = classes - whole;
    const int64_t columns = columns_of_rest<Vector>(rest);
    int64_t i = 0;
    for (; i + width <= rows; i += width) {
        float* most = maxima ? maxima + i : nullptr;
        for (int64_t k = 0; k < whole; k += width) {
            tile_in<Vector>(from + i * classes + k, classes, to + k * stride + i, most, stride, width);
        }
        if (rest == 0) continue;
        const float* source = from + i * classes + whole;
        float* target = to + whole * stride + i;
        if ((i + width - 1) * classes + whole + columns > room) {
            rows_in(source, target, most, width, rest, classes, stride);
        } else if (columns == width) {
            tile_in<Vector>(source, classes, target, most, stride, rest);
        } else {
            tile_in<Vector4>(source, classes, target, most, stride, rest);
            tile_in<Vector4>(source + 4 * classes, classes, target + 4, most ? most + 4 : nullptr, stride, rest);
        }
    }
    rows_in(from + i * classes, to + i, maxima ? maxima + i : nullptr, rows - i, classes, classes, stride);
}

template <class Vector>
inline void transpose_out_tiles(const float* from, const float* factors, float* to, int64_t room, int64_t rows, int64_t classes,
                                int64_t stride) {
    constexpr int64_t width = kWidth<Vector>;
    const int64_t whole = classes / width * width, rest = classes - whole;
    const int64_t columns = columns_of_rest<Vector>(rest);
    int64_t i = 0;
    for (; i + width <= rows; i += width) {
        const float* factor = factors ? factors + i : nullptr;
        // The last classes first: what they spill is the first classes of the next row.
        const float* source = from + whole * stride + i;
        float* target = to + i * classes + whole;
        if ((i + width - 1) * classes + whole + columns > room) {
            rows_out(source, factor, target, width, rest, classes, stride);
        } else if (rest != 0 && columns == width) {
            tile_out<Vector>(source, factor, stride, rest, target, classes);
        } else if (rest != 0) {
            tile_out<Vector4>(source, factor, stride, rest, target, classes);
            tile_out<Vector4>(source + 4, factor ? factor + 4 : nullptr, stride, rest, target + 4 * classes, classes);
        }
        for (int64_t k = 0; k < whole; k += width) {
            tile_out<Vector>(from + k * stride + i, factor, stride, width, to + i * classes + k, classes);
        }
    }
    rows_out(from + i, factors ? factors + i : nullptr, to + i * classes, rows - i, classes, classes, stride);
}
#endif

// to[k * stride + i] = from[i * classes + k]; where `maxima` is given, maxima[i] is raised to the largest of row i.
__attribute__((noinline)) void transpose_in(const float* from, int64_t room, float* to, float* maxima, int64_t rows,
                                            int64_t classes, int64_t stride) {
#ifdef LOSSKIT_SHUFFLEVECTOR
    if (classes <= 4) return transpose_in_tiles<Vector4>(from, room, to, maxima, rows, classes, stride);
    if (classes <= 8) return transpose_in_tiles<Vector8>(from, room, to, maxima, rows, classes, stride);
    return transpose_in_tiles<Vector16>(from, room, to, maxima, rows, classes, stride);
#else
    rows_in(from, to, maxima, rows, classes, classes, stride);
#endif
}

// to[i * classes + k] = from[k * stride + i], times factors[i] where `factors` is given.
__attribute__((noinline)) void transpose_out(const float* from, const float* factors, float* to, int64_t room, int64_t rows,
                                             int64_t classes, int64_t stride) {
#ifdef LOSSKIT_SHUFFLEVECTOR
    if (classes <= 4) return transpose_out_tiles<Vector4>(from, factors, to, room, rows, classes, stride);
    if (classes <= 8) return transpose_out_tiles<Vector8>(from, factors, to, room, rows, classes, stride);
    return transpose_out_tiles<Vector16>(from, factors, to, room, rows, classes, stride);
#else
    rows_out(from, factors, to, rows, classes, classes, stride);
#endif
}

// Memory of this size does not stay in the caches: what is written to it goes around them, because a store into a cache
// reads the line first.
constexpr int64_t kStreamedBytes = int64_t{32} << 20;
// Elements of a block on that way: while one is computed, the processor fetches the next, if both lie in one page.
constexpr int64_t kStreamedBlock = 256;

// The writer calls `end_of_stream` before another thread may read.
inline void stream_block(const float* from, float* to, int64_t n) {
    int64_t i = 0;
#ifdef __SSE2__
    for (; i < n && reinterpret_cast<uintptr_t>(to + i) % 64 != 0; ++i) to[i] = from[i];
    for (; i + 16 <= n; i += 16) {
#if defined(__AVX512F__)
        _mm512_stream_ps(to + i, _mm512_loadu_ps(from + i));
#elif defined(__AVX__)
        for (int64_t j = i; j < i + 16; j += 8) _mm256_stream_ps(to + j, _mm256_loadu_ps(from + j));
#else
        for (int64_t j = i; j < i + 16; j += 4) _mm_stream_ps(to + j, _mm_loadu_ps(from + j));
#endif
    }
#endif
    std::memcpy(to + i, from + i, static_cast<size_t>(n - i) * sizeof(float));
}

inline void end_of_stream() {
#ifdef __SSE2__
    _mm_sfence();
#endif
}

}  // namespace
}  // namespace losskit::LOSSKIT_ISA
