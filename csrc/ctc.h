// Connectionist temporal classification: the forward-backward algorithm, and its gradient in the backward sweep.
//
// A. Probabilities of paths fall below every floating format within tens of frames, and their logarithms lose the digits
//    that a sum of paths needs. Here a probability is m * 2^(32 e): m a float in [1, 2^32), e a whole number kept as a
//    float. A step of the recursion is then a sum of at most three numbers of one scale and a product: no exp, no log, and
//    a relative rounding of a few units in the last place, however small the number is.
// B. The states of a target of S labels: blanks 0..S and labels 0..S-1, kept apart so that every loop runs over neighbours
//    in memory. Blank i lies before label i. Graves et al. 2006, equations 6 to 11.
// C. Forward keeps alpha of every frame; backward needs one frame of beta. On the way back a frame's gradient is written
//    whole: exp(log_prob) minus the posterior of each class (their equation 16, with the frame's own sum in the place of
//    the sequence's, so that rounding common to a frame cancels and its posteriors add up to 1).
//
// A sample is one thread's work, so the number of threads changes nothing.
#pragma once

#include <cmath>

#include "blocks.h"
#include "parallel.h"

namespace losskit::LOSSKIT_ISA {
namespace {

// A. The exponent of 0: below that of every other number, and finite, so that differences are not NaN.
constexpr float kLowest = -3e38f;
constexpr float kBase = 4294967296.0f;
constexpr float kBaseInverse = 1.0f / kBase;
// 32 ln 2 in two parts, the first with few bits, so that e * kStepHigh is exact.
constexpr float kStep = 22.1807098f, kStepHigh = 22.1875f, kStepLow = -6.79022208e-3f;

struct Scaled {
    float m, e;
};

LOSSKIT_INLINE Scaled scaled_exp(float x) {
    // e = ceil(x / step), so that what is left for exp lies in (-step, 0]; beyond 2^30 every float is a whole number.
    float steps = x * (1.0f / kStep);
    float bounded = steps > -1073741824.0f ? steps : -1073741824.0f;
    bounded = bounded < 1073741824.0f ? bounded : 1073741824.0f;
    float whole = static_cast<float>(static_cast<int32_t>(bounded));
    whole += whole < bounded ? 1.0f : 0.0f;
    float e = bounded == steps ? whole : steps;
    float rest = (x - e * kStepHigh) - e * kStepLow;
    // Where x has no digits left for it, rest is noise. Comparisons with NaN are false, so NaN stays.
    rest = rest > 0.0f ? 0.0f : rest;
    rest = rest < -kStep ? -kStep : rest;
    float m = exp_nonpositive(rest);
    m = x == -kInfinity ? 0.0f : m;
    e = x - x == 0.0f ? e : 0.0f;
    return {m, e};
}

// The factor that brings a number of exponent e to the exponent top >= e. What is 2^64 times smaller adds nothing.
LOSSKIT_INLINE float aligned(float e, float top) {
    float d = e - top;
    float next = d == -1.0f ? kBaseInverse : 0.0f;
    return d == 0.0f ? 1.0f : next;
}

// The same one step further, for products of two mantissas.
LOSSKIT_INLINE float aligned_far(float e, float top) {
    return e - top == -2.0f ? kBaseInverse * kBaseInverse : aligned(e, top);
}

LOSSKIT_INLINE float larger(float a, float b) { return a > b ? a : b; }

// m in [2^-32, 2^34) back into [1, 2^32).
LOSSKIT_INLINE Scaled normalised(float m, float e) {
    bool above = m >= kBase, below = m < 1.0f;
    float factor = below ? kBase : 1.0f;
    factor = above ? kBaseInverse : factor;
    float step = below ? -1.0f : 0.0f;
    step = above ? 1.0f : step;
    float exponent = m == 0.0f ? kLowest : e + step;
    return {m * factor, exponent};
}

// B. One frame of alpha or beta. Each array has `stride` floats; label i stands at i + 1, between two numbers that are 0.
struct Frame {
    float *blank_m, *blank_e, *label_m, *label_e;
};

// Loops run over whole vectors. What they meet beyond the last state has an emission of 0, and stays 0.
constexpr int64_t kStates = 8;

inline int64_t state_width(int64_t labels) { return (labels + kStates) / kStates * kStates; }

// The states and the two entries around the labels.
inline int64_t frame_stride(int64_t labels) { return state_width(labels) + kStates; }

inline Frame frame_at(float* base, int64_t stride, int64_t index) {
    float* at = base + index * 4 * stride;
    return {at, at + stride, at + 2 * stride, at + 3 * stride};
}

inline void clear_frame(Frame f, int64_t stride) {
    for (int64_t i = 0; i < stride; ++i) {
        f.blank_m[i] = f.label_m[i] = 0.0f;
        f.blank_e[i] = f.label_e[i] = kLowest;
    }
}

// What one worker needs: the emissions and the alphas of every frame, two frames of beta, rows of labels and of classes.
struct CtcSpace {
    int64_t stride, kept;
    float *alpha, *emission_m, *emission_e, *beta, *logs, *skip, *posterior, *classes, *row;
};

inline int64_t ctc_kept(const CtcArgs& a) { return a.grad ? a.frames + 1 : 2; }

int64_t ctc_workspace(const CtcArgs& a) {
    const int64_t stride = frame_stride(a.max_labels), kept = ctc_kept(a);
    return (kept * 4 + kept * 2 + 8 + 2 + 2) * stride + (a.grad ? (2 * a.classes + 31) / 16 * 16 : 0);
}

inline CtcSpace ctc_space(const CtcArgs& a, int64_t worker) {
    CtcSpace s;
    s.stride = frame_stride(a.max_labels);
    s.kept = ctc_kept(a);
    float* next = a.workspace + worker * ctc_workspace(a);
    auto take = [&](int64_t count) {
        float* found = next;
        next += count;
        return found;
    };
    s.alpha = take(s.kept * 4 * s.stride);
    s.emission_m = take(s.kept * s.stride);
    s.emission_e = take(s.kept * s.stride);
    s.beta = take(8 * s.stride);
    s.logs = take(s.stride);
    s.skip = take(s.stride);
    s.posterior = take(2 * s.stride);
    s.classes = take(a.classes);
    s.row = take(a.classes);
    return s;
}

// The probabilities of a frame: of label i at i, of the blank behind all of them. `logs` holds -inf beyond the labels.
template <class T>
inline void emit(const T* row, const int64_t* target, int64_t labels, int64_t width, int64_t blank, float* logs, float* m,
                 float* e) {
    for (int64_t i = 0; i < labels; ++i) logs[i] = load(row[target[i]]);
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
        Scaled y = scaled_exp(logs[i]);
        m[i] = y.m;
        e[i] = y.e;
    }
    Scaled y = scaled_exp(load(row[blank]));
    m[width] = y.m;
    e[width] = y.e;
}

// Equations 6 and 7: alpha of a frame from that of the frame before.
inline void forward_step(Frame from, Frame to, const float* m, const float* e, const float* skip, int64_t width) {
    const float blank_m = m[width], blank_e = e[width];
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
        float stay = from.blank_e[i], before = from.label_e[i];
        float top = larger(stay, before);
        float sum = from.blank_m[i] * aligned(stay, top) + from.label_m[i] * aligned(before, top);
        Scaled a = normalised(sum * blank_m, top + blank_e);
        to.blank_m[i] = a.m;
        to.blank_e[i] = a.e;
    }
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
        float stay = from.label_e[i + 1], blank = from.blank_e[i];
        // A label may follow the one before it without a blank where they differ.
        float before = skip[i] != 0.0f ? from.label_e[i] : kLowest;
        float before_m = skip[i] != 0.0f ? from.label_m[i] : 0.0f;
        float top = larger(larger(stay, blank), before);
        float sum = from.label_m[i + 1] * aligned(stay, top) + from.blank_m[i] * aligned(blank, top) +
                    before_m * aligned(before, top);
        Scaled a = normalised(sum * m[i], top + e[i]);
        to.label_m[i + 1] = a.m;
        to.label_e[i + 1] = a.e;
    }
}

// beta times the frame's own probabilities, in place.
inline void times_emission(Frame f, const float* m, const float* e, int64_t width) {
    const float blank_m = m[width], blank_e = e[width];
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
        Scaled b = normalised(f.blank_m[i] * blank_m, f.blank_e[i] + blank_e);
        f.blank_m[i] = b.m;
        f.blank_e[i] = b.e;
    }
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
        Scaled b = normalised(f.label_m[i + 1] * m[i], f.label_e[i + 1] + e[i]);
        f.label_m[i + 1] = b.m;
        f.label_e[i + 1] = b.e;
    }
}

// Equations 10 and 11: beta of a frame, without its own probabilities, from that of the frame after, with them.
inline void backward_step(Frame from, Frame to, const float* skip, int64_t width) {
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
        float stay = from.blank_e[i], after = from.label_e[i + 1];
        float top = larger(stay, after);
        Scaled b = normalised(from.blank_m[i] * aligned(stay, top) + from.label_m[i + 1] * aligned(after, top), top);
        to.blank_m[i] = b.m;
        to.blank_e[i] = b.e;
    }
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
        float stay = from.label_e[i + 1], blank = from.blank_e[i + 1];
        float after = skip[i + 1] != 0.0f ? from.label_e[i + 2] : kLowest;
        float after_m = skip[i + 1] != 0.0f ? from.label_m[i + 2] : 0.0f;
        float top = larger(larger(stay, blank), after);
        float sum = from.label_m[i + 1] * aligned(stay, top) + from.blank_m[i + 1] * aligned(blank, top) +
                    after_m * aligned(after, top);
        Scaled b = normalised(sum, top);
        to.label_m[i + 1] = b.m;
        to.label_e[i + 1] = b.e;
    }
}

// alpha * beta of every state over their sum: labels at 0.., blanks at stride.. of `out`.
inline void posteriors(Frame alpha, Frame beta, int64_t width, int64_t stride, float* out) {
    float *label = out, *blank = out + stride;
    float top = kLowest;
#pragma omp simd reduction(max : top)
    for (int64_t i = 0; i < width; ++i) {
        float of_blank = alpha.blank_e[i] + beta.blank_e[i], of_label = alpha.label_e[i + 1] + beta.label_e[i + 1];
        float higher = larger(of_blank, of_label);
        top = top > higher ? top : higher;
    }
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < width; ++i) {
        blank[i] = alpha.blank_m[i] * beta.blank_m[i] * aligned_far(alpha.blank_e[i] + beta.blank_e[i], top);
        label[i] = alpha.label_m[i + 1] * beta.label_m[i + 1] * aligned_far(alpha.label_e[i + 1] + beta.label_e[i + 1], top);
        sum += blank[i] + label[i];
    }
    const float inverse = 1.0f / sum;
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
        blank[i] *= inverse;
        label[i] *= inverse;
    }
}

// C. exp of any number; that of a log-probability needs the first branch alone.
LOSSKIT_INLINE float exp_of(float x) {
    float e = exp_nonpositive(x > 0.0f ? -x : x);
    return x > 0.0f ? 1.0f / e : e;
}

template <class T>
inline void exp_row(const T* from, T* to, int64_t n, float scale) {
    float highest = 0.0f;
#pragma omp simd reduction(max : highest)
    for (int64_t i = 0; i < n; ++i) {
        float x = load(from[i]);
        highest = highest > x ? highest : x;
        store(to + i, exp_nonpositive(x > 0.0f ? 0.0f : x) * scale);
    }
    if (highest > 0.0f) {
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) store(to + i, exp_of(load(from[i])) * scale);
    }
}

template <class T>
inline void fill_row(T* to, int64_t n, float value) {
    for (int64_t i = 0; i < n; ++i) store(to + i, value);
}

template <class T>
inline void gradient_row(const T* from, T* to, int64_t classes, const int64_t* target, int64_t labels, int64_t width,
                         int64_t blank, float scale, const float* label, const float* blanks, float* sums) {
    exp_row(from, to, classes, scale);
    float of_blank = 0.0f;
#pragma omp simd reduction(+ : of_blank)
    for (int64_t i = 0; i < width; ++i) of_blank += blanks[i];
    // A class may stand at several places of the target. `sums` is all zeros before and after.
    for (int64_t i = 0; i < labels; ++i) sums[target[i]] += label[i];
    sums[blank] += of_blank;
    // From the unrounded numbers, and not from what a half-precision row holds by now.
    for (int64_t i = 0; i < labels; ++i) store(to + target[i], (exp_of(load(from[target[i]])) - sums[target[i]]) * scale);
    store(to + blank, (exp_of(load(from[blank])) - sums[blank]) * scale);
    for (int64_t i = 0; i < labels; ++i) sums[target[i]] = 0.0f;
    sums[blank] = 0.0f;
}

template <class T>
inline void ctc_sample(const CtcArgs& a, const CtcSpace& s, int64_t n) {
    const T* input = static_cast<const T*>(a.log_probs) + n * a.sample_stride;
    T* grad = a.grad ? static_cast<T*>(a.grad) + n * a.sample_stride : nullptr;
    const bool counts = !a.mask || a.mask[n];
    const int64_t frames = counts ? a.input_lengths[n] : 0, labels = counts ? a.target_lengths[n] : 0;
    const int64_t* target = a.targets + a.target_starts[n];
    const int64_t width = state_width(labels);
    for (int64_t i = 0; i <= width; ++i) s.skip[i] = i > 0 && i < labels && target[i] != target[i - 1] ? 1.0f : 0.0f;
    for (int64_t i = labels; i < width; ++i) s.logs[i] = -kInfinity;
    const int64_t kept = s.kept;
    for (int64_t t = 0; t < kept && t <= frames; ++t) {
        Frame alpha = frame_at(s.alpha, s.stride, t);
        alpha.label_m[0] = 0.0f;
        alpha.label_e[0] = kLowest;
    }
    // Before the first frame all is at the first blank.
    Frame alpha = frame_at(s.alpha, s.stride, 0);
    clear_frame(alpha, s.stride);
    alpha.blank_m[0] = 1.0f;
    alpha.blank_e[0] = 0.0f;
    for (int64_t t = 0; t < frames; ++t) {
        float* m = s.emission_m + t % kept * s.stride;
        float* e = s.emission_e + t % kept * s.stride;
        Frame next = frame_at(s.alpha, s.stride, (t + 1) % kept);
        emit(input + t * a.frame_stride, target, labels, width, a.blank, s.logs, m, e);
        forward_step(alpha, next, m, e, s.skip, width);
        alpha = next;
    }
    // Equation 8: the target ends in its last label or in the blank behind it.
    const float top = larger(alpha.blank_e[labels], alpha.label_e[labels]);
    const float likelihood = alpha.blank_m[labels] * aligned(alpha.blank_e[labels], top) +
                             alpha.label_m[labels] * aligned(alpha.label_e[labels], top);
    double loss = likelihood == 0.0f ? static_cast<double>(kInfinity) : -(std::log(static_cast<double>(likelihood)) + top * 22.180709777918249);
    const bool impossible = likelihood == 0.0f;
    if (a.zero_infinity && impossible) loss = 0.0;
    a.losses[n] = loss;
    if (!grad) return;

    for (int64_t t = frames; t < a.frames; ++t) fill_row(grad + t * a.frame_stride, a.classes, 0.0f);
    const float scale = a.scales[n];
    if (impossible || likelihood != likelihood) {
        const float value = impossible && a.zero_infinity ? 0.0f : kNaN;
        for (int64_t t = 0; t < frames; ++t) fill_row(grad + t * a.frame_stride, a.classes, value);
        return;
    }
    Frame beta = frame_at(s.beta, s.stride, 0), other = frame_at(s.beta, s.stride, 1);
    clear_frame(beta, s.stride);
    clear_frame(other, s.stride);
    beta.blank_m[labels] = 1.0f;
    beta.blank_e[labels] = 0.0f;
    if (labels > 0) {
        beta.label_m[labels] = 1.0f;
        beta.label_e[labels] = 0.0f;
    }
    for (int64_t t = frames - 1; t >= 0; --t) {
        posteriors(frame_at(s.alpha, s.stride, t + 1), beta, width, s.stride, s.posterior);
        gradient_row(input + t * a.frame_stride, grad + t * a.frame_stride, a.classes, target, labels, width, a.blank,
                     scale, s.posterior, s.posterior + s.stride, s.classes);
        times_emission(beta, s.emission_m + t * s.stride, s.emission_e + t * s.stride, width);
        backward_step(beta, other, s.skip, width);
        Frame swapped = beta;
        beta = other;
        other = swapped;
    }
}

template <class T>
inline void run_ctc(const CtcArgs& a) {
    const int64_t workers = a.threads < 1 ? 1 : a.threads;
    int64_t next = 0;
    for_chunks(workers, a.threads, [&](int64_t worker) {
        CtcSpace space = ctc_space(a, worker);
        if (a.grad) std::memset(space.classes, 0, static_cast<size_t>(a.classes) * sizeof(float));
        // Samples differ in length: whoever is free takes the next.
        for (;;) {
            int64_t n = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED);
            if (n >= a.batch) return;
            ctc_sample<T>(a, space, n);
        }
    });
}

void ctc(const CtcArgs& a) {
    switch (a.dtype) {
        case DType::bfloat16: return run_ctc<bfloat16>(a);
        case DType::float16: return run_ctc<float16>(a);
        default: return run_ctc<float>(a);
    }
}

}  // namespace
}  // namespace losskit::LOSSKIT_ISA
