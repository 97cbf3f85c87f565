// Losses of one number against another.
//
// A. One small struct per loss: value and slope (the derivative by the input) of one element. `uses_first` says which of
//    them need `first`, the transcendental function of the input alone that they start from.
// B. The lean loops: float32 without weights. One read of input and target, one write.
// C. The general loop: any dtype, weight, mask, pos_weight, grad_output, unreduced losses; block by block through
//    buffers that stay in the first-level cache.
//
// Sums: double lanes, one partial sum per chunk.
#pragma once

#include "blocks.h"
#include "parallel.h"

namespace losskit::LOSSKIT_ISA {
namespace {

// A.
enum class Uses { nothing, value, both };

struct Simple {
    static constexpr bool bounded = false;
    static constexpr Uses uses_first = Uses::nothing;
    static LOSSKIT_INLINE float first(float) { return 0.0f; }
};

struct L1 : Simple {
    static LOSSKIT_INLINE float value(float x, float y, float, float, float) { return __builtin_fabsf(x - y); }
    static LOSSKIT_INLINE float slope(float x, float y, float, float, float) {
        float d = x - y;
        // Two selects that end in 0 become branches where there are no masks.
        return static_cast<float>((d > 0.0f) - (d < 0.0f));
    }
};

struct Mse : Simple {
    static LOSSKIT_INLINE float value(float x, float y, float, float, float) { return (x - y) * (x - y); }
    static LOSSKIT_INLINE float slope(float x, float y, float, float, float) { return 2.0f * (x - y); }
};

struct SmoothL1 : Simple {
    static LOSSKIT_INLINE float value(float x, float y, float, float beta, float) {
        float d = x - y, a = __builtin_fabsf(d);
        float quadratic = 0.5f * d * (d / beta), linear = a - 0.5f * beta;
        return a < beta ? quadratic : linear;
    }
    static LOSSKIT_INLINE float slope(float x, float y, float, float beta, float) {
        float d = x - y, inside = d / beta;
        return d >= beta ? 1.0f : d <= -beta ? -1.0f : inside;
    }
};

struct Huber : Simple {
    static LOSSKIT_INLINE float value(float x, float y, float, float delta, float) {
        float d = x - y, a = __builtin_fabsf(d);
        float quadratic = 0.5f * d * d, linear = delta * (a - 0.5f * delta);
        return a <= delta ? quadratic : linear;
    }
    static LOSSKIT_INLINE float slope(float x, float y, float, float delta, float) {
        float d = x - y;
        return d > delta ? delta : d < -delta ? -delta : d;
    }
};

// The slopes of these two in two parts: the sum is rounded only when it is scaled.
//
// No number of the domain has an infinite slope: what the gradient of another is does not matter, the call is an error.
struct Bce {
    static constexpr bool bounded = true;
    static constexpr Uses uses_first = Uses::value;
    static LOSSKIT_INLINE float first(float p) { return log_unit(p); }
    static LOSSKIT_INLINE float value(float p, float y, float yes, float, float) {
        // The logarithm of 0 is among those that the bounds replace: -100 is none of 1 - p otherwise.
        float no = log1m_unit(p);
        yes = yes < -100.0f ? -100.0f : yes;
        no = no < -50.0f ? -100.0f : no;
        return multiply_add(y - 1.0f, no, -(y * yes));
    }
    static LOSSKIT_INLINE void slope(float p, float y, float, float, float, float& head, float& tail) {
        float d = p - y, u = 1.0f - p, product = u * p;
        float spread = product > 1e-12f ? product : 1e-12f;
#ifdef __FP_FAST_FMAF
        // With what rounding the product and the quotient has lost: the largest gradients, where p is nearly 0 or 1, decide
        // over the error.
        float inverse = 1.0f / spread;
        head = d * inverse;
        float lost = __builtin_fmaf(u, p, -product);
        float rest = __builtin_fmaf(-head, spread, d) - head * (product > 1e-12f ? lost : 0.0f);
        tail = rest * inverse;
#else
        head = d / spread;
        tail = 0.0f;
#endif
    }
};

// In terms of |x|: softplus(x) is |x| + log(1 + e) or log(1 + e), e = exp(-|x|), and sigmoid(-|x|) is e / (1 + e).
struct BceWithLogits {
    static constexpr bool bounded = false;
    static constexpr Uses uses_first = Uses::both;
    static LOSSKIT_INLINE float first(float x) { return exp_nonpositive(-__builtin_fabsf(x)); }
    static LOSSKIT_INLINE float value(float x, float y, float e, float, float pos_weight) {
        float against = wrong(x, y, pos_weight), cost = against * __builtin_fabsf(x);
        // 0 times inf is 0: what is certain and right costs nothing.
        return (against == 0.0f ? 0.0f : cost) + both(y, pos_weight) * log1p_unit(e);
    }
    static LOSSKIT_INLINE void slope(float x, float y, float e, float, float pos_weight, float& head, float& tail) {
        float sum = 1.0f + e, lost = e - (sum - 1.0f), inverse = 1.0f / sum, part = e * inverse;
        part += ((e - part * sum) - part * lost) * inverse;
        float against = wrong(x, y, pos_weight), share = both(y, pos_weight) * part;
        // The product with 0 keeps the NaN of x beside an infinite y.
        head = multiply_add(0.0f, e, x > 0.0f ? against : -against);
        tail = x > 0.0f ? -share : share;
    }

private:
    // The weight of the class that the sign of x speaks against, and of the two classes together.
    static LOSSKIT_INLINE float wrong(float x, float y, float pos_weight) {
        float yes = pos_weight * y, no = 1.0f - y;
        return x > 0.0f ? no : yes;
    }
    static LOSSKIT_INLINE float both(float y, float pos_weight) {
        // Without rounding where it is 1.
        return pos_weight == 1.0f ? 1.0f : (1.0f - y) + pos_weight * y;
    }
};

// Of an infinite `head` there is no rest: inf times 0, or inf less inf, would be NaN.
LOSSKIT_INLINE float sum_of_parts(float head, float tail) { return head + (head - head == 0.0f ? tail : 0.0f); }

template <class Loss>
LOSSKIT_INLINE float slope_of(float x, float y, float first, float parameter, float pos_weight) {
    if constexpr (Loss::uses_first == Uses::nothing) {
        return Loss::slope(x, y, first, parameter, pos_weight);
    } else {
        float head, tail;
        Loss::slope(x, y, first, parameter, pos_weight, head, tail);
        return sum_of_parts(head, tail);
    }
}

constexpr int64_t kBlock = 1024;

LOSSKIT_INLINE bool in_unit(float x) { return (x >= 0.0f) & (x <= 1.0f); }

inline int any_outside(const float* x, int64_t n) {
    // By their bits the numbers from 0 to 1 are the integers from 0 to those of 1.
    uint32_t largest = 0;
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < n; ++i) largest = bits_of(x[i]) > largest ? bits_of(x[i]) : largest;
    if (largest <= 0x3f800000u) return 0;
    // -0 is in, too.
    int outside = 0;
#pragma omp simd reduction(| : outside)
    for (int64_t i = 0; i < n; ++i) outside |= !in_unit(x[i]);
    return outside;
}

// B. Sums in double: a float holds no more digits than the result has to have.
enum class Lean { value, value_and_gradient, each_value, each_gradient };

constexpr bool has_value(Lean what) { return what != Lean::each_gradient; }
constexpr bool has_slope(Lean what) { return what == Lean::value_and_gradient || what == Lean::each_gradient; }

// Writes the losses (each_value) or the gradients to `out`; the sum is that of the losses.
// Not inlined: among its caller's variables it does not vectorise on every instruction set.
template <class Loss, Lean kWhat>
__attribute__((noinline)) double lean_block(const float* x, const float* y, const float* upstream, float* out, int64_t n, float parameter,
                         float scale, int& bad) {
    double sum = 0.0;
    int outside = 0;
#pragma omp simd reduction(+ : sum) reduction(| : outside)
    for (int64_t i = 0; i < n; ++i) {
        float value = Loss::value(x[i], y[i], 0.0f, parameter, 1.0f), slope = Loss::slope(x[i], y[i], 0.0f, parameter, 1.0f);
        if constexpr (kWhat == Lean::value || kWhat == Lean::value_and_gradient) sum += value;
        if constexpr (kWhat == Lean::each_value) out[i] = value;
        if constexpr (has_slope(kWhat)) out[i] = (kWhat == Lean::each_gradient ? slope * upstream[i] : slope) * scale;
        if constexpr (Loss::bounded) outside |= !(in_unit(x[i]) & in_unit(y[i]));
    }
    bad |= outside;
    return sum;
}

// In two parts: the divisor of a mean has no exact float, and its error would be that of every gradient.
struct Scale {
    float high, low;

    explicit Scale(double scale) : high(static_cast<float>(scale)), low(static_cast<float>(scale - high)) {}

    // Whether no product with it goes beyond float where the other factor does not.
    bool small() const { return high >= -1.0f && high <= 1.0f; }
};

// The sum of the parts, times a small scale. With kFinite no head is infinite.
template <bool kFinite = false>
LOSSKIT_INLINE float scaled(float head, float tail, Scale scale) {
    float rest = multiply_add(tail, scale.high, (head + tail) * scale.low);
    return head * scale.high + (kFinite || head - head == 0.0f ? rest : 0.0f);
}

// The same for a loss that takes many operations: one short loop after the other, at most kBlock elements. In a single one
// the processor waits for each result, because the next element is too far ahead for it to begin with.
template <class Loss, Lean kWhat, bool kSmallScale>
__attribute__((noinline)) double staged_block(const float* x, const float* y, const float* upstream, float* out, int64_t n,
                                              float parameter, double scale, int& bad) {
    float first[kBlock];
    if constexpr (Loss::uses_first == Uses::both || has_value(kWhat)) {
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) first[i] = Loss::first(x[i]);
    }
    if constexpr (has_slope(kWhat)) {
        const Scale parts(scale);
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) {
            float head, tail;
            Loss::slope(x[i], y[i], first[i], parameter, 1.0f, head, tail);
            if constexpr (kWhat == Lean::value_and_gradient && kSmallScale) {
                out[i] = scaled<Loss::bounded>(head, tail, parts);
            } else {
                float slope = sum_of_parts(head, tail);
                out[i] = (kWhat == Lean::each_gradient ? slope * upstream[i] : slope) * parts.high;
            }
        }
    }
    double sum = 0.0;
    if constexpr (has_value(kWhat)) {
        float* values = kWhat == Lean::each_value ? out : first;
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) values[i] = Loss::value(x[i], y[i], first[i], parameter, 1.0f);
        if constexpr (kWhat != Lean::each_value) sum = sum_of(values, n);
    }
    if constexpr (Loss::bounded) bad |= any_outside(x, n) | any_outside(y, n);
    return sum;
}

template <class Loss, Lean kWhat>
inline double lean_chunk(const float* x, const float* y, const float* upstream, float* out, int64_t n, float parameter,
                         double scale, bool streamed, int& bad) {
    alignas(64) float written[kStreamedBlock];
    const int64_t step = streamed ? kStreamedBlock : kBlock;
    double sum = 0.0;
    for (int64_t i = 0; i < n; i += step) {
        const int64_t part = n - i < step ? n - i : step;
        const float* factors = upstream ? upstream + i : nullptr;
        float* to = streamed ? written : out ? out + i : nullptr;
        if constexpr (Loss::uses_first == Uses::nothing) {
            sum += lean_block<Loss, kWhat>(x + i, y + i, factors, to, part, parameter, static_cast<float>(scale), bad);
        } else if (kWhat == Lean::value_and_gradient && Scale(scale).small()) {
            sum += staged_block<Loss, kWhat, true>(x + i, y + i, factors, to, part, parameter, scale, bad);
        } else {
            sum += staged_block<Loss, kWhat, false>(x + i, y + i, factors, to, part, parameter, scale, bad);
        }
        if (streamed) stream_block(written, out + i, part);
    }
    if (streamed) end_of_stream();
    return sum;
}

// C.
struct Buffers {
    float x[kBlock], y[kBlock], value[kBlock], slope[kBlock], upstream[kBlock];
};

template <class Loss>
__attribute__((noinline)) double general_block(const PointwiseArgs& a, int64_t begin, int64_t n, int& bad) {
    Buffers b;
    load_any(a.input, a.dtype, begin, b.x, n);
    load_any(a.target, a.dtype, begin, b.y, n);
    const uint8_t* mask = a.mask ? a.mask + begin : nullptr;
    if (mask) {
        // What is masked is replaced before anything is computed from it: a NaN there stays unseen.
        for (int64_t i = 0; i < n; ++i) {
            b.x[i] = mask[i] ? b.x[i] : 0.0f;
            b.y[i] = mask[i] ? b.y[i] : 0.0f;
        }
    }
    const float parameter = a.parameter;
    for (int64_t i = 0; i < n; ++i) b.upstream[i] = a.pos_weight ? a.pos_weight[begin + i] : 1.0f;
    int outside = 0;
#pragma omp simd reduction(| : outside)
    for (int64_t i = 0; i < n; ++i) {
        float first = Loss::first(b.x[i]);
        b.value[i] = Loss::value(b.x[i], b.y[i], first, parameter, b.upstream[i]);
        b.slope[i] = slope_of<Loss>(b.x[i], b.y[i], first, parameter, b.upstream[i]);
        if constexpr (Loss::bounded) outside |= !(in_unit(b.x[i]) & in_unit(b.y[i]));
    }
    bad |= outside;
    if (a.weight) {
        const float* weight = a.weight + begin;
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) {
            b.value[i] *= weight[i];
            b.slope[i] *= weight[i];
        }
    }
    if (mask) {
        for (int64_t i = 0; i < n; ++i) b.value[i] = mask[i] ? b.value[i] : 0.0f;
    }
    if (a.loss_out) store_any(b.value, a.loss_out, a.loss_dtype, begin, n);
    if (a.grad) {
        if (a.grad_output) {
            load_any(a.grad_output, a.grad_output_dtype, begin, b.upstream, n);
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) b.slope[i] *= b.upstream[i];
        }
        const float scale = static_cast<float>(a.scale);
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) b.slope[i] *= scale;
        if (mask) {
            // Last, because the factors may be infinite: the scale is where nothing counts.
            for (int64_t i = 0; i < n; ++i) b.slope[i] = mask[i] ? b.slope[i] : 0.0f;
        }
        store_any(b.slope, a.grad, a.dtype, begin, n);
    }
    double sum = 0.0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i) sum += b.value[i];
    return sum;
}

// Which lean loop does what is asked for, if one does.
inline bool lean_of(const PointwiseArgs& a, Lean& lean) {
    if (a.dtype != DType::float32 || a.weight || a.mask || a.pos_weight) return false;
    if (a.loss_out) {
        lean = Lean::each_value;
        return !a.grad && a.loss_dtype == DType::float32;
    }
    if (a.grad_output) {
        lean = Lean::each_gradient;
        return a.grad && a.grad_output_dtype == DType::float32;
    }
    lean = a.grad ? Lean::value_and_gradient : Lean::value;
    return true;
}

template <class Loss>
inline void run_pointwise(const PointwiseArgs& a) {
    Lean what = Lean::value;
    const bool lean = lean_of(a, what);
    const float* x = static_cast<const float*>(a.input);
    const float* y = static_cast<const float*>(a.target);
    const float* upstream = static_cast<const float*>(a.grad_output);
    float* out = static_cast<float*>(what == Lean::each_value ? a.loss_out : a.grad);
    const bool streamed = lean && out && Loss::uses_first == Uses::nothing && a.n * static_cast<int64_t>(sizeof(float)) >= kStreamedBytes;
    int64_t chunks = (a.n + kPointwiseChunk - 1) / kPointwiseChunk;
    int found = 0;
    for_chunks(chunks, a.threads, [&](int64_t chunk) {
        int64_t begin = chunk * kPointwiseChunk;
        int64_t end = begin + kPointwiseChunk < a.n ? begin + kPointwiseChunk : a.n;
        double sum = 0.0;
        int bad = 0;
        const float p = a.parameter;
        const double scale = a.scale;
        if (!lean) {
            for (int64_t i = begin; i < end; i += kBlock) {
                sum += general_block<Loss>(a, i, end - i < kBlock ? end - i : kBlock, bad);
            }
        } else if (what == Lean::value_and_gradient) {
            sum = lean_chunk<Loss, Lean::value_and_gradient>(x + begin, y + begin, nullptr, out + begin, end - begin, p, scale, streamed, bad);
        } else if (what == Lean::each_value) {
            sum = lean_chunk<Loss, Lean::each_value>(x + begin, y + begin, nullptr, out + begin, end - begin, p, scale, streamed, bad);
        } else if (what == Lean::each_gradient) {
            sum = lean_chunk<Loss, Lean::each_gradient>(x + begin, y + begin, upstream + begin, out + begin, end - begin, p, scale, streamed, bad);
        } else {
            sum = lean_chunk<Loss, Lean::value>(x + begin, y + begin, nullptr, nullptr, end - begin, p, scale, streamed, bad);
        }
        if (a.partial) a.partial[chunk] = sum;
        if (bad) {
#pragma omp atomic write
            found = 1;
        }
    });
    if (found && a.outside) *a.outside = 1;
}

void pointwise(const PointwiseArgs& a) {
    switch (a.loss) {
        case Pointwise::l1: return run_pointwise<L1>(a);
        case Pointwise::mse: return run_pointwise<Mse>(a);
        case Pointwise::smooth_l1: return run_pointwise<SmoothL1>(a);
        case Pointwise::huber: return run_pointwise<Huber>(a);
        case Pointwise::bce: return run_pointwise<Bce>(a);
        case Pointwise::bce_with_logits: return run_pointwise<BceWithLogits>(a);
    }
}

}  // namespace
}  // namespace losskit::LOSSKIT_ISA
