// Losses of one number against another.
//
// A. One small struct per loss: value and slope (the derivative by the input) of one element.
// B. The lean loop: float32 without weights. One read of input and target, one write of the gradient.
// C. The general loop: any dtype, weight, mask, pos_weight, grad_output, unreduced losses; block by block through
//    buffers that stay in the first-level cache.
//
// Sums: 1024 elements in float lanes, then double, one partial sum per chunk.
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
        slope = d > 0.0f ? 1.0f : d < 0.0f ? -1.0f : 0.0f;
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
        float yes = log_nonnegative(p), no = log1p_unit(-p);
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
        float large = 1.0f / (1.0f + e), small = e / (1.0f + e);
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

// B.
template <class Loss, bool kGrad>
inline double lean_block(const float* x, const float* y, float* grad, int64_t n, float parameter, float scale, int& bad) {
    float sum = 0.0f;
    int outside = 0;
#pragma omp simd reduction(+ : sum) reduction(| : outside)
    for (int64_t i = 0; i < n; ++i) {
        float value, slope;
        Loss::eval(x[i], y[i], parameter, 1.0f, value, slope);
        sum += value;
        if constexpr (kGrad) grad[i] = slope * scale;
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
inline double general_block(const PointwiseArgs& a, int64_t begin, int64_t n, int& bad) {
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
        for (int64_t i = 0; i < n; ++i) {
            b.value[i] = mask[i] ? b.value[i] : 0.0f;
            b.slope[i] = mask[i] ? b.slope[i] : 0.0f;
        }
    }
    if (a.loss_out) store_any(b.value, a.loss_out, a.loss_dtype, begin, n);
    if (a.grad) {
        if (a.grad_output) {
            load_any(a.grad_output, a.grad_output_dtype, begin, b.upstream, n);
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) b.slope[i] *= b.upstream[i];
            if (mask) {
                for (int64_t i = 0; i < n; ++i) b.slope[i] = mask[i] ? b.slope[i] : 0.0f;
            }
        }
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) b.slope[i] *= a.scale;
        store_any(b.slope, a.grad, a.dtype, begin, n);
    }
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i) sum += b.value[i];
    return sum;
}

template <class Loss>
inline void run_pointwise(const PointwiseArgs& a) {
    bool lean = a.dtype == DType::float32 && !a.weight && !a.mask && !a.pos_weight && !a.grad_output && !a.loss_out;
    const float* x = static_cast<const float*>(a.input);
    const float* y = static_cast<const float*>(a.target);
    float* grad = static_cast<float*>(a.grad);
    int64_t chunks = (a.n + kPointwiseChunk - 1) / kPointwiseChunk;
    int found = 0;
    for_chunks(chunks, a.threads, [&](int64_t chunk) {
        int64_t begin = chunk * kPointwiseChunk;
        int64_t end = begin + kPointwiseChunk < a.n ? begin + kPointwiseChunk : a.n;
        double sum = 0.0;
        int bad = 0;
        for (int64_t i = begin; i < end; i += kBlock) {
            int64_t n = end - i < kBlock ? end - i : kBlock;
            if (!lean) {
                sum += general_block<Loss>(a, i, n, bad);
            } else if (grad) {
                sum += lean_block<Loss, true>(x + i, y + i, grad + i, n, a.parameter, a.scale, bad);
            } else {
                sum += lean_block<Loss, false>(x + i, y + i, nullptr, n, a.parameter, a.scale, bad);
            }
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
