// Losses of one number against another.
//
// A. One small struct per loss: value and slope (the derivative by the input) of one element.
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
struct L1 {
    static constexpr bool bounded = false;
    static LOSSKIT_INLINE void eval(float x, float y, float, float, float& value, float& slope) {
        float d = x - y;
        value = __builtin_fabsf(d);
        // Two selects that end in 0 become branches where there are no masks.
        slope = static_cast<float>((d > 0.0f) - (d < 0.0f));
    }
};

struct Mse {
    static constexpr bool bounded = false;
    static LOSSKIT_INLINE void eval(float x, float y, float, float, float& value, float& slope) {
        float d = x - y;
        value = d * d;
        slope = 2.0f * d;
    }
};

struct SmoothL1 {
    static constexpr bool bounded = false;
    static LOSSKIT_INLINE void eval(float x, float y, float beta, float, float& value, float& slope) {
        float d = x - y;
        float a = d < 0.0f ? -d : d;
        float inside = d / beta, quadratic = 0.5f * d * inside, linear = a - 0.5f * beta;
        value = a < beta ? quadratic : linear;
        slope = d >= beta ? 1.0f : d <= -beta ? -1.0f : inside;
    }
};

struct Huber {
    static constexpr bool bounded = false;
    static LOSSKIT_INLINE void eval(float x, float y, float delta, float, float& value, float& slope) {
        float d = x - y;
        float a = d < 0.0f ? -d : d;
        float quadratic = 0.5f * d * d, linear = delta * (a - 0.5f * delta);
        value = a <= delta ? quadratic : linear;
        slope = d > delta ? delta : d < -delta ? -delta : d;
    }
};

struct Bce {
    static constexpr bool bounded = true;
    static LOSSKIT_INLINE void eval(float p, float y, float, float, float& value, float& slope) {
        float yes = log_nonnegative(p), no = log1m_unit(p);
        yes = yes < -100.0f ? -100.0f : yes;
        no = no < -100.0f ? -100.0f : no;
        value = -(y * yes + (1.0f - y) * no);
        float spread = (1.0f - p) * p;
        slope = (p - y) / (spread < 1e-12f ? 1e-12f : spread);
    }
};

struct BceWithLogits {
    static constexpr bool bounded = false;
    static LOSSKIT_INLINE void eval(float x, float y, float, float pos_weight, float& value, float& slope) {
        float a = x < 0.0f ? -x : x;
        float e = exp_nonpositive(-a);
        float tail = log1p_unit(e);
        float large = 1.0f / (1.0f + e), small = e * large;
        bool positive = x > 0.0f;
        // softplus(x) and softplus(-x); sigmoid(x) and sigmoid(-x). Neither pair is computed from the other.
        float up = (positive ? x : 0.0f) + tail, down = (positive ? 0.0f : -x) + tail;
        float sigmoid = positive ? large : small, opposite = positive ? small : large;
        float yes = pos_weight * y, no = 1.0f - y;
        // 0 times inf is 0: what is certain and right costs nothing.
        float negative = no * up, positives = yes * down;
        negative = (no == 0.0f) & (up == kInfinity) ? 0.0f : negative;
        positives = (yes == 0.0f) & (down == kInfinity) ? 0.0f : positives;
        value = negative + positives;
        slope = no * sigmoid - yes * opposite;
    }
};

constexpr int64_t kBlock = 1024;

LOSSKIT_INLINE bool in_unit(float x) { return (x >= 0.0f) & (x <= 1.0f); }

// B. Sums in double: a float holds no more digits than the result has to have.
enum class Lean { value, value_and_gradient, each_value, each_gradient };

// Writes the losses (each_value) or the gradients to `out`; the sum is that of the losses.
// Not inlined: among its caller's variables it does not vectorise on every instruction set.
template <class Loss, Lean kWhat>
__attribute__((noinline)) double lean_block(const float* x, const float* y, const float* upstream, float* out, int64_t n, float parameter,
                         float scale, int& bad) {
    double sum = 0.0;
    int outside = 0;
#pragma omp simd reduction(+ : sum) reduction(| : outside)
    for (int64_t i = 0; i < n; ++i) {
        float value, slope;
        Loss::eval(x[i], y[i], parameter, 1.0f, value, slope);
        if constexpr (kWhat == Lean::value || kWhat == Lean::value_and_gradient) sum += value;
        if constexpr (kWhat == Lean::value_and_gradient) out[i] = slope * scale;
        if constexpr (kWhat == Lean::each_value) out[i] = value;
        if constexpr (kWhat == Lean::each_gradient) out[i] = slope * upstream[i] * scale;
        if constexpr (Loss::bounded) outside |= !(in_unit(x[i]) & in_unit(y[i]));
    }
    bad |= outside;
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
        float value, slope;
        Loss::eval(b.x[i], b.y[i], parameter, b.upstream[i], value, slope);
        b.value[i] = value;
        b.slope[i] = slope;
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
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) b.slope[i] *= a.scale;
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
    int64_t chunks = (a.n + kPointwiseChunk - 1) / kPointwiseChunk;
    int found = 0;
    for_chunks(chunks, a.threads, [&](int64_t chunk) {
        int64_t begin = chunk * kPointwiseChunk;
        int64_t end = begin + kPointwiseChunk < a.n ? begin + kPointwiseChunk : a.n;
        double sum = 0.0;
        int bad = 0;
        const float p = a.parameter, scale = a.scale;
        if (!lean) {
            for (int64_t i = begin; i < end; i += kBlock) {
                sum += general_block<Loss>(a, i, end - i < kBlock ? end - i : kBlock, bad);
            }
        } else if (what == Lean::value_and_gradient) {
            sum = lean_block<Loss, Lean::value_and_gradient>(x + begin, y + begin, nullptr, out + begin, end - begin, p, scale, bad);
        } else if (what == Lean::each_value) {
            sum = lean_block<Loss, Lean::each_value>(x + begin, y + begin, nullptr, out + begin, end - begin, p, scale, bad);
        } else if (what == Lean::each_gradient) {
            sum = lean_block<Loss, Lean::each_gradient>(x + begin, y + begin, upstream + begin, out + begin, end - begin, p, scale, bad);
        } else {
            sum = lean_block<Loss, Lean::value>(x + begin, y + begin, nullptr, nullptr, end - begin, p, scale, bad);
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
