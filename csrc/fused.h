// Losses of several tensors, any of which may have a gradient.
//
// A. One loss per element: a structure of value and slopes for each loss.
// B. The loop over blocks of 1024, in fixed chunks: which thread runs a chunk changes nothing.
// C. One loss per row: rows.h.
#pragma once

#include "blocks.h"
#include "parallel.h"
#include "rows.h"

namespace losskit::LOSSKIT_ISA {
namespace {

// A. `x` holds the element of each tensor, `slopes` gets the derivative by each that has one.
struct SoftMargin {
    static constexpr int tensors = 2, slopes = 1;

    // log(1 + exp(-y x))
    LOSSKIT_INLINE static void eval(const float* x, const float*, float& value, float* slope) {
        float z = -x[1] * x[0];
        float a = z < 0.0f ? z : -z;
        float e = exp_nonpositive(a);
        value = (z > 0.0f ? z : 0.0f) + log1p_unit(e);
        float reciprocal = 1.0f / (1.0f + e);
        slope[0] = -x[1] * (z > 0.0f ? reciprocal : e * reciprocal);
    }
};

// B.
constexpr int64_t kFusedBlock = 1024;

template <class Loss>
struct FusedBuffers {
    float x[Loss::tensors][kFusedBlock], value[kFusedBlock], slope[Loss::slopes][kFusedBlock], factor[kFusedBlock];
};

// The derivatives of n elements; what stands in `block` is written in place of nothing.
template <class Loss>
__attribute__((noinline)) void eval_block(FusedBuffers<Loss>& b, const float* parameters, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        float x[Loss::tensors], slope[Loss::slopes], value;
        for (int t = 0; t < Loss::tensors; ++t) x[t] = b.x[t][i];
        Loss::eval(x, parameters, value, slope);
        b.value[i] = value;
        for (int t = 0; t < Loss::slopes; ++t) b.slope[t][i] = slope[t];
    }
}

template <class Loss>
inline double fused_block(const FusedArgs& a, int64_t begin, int64_t n) {
    FusedBuffers<Loss> b;
    for (int t = 0; t < Loss::tensors; ++t) load_any(a.tensors[t], a.dtype, begin, b.x[t], n);
    const uint8_t* mask = a.mask ? a.mask + begin : nullptr;
    if (mask) {
        // What is masked is replaced before anything is computed from it: a NaN there stays unseen.
        for (int t = 0; t < Loss::tensors; ++t) {
            for (int64_t i = 0; i < n; ++i) b.x[t][i] = mask[i] ? b.x[t][i] : 0.0f;
        }
    }
    eval_block<Loss>(b, a.parameters, n);
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
        for (int64_t i = 0; i < n; ++i) b.slope[t][i] *= b.factor[i];
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

template <class Loss>
inline void run_fused_elements(const FusedArgs& a) {
    for_chunks((a.n + kPointwiseChunk - 1) / kPointwiseChunk, a.threads, [&](int64_t chunk) {
        int64_t begin = chunk * kPointwiseChunk;
        int64_t end = begin + kPointwiseChunk < a.n ? begin + kPointwiseChunk : a.n;
        double sum = 0.0;
        for (int64_t i = begin; i < end; i += kFusedBlock) {
            sum += fused_block<Loss>(a, i, end - i < kFusedBlock ? end - i : kFusedBlock);
        }
        if (a.partial) a.partial[chunk] = sum;
    });
}

int64_t fused_chunks(const FusedArgs& a) {
    if (kFusedLayouts[static_cast<int>(a.loss)].rows) return row_chunks(a);
    return (a.n + kPointwiseChunk - 1) / kPointwiseChunk;
}

void fused(const FusedArgs& a) {
    switch (a.loss) {
        case Fused::soft_margin: return run_fused_elements<SoftMargin>(a);
        case Fused::multi_margin: return run_fused_rows<MultiMargin>(a);
        case Fused::multilabel_margin: return run_fused_rows<MultilabelMargin>(a);
        case Fused::multilabel_soft_margin: return run_fused_rows<MultilabelSoftMargin>(a);
        case Fused::cosine_embedding: return run_fused_rows<CosineEmbedding>(a);
        case Fused::triplet_margin: return run_fused_rows<TripletMargin>(a);
        default: return;
    }
}

}  // namespace
}  // namespace losskit::LOSSKIT_ISA
