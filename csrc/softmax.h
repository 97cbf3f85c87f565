// Losses of a row of scores against a class.
//
// A. The loss of a sample is  c·(lse − x_t) + Σ_k q_k·(lse − x_k)  with lse = m + log s, m = max x, s = Σ exp(x − m);
//    its gradient by x_k is  p_k·(c + Σq) − c·[k = t] − q_k.  Class weights, label smoothing and class probabilities
//    are all in c and q: see `Shares`. m and s are kept apart: from lse = m + log s alone, exp(x − lse) has lost the
//    digits of log s that a large m pushes out.
// B. Rows (classes contiguous): one pass. Each block of 1024 is shifted by its own maximum and its exponentials are
//    stored where the gradient goes; when the row is known, they are rescaled while they are still in the cache.
// C. Positions (classes apart, as in images, and rows of few classes after a transpose in the cache): the same for up to
//    512 samples side by side.
// D. Negative log-likelihood: no softmax.
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
constexpr int64_t kPositions = 1024;
// Rows of fewer classes are transposed: a vector of one row would be mostly empty.
constexpr int64_t kFewClasses = 64;
constexpr int64_t kChunkElements = 16384;

// Scratch memory of one chunk.
class Scratch {
public:
    explicit Scratch(int64_t floats) : data_(static_cast<float*>(std::aligned_alloc(64, (floats * 4 + 127) / 64 * 64))) {
        if (!data_) std::abort();
    }
    ~Scratch() { std::free(data_); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    float* data() const { return data_; }

private:
    float* data_;
};

inline bool transposed(const ClassArgs& a) { return a.inner == 1 && a.classes < kFewClasses; }

inline int64_t positions_per_block(const ClassArgs& a) {
    // The exponentials of a block should stay in the second-level cache.
    int64_t fit = 98304 / (a.classes > 0 ? a.classes : 1) / 16 * 16;
    return fit > kPositions ? kPositions : fit < 64 ? 64 : fit;
}

inline int64_t rows_per_chunk(const ClassArgs& a) {
    int64_t rows = kChunkElements / (a.classes > 0 ? a.classes : 1);
    return rows < 1 ? 1 : rows;
}

int64_t class_chunks(const ClassArgs& a) {
    if (a.inner > 1) {
        int64_t step = positions_per_block(a);
        return a.outer * ((a.inner + step - 1) / step);
    }
    int64_t step = transposed(a) ? positions_per_block(a) : rows_per_chunk(a);
    return (a.outer + step - 1) / step;
}

LOSSKIT_INLINE int64_t index_at(const ClassArgs& a, int64_t sample) {
    return a.target_dtype == DType::uint8 ? static_cast<const uint8_t*>(a.target)[sample]
                                          : static_cast<const int64_t*>(a.target)[sample];
}

LOSSKIT_INLINE bool counts_at(const ClassArgs& a, int64_t sample) {
    if (a.row_mask && !a.row_mask[sample]) return false;
    return a.kind == Targets::probabilities || index_at(a, sample) != a.ignore_index;
}

// What the loss and the gradient of a sample are multiplied by.
LOSSKIT_INLINE float loss_factor(const ClassArgs& a, int64_t sample) { return a.row_weight ? a.row_weight[sample] : 1.0f; }

LOSSKIT_INLINE float grad_factor(const ClassArgs& a, int64_t sample) {
    float factor = loss_factor(a, sample) * a.scale;
    if (a.grad_output) {
        float upstream;
        load_any(a.grad_output, a.grad_output_dtype, sample, &upstream, 1);
        factor *= upstream;
    }
    return factor;
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

// A. q as a function of the class (and, for probabilities, of where the class's element lies).
enum class Shares { none, uniform, weighted, probabilities, weighted_probabilities };

template <class T, Shares kShares>
struct Share {
    const T* probability;
    const float* weight;
    float keep, uniform;

    // `at` is the offset of the element in the input and in the probabilities.
    LOSSKIT_INLINE float operator()(int64_t k, int64_t at) const {
        if constexpr (kShares == Shares::uniform) return uniform;
        if constexpr (kShares == Shares::weighted) return uniform * weight[k];
        if constexpr (kShares == Shares::probabilities) return keep * load(probability[at]) + uniform;
        if constexpr (kShares == Shares::weighted_probabilities) {
            return weight[k] * (keep * load(probability[at]) + uniform);
        }
        return 0.0f;
    }
};

template <class T, Shares kShares>
inline Share<T, kShares> share_of(const ClassArgs& a) {
    float uniform = a.label_smoothing > 0.0f ? a.label_smoothing / static_cast<float>(a.classes) : 0.0f;
    return {static_cast<const T*>(a.target), a.weight, 1.0f - (a.label_smoothing > 0.0f ? a.label_smoothing : 0.0f), uniform};
}

// B.
inline float block_max(const float* x, int64_t n) {
    float m = -kInfinity;
#pragma omp simd reduction(max : m)
    for (int64_t i = 0; i < n; ++i) m = x[i] > m ? x[i] : m;
    return m;
}

// A block as float32: where it lies, or converted into `to`.
inline const float* as_floats(const float* x, float*, int64_t) { return x; }

template <class T>
inline const float* as_floats(const T* x, float* to, int64_t n) {
    load_block(x, to, n);
    return to;
}

// The weighted distance below the shift, Σ q·(shift − x), and Σ q, of one block.
template <class T, Shares kShares>
inline void add_shares(const Share<T, kShares>& share, const float* x, int64_t at, int64_t k, int64_t n, float shift,
                       double& distance, double& total) {
    float d = 0.0f, q_sum = 0.0f;
#pragma omp simd reduction(+ : d, q_sum)
    for (int64_t i = 0; i < n; ++i) {
        float q = share(k + i, at + i);
        float below = q * (shift - x[i]);
        // A class excluded on both sides costs nothing.
        d += (q == 0.0f) & (x[i] == -kInfinity) ? 0.0f : below;
        q_sum += q;
    }
    distance += d;
    total += q_sum;
}

// The unweighted loss of row `r`. Writes its gradient where `grad` is not null. `exps` has room for a row, `maxima` for
// one number per block; both unused without a gradient.
template <class T, Shares kShares>
inline double softmax_row(const ClassArgs& a, const Share<T, kShares>& share, int64_t r, T* grad, float* exps,
                          float* maxima, float upstream) {
    const int64_t classes = a.classes;
    const int64_t at = r * classes;
    const T* x = static_cast<const T*>(a.input) + at;
    // Read before anything is written: the gradient may take the place of the input.
    int64_t t = 0;
    double c = 0.0, target_logit = 0.0;
    if (a.kind == Targets::indices) {
        t = index_at(a, r);
        c = static_cast<double>(share.keep) * (a.weight ? a.weight[t] : 1.0f);
        target_logit = load(x[t]);
    }
    float floats[kRowBlock];
    float m = -kInfinity;
    double s = 0.0, distance = 0.0, q_sum = 0.0;
    for (int64_t k = 0, block = 0; k < classes; k += kRowBlock, ++block) {
        int64_t n = classes - k < kRowBlock ? classes - k : kRowBlock;
        const float* v = as_floats(x + k, floats, n);
        float shift = block_max(v, n);
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
            double d = 0.0, q = 0.0;
            add_shares(share, v, at + k, k, n, own, d, q);
            // From the block's maximum to the row's, which is -inf only while every element is.
            distance += d + (q == 0.0 || d == kInfinity ? 0.0 : q * (static_cast<double>(m) - own));
            q_sum += q;
        }
        float sum = 0.0f;
        if (grad) {
            // -inf again for a block of -inf alone: its factor below is then 0, or NaN where the whole row is -inf.
            maxima[block] = shift;
            float* e = exps + k;
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < n; ++i) {
                float exponential = exp_nonpositive(v[i] - own);
                e[i] = exponential;
                sum += exponential;
            }
        } else {
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < n; ++i) sum += exp_nonpositive(v[i] - own);
        }
        if (sum != 0.0f) s += own == m ? sum : sum * std::exp(static_cast<double>(own) - m);
    }
    double log_s = std::log(s);
    double loss = distance + (q_sum == 0.0 ? 0.0 : q_sum * log_s);
    if (a.kind == Targets::indices) {
        double below = m - target_logit;
        if (!(c == 0.0 && below == kInfinity)) loss += c * (log_s + below);
    }
    if (!grad) return loss;
    // A row with NaN or nothing but -inf has no softmax: all of it is NaN.
    double per_unit = (c + q_sum) * upstream / s;
    for (int64_t k = 0, block = 0; k < classes; k += kRowBlock, ++block) {
        int64_t n = classes - k < kRowBlock ? classes - k : kRowBlock;
        double down = maxima[block] == m && m > -kInfinity ? 1.0 : std::exp(static_cast<double>(maxima[block]) - m);
        float factor = static_cast<float>(per_unit * down);
        const float* e = exps + k;
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) {
            float g = e[i] * factor;
            if constexpr (kShares != Shares::none) g -= share(k + i, at + k + i) * upstream;
            store(grad + k + i, g);
        }
    }
    if (a.kind == Targets::indices) {
        // Not from the stored gradient: in a half format that has been rounded already.
        float g = exps == reinterpret_cast<float*>(grad)
                      ? load(grad[t])
                      : static_cast<float>(exps[t] * per_unit * std::exp(static_cast<double>(maxima[t / kRowBlock]) - m)) -
                            share(t, at + t) * upstream;
        store(grad + t, static_cast<float>(g - c * upstream));
    }
    return loss;
}

template <class T, Shares kShares>
inline void softmax_rows(const ClassArgs& a) {
    const int64_t step = rows_per_chunk(a), chunks = class_chunks(a), classes = a.classes;
    const Share<T, kShares> share = share_of<T, kShares>(a);
    const bool in_place = sizeof(T) == sizeof(float);
    for_chunks(chunks, a.threads, [&](int64_t chunk) {
        int64_t blocks = (classes + kRowBlock - 1) / kRowBlock;
        Scratch scratch(a.grad ? blocks + (in_place ? 0 : classes) : 0);
        float* maxima = scratch.data();
        double sum = 0.0;
        int64_t end = (chunk + 1) * step < a.outer ? (chunk + 1) * step : a.outer;
        for (int64_t r = chunk * step; r < end; ++r) {
            T* grad = a.grad ? static_cast<T*>(a.grad) + r * classes : nullptr;
            float value = 0.0f;
            if (counts_at(a, r)) {
                float* exps = in_place ? reinterpret_cast<float*>(grad) : maxima + blocks;
                double loss = softmax_row<T, kShares>(a, share, r, grad, exps, maxima, a.grad ? grad_factor(a, r) : 0.0f);
                loss *= loss_factor(a, r);
                sum += loss;
                value = static_cast<float>(loss);
            } else if (grad) {
                std::memset(static_cast<void*>(grad), 0, classes * sizeof(T));
            }
            if (a.loss_out) store_any(&value, a.loss_out, a.loss_dtype, r, 1);
        }
        if (a.partial) a.partial[chunk] = sum;
    });
}

// Rows of few classes to classes of many rows and back, in tiles of a vector's width squared.
#if defined(__AVX512F__)
constexpr int64_t kTile = 16;
#elif defined(__AVX2__)
constexpr int64_t kTile = 8;
#else
constexpr int64_t kTile = 4;
#endif

// to[k * stride + i] = from[i * classes + k]
inline void transpose_in(const float* from, float* to, int64_t rows, int64_t classes, int64_t stride) {
    for (int64_t k = 0; k < classes; ++k) {
#pragma omp simd
        for (int64_t i = 0; i < rows; ++i) to[k * stride + i] = from[i * classes + k];
    }
}

// to[i * classes + k] = from[k * stride + i]
inline void transpose_out(const float* from, float* to, int64_t rows, int64_t classes, int64_t stride) {
    for (int64_t i = 0; i < rows; ++i) {
        for (int64_t k = 0; k < classes; ++k) to[i * classes + k] = from[k * stride + i];
    }
}

// C. `n` samples side by side. Class k of sample i is x[k * stride + i]; its exponential goes to e[k * e_stride + i] and
//    there becomes the gradient. `e` may be `x`. `first` is the index of the first sample, `at` the offset of its first
//    element in the tensors, at which class k lies `k_step` and sample i `i_step` further.
struct Positions {
    // `share_total` is Σq and `distance` Σ q·(m − x); `counts` is 1 or 0, and so are the products that it is in.
    double s[kPositions], distance[kPositions], share_total[kPositions];
    float m[kPositions], part[kPositions], below[kPositions], c[kPositions], loss_factor[kPositions], upstream[kPositions],
        factor[kPositions], value[kPositions];
    int64_t target[kPositions], counts[kPositions];
};

// What the samples first … first + n bring along. No branch inside a loop: this runs once per sample, and with few
// classes that is as often as an exponential.
template <class T, Shares kShares>
inline void gather_positions(const ClassArgs& a, const Share<T, kShares>& share, Positions& p, const float* x,
                             int64_t stride, int64_t n, int64_t first) {
    if (a.kind == Targets::indices) {
        if (a.target_dtype == DType::uint8) {
            const uint8_t* target = static_cast<const uint8_t*>(a.target) + first;
            for (int64_t i = 0; i < n; ++i) p.target[i] = target[i];
        } else {
            std::memcpy(p.target, static_cast<const int64_t*>(a.target) + first, static_cast<size_t>(n) * sizeof(int64_t));
        }
        const int64_t ignored = a.ignore_index;
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) p.counts[i] = p.target[i] != ignored;
    } else {
        for (int64_t i = 0; i < n; ++i) {
            p.target[i] = 0;
            p.counts[i] = 1;
        }
    }
    if (a.row_mask) {
        for (int64_t i = 0; i < n; ++i) p.counts[i] &= a.row_mask[first + i] != 0;
    }
    const float scale = a.scale;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        // Of a sample that does not count the index may be anything.
        p.target[i] = p.counts[i] ? p.target[i] : 0;
        p.loss_factor[i] = static_cast<float>(p.counts[i]);
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
        return;
    }
    const float keep = share.keep;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        p.c[i] = p.counts[i] ? keep : 0.0f;
        p.below[i] = p.m[i] - x[p.target[i] * stride + i];
    }
    if (a.weight) {
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) p.c[i] *= a.weight[p.target[i]];
    }
}

// `ahead(k)` is called before class k, to ask for the memory that is needed next.
template <class T, Shares kShares, bool kGrad, class Ahead>
inline double softmax_positions(const ClassArgs& a, const Share<T, kShares>& share, Positions& p, const float* x,
                                int64_t stride, float* e, int64_t e_stride, int64_t n, int64_t first, int64_t at,
                                int64_t k_step, int64_t i_step, Ahead ahead) {
    const int64_t classes = a.classes;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        p.m[i] = x[i];
        p.s[i] = 0.0;
    }
    if constexpr (kShares != Shares::none) {
        for (int64_t i = 0; i < n; ++i) p.distance[i] = p.share_total[i] = 0.0;
    }
    for (int64_t k = 1; k < classes; ++k) {
        const float* row = x + k * stride;
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) p.m[i] = row[i] > p.m[i] ? row[i] : p.m[i];
    }
    // Before the exponentials, which may take the place of x.
    gather_positions(a, share, p, x, stride, n, first);
    // Sums of 32 in float, the rest in double: thousands of classes one after the other would lose digits.
    for (int64_t k0 = 0; k0 < classes; k0 += 32) {
        int64_t k1 = k0 + 32 < classes ? k0 + 32 : classes;
        for (int64_t i = 0; i < n; ++i) p.part[i] = 0.0f;
        for (int64_t k = k0; k < k1; ++k) {
            const float* row = x + k * stride;
            float* out = e + k * e_stride;
            ahead(k);
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) {
                float v = row[i];
                // Nothing but -inf: m - m would be NaN, and it is: such a sample has no softmax.
                float exponential = exp_nonpositive(v - p.m[i]);
                p.part[i] += exponential;
                if constexpr (kShares != Shares::none) {
                    float q = share(k, at + k * k_step + i * i_step);
                    float below = q * (p.m[i] - v);
                    p.distance[i] += (q == 0.0f) & (v == -kInfinity) ? 0.0f : below;
                    p.share_total[i] += q;
                }
                if constexpr (kGrad) out[i] = exponential;
            }
        }
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) p.s[i] += p.part[i];
    }
    double sum = 0.0;
    int64_t undefined = 0;
#pragma omp simd reduction(+ : sum, undefined)
    for (int64_t i = 0; i < n; ++i) {
        double log_s = log_nonnegative(static_cast<float>(p.s[i]));
        double of_target = p.c[i] * (log_s + p.below[i]);
        double loss = (p.c[i] == 0.0f) & (p.below[i] == kInfinity) ? 0.0 : of_target;
        double share_total = 0.0;
        if constexpr (kShares != Shares::none) {
            share_total = p.share_total[i];
            double of_shares = share_total * log_s;
            loss += p.distance[i] + (share_total == 0.0 ? 0.0 : of_shares);
        }
        double weighted = loss * p.loss_factor[i];
        weighted = p.counts[i] ? weighted : 0.0;
        p.value[i] = static_cast<float>(weighted);
        sum += weighted;
        p.factor[i] = static_cast<float>((p.c[i] + share_total) * p.upstream[i] / p.s[i]);
        undefined += (p.counts[i] == 0) & !(p.s[i] == p.s[i]);
    }
    if constexpr (!kGrad) return sum;
    for (int64_t k = 0; k < classes; ++k) {
        float* out = e + k * e_stride;
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) {
            float g = out[i] * p.factor[i];
            if constexpr (kShares != Shares::none) g -= share(k, at + k * k_step + i * i_step) * p.upstream[i];
            out[i] = g;
        }
    }
    if (a.kind == Targets::indices) {
        for (int64_t i = 0; i < n; ++i) e[p.target[i] * e_stride + i] -= p.c[i] * p.upstream[i];
    }
    if (undefined) {
        // NaN in a sample that does not count times its factor 0.
        for (int64_t i = 0; i < n; ++i) {
            for (int64_t k = 0; k < classes && !p.counts[i]; ++k) e[k * e_stride + i] = 0.0f;
        }
    }
    return sum;
}

template <class T, Shares kShares, bool kGrad>
inline void softmax_blocks(const ClassArgs& a) {
    const int64_t classes = a.classes, step = positions_per_block(a), chunks = class_chunks(a);
    const bool rows = a.inner == 1;
    const int64_t per_outer = rows ? 1 : (a.inner + step - 1) / step;
    const Share<T, kShares> share = share_of<T, kShares>(a);
    for_chunks(chunks, a.threads, [&](int64_t chunk) {
        // The block of scores stays in the cache: classes that lie a power of two apart in memory would evict each other.
        const int64_t header = (static_cast<int64_t>(sizeof(Positions) / sizeof(float)) + 15) / 16 * 16;
        Scratch scratch(header + classes * step + (rows ? classes * step : 0));
        Positions& p = *new (scratch.data()) Positions;
        float* x = scratch.data() + header;
        int64_t first, n, at, k_step, i_step;
        if (rows) {
            first = chunk * step;
            n = first + step < a.outer ? step : a.outer - first;
            at = first * classes;
            k_step = 1;
            i_step = classes;
        } else {
            int64_t begin = chunk % per_outer * step;
            n = begin + step < a.inner ? step : a.inner - begin;
            first = chunk / per_outer * a.inner + begin;
            at = chunk / per_outer * classes * a.inner + begin;
            k_step = a.inner;
            i_step = 1;
        }
        const T* input = static_cast<const T*>(a.input) + at;
        T* grad = kGrad ? static_cast<T*>(a.grad) + at : nullptr;
        float* linear = x + classes * step;
        if (rows) {
            transpose_in(as_floats(input, linear, n * classes), x, n, classes, step);
        } else {
            for (int64_t k = 0; k < classes; ++k) load_block(input + k * k_step, x + k * step, n);
        }
        // The prefetcher of the processor does not follow short pieces of far apart rows.
        const int64_t next = rows ? n * classes : n;
        auto ahead = [&](int64_t k) {
            const T* from = input + k * (rows ? n : k_step) + next;
            T* to = grad + k * (rows ? n : k_step);
            for (int64_t i = 0; i < n; i += 64 / static_cast<int64_t>(sizeof(T))) {
                __builtin_prefetch(from + i, 0, 2);
                if (kGrad) __builtin_prefetch(to + i, 1, 2);
            }
        };
        double sum =
            softmax_positions<T, kShares, kGrad>(a, share, p, x, step, x, step, n, first, at, k_step, i_step, ahead);
        if (kGrad && rows) {
            transpose_out(x, linear, n, classes, step);
            store_block(linear, grad, n * classes);
        } else if (kGrad) {
            for (int64_t k = 0; k < classes; ++k) store_block(x + k * step, grad + k * k_step, n);
        }
        if (a.loss_out) store_any(p.value, a.loss_out, a.loss_dtype, first, n);
        if (a.partial) a.partial[chunk] = sum;
    });
}

template <class T, Shares kShares>
inline void softmax_of(const ClassArgs& a) {
    if (a.inner == 1 && !transposed(a)) return softmax_rows<T, kShares>(a);
    if (a.grad) return softmax_blocks<T, kShares, true>(a);
    return softmax_blocks<T, kShares, false>(a);
}

template <class T>
inline void softmax_typed(const ClassArgs& a) {
    if (a.kind == Targets::probabilities) {
        if (a.weight) return softmax_of<T, Shares::weighted_probabilities>(a);
        return softmax_of<T, Shares::probabilities>(a);
    }
    if (!(a.label_smoothing > 0.0f)) return softmax_of<T, Shares::none>(a);
    if (a.weight) return softmax_of<T, Shares::weighted>(a);
    return softmax_of<T, Shares::uniform>(a);
}

void softmax(const ClassArgs& a) {
    switch (a.dtype) {
        case DType::bfloat16: return softmax_typed<bfloat16>(a);
        case DType::float16: return softmax_typed<float16>(a);
        default: return softmax_typed<float>(a);
    }
}

// D.
template <class T>
inline void nll_typed(const ClassArgs& a) {
    const int64_t samples = a.outer * a.inner, classes = a.classes;
    const int64_t chunks = class_chunks(a);
    // The same chunks as for softmax: their number is known to the caller.
    const bool positions = a.inner > 1 || transposed(a);
    const int64_t step = positions ? positions_per_block(a) : rows_per_chunk(a);
    const int64_t per_outer = a.inner > 1 ? (a.inner + step - 1) / step : 1;
    for_chunks(chunks, a.threads, [&](int64_t chunk) {
        int64_t outer = 0, begin, end, first;
        if (a.inner > 1) {
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
        if (grad && a.inner > 1) {
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
                int64_t at = a.inner > 1 ? (outer * classes + t) * a.inner + i : sample * classes + t;
                float w = a.weight ? a.weight[t] : 1.0f;
                float x = load(static_cast<const T*>(a.input)[at]);
                value = w == 0.0f && x == -kInfinity ? 0.0f : -w * x * loss_factor(a, sample);
                if (grad) store(grad + at, -w * grad_factor(a, sample));
                sum += value;
            }
            if (a.loss_out) store_any(&value, a.loss_out, a.loss_dtype, sample, 1);
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
