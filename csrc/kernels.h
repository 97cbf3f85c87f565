// What the kernels of one instruction set offer to the bindings. Plain data, no templates: see isa.h.
#pragma once

#include <cstdint>

namespace losskit {

enum class DType : int { float32 = 0, bfloat16 = 1, float16 = 2, float64 = 3, int64 = 4, uint8 = 5, boolean = 6, other = 7 };

enum class Pointwise : int { l1 = 0, mse = 1, smooth_l1 = 2, huber = 3, bce = 4, bce_with_logits = 5 };

// Elements per partial sum. Fixed, so that the result does not depend on the number of threads.
constexpr int64_t kPointwiseChunk = 16384;

struct PointwiseArgs {
    Pointwise loss;
    DType dtype;
    const void* input;
    const void* target;
    // Optional, one per element.
    const float* weight;
    const uint8_t* mask;
    const float* pos_weight;
    // beta or delta.
    float parameter;
    int64_t n;
    // Each gets what it is for where it is not null: the loss of each element, the sums of the losses of each chunk, the
    // gradient times `scale` times the element of grad_output.
    void* loss_out;
    DType loss_dtype;
    double* partial;
    void* grad;
    double scale;
    const void* grad_output;
    DType grad_output_dtype;
    int threads;
    // Set where a value that must lie in [0, 1] does not.
    int* outside;
};

enum class Targets : int { indices = 0, probabilities = 1 };

struct ClassArgs {
    DType dtype;
    const void* input;
    // Samples are outer * inner. inner == 1: `outer` rows of `classes`; else (outer, classes, inner).
    int64_t outer, classes, inner;
    Targets kind;
    // int64 or uint8 indices, one per sample, or probabilities laid out as the input.
    const void* target;
    DType target_dtype;
    int64_t ignore_index;
    float label_smoothing;
    // Optional: per class; per sample; per sample.
    const float* weight;
    const float* row_weight;
    const uint8_t* row_mask;
    // Scores become softcap * tanh(logit_scale * x / softcap), without the tanh where softcap is 0; the loss of a sample
    // that counts gains z_loss * lse^2.
    float logit_scale, softcap, z_loss;
    // Optional: kStats numbers for each sample. See `write_stats` in softmax.h.
    float* stats;
    void* loss_out;
    DType loss_dtype;
    double* partial;
    void* grad;
    float scale;
    const void* grad_output;
    DType grad_output_dtype;
    int threads;
};

// Any of them asks for rows, whose classes are contiguous.
inline bool has_score_options(const ClassArgs& a) {
    return a.logit_scale != 1.0f || a.softcap != 0.0f || a.z_loss != 0.0f || a.stats;
}

constexpr int64_t kStats = 4;

// Losses of several tensors, any of which may have a gradient. See fused.h and rows.h.
enum class Fused : int {
    // One loss per element.
    soft_margin = 0,
    hinge_embedding = 1,
    margin_ranking = 2,
    kl_div = 3,
    poisson_nll = 4,
    gaussian_nll = 5,
    // One loss per row.
    multi_margin = 6,
    multilabel_margin = 7,
    multilabel_soft_margin = 8,
    cosine_embedding = 9,
    triplet_margin = 10,
    count = 11
};

constexpr int kMaxTensors = 3;
constexpr int kMaxParameters = 4;

// What a tensor of a loss holds.
enum class Role : int {
    none,
    // A floating number per element of the first tensor, or one per loss.
    element,
    row,
    // An int64 per loss, or one per element of the first tensor.
    row_index,
    element_index
};

struct FusedLayout {
    bool rows;
    Role roles[kMaxTensors];
    // Bit i: the kernel has a gradient by tensor i.
    unsigned grads;
    // Whether the first tensor is a row or a matrix of rows, and no more.
    bool matrix = false;
};

constexpr FusedLayout kFusedLayouts[static_cast<int>(Fused::count)] = {
    {false, {Role::element, Role::element, Role::none}, 1},
    {false, {Role::element, Role::element, Role::none}, 1},
    {false, {Role::element, Role::element, Role::element}, 3},
    {false, {Role::element, Role::element, Role::none}, 3},
    {false, {Role::element, Role::element, Role::none}, 1},
    {false, {Role::element, Role::element, Role::element}, 7},
    {true, {Role::element, Role::row_index, Role::none}, 1, true},
    {true, {Role::element, Role::element_index, Role::none}, 1, true},
    {true, {Role::element, Role::element, Role::none}, 1},
    {true, {Role::element, Role::element, Role::row}, 3, true},
    {true, {Role::element, Role::element, Role::element}, 7},
};

struct FusedArgs {
    Fused loss;
    // Of the floating tensors.
    DType dtype;
    const void* tensors[kMaxTensors];
    // The number of losses, and of elements of each: 1 where there is a loss per element.
    int64_t n, width;
    // What they mean is the loss's own business.
    float parameters[kMaxParameters];
    // Optional: one per element of a row; one per loss; one per loss.
    const float* class_weight;
    const float* weight;
    const uint8_t* mask;
    // Each gets what it is for where it is not null: each loss, the sums of the losses of each chunk, the gradients
    // times `scale` times the element of grad_output.
    void* loss_out;
    DType loss_dtype;
    double* partial;
    void* grads[kMaxTensors];
    double scale;
    const void* grad_output;
    DType grad_output_dtype;
    int threads;
    // Set to 1 where a value lies outside the domain of the loss, to `kNoMemory` where memory was missing.
    int* outside;
};

constexpr int kNoMemory = 2;

// Connectionist temporal classification. See ctc.h.
struct CtcArgs {
    DType dtype;
    // (frames, batch, classes); classes are neighbours. The gradient lies in memory as the log-probabilities do.
    const void* log_probs;
    int64_t frames, batch, classes;
    int64_t frame_stride, sample_stride;
    // Where the labels of each sample begin.
    const int64_t* targets;
    const int64_t* target_starts;
    const int64_t* input_lengths;
    const int64_t* target_lengths;
    int64_t max_labels;
    int64_t blank;
    bool zero_infinity;
    // Optional, one per sample.
    const uint8_t* mask;
    // The loss of each sample; its gradient, times the sample's scale, where it is wanted.
    double* losses;
    void* grad;
    const float* scales;
    // `ctc_workspace` floats for each thread.
    float* workspace;
    int threads;
};

struct Kernels {
    const char* name;
    void (*pointwise)(const PointwiseArgs&);
    // The number of partial sums that `softmax` and `nll` fill.
    int64_t (*class_chunks)(const ClassArgs&);
    // The sum of what the targets add to the divisor of the mean; false where an index that counts is out of range.
    bool (*count_targets)(const ClassArgs&, double* total);
    void (*softmax)(const ClassArgs&);
    void (*nll)(const ClassArgs&);
    // The number of partial sums that `fused` fills.
    int64_t (*fused_chunks)(const FusedArgs&);
    void (*fused)(const FusedArgs&);
    int64_t (*ctc_workspace)(const CtcArgs&);
    void (*ctc)(const CtcArgs&);
    void (*scale)(void* data, DType, int64_t n, float factor, int threads);
};

extern const Kernels kernels_baseline;
#ifdef LOSSKIT_X86
extern const Kernels kernels_v3;
extern const Kernels kernels_v4;
#endif

}  // namespace losskit
