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

#include "blocks.h"
#include "parallel.h"
#include "rows.h"

namespace losskit::LOSSKIT_ISA {
namespace {

// A. `x`, `y` and `z` are the elements of the tensors in their order, `p` and `q` the first parameters; `dx`, `dy` and `dz`
// get the derivatives by those of the first `slopes` tensors. Scalars and not arrays: those do not vectorise. `bounded`
// losses tell by `inside` whether z lies in their domain; 0 does. Losses with `corners` are constant in places, where dx
// is 0 and the others too: what flows back there is 0, also times an infinite grad_output.
struct SoftMargin {
    static constexpr int tensors = 2, slopes = 1;
    static constexpr bool corners = false;
    static constexpr bool bounded = false;

    // log(1 + exp(-y x)), from exp(-|y x|).
    LOSSKIT_INLINE static float first(float x, float y) { return exp_nonpositive(-__builtin_fabsf(y * x)); }
    LOSSKIT_INLINE static void rest(float x, float y, float e, float& value, float& dx) {
        float t = -y * x;
        value = (t > 0.0f ? t : 0.0f) + log1p_unit(e);
        float reciprocal = 1.0f / (1.0f + e);
        dx = -y * (t > 0.0f ? reciprocal : e * reciprocal);
    }
    LOSSKIT_INLINE static void eval(float x, float y, float, float, float, float& value, float& dx, float&, float&) {
        rest(x, y, first(x, y), value, dx);
    }
};

struct HingeEmbedding {
    static constexpr int tensors = 2, slopes = 1;
    static constexpr bool corners = true;
    static constexpr bool bounded = false;

    // x where y = 1, max(0, margin - x) where y = -1; for any other y both.
    LOSSKIT_INLINE static void eval(float x, float y, float, float margin, float, float& value, float& dx, float&, float&) {
        float d = margin - x;
        // A comparison with NaN is false, so NaN stays.
        float clamped = d < 0.0f ? 0.0f : d;
        float near = y != -1.0f ? x : 0.0f, far = y != 1.0f ? clamped : 0.0f;
        value = near + far;
        // Selects between numbers become paths of their own, one for each combination.
        dx = static_cast<float>(y != -1.0f) - static_cast<float>((y != 1.0f) & (d >= 0.0f));
    }
};

struct MarginRanking {
    static constexpr int tensors = 3, slopes = 2;
    static constexpr bool corners = true;
    static constexpr bool bounded = false;

    // max(0, margin - z (x - y))
    LOSSKIT_INLINE static void eval(float x, float y, float z, float margin, float, float& value, float& dx, float& dy, float&) {
        float t = margin - z * (x - y);
        value = t < 0.0f ? 0.0f : t;
        // By its bits, as below.
        dy = float_of(bits_of(z) & (0u - uint32_t(t >= 0.0f)));
        dx = -dy;
    }
};

template <bool kLogTarget>
struct KlDiv {
    static constexpr int tensors = 2, slopes = 2;
    static constexpr bool corners = false;
    static constexpr bool bounded = false;

    // t (log t - x) for t = y or exp(y). Where t is 0, so is the loss, also of x = -inf.
    LOSSKIT_INLINE static void eval(float x, float y, float, float, float, float& value, float& dx, float& dy, float&) {
        if constexpr (kLogTarget) {
            float t = exp_any(y), product = t * (y - x);
            product = (y == -kInfinity) & (x < kInfinity) ? 0.0f : product;
            value = product;
            dx = -t;
            dy = product + t;
        } else {
            float log_y = log_any(y);
            float product = y * ((y == 0.0f ? 0.0f : log_y) - x);
            value = (y == 0.0f) & (x == -kInfinity) ? 0.0f : product;
            dx = -y;
            // There is no derivative at 0.
            dy = (y == 0.0f ? kNaN : log_y) + 1.0f - x;
        }
    }
};

template <bool kLogInput, bool kFull>
struct PoissonNll {
    static constexpr int tensors = 2, slopes = 1;
    static constexpr bool corners = false;
    static constexpr bool bounded = false;

    // exp(x) - y x, or x - y log(x + eps); with Stirling's approximation of log(y!) where y > 1.
    LOSSKIT_INLINE static void eval(float x, float y, float, float eps, float, float& value, float& dx, float&, float&) {
        if constexpr (kLogInput) {
            float rate = exp_any(x), product = y * x;
            value = rate - ((y == 0.0f) & (x == -kInfinity) ? 0.0f : product);
            dx = rate - y;
        } else {
            float rate = x + eps, log_rate = log_any(rate), product = y * log_rate, share = y / rate;
            bool nothing = (y == 0.0f) & (rate == 0.0f);
            value = x - (nothing ? 0.0f : product);
            dx = 1.0f - (nothing ? 0.0f : share);
        }
        if constexpr (kFull) {
            constexpr float kHalfLogTwoPi = 0.918938533f;
            float stirling = ((y + 0.5f) * log_nonnegative(y) - y) + kHalfLogTwoPi;
            value += y <= 1.0f ? 0.0f : stirling;
        }
    }
};

struct GaussianNll {
    static constexpr int tensors = 3, slopes = 3;
    static constexpr bool corners = false;
    static constexpr bool bounded = true;

    // (log v + (x - y)^2 / v) / 2 + constant with v = max(z, eps); the clamp has no part in the derivative.
    LOSSKIT_INLINE static void eval(float x, float y, float z, float eps, float constant, float& value, float& dx, float& dy,
                                    float& dz) {
        float v = z < eps ? eps : z, d = x - y;
        float reciprocal = 1.0f / v;
        float share = d * reciprocal;
        value = 0.5f * (log_nonnegative(v) + d * share) + constant;
        dx = share;
        dy = -share;
        dz = 0.5f * (reciprocal - share * share);
    }

    LOSSKIT_INLINE static bool inside(float z) { return !(z < 0.0f); }
};

// B.
// What a loop writes: gradients and the sum of the losses, the losses, or gradients of a grad_output.
enum class Out { sum, each, of_each };

// Losses of so many operations that a loop of their own is faster for the first of them: in a single one the next element
// is too far ahead for the processor to begin with.
template <class Loss>
constexpr bool kStaged = false;
template <>
constexpr bool kStaged<SoftMargin> = true;

struct LeanTensors {
    const float* x[kMaxTensors];
    float* grads[kMaxTensors];
    const float* upstream;
    float* loss;
};

constexpr int64_t kFusedBlock = 1024;

// At most kFusedBlock elements. Not inlined: among its caller's variables it does not vectorise on every instruction set.
template <class Loss, unsigned kWants, Out kOut>
__attribute__((noinline)) double lean_block_of(const LeanTensors& lean, const float* parameters, float scale, int64_t begin,
                                               int64_t n, int& bad) {
    constexpr bool second = Loss::tensors > 1, third = Loss::tensors > 2;
    const float* x0 = lean.x[0] + begin;
    const float* x1 = second ? lean.x[1] + begin : nullptr;
    const float* x2 = third ? lean.x[2] + begin : nullptr;
    float* g0 = kWants & 1 ? lean.grads[0] + begin : nullptr;
    float* g1 = kWants & 2 ? lean.grads[1] + begin : nullptr;
    float* g2 = kWants & 4 ? lean.grads[2] + begin : nullptr;
    const float* upstream = kOut == Out::of_each ? lean.upstream + begin : nullptr;
    // Added up in a loop of its own: with doubles in this one the registers do not suffice.
    float values[kOut == Out::sum ? kFusedBlock : 1];
    float* loss = kOut == Out::each ? lean.loss + begin : values;
    const float p = parameters[0], q = parameters[1];
    float firsts[kStaged<Loss> ? kFusedBlock : 1];
    if constexpr (kStaged<Loss>) {
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) firsts[i] = Loss::first(x0[i], x1[i]);
    }
    int outside = 0;
#pragma omp simd reduction(| : outside)
    for (int64_t i = 0; i < n; ++i) {
        float y = 0.0f, z = 0.0f, value, dx, dy, dz;
        if constexpr (second) y = x1[i];
        if constexpr (third) z = x2[i];
        if constexpr (kStaged<Loss>) {
            Loss::rest(x0[i], y, firsts[i], value, dx);
        } else {
            Loss::eval(x0[i], y, z, p, q, value, dx, dy, dz);
        }
        if constexpr (kOut != Out::of_each) loss[i] = value;
        float factor = scale;
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

template <class Loss, unsigned kWants, Out kOut>
inline double lean_elements(const LeanTensors& lean, const float* parameters, float scale, int64_t begin, int64_t n,
                            int& bad) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; i += kFusedBlock) {
        sum += lean_block_of<Loss, kWants, kOut>(lean, parameters, scale, begin + i, n - i < kFusedBlock ? n - i : kFusedBlock, bad);
    }
    return sum;
}

using LeanLoop = double (*)(const LeanTensors&, const float*, float, int64_t, int64_t, int&);

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
        Loss::eval(b.x[0][i], y, z, p, q, value, dx, dy, dz);
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
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) b.factor[i] *= a.scale;
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
    int found = 0;
    for_chunks((a.n + kPointwiseChunk - 1) / kPointwiseChunk, a.threads, [&](int64_t chunk) {
        int64_t begin = chunk * kPointwiseChunk;
        int64_t end = begin + kPointwiseChunk < a.n ? begin + kPointwiseChunk : a.n;
        double sum = 0.0;
        int bad = 0;
        if (loop) {
            sum = loop(lean, a.parameters, a.scale, begin, end - begin, bad);
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
