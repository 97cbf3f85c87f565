// Losses of several tensors, any of which may have a gradient.
//
// A. One loss per element: a structure of value and slopes for each loss. What an option changes in the formula is an
//    argument of the template, so that no loop has a branch.
// B. The lean loops: float32 without weights. One read of each tensor, one write of each gradient.
// C. The general loop: any dtype, weight, mask, grad_output; block by block through buffers that stay in the first-level
//    cache.
// D. Which thread runs a chunk changes nothing: the chunks are fixed, with one partial sum each.
// E. One loss per row: rows.h.
#pragma once

#include <type_traits>

#include "blocks.h"
#include "parallel.h"
#include "rows.h"

namespace losskit::LOSSKIT_ISA {
namespace {

// A. `x`, `y` and `z` are the elements of the tensors in their order, `p` and `q` the first parameters; `dx`, `dy` and `dz`
// get the derivatives by those of the first `slopes` tensors. Scalars and not arrays: those do not vectorise. `bounded`
// losses tell by `inside` whether z lies in their domain; 0 does. Losses with `corners` are constant in places, where dx
// is 0 and the others too: what flows back there is 0, also times an infinite grad_output.
//
// `staged` losses have so many operations that `first`, their exponential or logarithm, is faster in a loop of its own: in a
// single one the next element is too far ahead for the processor to begin with.
//
// `Plain` is the same loss for a block without an odd number: the same results, without the choices that infinities, zeros
// and NaN need, which cost as much as the logarithm or the exponential. Losses with `tails` have the slopes by x (that by y
// is its opposite) and z in two parts, whose sum is rounded only when it is scaled.
struct ElementLoss {
    using Plain = void;
    static constexpr bool corners = false, bounded = false, tails = false, staged = false;
    LOSSKIT_INLINE static float first(float, float, float, float) { return 0.0f; }
};

struct SoftMargin : ElementLoss {
    static constexpr int tensors = 2, slopes = 1;
    static constexpr bool staged = true;

    // log(1 + exp(-y x)), from exp(-|y x|).
    LOSSKIT_INLINE static float first(float x, float y, float, float) { return exp_of_many(-__builtin_fabsf(y * x)); }
    LOSSKIT_INLINE static void eval(float x, float y, float, float, float, float e, float& value, float& dx, float&, float&) {
        float t = -y * x;
        value = (t > 0.0f ? t : 0.0f) + log1p_unit(e);
        float reciprocal = 1.0f / (1.0f + e);
        dx = -y * (t > 0.0f ? reciprocal : e * reciprocal);
    }
};

struct HingeEmbedding : ElementLoss {
    static constexpr int tensors = 2, slopes = 1;
    static constexpr bool corners = true;

    // x where y = 1, max(0, margin - x) where y = -1; for any other y both.
    LOSSKIT_INLINE static void eval(float x, float y, float, float margin, float, float, float& value, float& dx, float&, float&) {
        float d = margin - x;
        // A comparison with NaN is false, so NaN stays.
        float clamped = d < 0.0f ? 0.0f : d;
        float near = y != -1.0f ? x : 0.0f, far = y != 1.0f ? clamped : 0.0f;
        value = near + far;
        // Selects between numbers become paths of their own, one for each combination.
        dx = static_cast<float>(y != -1.0f) - static_cast<float>((y != 1.0f) & (d >= 0.0f));
    }
};

struct MarginRanking : ElementLoss {
    static constexpr int tensors = 3, slopes = 2;
    static constexpr bool corners = true;

    // max(0, margin - z (x - y))
    LOSSKIT_INLINE static void eval(float x, float y, float z, float margin, float, float, float& value, float& dx, float& dy, float&) {
        float t = margin - z * (x - y);
        value = t < 0.0f ? 0.0f : t;
        // By its bits, as below.
        dy = float_of(bits_of(z) & (0u - uint32_t(t >= 0.0f)));
        dx = -dy;
    }
};

template <bool kLogTarget, bool kPlainOnly = false>
struct KlDiv : ElementLoss {
    using Plain = KlDiv<kLogTarget, true>;
    static constexpr int tensors = 2, slopes = 2;

    // t (log t - x) for t = y or exp(y). Where t is 0, so is the loss, also of x = -inf.
    LOSSKIT_INLINE static void eval(float x, float y, float, float, float, float, float& value, float& dx, float& dy, float&) {
        if constexpr (kLogTarget) {
            const bool none = kPlainOnly ? false : (y == -kInfinity) & (x < kInfinity);
            float t = kPlainOnly ? exp_plain(y) : exp_any(y), d = y - x;
            value = none ? 0.0f : t * d;
            dx = -t;
            dy = none ? 0.0f : multiply_add(t, d, t);
        } else {
            const bool none = kPlainOnly ? false : y == 0.0f;
            float log_y = kPlainOnly ? log_normal(y) : log_any(y);
            float product = y * ((none ? 0.0f : log_y) - x);
            value = none & (x == -kInfinity) ? 0.0f : product;
            dx = -y;
            // There is no derivative at 0.
            dy = (none ? kNaN : log_y) + 1.0f - x;
        }
    }
    LOSSKIT_INLINE static uint32_t oddness(float, float y, float, float) {
        return kLogTarget ? oddness_for_exp(y) : oddness_for_log(y);
    }
};

template <bool kLogInput, bool kFull, bool kPlainOnly = false>
struct PoissonNll : ElementLoss {
    // With Stirling's approximation there are two logarithms.
    using Plain = std::conditional_t<kFull, void, PoissonNll<kLogInput, false, true>>;
    static constexpr int tensors = 2, slopes = 1;

    // exp(x) - y x, or x - y log(x + eps); with Stirling's approximation of log(y!) where y > 1.
    LOSSKIT_INLINE static void eval(float x, float y, float, float eps, float, float, float& value, float& dx, float&, float&) {
        if constexpr (kLogInput) {
            const bool none = kPlainOnly ? false : (y == 0.0f) & (x == -kInfinity);
            float rate = kPlainOnly ? exp_plain(x) : exp_any(x);
            value = none ? rate : multiply_add(-y, x, rate);
            dx = rate - y;
        } else {
            float rate = x + eps, log_rate = kPlainOnly ? log_normal(rate) : log_any(rate);
            const bool none = kPlainOnly ? false : (y == 0.0f) & (rate == 0.0f);
            value = none ? x : multiply_add(-y, log_rate, x);
            dx = 1.0f - (none ? 0.0f : y / rate);
        }
        if constexpr (kFull) {
            constexpr float kHalfLogTwoPi = 0.918938533f;
            float stirling = ((y + 0.5f) * log_nonnegative(y) - y) + kHalfLogTwoPi;
            value += y <= 1.0f ? 0.0f : stirling;
        }
    }
    LOSSKIT_INLINE static uint32_t oddness(float x, float, float, float eps) {
        return kLogInput ? oddness_for_exp(x) : oddness_for_log(x + eps);
    }
};

template <bool kPlainOnly>
struct GaussianNllOf : ElementLoss {
    using Plain = GaussianNllOf<true>;
    static constexpr int tensors = 3, slopes = 3;
    static constexpr bool bounded = true, tails = true, staged = true;

    LOSSKIT_INLINE static float first(float, float, float z, float eps) {
        float v = z < eps ? eps : z;
        return kPlainOnly ? log_normal(v) : log_nonnegative(v);
    }
    // (log v + (x - y)^2 / v) / 2 + constant with v = max(z, eps); the clamp has no part in the derivative.
    LOSSKIT_INLINE static void parts(float x, float y, float z, float eps, float constant, float log_v, float& value,
                                     float& dx, float& dx_tail, float& dz, float& dz_tail) {
        float v = z < eps ? eps : z, d = x - y, half = 0.5f / v, share = d / v, square = share * share;
        float tail = 0.0f, rest = half;
        value = 0.5f * (log_v + d * share) + constant;
        dx = share;
        dz = -0.5f * square;
#ifdef __FP_FAST_FMAF
        // What rounding the difference and the quotient has lost: the square loses it twice.
        float back = d - x, lost = (x - (d - back)) - (y + back);
        tail = 2.0f * ((__builtin_fmaf(-share, v, d) + lost) * half);
        // inf times 0, where v is infinite or hardly a number.
        if (!kPlainOnly) tail = tail - tail == 0.0f ? tail : 0.0f;
        rest = (half - 0.5f * __builtin_fmaf(share, share, -square)) - share * tail;
#endif
        dx_tail = tail;
        dz_tail = rest;
    }
    LOSSKIT_INLINE static void eval(float x, float y, float z, float eps, float constant, float log_v, float& value, float& dx,
                                    float& dy, float& dz) {
        float dx_tail, dz_tail;
        parts(x, y, z, eps, constant, log_v, value, dx, dx_tail, dz, dz_tail);
        dx = sum_of_parts(dx, dx_tail);
        dy = -dx;
        dz = sum_of_parts(dz, dz_tail);
    }

    LOSSKIT_INLINE static bool inside(float z) { return !(z < 0.0f); }
    LOSSKIT_INLINE static uint32_t oddness(float, float, float z, float eps) { return oddness_for_log(z < eps ? eps : z); }
};
using GaussianNll = GaussianNllOf<false>;

// B.
// What a loop writes: gradients and the sum of the losses, the losses, or gradients of a grad_output.
enum class Out { sum, each, of_each };

struct LeanTensors {
    const float* x[kMaxTensors];
    float* grads[kMaxTensors];
    const float* upstream;
    float* loss;

    LeanTensors from(int64_t begin) const {
        LeanTensors moved = *this;
        for (int t = 0; t < kMaxTensors; ++t) {
            if (x[t]) moved.x[t] += begin;
            if (grads[t]) moved.grads[t] += begin;
        }
        if (upstream) moved.upstream += begin;
        if (loss) moved.loss += begin;
        return moved;
    }
};

constexpr int64_t kFusedBlock = 1024;

// At most kFusedBlock elements. Not inlined: among its caller's variables it does not vectorise on every instruction set.
template <class Loss, unsigned kWants, Out kOut, bool kSmallScale>
__attribute__((noinline)) double lean_block_of(const LeanTensors& block, const float* parameters, Scale scale, int64_t n,
                                               int& bad) {
    constexpr bool second = Loss::tensors > 1, third = Loss::tensors > 2;
    const float *x0 = block.x[0], *x1 = block.x[1], *x2 = block.x[2], *upstream = block.upstream;
    float *g0 = block.grads[0], *g1 = block.grads[1], *g2 = block.grads[2];
    // Added up in a loop of its own: with doubles in this one the registers do not suffice.
    float values[kOut == Out::sum ? kFusedBlock : 1];
    float* loss = kOut == Out::each ? block.loss : values;
    const float p = parameters[0], q = parameters[1];
    float firsts[Loss::staged ? kFusedBlock : 1];
    if constexpr (Loss::staged) {
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) {
            float z = 0.0f;
            if constexpr (third) z = x2[i];
            firsts[i] = Loss::first(x0[i], x1[i], z, p);
        }
    }
    int outside = 0;
#pragma omp simd reduction(| : outside)
    for (int64_t i = 0; i < n; ++i) {
        float y = 0.0f, z = 0.0f, first = 0.0f, value, dx, dy, dz;
        if constexpr (second) y = x1[i];
        if constexpr (third) z = x2[i];
        if constexpr (Loss::staged) first = firsts[i];
        float factor = scale.high;
        if constexpr (Loss::tails && kOut == Out::sum && kSmallScale) {
            float dx_tail, dz_tail;
            Loss::parts(x0[i], y, z, p, q, first, value, dx, dx_tail, dz, dz_tail);
            dx = scaled(dx, dx_tail, scale);
            dy = -dx;
            dz = scaled(dz, dz_tail, scale);
            factor = 1.0f;
        } else {
            Loss::eval(x0[i], y, z, p, q, first, value, dx, dy, dz);
        }
        if constexpr (kOut != Out::of_each) loss[i] = value;
        if constexpr (kOut == Out::of_each) factor *= upstream[i];
        // By its bits: a select is a branch where there are no masks.
        if constexpr (kOut == Out::of_each && Loss::corners) factor = float_of(bits_of(factor) & (0u - uint32_t(dx != 0.0f)));
        if constexpr (kWants & 1) g0[i] = dx * factor;
        if constexpr (kWants & 2) g1[i] = dy * factor;
        if constexpr (kWants & 4) g2[i] = dz * factor;
        if constexpr (Loss::bounded) outside |= !Loss::inside(z);
    }
    bad |= outside;
    return kOut == Out::sum ? sum_of(values, n) : 0.0;
}

template <class Loss>
inline bool is_plain(const LeanTensors& block, const float* parameters, int64_t n) {
    const float *x0 = block.x[0], *x1 = block.x[1], *x2 = block.x[2];
    const float p = parameters[0];
    uint32_t largest = 0;
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < n; ++i) {
        float z = 0.0f;
        if constexpr (Loss::tensors > 2) z = x2[i];
        const uint32_t oddness = Loss::oddness(x0[i], x1[i], z, p);
        largest = oddness > largest ? oddness : largest;
    }
    return largest <= kPlain;
}

// The scale matters to the losses with tails alone.
template <class Loss, unsigned kWants, Out kOut>
inline double lean_block_at(const LeanTensors& block, const float* parameters, Scale scale, int64_t n, int& bad) {
    if constexpr (Loss::tails && kOut == Out::sum) {
        if (scale.small()) return lean_block_of<Loss, kWants, kOut, true>(block, parameters, scale, n, bad);
    }
    return lean_block_of<Loss, kWants, kOut, false>(block, parameters, scale, n, bad);
}

template <class Loss, unsigned kWants, Out kOut>
inline double lean_elements(const LeanTensors& lean, const float* parameters, Scale scale, int64_t begin, int64_t n,
                            bool streamed, int& bad) {
    constexpr int kOutputs = kOut == Out::each ? 1 : Loss::slopes;
    alignas(64) float written[kOutputs][kStreamedBlock];
    const int64_t step = streamed ? kStreamedBlock : kFusedBlock;
    double sum = 0.0;
    for (int64_t i = 0; i < n; i += step) {
        const int64_t part = n - i < step ? n - i : step;
        const LeanTensors whole = lean.from(begin + i);
        LeanTensors block = whole;
        if (streamed) {
            for (int t = 0; t < kOutputs; ++t) block.grads[t] = written[t];
            block.loss = written[0];
        }
        bool plain = false;
        if constexpr (!std::is_void_v<typename Loss::Plain>) {
            plain = is_plain<Loss>(block, parameters, part);
            if (plain) sum += lean_block_at<typename Loss::Plain, kWants, kOut>(block, parameters, scale, part, bad);
        }
        if (!plain) sum += lean_block_at<Loss, kWants, kOut>(block, parameters, scale, part, bad);
        if (!streamed) continue;
        for (int t = 0; t < kOutputs; ++t) {
            float* to = kOut == Out::each ? whole.loss : kWants >> t & 1 ? whole.grads[t] : nullptr;
            if (to) stream_block(written[t], to, part);
        }
    }
    if (streamed) end_of_stream();
    return sum;
}

using LeanLoop = double (*)(const LeanTensors&, const float*, Scale, int64_t, int64_t, bool, int&);

template <class Loss, Out kOut, unsigned kWants = (1u << Loss::slopes) - 1>
inline LeanLoop lean_loop(unsigned wants) {
    if (wants == kWants) return lean_elements<Loss, kWants, kOut>;
    if constexpr (kWants > 0) {
        return lean_loop<Loss, kOut, kWants - 1>(wants);
    } else {
        return nullptr;
    }
}

// The lean loop that does what is asked for, or null.
template <class Loss>
inline LeanLoop lean_loop_of(const FusedArgs& a, LeanTensors& lean) {
    if (a.dtype != DType::float32 || a.weight || a.mask) return nullptr;
    unsigned wants = 0;
    for (int t = 0; t < kMaxTensors; ++t) {
        lean.x[t] = static_cast<const float*>(a.tensors[t]);
        lean.grads[t] = static_cast<float*>(a.grads[t]);
        if (a.grads[t]) wants |= 1u << t;
    }
    lean.loss = static_cast<float*>(a.loss_out);
    lean.upstream = static_cast<const float*>(a.grad_output);
    if (a.loss_out) return wants || a.loss_dtype != DType::float32 ? nullptr : LeanLoop(lean_elements<Loss, 0, Out::each>);
    if (!a.grad_output) return lean_loop<Loss, Out::sum>(wants);
    return a.grad_output_dtype == DType::float32 ? lean_loop<Loss, Out::of_each>(wants) : nullptr;
}

// C.
template <class Loss>
struct FusedBuffers {
    float x[Loss::tensors][kFusedBlock], value[kFusedBlock], slope[Loss::slopes][kFusedBlock], factor[kFusedBlock];
};

template <class Loss>
__attribute__((noinline)) void eval_block(FusedBuffers<Loss>& b, const float* parameters, int64_t n, int& bad) {
    constexpr bool second = Loss::tensors > 1, third = Loss::tensors > 2;
    const float p = parameters[0], q = parameters[1];
    int outside = 0;
#pragma omp simd reduction(| : outside)
    for (int64_t i = 0; i < n; ++i) {
        float y = 0.0f, z = 0.0f, value, dx, dy, dz;
        if constexpr (second) y = b.x[1][i];
        if constexpr (third) z = b.x[2][i];
        Loss::eval(b.x[0][i], y, z, p, q, Loss::first(b.x[0][i], y, z, p), value, dx, dy, dz);
        b.value[i] = value;
        b.slope[0][i] = dx;
        if constexpr (Loss::slopes > 1) b.slope[1][i] = dy;
        if constexpr (Loss::slopes > 2) b.slope[2][i] = dz;
        if constexpr (Loss::bounded) outside |= !Loss::inside(z);
    }
    bad |= outside;
}

template <class Loss>
inline double fused_block(const FusedArgs& a, int64_t begin, int64_t n, int& bad) {
    FusedBuffers<Loss> b;
    for (int t = 0; t < Loss::tensors; ++t) load_any(a.tensors[t], a.dtype, begin, b.x[t], n);
    const uint8_t* mask = a.mask ? a.mask + begin : nullptr;
    if (mask) {
        // What is masked is replaced before anything is computed from it: a NaN there stays unseen.
        for (int t = 0; t < Loss::tensors; ++t) {
            for (int64_t i = 0; i < n; ++i) b.x[t][i] = mask[i] ? b.x[t][i] : 0.0f;
        }
    }
    eval_block<Loss>(b, a.parameters, n, bad);
    const float* weight = a.weight ? a.weight + begin : nullptr;
    if (weight) {
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) b.value[i] *= weight[i];
    }
    if (mask) {
        for (int64_t i = 0; i < n; ++i) b.value[i] = mask[i] ? b.value[i] : 0.0f;
    }
    if (a.loss_out) store_any(b.value, a.loss_out, a.loss_dtype, begin, n);
    if (a.grad_output) {
        load_any(a.grad_output, a.grad_output_dtype, begin, b.factor, n);
    } else {
        for (int64_t i = 0; i < n; ++i) b.factor[i] = 1.0f;
    }
    const float scale = static_cast<float>(a.scale);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) b.factor[i] *= scale;
    if (weight) {
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) b.factor[i] *= weight[i];
    }
    for (int t = 0; t < Loss::slopes; ++t) {
        if (!a.grads[t]) continue;
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) {
            float product = b.slope[t][i] * b.factor[i];
            b.slope[t][i] = Loss::corners && b.slope[t][i] == 0.0f ? 0.0f : product;
        }
        if (mask) {
            // Last, because the factors may be infinite: the scale is where nothing counts.
            for (int64_t i = 0; i < n; ++i) b.slope[t][i] = mask[i] ? b.slope[t][i] : 0.0f;
        }
        store_any(b.slope[t], a.grads[t], a.dtype, begin, n);
    }
    double sum = 0.0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i) sum += b.value[i];
    return sum;
}

// D.
template <class Loss>
inline void run_fused_elements(const FusedArgs& a) {
    LeanTensors lean{};
    const LeanLoop loop = lean_loop_of<Loss>(a, lean);
    const bool streamed = !std::is_same_v<Loss, SoftMargin> && a.n * static_cast<int64_t>(sizeof(float)) >= kStreamedBytes;
    int found = 0;
    for_chunks((a.n + kPointwiseChunk - 1) / kPointwiseChunk, a.threads, [&](int64_t chunk) {
        int64_t begin = chunk * kPointwiseChunk;
        int64_t end = begin + kPointwiseChunk < a.n ? begin + kPointwiseChunk : a.n;
        double sum = 0.0;
        int bad = 0;
        if (loop) {
            sum = loop(lean, a.parameters, Scale(a.scale), begin, end - begin, streamed, bad);
        } else {
            for (int64_t i = begin; i < end; i += kFusedBlock) {
                sum += fused_block<Loss>(a, i, end - i < kFusedBlock ? end - i : kFusedBlock, bad);
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

int64_t fused_chunks(const FusedArgs& a) {
    if (kFusedLayouts[static_cast<int>(a.loss)].rows) return row_chunks(a);
    return (a.n + kPointwiseChunk - 1) / kPointwiseChunk;
}

// Parameters: eps, log_input, full.
inline void poisson_nll(const FusedArgs& a) {
    const bool log_input = a.parameters[1] != 0.0f, full = a.parameters[2] != 0.0f;
    if (log_input) return full ? run_fused_elements<PoissonNll<true, true>>(a) : run_fused_elements<PoissonNll<true, false>>(a);
    return full ? run_fused_elements<PoissonNll<false, true>>(a) : run_fused_elements<PoissonNll<false, false>>(a);
}

void fused(const FusedArgs& a) {
    switch (a.loss) {
        case Fused::soft_margin: return run_fused_elements<SoftMargin>(a);
        case Fused::hinge_embedding: return run_fused_elements<HingeEmbedding>(a);
        case Fused::margin_ranking: return run_fused_elements<MarginRanking>(a);
        case Fused::kl_div:
            return a.parameters[0] != 0.0f ? run_fused_elements<KlDiv<true>>(a) : run_fused_elements<KlDiv<false>>(a);
        case Fused::poisson_nll: return poisson_nll(a);
        case Fused::gaussian_nll: return run_fused_elements<GaussianNll>(a);
        case Fused::multi_margin: return run_fused_rows<MultiMargin>(a);
        case Fused::multilabel_margin: return run_fused_rows<MultilabelMargin>(a);
        case Fused::multilabel_soft_margin: return run_fused_rows<MultilabelSoftMargin>(a);
        case Fused::cosine_embedding: return run_fused_rows<CosineEmbedding>(a);
        case Fused::triplet_margin: return run_fused_rows<TripletMargin>(a);
        case Fused::count: return;
    }
}

}  // namespace
}  // namespace losskit::LOSSKIT_ISA
