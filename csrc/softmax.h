// Losses of a row of scores against a class.
//
// A. The loss of a sample is  c·(lse − x_t) + Σ_k q_k·(lse − x_k)  with lse = m + log s, m = max x, s = Σ exp(x − m);
//    its gradient by x_k is  p_k·(c + Σq) − c·[k = t] − q_k.  Class weights, label smoothing and class probabilities
//    are all in c and q: see `Shares`. m and s are kept apart: from lse = m + log s alone, exp(x − lse) has lost the
//    digits of log s that a large m pushes out.
// B. Rows (classes contiguous): one pass. Each block of 1024 is shifted by its own maximum and its exponentials are
//    stored where the gradient goes; when the row is known, they are rescaled while they are still in the cache.
// C. Positions (classes apart, as in images, and rows of few classes after a transpose in the cache): the same for many
//    samples side by side.
// D. Negative log-likelihood: no softmax.
// E. Rows as in B, of scores that are scaled or capped first, or of which more is asked than the loss.
//
// Chunks of samples are fixed by the shape; each gives one partial sum.
#pragma once

#include <cmath>
#include <cstdlib>
#include <new>

#include "blocks.h"
#include "parallel.h"

namespace losskit::LOSSKIT_ISA {
namespace {

constexpr int64_t kRowBlock = 1024;
// Samples side by side: as many as stay in the first-level cache; of large images more, because of classes that lie far
// apart memory gives long pieces sooner.
constexpr int64_t kFewPositions = 128, kPositions = 1024;
// Rows of fewer classes are transposed: what a row costs once (logarithm, division, sums across a vector, the remainder)
// is then paid in vectors of rows. From here on the row kernel is as fast.
constexpr int64_t kFewClasses = 256;
constexpr int64_t kChunkElements = 16384;

// Scratch memory of one chunk, which the thread keeps for its next one: a megabyte taken from the C library and given
// back costs more than a small loss. One at a time.
class Scratch {
public:
    explicit Scratch(int64_t floats) {
        if (floats <= held_.floats) return;
        std::free(held_.data);
        held_.data = static_cast<float*>(std::aligned_alloc(64, static_cast<size_t>((floats * 4 + 127) / 64 * 64)));
        if (!held_.data) std::abort();
        held_.floats = floats;
    }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    float* data() const { return held_.data; }

private:
    struct Held {
        float* data = nullptr;
        int64_t floats = -1;
        ~Held() { std::free(data); }
    };
    static thread_local Held held_;
};

thread_local Scratch::Held Scratch::held_;

inline bool transposed(const ClassArgs& a) {
    return a.inner == 1 && a.classes < kFewClasses && !has_score_options(a);
}

inline int64_t positions_per_block(const ClassArgs& a) {
    int64_t most = kFewPositions;
    if (a.inner != 1) {
        // Blocks enough for many threads, and none of more than an image; whole vectors.
        const int64_t share = a.outer * a.inner / 128 / 16 * 16, image = (a.inner + 15) / 16 * 16;
        most = share < most ? most : share > kPositions ? kPositions : share;
        most = most > image ? image : most;
    }
    // The exponentials of a block, and what else is laid out as they are, should stay in the second-level cache.
    int64_t fit = 32768 / (a.classes > 0 ? a.classes : 1) / 16 * 16;
    fit = fit < 64 ? 64 : fit;
    return fit > most ? most : fit;
}

inline bool is_streamed(const ClassArgs& a) {
    return a.grad && a.grad != a.input && a.dtype == DType::float32 &&
           a.outer * a.inner * a.classes * static_cast<int64_t>(sizeof(float)) >= kStreamedBytes;
}

inline int64_t rows_per_chunk(const ClassArgs& a) {
    int64_t rows = kChunkElements / (a.classes > 0 ? a.classes : 1);
    return rows < 1 ? 1 : rows;
}

// Blocks of positions: how many an image has, or all rows have; and how many of them are in a chunk. More than one where
// there are chunks enough all the same: a thread reads the next block while it computes one.
inline int64_t blocks_of_positions(const ClassArgs& a) {
    const int64_t step = positions_per_block(a);
    return ((a.inner == 1 ? a.outer : a.inner) + step - 1) / step;
}

inline int64_t blocks_per_chunk(const ClassArgs& a) {
    const int64_t blocks = blocks_of_positions(a) * (a.inner == 1 ? 1 : a.outer), share = blocks / 128;
    return share < 1 ? 1 : share > 16 ? 16 : share;
}

// How many samples a chunk has; one of images has no samples of two.
inline int64_t samples_per_chunk(const ClassArgs& a) {
    if (a.inner == 1 && !transposed(a)) return rows_per_chunk(a);
    return positions_per_block(a) * blocks_per_chunk(a);
}

int64_t class_chunks(const ClassArgs& a) {
    // Zero where there are no positions.
    const int64_t step = samples_per_chunk(a);
    if (a.inner == 1) return (a.outer + step - 1) / step;
    return a.outer * ((a.inner + step - 1) / step);
}

LOSSKIT_INLINE int64_t given_index_at(const ClassArgs& a, int64_t sample) {
    return a.target_dtype == DType::uint8 ? static_cast<const uint8_t*>(a.target)[sample]
                                          : static_cast<const int64_t*>(a.target)[sample];
}

// The range has been checked, but another thread may have written to the target since: a wrong number then, and never an
// address outside the input.
LOSSKIT_INLINE int64_t within(int64_t index, int64_t classes) {
    return static_cast<uint64_t>(index) < static_cast<uint64_t>(classes) ? index : 0;
}

LOSSKIT_INLINE int64_t index_at(const ClassArgs& a, int64_t sample) { return within(given_index_at(a, sample), a.classes); }

LOSSKIT_INLINE bool counts_at(const ClassArgs& a, int64_t sample) {
    if (a.row_mask && !a.row_mask[sample]) return false;
    return a.kind == Targets::probabilities || given_index_at(a, sample) != a.ignore_index;
}

// What the loss and the gradient of a sample are multiplied by.
LOSSKIT_INLINE float loss_factor(const ClassArgs& a, int64_t sample) { return a.row_weight ? a.row_weight[sample] : 1.0f; }

inline float grad_factor(const ClassArgs& a, int64_t sample) {
    float upstream = a.grad_output ? load_one(a.grad_output, a.grad_output_dtype, sample) : 1.0f;
    return loss_factor(a, sample) * a.scale * upstream;
}

template <class Index>
inline bool count_chunk(const ClassArgs& a, const Index* target, int64_t begin, int64_t end, double& total) {
    int64_t outside = 0, counted = 0;
    if (!a.weight && !a.row_mask) {
#pragma omp simd reduction(+ : outside, counted)
        for (int64_t i = begin; i < end; ++i) {
            int64_t t = target[i];
            int64_t counts = t != a.ignore_index;
            counted += counts;
            outside += counts & ((t < 0) | (t >= a.classes));
        }
        total = static_cast<double>(counted);
        return outside == 0;
    }
    double sum = 0.0;
    for (int64_t i = begin; i < end; ++i) {
        int64_t t = target[i];
        if (t == a.ignore_index || (a.row_mask && !a.row_mask[i])) continue;
        if (t < 0 || t >= a.classes) return false;
        sum += a.weight ? a.weight[t] : 1.0f;
    }
    total = sum;
    return true;
}

bool count_targets(const ClassArgs& a, double* total) {
    int64_t samples = a.outer * a.inner;
    constexpr int64_t step = 65536;
    int64_t chunks = (samples + step - 1) / step;
    if (chunks == 0) {
        *total = 0.0;
        return true;
    }
    double* partial = static_cast<double*>(std::malloc(sizeof(double) * chunks));
    if (!partial) std::abort();
    int bad = 0;
    for_chunks(chunks, a.threads, [&](int64_t chunk) {
        int64_t begin = chunk * step, end = begin + step < samples ? begin + step : samples;
        double sum = 0.0;
        bool good = a.target_dtype == DType::uint8
                        ? count_chunk(a, static_cast<const uint8_t*>(a.target), begin, end, sum)
                        : count_chunk(a, static_cast<const int64_t*>(a.target), begin, end, sum);
        partial[chunk] = sum;
        if (!good) {
#pragma omp atomic write
            bad = 1;
        }
    });
    double sum = 0.0;
    for (int64_t i = 0; i < chunks; ++i) sum += partial[i];
    std::free(partial);
    *total = sum;
    return bad == 0;
}

// A. q. `none` is 0, `per_class` the same for every sample, `per_element` from the class probabilities.
enum class Shares { none, per_class, per_element };

struct Share {
    // All of the class weight that goes to the target, and the smoothing that each class gets.
    float keep, uniform;
};

inline Share share_of(const ClassArgs& a) {
    if (!(a.label_smoothing > 0.0f)) return {1.0f, 0.0f};
    return {1.0f - a.label_smoothing, a.label_smoothing / static_cast<float>(a.classes)};
}

LOSSKIT_INLINE float weight_of(const ClassArgs& a, int64_t k) { return a.weight ? a.weight[k] : 1.0f; }

// q of `n` classes from `k` of a row; `at` is the offset of the first element in the input and the probabilities.
inline void row_shares(const ClassArgs& a, const Share& share, int64_t at, int64_t k, int64_t n, float* q) {
    const float keep = share.keep, uniform = share.uniform;
    if (a.kind == Targets::probabilities) {
        load_any(a.target, a.target_dtype, at, q, n);
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) q[i] = keep * q[i] + uniform;
    } else {
        for (int64_t i = 0; i < n; ++i) q[i] = uniform;
    }
    if (!a.weight) return;
    const float* weight = a.weight + k;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) q[i] *= weight[i];
}

// B. The maximum of a block; what is not float32 is converted into `to` on the way.
template <class T>
inline float block_max(const T* from, float* to, int64_t n) {
    float m = -kInfinity;
#pragma omp simd reduction(max : m)
    for (int64_t i = 0; i < n; ++i) {
        float v = load(from[i]);
        m = v > m ? v : m;
        if constexpr (sizeof(T) != sizeof(float)) to[i] = v;
    }
    return m;
}

// A block of a row on its way to exponentials: `values` as float32, their number, and their maximum.
struct RowBlock {
    const float* values;
    int64_t n;
    float max;
};

template <class T>
inline RowBlock block_of(const T* from, float* to, int64_t n, float max) {
    if constexpr (sizeof(T) == sizeof(float)) return {from, n, max};
    return {to, n, max};
}

template <class T>
inline RowBlock read_block(const T* from, float* to, int64_t n) {
    return block_of(from, to, n, block_max(from, to, n));
}

__attribute__((noinline)) RowBlock read_block(const void* from, DType dtype, int64_t offset, float* to, int64_t n) {
    switch (dtype) {
        case DType::bfloat16: return read_block(static_cast<const bfloat16*>(from) + offset, to, n);
        case DType::float16: return read_block(static_cast<const float16*>(from) + offset, to, n);
        default: return read_block(static_cast<const float*>(from) + offset, to, n);
    }
}

// The sum of the exponentials of `block` less `shift`, which go to `exps` where kKeep asks for them. Then `block` is the
// one after it, of `n` elements, which is read meanwhile: the memory works while exp is computed.
template <class T, bool kKeep>
inline float exps_of_block(RowBlock& block, float shift, float* exps, const T* from, float* to, int64_t n) {
    const float* v = block.values;
    float sum = 0.0f, m = -kInfinity;
#pragma omp simd reduction(+ : sum) reduction(max : m)
    for (int64_t i = 0; i < n; ++i) {
        float exponential = exp_of_many(v[i] - shift), next = load(from[i]);
        sum += exponential;
        m = next > m ? next : m;
        if constexpr (kKeep) exps[i] = exponential;
        if constexpr (sizeof(T) != sizeof(float)) to[i] = next;
    }
#pragma omp simd reduction(+ : sum)
    for (int64_t i = n; i < block.n; ++i) {
        float exponential = exp_of_many(v[i] - shift);
        sum += exponential;
        if constexpr (kKeep) exps[i] = exponential;
    }
    block = block_of(from, to, n, m);
    return sum;
}

// Not inlined: among its caller's variables it does not vectorise on every instruction set.
template <bool kKeep>
__attribute__((noinline)) float exps_of_block(RowBlock& block, float shift, float* exps, const void* from, DType dtype,
                                              int64_t offset, float* to, int64_t n) {
    switch (dtype) {
        case DType::bfloat16:
            return exps_of_block<bfloat16, kKeep>(block, shift, exps, static_cast<const bfloat16*>(from) + offset, to, n);
        case DType::float16:
            return exps_of_block<float16, kKeep>(block, shift, exps, static_cast<const float16*>(from) + offset, to, n);
        default: return exps_of_block<float, kKeep>(block, shift, exps, static_cast<const float*>(from) + offset, to, n);
    }
}

// A block as float32: where it lies, or converted into `to`.
inline const float* as_floats(const void* x, DType dtype, int64_t offset, float* to, int64_t n) {
    if (dtype == DType::float32) return static_cast<const float*>(x) + offset;
    load_any(x, dtype, offset, to, n);
    return to;
}

// to[i] = from[i] * factor
template <class T>
inline void store_scaled(const float* from, float factor, T* to, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) store(to + i, from[i] * factor);
}

__attribute__((noinline)) void store_scaled(const float* from, float factor, void* to, DType dtype, int64_t offset, int64_t n) {
    switch (dtype) {
        case DType::bfloat16: return store_scaled(from, factor, static_cast<bfloat16*>(to) + offset, n);
        case DType::float16: return store_scaled(from, factor, static_cast<float16*>(to) + offset, n);
        default: return store_scaled(from, factor, static_cast<float*>(to) + offset, n);
    }
}

// The weighted distance below the shift, Σ q·(shift − x), and Σ q, of one block.
inline void add_shares(const float* q, const float* x, int64_t n, float shift, double& distance, double& total) {
    // In double: Σq is multiplied by log s, and what a float sum loses would be multiplied along.
    double d = 0.0, q_sum = 0.0;
#pragma omp simd reduction(+ : d, q_sum)
    for (int64_t i = 0; i < n; ++i) {
        float below = q[i] * (shift - x[i]);
        // A class excluded on both sides costs nothing.
        below = (q[i] == 0.0f) & (x[i] == -kInfinity) ? 0.0f : below;
        d += below;
        q_sum += q[i];
    }
    distance += d;
    total += q_sum;
}

// Asks for `bytes` of memory that will be needed soon.
LOSSKIT_INLINE void prefetch_read(const void* from, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(from) + i, 0, 2);
}

LOSSKIT_INLINE void prefetch_write(const void* to, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(to) + i, 1, 2);
}

// Where the model is sure, s is 1 plus what a float next to 1 has no digits for. Below this it is summed once more, with
// the ones apart.
constexpr double kSure = 1.0625;

// The sum of a block's exponentials, or of those of `values` less `shift`.
inline double block_sum_apart(const float* values, float shift, bool logits, int64_t n) {
    float rest = 0.0f, ones = 0.0f;
#pragma omp simd reduction(+ : rest, ones)
    for (int64_t i = 0; i < n; ++i) {
        float exponential = exp_of_many(values[i] - shift);
        exponential = logits ? exponential : values[i];
        rest += exponential == 1.0f ? 0.0f : exponential;
        ones += exponential == 1.0f ? 1.0f : 0.0f;
    }
    return static_cast<double>(rest) + ones;
}

// What the rows of a chunk share: room for the exponentials of a row where they cannot stand in its gradient, for one
// maximum per block, for the scores of a row as the options make them of the input, and for the slope of a cap.
struct RowBuffers {
    float floats[2][kRowBlock], shares[kRowBlock];
    float* maxima;
    float* exps;
    float* scores;
    float* slope;
    // Of the last row: its maximum and its sum of exponentials.
    float m;
    double s;
};

// The unweighted loss of row `r`; writes its gradient where one is wanted.
template <Shares kShares>
inline double softmax_row(const ClassArgs& a, const Share& share, int64_t r, RowBuffers& buffers, float upstream) {
    const int64_t classes = a.classes;
    const int64_t at = r * classes;
    const bool in_place = a.dtype == DType::float32;
    const int64_t size = bytes_of(a.dtype);
    float* const exps = in_place && a.grad ? static_cast<float*>(a.grad) + at : buffers.exps;
    float* const maxima = buffers.maxima;
    float* const q = buffers.shares;
    // Read before anything is written: the gradient may take the place of the input.
    int64_t t = 0;
    double c = 0.0, target_logit = 0.0;
    if (a.kind == Targets::indices) {
        t = index_at(a, r);
        c = static_cast<double>(share.keep) * weight_of(a, t);
        target_logit = load_one(a.input, a.dtype, at + t);
    }
    float m = -kInfinity;
    double s = 0.0, distance = 0.0, q_sum = 0.0;
    RowBlock next = read_block(a.input, a.dtype, at, buffers.floats[0], classes < kRowBlock ? classes : kRowBlock);
    for (int64_t k = 0, block = 0; k < classes; k += kRowBlock, ++block) {
        const int64_t n = next.n, end = k + n;
        const float* v = next.values;
        const float shift = next.max;
        // What follows the row is the first block of the next one.
        if (end == classes) prefetch_read(static_cast<const char*>(a.input) + (at + end) * size, n * size);
        if (shift > m) {
            if (m != -kInfinity) {
                s *= std::exp(static_cast<double>(m) - shift);
                distance += q_sum * (static_cast<double>(shift) - m);
            }
            m = shift;
        }
        // A block of -inf alone has no maximum to take off; its exponentials are 0 all the same.
        float own = shift == -kInfinity ? 0.0f : shift;
        if constexpr (kShares != Shares::none) {
            double d = 0.0, q_block = 0.0;
            row_shares(a, share, at + k, k, n, q);
            add_shares(q, v, n, own, d, q_block);
            // From the block's maximum to the row's, which is -inf only while every element is.
            distance += d + (q_block == 0.0 || d == kInfinity ? 0.0 : q_block * (static_cast<double>(m) - own));
            q_sum += q_block;
        }
        // -inf again for a block of -inf alone: its factor below is then 0, or NaN where the whole row is -inf.
        if (a.grad) maxima[block] = shift;
        const int64_t after = classes - end < kRowBlock ? classes - end : kRowBlock;
        float* const to = buffers.floats[(block + 1) % 2];
        const float sum = a.grad ? exps_of_block<true>(next, own, exps + k, a.input, a.dtype, at + end, to, after)
                                 : exps_of_block<false>(next, own, nullptr, a.input, a.dtype, at + end, to, after);
        if (sum != 0.0f) s += own == m ? sum : sum * std::exp(static_cast<double>(own) - m);
    }
    if (s < kSure) {
        s = 0.0;
        for (int64_t k = 0, block = 0; k < classes; k += kRowBlock, ++block) {
            int64_t n = classes - k < kRowBlock ? classes - k : kRowBlock;
            if (a.grad) {
                if (maxima[block] != -kInfinity) s += block_sum_apart(exps + k, 0.0f, false, n) * std::exp(static_cast<double>(maxima[block]) - m);
                continue;
            }
            // No exponential was kept.
            const RowBlock own = read_block(a.input, a.dtype, at + k, buffers.floats[0], n);
            if (own.max != -kInfinity) s += block_sum_apart(own.values, own.max, true, n) * std::exp(static_cast<double>(own.max) - m);
        }
    }
    double log_s = std::log(s);
    double loss = distance + (c + q_sum) * log_s;
    if (a.kind == Targets::indices) {
        double below = m - target_logit;
        if (!(c == 0.0 && below == kInfinity)) loss += c * below;
    }
    buffers.m = m;
    buffers.s = s;
    double unit = c + q_sum;
    if (a.z_loss != 0.0f) {
        double lse = m + log_s;
        loss += a.z_loss * lse * lse;
        unit += 2.0 * a.z_loss * lse;
    }
    if (!a.grad) return loss;
    // A row with NaN or nothing but -inf has no softmax: all of it is NaN.
    double per_unit = unit * upstream / s;
    // In double, and not from the stored gradient: p − 1 cancels where the model is right.
    double of_target = 0.0;
    for (int64_t k = 0, block = 0; k < classes; k += kRowBlock, ++block) {
        int64_t n = classes - k < kRowBlock ? classes - k : kRowBlock;
        double down = maxima[block] == m && m > -kInfinity ? 1.0 : std::exp(static_cast<double>(maxima[block]) - m);
        float factor = static_cast<float>(per_unit * down);
        float* e = exps + k;
        const bool has_target = t >= k && t < k + n;
        if (has_target) of_target = e[t - k] * (per_unit * down) - c * upstream;
        if (!in_place) prefetch_write(static_cast<const char*>(a.grad) + (at + k + n) * size, n * size);
        if constexpr (kShares == Shares::none) {
            store_scaled(e, factor, a.grad, a.dtype, at + k, n);
        } else {
            row_shares(a, share, at + k, k, n, q);
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) e[i] = e[i] * factor - q[i] * upstream;
            if (has_target) of_target -= static_cast<double>(q[t - k]) * upstream;
            if (!in_place) store_any(e, a.grad, a.dtype, at + k, n);
        }
    }
    if (a.kind == Targets::indices) store_one(static_cast<float>(of_target), a.grad, a.dtype, at + t);
    return loss;
}

// E. The scores of a row from its input; where `slope` is given, their derivatives by it.
inline void score_row(const ClassArgs& a, int64_t at, float* y, float* slope) {
    const int64_t n = a.classes;
    load_any(a.input, a.dtype, at, y, n);
    const float scale = a.logit_scale;
    if (a.softcap != 0.0f) {
        const float cap = a.softcap, factor = static_cast<float>(static_cast<double>(a.logit_scale) / a.softcap);
        if (!slope) {
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) y[i] = cap * tanh_any(y[i] * factor);
            return;
        }
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) {
            float u = y[i] * factor;
            slope[i] = scale * tanh_slope(u);
            y[i] = cap * tanh_any(u);
        }
    } else if (scale != 1.0f) {
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) y[i] *= scale;
    }
}

// From the gradient by the scores to that by the input.
inline void scores_to_input(const ClassArgs& a, const float* slope, float* grad) {
    const int64_t n = a.classes;
    const float scale = a.logit_scale;
    if (a.softcap != 0.0f) {
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) grad[i] *= slope[i];
    } else if (scale != 1.0f) {
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) grad[i] *= scale;
    }
}

// Of a sample that counts: the log-probability of its target, lse, the entropy of the softmax, and how many classes
// score higher than the target, all of them where there is no softmax; 0, 0, 0 and the number of classes of any other.
inline void write_stats(const ClassArgs& a, int64_t r, const float* y, float m, double s) {
    float* stats = a.stats + r * kStats;
    const int64_t n = a.classes;
    const float shift = m;
    const double log_s = std::log(s);
    double lse = m + log_s, spread = 0.0;
    if (m == kInfinity) {
        // s is NaN, and the sum infinite unless an element is NaN itself.
        int64_t nans = 0;
#pragma omp simd reduction(+ : nans)
        for (int64_t i = 0; i < n; ++i) nans += y[i] != y[i];
        lse = nans ? kNaN : kInfinity;
    }
    for (int64_t k = 0; k < n; k += kRowBlock) {
        const int64_t end = k + kRowBlock < n ? k + kRowBlock : n;
        float part = 0.0f;
#pragma omp simd reduction(+ : part)
        for (int64_t i = k; i < end; ++i) {
            float below = shift - y[i], e = exp_nonpositive(-below);
            part += e == 0.0f ? 0.0f : e * below;
        }
        spread += part;
    }
    int64_t t = 0;
    double log_prob = 0.0;
    if (a.kind == Targets::indices) {
        t = index_at(a, r);
        log_prob = (static_cast<double>(y[t]) - m) - log_s;
    } else {
        float best = -kInfinity;
        for (int64_t k = 0; k < n; ++k) {
            float q = load_one(a.target, a.target_dtype, r * n + k);
            t = q > best ? k : t;
            best = q > best ? q : best;
            const double log_p = (static_cast<double>(y[k]) - m) - log_s;
            // A class excluded on both sides adds nothing, and one that is NaN does.
            if (q != 0.0f || log_p != -kInfinity) log_prob += q * log_p;
        }
    }
    const float own = y[t];
    int64_t higher = 0;
#pragma omp simd reduction(+ : higher)
    for (int64_t i = 0; i < n; ++i) higher += y[i] > own;
    stats[0] = static_cast<float>(log_prob);
    stats[1] = static_cast<float>(lse);
    const double entropy = log_s + spread / s;
    stats[2] = static_cast<float>(entropy);
    // Nothing is higher than NaN or infinity, and a row without a softmax has no right answer.
    stats[3] = static_cast<float>(entropy == entropy ? higher : n);
}

inline void no_stats(const ClassArgs& a, int64_t r) {
    float* stats = a.stats + r * kStats;
    stats[0] = stats[1] = stats[2] = 0.0f;
    stats[3] = static_cast<float>(a.classes);
}

template <Shares kShares>
inline double scored_row(const ClassArgs& a, const Share& share, int64_t r, RowBuffers& buffers, float upstream) {
    const int64_t at = r * a.classes;
    // Before the gradient, which may take the place of the input.
    score_row(a, at, buffers.scores, a.grad ? buffers.slope : nullptr);
    ClassArgs row = a;
    row.input = buffers.scores;
    row.dtype = DType::float32;
    const int64_t first = a.kind == Targets::indices ? r : at;
    const int64_t size = a.target_dtype == DType::int64 ? 8 : a.target_dtype == DType::uint8 ? 1 : bytes_of(a.target_dtype);
    row.target = static_cast<const char*>(a.target) + first * size;
    const bool in_place = a.dtype == DType::float32;
    float* grad = !a.grad ? nullptr : in_place ? static_cast<float*>(a.grad) + at : buffers.exps;
    row.grad = grad;
    double loss = softmax_row<kShares>(row, share, 0, buffers, upstream);
    if (a.stats) write_stats(a, r, buffers.scores, buffers.m, buffers.s);
    if (!a.grad) return loss;
    scores_to_input(a, buffers.slope, grad);
    if (!in_place) store_any(grad, a.grad, a.dtype, at, a.classes);
    return loss;
}

template <Shares kShares>
inline void softmax_rows(const ClassArgs& a) {
    const int64_t step = rows_per_chunk(a), chunks = class_chunks(a), classes = a.classes, size = bytes_of(a.dtype);
    const Share share = share_of(a);
    for_chunks(chunks, a.threads, [&](int64_t chunk) {
        int64_t blocks = (classes + kRowBlock - 1) / kRowBlock;
        const bool scored = has_score_options(a);
        const bool sloped = a.grad && a.softcap != 0.0f;
        Scratch scratch((a.grad ? blocks + (a.dtype == DType::float32 ? 0 : classes) : 0) + (scored ? classes : 0) +
                        (sloped ? classes : 0));
        RowBuffers buffers;
        buffers.scores = scratch.data();
        buffers.slope = scratch.data() + (scored ? classes : 0);
        buffers.maxima = buffers.slope + (sloped ? classes : 0);
        buffers.exps = buffers.maxima + blocks;
        double sum = 0.0;
        int64_t end = (chunk + 1) * step < a.outer ? (chunk + 1) * step : a.outer;
        for (int64_t r = chunk * step; r < end; ++r) {
            float value = 0.0f;
            if (counts_at(a, r)) {
                const float upstream = a.grad ? grad_factor(a, r) : 0.0f;
                double loss = scored ? scored_row<kShares>(a, share, r, buffers, upstream)
                                     : softmax_row<kShares>(a, share, r, buffers, upstream);
                loss *= loss_factor(a, r);
                sum += loss;
                value = static_cast<float>(loss);
            } else {
                if (a.grad) std::memset(static_cast<char*>(a.grad) + r * classes * size, 0, static_cast<size_t>(classes * size));
                if (a.stats) no_stats(a, r);
            }
            if (a.loss_out) store_one(value, a.loss_out, a.loss_dtype, r);
        }
        if (a.partial) a.partial[chunk] = sum;
    });
}

// C. `n` samples side by side. Class k of sample i is x[k * stride + i], its exponential takes that place, and its gradient
//    the exponential's.
struct Positions {
    // Not a power of two, which would bring the same sample of every array into the same cache line.
    static constexpr int64_t kRoom = kPositions + 16;
    // `share_total` is Σq and `distance` Σ q·(m − x); `counts` is 1 or 0.
    double s[kRoom], apart[kRoom], distance[kRoom], share_total[kRoom];
    // `below` is m − x_t, `of_target` the gradient of the target's class, `target_share` its q under smoothing.
    float part[kRoom], whole[kRoom], log_s[kRoom], below[kRoom], c[kRoom], loss_factor[kRoom], upstream[kRoom],
        factor[kRoom], of_target[kRoom], target_share[kRoom], ones[kRoom];
    int32_t target[kRoom], counts[kRoom];
    // The maxima.
    const float* m;
};

// Returns how many count.
template <class Index>
inline int64_t gather_targets(const ClassArgs& a, Positions& p, const Index* target, int64_t n) {
    const int64_t ignored = a.ignore_index, classes = a.classes;
    int32_t counted = 0;
    // Of the next block.
    prefetch_read(target + n, n * static_cast<int64_t>(sizeof(Index)));
#pragma omp simd reduction(+ : counted)
    for (int64_t i = 0; i < n; ++i) {
        int64_t t = target[i];
        int32_t counts = t != ignored;
        counted += counts;
        p.counts[i] = counts;
        // Of a sample that does not count the index may be anything.
        p.target[i] = counts ? static_cast<int32_t>(within(t, classes)) : 0;
    }
    return counted;
}

// What the samples first … first + n bring along. No branch inside a loop: this runs once per sample, and with few
// classes that is as often as an exponential. True, and no factors, where each is 1.
inline bool gather_positions(const ClassArgs& a, const Share& share, Positions& p, const float* x, int64_t stride,
                             int64_t n, int64_t first) {
    int64_t counted = 0;
    if (a.kind == Targets::probabilities) {
        for (int64_t i = 0; i < n; ++i) {
            p.target[i] = 0;
            p.counts[i] = 1;
        }
    } else if (a.target_dtype == DType::uint8) {
        counted = gather_targets(a, p, static_cast<const uint8_t*>(a.target) + first, n);
    } else {
        counted = gather_targets(a, p, static_cast<const int64_t*>(a.target) + first, n);
    }
    if (counted == n && a.label_smoothing == 0.0f && !a.weight && !a.row_mask && !a.row_weight && !a.grad_output) {
        for (int64_t i = 0; i < n; ++i) p.below[i] = p.m[i] - x[p.target[i] * stride + i];
        return true;
    }
    if (a.row_mask) {
        const uint8_t* mask = a.row_mask + first;
        for (int64_t i = 0; i < n; ++i) {
            p.counts[i] = mask[i] ? p.counts[i] : 0;
            p.target[i] = mask[i] ? p.target[i] : 0;
        }
    }
    const float scale = a.scale;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        p.loss_factor[i] = p.counts[i] ? 1.0f : 0.0f;
        p.upstream[i] = p.counts[i] ? scale : 0.0f;
    }
    if (a.row_weight) {
        for (int64_t i = 0; i < n; ++i) {
            p.loss_factor[i] = p.counts[i] ? a.row_weight[first + i] : 0.0f;
            p.upstream[i] *= p.loss_factor[i];
        }
    }
    if (a.grad_output) {
        load_any(a.grad_output, a.grad_output_dtype, first, p.part, n);
        for (int64_t i = 0; i < n; ++i) p.upstream[i] = p.counts[i] ? p.upstream[i] * p.part[i] : 0.0f;
    }
    if (a.kind == Targets::probabilities) {
        for (int64_t i = 0; i < n; ++i) p.c[i] = p.below[i] = 0.0f;
        return false;
    }
    const float keep = share.keep;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        p.c[i] = p.counts[i] ? keep : 0.0f;
        p.target_share[i] = share.uniform;
    }
    for (int64_t i = 0; i < n; ++i) {
        // By its bits: a select is a branch here.
        float below = p.m[i] - x[p.target[i] * stride + i];
        p.below[i] = float_of(bits_of(below) & (0u - static_cast<uint32_t>(p.counts[i])));
    }
    if (a.weight) {
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) {
            p.c[i] *= a.weight[p.target[i]];
            p.target_share[i] *= a.weight[p.target[i]];
        }
    }
    return false;
}

// The place of a block in the tensors.
struct Place {
    // The index of the first sample; the offset of its first element, and how much further the next class lies.
    int64_t first, at, k_step;
};

// The block of an image after the one that is computed: `n` samples from `from` on, of which class k goes to
// to[k * stride + i], and the maxima to `m`. No more than the block that is computed has; none where n is 0.
struct NextPositions {
    const void* from;
    float *to, *m;
    int64_t n;
};

// Asks for the memory of class `k` of the next block of rows, or of as much of it.
LOSSKIT_INLINE void prefetch_next(const ClassArgs& a, const Place& place, int64_t k, int64_t n) {
    const int64_t size = bytes_of(a.dtype), offset = (place.at + (a.classes + k) * n) * size;
    prefetch_read(static_cast<const char*>(a.input) + offset, n * size);
    if (a.grad && !is_streamed(a)) prefetch_write(static_cast<const char*>(a.grad) + offset, n * size);
}

// s once more, the ones apart, for the samples that need it: none may change what another gets.
inline void sum_apart(Positions& p, const float* exps, int64_t stride, int64_t classes, int64_t n) {
    for (int64_t i = 0; i < n; ++i) p.apart[i] = 0.0;
    for (int64_t k0 = 0; k0 < classes; k0 += 32) {
        int64_t k1 = k0 + 32 < classes ? k0 + 32 : classes;
        for (int64_t i = 0; i < n; ++i) p.part[i] = p.ones[i] = 0.0f;
        for (int64_t k = k0; k < k1; ++k) {
            const float* e = exps + k * stride;
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) {
                p.part[i] += e[i] == 1.0f ? 0.0f : e[i];
                p.ones[i] += e[i] == 1.0f ? 1.0f : 0.0f;
            }
        }
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) p.apart[i] += static_cast<double>(p.part[i]) + p.ones[i];
    }
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) p.s[i] = p.s[i] < kSure ? p.apart[i] : p.s[i];
}

// log s of a sum s of exponentials of which one is 1, from s and from s − 1, which keeps the digits of the rest.
LOSSKIT_INLINE float log_of_sum(float rest, float s) {
    uint32_t distance = from_two_thirds(s);
    int32_t exponent = exponent_in(distance);
    float f = significand_in(distance) - 1.0f;
    float result = log_reduced(exponent == 0 ? rest : f, static_cast<float>(exponent));
    return s == s ? result : s;
}

// The distances below the maxima of one class, weighted by its shares, and these.
template <Shares kShares>
inline void add_position_shares(Positions& p, const float* x, const float* q, float every, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        float own = kShares == Shares::per_element ? q[i] : every;
        float below = own * (p.m[i] - x[i]);
        p.distance[i] += (own == 0.0f) & (x[i] == -kInfinity) ? 0.0f : below;
        if constexpr (kShares == Shares::per_element) p.share_total[i] += own;
    }
}

// Up to four classes from x on become their exponentials, with the sums of them. Nothing but -inf: m - m would be NaN, and
// it is: such a sample has no softmax. The same classes of the next block are read meanwhile: the memory works while exp
// is computed.
template <class T, int kClasses>
inline void exps_of_classes(float* x, int64_t stride, const float* m, float* sum, int64_t n, const T* from, int64_t from_step,
                            float* to, float* next_m, int64_t next_n) {
    float *x1 = x + stride, *x2 = x1 + stride, *x3 = x2 + stride, *to1 = to + stride, *to2 = to1 + stride, *to3 = to2 + stride;
    const T *from1 = from + from_step, *from2 = from1 + from_step, *from3 = from2 + from_step;
#pragma omp simd
    for (int64_t i = 0; i < next_n; ++i) {
        float shift = m[i], a = exp_of_many(x[i] - shift), b = 0.0f, c = 0.0f, d = 0.0f;
        float v = load(from[i]), next = next_m[i];
        next = v > next ? v : next;
        to[i] = v;
        x[i] = a;
        if constexpr (kClasses > 1) {
            x1[i] = b = exp_of_many(x1[i] - shift);
            to1[i] = v = load(from1[i]);
            next = v > next ? v : next;
        }
        if constexpr (kClasses > 2) {
            x2[i] = c = exp_of_many(x2[i] - shift);
            to2[i] = v = load(from2[i]);
            next = v > next ? v : next;
        }
        if constexpr (kClasses > 3) {
            x3[i] = d = exp_of_many(x3[i] - shift);
            to3[i] = v = load(from3[i]);
            next = v > next ? v : next;
        }
        next_m[i] = next;
        sum[i] = (a + b) + (c + d);
    }
#pragma omp simd
    for (int64_t i = next_n; i < n; ++i) {
        float shift = m[i], a = exp_of_many(x[i] - shift), b = 0.0f, c = 0.0f, d = 0.0f;
        x[i] = a;
        if constexpr (kClasses > 1) x1[i] = b = exp_of_many(x1[i] - shift);
        if constexpr (kClasses > 2) x2[i] = c = exp_of_many(x2[i] - shift);
        if constexpr (kClasses > 3) x3[i] = d = exp_of_many(x3[i] - shift);
        sum[i] = (a + b) + (c + d);
    }
}

// The same for the `count` classes from `k` on. Not inlined: among its caller's variables it does not vectorise on every
// instruction set.
template <class T>
__attribute__((noinline)) void exps_of_classes(int64_t count, float* x, int64_t stride, const float* m, float* sum, int64_t n,
                                               int64_t k, int64_t from_step, const NextPositions& next) {
    const T* from = static_cast<const T*>(next.from) + k * from_step;
    float* to = next.to + k * stride;
    switch (count) {
        case 1: return exps_of_classes<T, 1>(x, stride, m, sum, n, from, from_step, to, next.m, next.n);
        case 2: return exps_of_classes<T, 2>(x, stride, m, sum, n, from, from_step, to, next.m, next.n);
        case 3: return exps_of_classes<T, 3>(x, stride, m, sum, n, from, from_step, to, next.m, next.n);
        default: return exps_of_classes<T, 4>(x, stride, m, sum, n, from, from_step, to, next.m, next.n);
    }
}

// What `softmax_positions` comes to where every factor is 1: the same numbers.
inline double finish_plain(Positions& p, double scale, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) p.of_target[i] = exp_of_many(-p.below[i]);
    double sum = 0.0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i) {
        double loss = static_cast<double>(p.below[i]) + p.log_s[i];
        p.part[i] = static_cast<float>(loss);
        sum += loss;
        double per_unit = 1.0 / p.s[i] * scale;
        p.factor[i] = static_cast<float>(per_unit);
        p.of_target[i] = static_cast<float>(per_unit * p.of_target[i] - scale);
    }
    return sum;
}

// `q` is laid out as `x`, and unused unless the shares are per element. p.m holds the maxima. Returns the sum of the losses
// and leaves each in p.part; with a gradient wanted, fills in what `finish_class` needs.
template <Shares kShares>
inline double softmax_positions(const ClassArgs& a, const Share& share, Positions& p, float* x, const float* q,
                                int64_t stride, int64_t n, const Place& place, const NextPositions& next) {
    const int64_t classes = a.classes;
    // Before the exponentials, which take the place of x.
    const bool plain = gather_positions(a, share, p, x, stride, n, place.first);
    double every_total = 0.0;
    for (int64_t k = 0; k < classes; ++k) every_total += share.uniform * weight_of(a, k);
    if constexpr (kShares != Shares::none) {
        for (int64_t i = 0; i < n; ++i) p.distance[i] = p.share_total[i] = 0.0;
    }
    // Sums of four in float, the rest in double: of p the digits are those of s, and ten additions already lose some.
    for (int64_t k = 0; k < classes; k += 4) {
        const int64_t more = classes - k < 4 ? classes - k : 4;
        if (a.inner == 1) {
            for (int64_t j = k; j < k + more; ++j) prefetch_next(a, place, j, n);
        }
        float* row = x + k * stride;
        if constexpr (kShares != Shares::none) {
            for (int64_t j = 0; j < more; ++j) {
                const float every = share.uniform * weight_of(a, k + j);
                add_position_shares<kShares>(p, row + j * stride, q + (k + j) * stride, every, n);
            }
        }
        switch (a.dtype) {
            case DType::bfloat16: exps_of_classes<bfloat16>(more, row, stride, p.m, p.part, n, k, place.k_step, next); break;
            case DType::float16: exps_of_classes<float16>(more, row, stride, p.m, p.part, n, k, place.k_step, next); break;
            default: exps_of_classes<float>(more, row, stride, p.m, p.part, n, k, place.k_step, next);
        }
        if (k == 0) {
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) p.s[i] = p.part[i];
        } else {
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) p.s[i] += p.part[i];
        }
    }
    int64_t sure = 0;
    for (int64_t i = 0; i < n; ++i) sure += p.s[i] < kSure;
    if (sure) sum_apart(p, x, stride, classes, n);
    int32_t undefined = 0;
    // Numbers of one width in each loop: a mixture costs more in conversions than another pass over a block.
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        p.part[i] = static_cast<float>(p.s[i] - 1.0);
        p.whole[i] = static_cast<float>(p.s[i]);
    }
    if (!plain) {
#pragma omp simd reduction(+ : undefined)
        for (int64_t i = 0; i < n; ++i) undefined += (p.counts[i] == 0) & !(p.part[i] == p.part[i]);
    }
    if (undefined) {
        // NaN in a sample that does not count, times its factor 0.
        for (int64_t i = 0; i < n; ++i) {
            if (p.counts[i]) continue;
            p.s[i] = p.whole[i] = 1.0f;
            p.part[i] = 0.0f;
            for (int64_t k = 0; k < classes; ++k) x[k * stride + i] = 0.0f;
        }
    }
    if constexpr (kShares != Shares::none) {
        for (int64_t i = 0; i < n; ++i) {
            if (!p.counts[i]) p.distance[i] = p.share_total[i] = 0.0;
        }
    }
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) p.log_s[i] = log_of_sum(p.part[i], p.whole[i]);
    if (plain) return finish_plain(p, a.scale, n);
    if (a.kind == Targets::indices) {
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) {
            // As the sum has it: from the same numbers in the same steps.
            p.of_target[i] = exp_of_many(-p.below[i]);
            p.below[i] = (p.c[i] == 0.0f) & (p.below[i] == kInfinity) ? 0.0f : p.below[i];
        }
    }
    double sum = 0.0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i) {
        double loss = static_cast<double>(p.c[i]) * p.below[i];
        double total = p.c[i];
        if constexpr (kShares != Shares::none) {
            total += kShares == Shares::per_element ? p.share_total[i] : every_total;
            loss += p.distance[i];
        }
        double weighted = (loss + total * p.log_s[i]) * p.loss_factor[i];
        p.part[i] = static_cast<float>(weighted);
        sum += weighted;
        double per_unit = total / p.s[i] * p.upstream[i];
        p.factor[i] = static_cast<float>(per_unit);
        if constexpr (kShares != Shares::per_element) {
            // p − 1 cancels where the model is right, so in double.
            double taken = p.c[i];
            if constexpr (kShares == Shares::per_class) taken += p.target_share[i];
            p.of_target[i] = static_cast<float>(per_unit * p.of_target[i] - taken * p.upstream[i]);
        }
    }
    return sum;
}

// The gradient of class k from its exponentials, but for the target's where `kTarget` is false. For samples that do not
// count q may be NaN, and so may its product with 0.
template <class T, Shares kShares, bool kTarget>
inline void finish_class(const Positions& p, const float* e, const float* q, float every, int64_t k, T* grad, int64_t n) {
    const int32_t own = static_cast<int32_t>(k);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        float g = e[i] * p.factor[i];
        if constexpr (kShares == Shares::per_class) g -= every * p.upstream[i];
        if constexpr (kShares == Shares::per_element) {
            float taken = q[i] * p.upstream[i];
            g = p.counts[i] ? g - taken : 0.0f;
        } else if constexpr (kTarget) {
            // 0 for a sample that does not count.
            g = p.target[i] == own ? p.of_target[i] : g;
        }
        store(grad + i, g);
    }
}

// The gradient of a block of an image from its exponentials x.
template <class T, Shares kShares>
inline void finish_images(const ClassArgs& a, const Share& share, const Positions& p, float* x, const float* q,
                          int64_t stride, int64_t n, const Place& place) {
    for (int64_t k = 0; k < a.classes; ++k) {
        const float every = share.uniform * weight_of(a, k);
        float* e = x + k * stride;
        T* to = static_cast<T*>(a.grad) + place.at + k * place.k_step;
        if constexpr (sizeof(T) == sizeof(float)) {
            if (is_streamed(a)) {
                finish_class<T, kShares, true>(p, e, q + k * stride, every, k, e, n);
                stream_block(e, to, n);
                continue;
            }
        }
        finish_class<T, kShares, true>(p, e, q + k * stride, every, k, to, n);
    }
}

// The same of rows; `linear` has room for it.
template <Shares kShares>
inline void finish_short_rows(const ClassArgs& a, const Share& share, const Positions& p, float* x, const float* q,
                              float* linear, int64_t stride, int64_t n, const Place& place) {
    const int64_t classes = a.classes;
    if constexpr (kShares != Shares::none) {
        for (int64_t k = 0; k < classes; ++k) {
            float* e = x + k * stride;
            finish_class<float, kShares, false>(p, e, q + k * stride, share.uniform * weight_of(a, k), k, e, n);
        }
    }
    const bool streamed = is_streamed(a), direct = a.dtype == DType::float32 && !streamed;
    float* to = direct ? static_cast<float*>(a.grad) + place.at : linear;
    transpose_out(x, kShares == Shares::none ? p.factor : nullptr, to, n * classes + (direct ? 0 : kTileRoom), n, classes, stride);
    if constexpr (kShares != Shares::per_element) {
        // A choice in every class would cost more than this: the block is still in the cache.
        for (int64_t i = 0; i < n; ++i) to[i * classes + p.target[i]] = p.of_target[i];
    }
    if (streamed) {
        stream_block(linear, static_cast<float*>(a.grad) + place.at, n * classes);
    } else if (!direct) {
        store_any(linear, a.grad, a.dtype, place.at, n * classes);
    }
}

// Reads class k into x and raises the maxima.
template <class T>
inline void load_class(const T* from, float* x, float* m, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        float v = load(from[i]);
        m[i] = v > m[i] ? v : m[i];
        x[i] = v;
    }
}

// q of class k of every sample from its class probability.
inline void position_shares(const ClassArgs& a, const Share& share, float* q, int64_t k, int64_t n) {
    const float weight = weight_of(a, k);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) q[i] = weight * (share.keep * q[i] + share.uniform);
}

constexpr int64_t kPositionsHeader = (static_cast<int64_t>(sizeof(Positions) / sizeof(float)) + 15) / 16 * 16;

// The positions of images.
template <class T, Shares kShares>
inline void softmax_images(const ClassArgs& a) {
    const int64_t classes = a.classes, step = positions_per_block(a), piece = samples_per_chunk(a);
    const int64_t per_image = (a.inner + piece - 1) / piece;
    const Share share = share_of(a);
    // Not a power of two, which would bring all the classes into the same cache lines.
    const int64_t stride = step + 16, block = classes * stride;
    constexpr bool needs_q = kShares == Shares::per_element;
    for_chunks(class_chunks(a), a.threads, [&](int64_t chunk) {
        Scratch scratch(kPositionsHeader + 2 * (step + block) + (needs_q ? block : 0));
        Positions& p = *new (scratch.data()) Positions;
        float* m[2] = {scratch.data() + kPositionsHeader, scratch.data() + kPositionsHeader + step};
        float* x[2] = {m[1] + step, m[1] + step + block};
        float* q = needs_q ? x[1] + block : x[0];
        const int64_t image = chunk / per_image, begin = chunk % per_image * piece;
        const int64_t end = begin + piece < a.inner ? begin + piece : a.inner;
        const T* input = static_cast<const T*>(a.input) + image * classes * a.inner;
        for (int64_t i = 0; i < step; ++i) m[0][i] = -kInfinity;
        for (int64_t k = 0; k < classes; ++k) {
            load_class(input + k * a.inner + begin, x[0] + k * stride, m[0], end - begin < step ? end - begin : step);
        }
        double sum = 0.0;
        for (int64_t i = begin, own = 0; i < end; i += step, own = 1 - own) {
            const int64_t n = end - i < step ? end - i : step, left = end - i - n;
            const Place place{image * a.inner + i, image * classes * a.inner + i, a.inner};
            for (int64_t j = 0; j < step; ++j) m[1 - own][j] = -kInfinity;
            if constexpr (needs_q) {
                for (int64_t k = 0; k < classes; ++k) {
                    load_any(a.target, a.dtype, place.at + k * place.k_step, q + k * stride, n);
                    position_shares(a, share, q + k * stride, k, n);
                }
            }
            p.m = m[own];
            const NextPositions next{input + i + n, x[1 - own], m[1 - own], left < step ? left : step};
            sum += softmax_positions<kShares>(a, share, p, x[own], q, stride, n, place, next);
            if (a.loss_out) store_any(p.part, a.loss_out, a.loss_dtype, place.first, n);
            if (a.grad) finish_images<T, kShares>(a, share, p, x[own], q, stride, n, place);
        }
        if (a.partial) a.partial[chunk] = sum;
        if (is_streamed(a)) end_of_stream();
    });
}

// Rows of few classes.
template <Shares kShares>
inline void softmax_short_rows(const ClassArgs& a) {
    const int64_t classes = a.classes, step = positions_per_block(a), piece = samples_per_chunk(a);
    const Share share = share_of(a);
    const int64_t stride = step + 16, block = classes * stride;
    constexpr bool needs_q = kShares == Shares::per_element;
    for_chunks(class_chunks(a), a.threads, [&](int64_t chunk) {
        Scratch scratch(kPositionsHeader + step + block * (needs_q ? 3 : 2) + kTileRoom);
        Positions& p = *new (scratch.data()) Positions;
        float* m = scratch.data() + kPositionsHeader;
        float* x = m + step;
        float* linear = x + block;
        float* q = needs_q ? linear + block : x;
        p.m = m;
        double sum = 0.0;
        const int64_t end = (chunk + 1) * piece < a.outer ? (chunk + 1) * piece : a.outer;
        for (int64_t first = chunk * piece; first < end; first += step) {
            const int64_t n = end - first < step ? end - first : step;
            const Place place{first, first * classes, 0};
            const float* floats = as_floats(a.input, a.dtype, place.at, linear, n * classes);
            for (int64_t i = 0; i < n; ++i) m[i] = -kInfinity;
            transpose_in(floats, n * classes + (floats == linear ? kTileRoom : 0), x, m, n, classes, stride);
            if constexpr (needs_q) {
                const float* shares = as_floats(a.target, a.dtype, place.at, linear, n * classes);
                transpose_in(shares, n * classes + (shares == linear ? kTileRoom : 0), q, nullptr, n, classes, stride);
                for (int64_t k = 0; k < classes; ++k) position_shares(a, share, q + k * stride, k, n);
            }
            sum += softmax_positions<kShares>(a, share, p, x, q, stride, n, place, {a.input, x, m, 0});
            if (a.loss_out) store_any(p.part, a.loss_out, a.loss_dtype, first, n);
            if (a.grad) finish_short_rows<kShares>(a, share, p, x, q, linear, stride, n, place);
        }
        if (a.partial) a.partial[chunk] = sum;
        if (is_streamed(a)) end_of_stream();
    });
}

template <Shares kShares>
inline void softmax_of(const ClassArgs& a) {
    if (transposed(a)) return softmax_short_rows<kShares>(a);
    if (a.inner == 1) return softmax_rows<kShares>(a);
    switch (a.dtype) {
        case DType::bfloat16: return softmax_images<bfloat16, kShares>(a);
        case DType::float16: return softmax_images<float16, kShares>(a);
        default: return softmax_images<float, kShares>(a);
    }
}

void softmax(const ClassArgs& a) {
    if (a.kind == Targets::probabilities) return softmax_of<Shares::per_element>(a);
    if (a.label_smoothing > 0.0f) return softmax_of<Shares::per_class>(a);
    return softmax_of<Shares::none>(a);
}

// D.
template <class T>
inline void nll_typed(const ClassArgs& a) {
    const int64_t samples = a.outer * a.inner, classes = a.classes;
    const int64_t chunks = class_chunks(a);
    // The same chunks as for softmax: their number is known to the caller.
    const int64_t step = samples_per_chunk(a);
    const int64_t per_outer = a.inner != 1 ? (a.inner + step - 1) / step : 1;
    for_chunks(chunks, a.threads, [&](int64_t chunk) {
        int64_t outer = 0, begin, end, first;
        if (a.inner != 1) {
            outer = chunk / per_outer;
            begin = chunk % per_outer * step;
            end = begin + step < a.inner ? begin + step : a.inner;
            first = outer * a.inner;
        } else {
            begin = chunk * step;
            end = begin + step < samples ? begin + step : samples;
            first = 0;
        }
        T* grad = static_cast<T*>(a.grad);
        if (grad && a.inner != 1) {
            for (int64_t k = 0; k < classes; ++k) {
                std::memset(static_cast<void*>(grad + (outer * classes + k) * a.inner + begin), 0, (end - begin) * sizeof(T));
            }
        } else if (grad) {
            std::memset(static_cast<void*>(grad + begin * classes), 0, (end - begin) * classes * sizeof(T));
        }
        double sum = 0.0;
        for (int64_t i = begin; i < end; ++i) {
            int64_t sample = first + i;
            float value = 0.0f;
            if (counts_at(a, sample)) {
                int64_t t = index_at(a, sample);
                int64_t at = a.inner != 1 ? (outer * classes + t) * a.inner + i : sample * classes + t;
                float w = a.weight ? a.weight[t] : 1.0f;
                float x = load(static_cast<const T*>(a.input)[at]);
                value = w == 0.0f && x == -kInfinity ? 0.0f : -w * x * loss_factor(a, sample);
                if (grad) store(grad + at, -w * grad_factor(a, sample));
                sum += value;
            }
            if (a.loss_out) store_one(value, a.loss_out, a.loss_dtype, sample);
        }
        if (a.partial) a.partial[chunk] = sum;
    });
}

void nll(const ClassArgs& a) {
    switch (a.dtype) {
        case DType::bfloat16: return nll_typed<bfloat16>(a);
        case DType::float16: return nll_typed<float16>(a);
        default: return nll_typed<float>(a);
    }
}

}  // namespace
}  // namespace losskit::LOSSKIT_ISA
