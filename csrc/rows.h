// Losses of a row of numbers: margins between classes, distances between vectors.
//
// A. A row in blocks: float32 is read and written where it lies, half precisions go through buffers.
// B. A structure for each loss; `row` gives the loss of one row and writes its gradients.
// C. The loop over rows, in fixed chunks: which thread runs a chunk changes nothing.
//
// Sums over a row: products and losses in float, their sums in double.
#pragma once

#include <cmath>
#include <cstdlib>

#include "blocks.h"
#include "parallel.h"
#include "pointwise.h"

namespace losskit::LOSSKIT_ISA {
namespace {

// A.
constexpr int64_t kPiece = 1024;

// One row of every tensor of the loss and of every gradient.
class Row {
public:
    explicit Row(const FusedArgs& args) : a(args) {}

    void move_to(int64_t index) {
        row = index;
        for (int64_t& block : held) block = -1;
    }

    // Elements begin … begin + n, n <= kPiece, of a tensor; valid until another block of it is asked for.
    const float* read(int tensor, int64_t begin, int64_t n) {
        const int64_t offset = row * a.width + begin;
        if (a.dtype == DType::float32) return static_cast<const float*>(a.tensors[tensor]) + offset;
        if (held[tensor] != begin) {
            load_any(a.tensors[tensor], a.dtype, offset, inputs[tensor], n);
            held[tensor] = begin;
        }
        return inputs[tensor];
    }

    // Where the same elements of a gradient are to be written; `written` follows.
    float* gradient(int tensor, int64_t begin) {
        if (a.dtype == DType::float32) return static_cast<float*>(a.grads[tensor]) + row * a.width + begin;
        return outputs[tensor];
    }
    void written(int tensor, int64_t begin, int64_t n) {
        if (a.dtype != DType::float32) store_any(outputs[tensor], a.grads[tensor], a.dtype, row * a.width + begin, n);
    }

    float element(int tensor, int64_t i) const {
        const int64_t offset = row * a.width + i;
        if (a.dtype == DType::float32) return static_cast<const float*>(a.tensors[tensor])[offset];
        return load_one(a.tensors[tensor], a.dtype, offset);
    }
    void set_gradient(int tensor, int64_t i, float value) {
        const int64_t offset = row * a.width + i;
        if (a.dtype == DType::float32) {
            static_cast<float*>(a.grads[tensor])[offset] = value;
        } else {
            store_one(value, a.grads[tensor], a.dtype, offset);
        }
    }

    // The number that a tensor has for the row as a whole.
    float number(int tensor) const { return load_one(a.tensors[tensor], a.dtype, row); }

    void clear_gradients() {
        // Zero has the same bits in every format.
        const int64_t bytes = a.width * bytes_of(a.dtype);
        for (void* grad : a.grads) {
            if (grad) std::memset(static_cast<char*>(grad) + row * bytes, 0, static_cast<size_t>(bytes));
        }
    }

    template <class Body>
    void for_blocks(Body body) const {
        for (int64_t begin = 0; begin < a.width; begin += kPiece) {
            body(begin, a.width - begin < kPiece ? a.width - begin : kPiece);
        }
    }

    const FusedArgs& a;
    int64_t row = 0;

private:
    int64_t held[kMaxTensors];
    float inputs[kMaxTensors][kPiece], outputs[kMaxTensors][kPiece];
};

// Floats of a whole row, whatever its width.
class RowScratch {
public:
    explicit RowScratch(int64_t width) {
        if (width > kPiece) heap = static_cast<float*>(std::malloc(sizeof(float) * static_cast<size_t>(width)));
        data = width > kPiece ? heap : inside;
    }
    ~RowScratch() { std::free(heap); }
    RowScratch(const RowScratch&) = delete;
    RowScratch& operator=(const RowScratch&) = delete;
    // Null where there is no memory.
    float* data;

private:
    float* heap = nullptr;
    float inside[kPiece];
};

// B. What `row` is told: `factor` multiplies the gradients; `outside` is to be set where a number of the row lies outside
// the domain. NaN fails no comparison on the way to a loss: it comes through.

// Σ_{c ≠ t} max(0, margin − x_t + x_c)^p·w_t / C
struct MultiMargin {
    static constexpr int tensors = 1;
    struct Scratch {
        explicit Scratch(const FusedArgs&) {}
        bool ready() const { return true; }
    };

    // The sum of the margins to the power p, and of the derivatives by them, which are written times `factor`.
    template <bool kSquared, bool kGradient>
    __attribute__((noinline)) static void margins(const float* x, int64_t n, int64_t target, float gap, float factor,
                                                  float* out, double& total, double& slopes) {
        double sum = 0.0, slope_sum = 0.0;
        const int32_t count = static_cast<int32_t>(n), own = static_cast<int32_t>(target);
#pragma omp simd reduction(+ : sum, slope_sum)
        for (int32_t i = 0; i < count; ++i) {
            float z = gap + x[i];
            const bool idle = (i == own) | (z <= 0.0f);
            const float value = kSquared ? z * z : z, slope = kSquared ? 2.0f * z : 1.0f;
            sum += idle ? 0.0f : value;
            if constexpr (kGradient) {
                const float active = idle ? 0.0f : slope;
                slope_sum += active;
                out[i] = active * factor;
            }
        }
        total += sum;
        slopes += slope_sum;
    }

    template <bool kSquared>
    static double typed(Row& r, float factor, bool& outside) {
        const int64_t target = static_cast<const int64_t*>(r.a.tensors[1])[r.row];
        if (static_cast<uint64_t>(target) >= static_cast<uint64_t>(r.a.width)) {
            outside = true;
            return 0.0;
        }
        const float weight = (r.a.class_weight ? r.a.class_weight[target] : 1.0f) / static_cast<float>(r.a.width);
        const float gap = r.a.parameters[1] - r.element(0, target);
        const bool gradient = r.a.grads[0];
        double total = 0.0, slopes = 0.0;
        r.for_blocks([&](int64_t begin, int64_t n) {
            // Beyond every block where the target lies in another.
            const int64_t own = target >= begin && target < begin + n ? target - begin : kPiece;
            const float* x = r.read(0, begin, n);
            if (gradient) {
                margins<kSquared, true>(x, n, own, gap, factor * weight, r.gradient(0, begin), total, slopes);
                r.written(0, begin, n);
            } else {
                margins<kSquared, false>(x, n, own, gap, 0.0f, nullptr, total, slopes);
            }
        });
        if (gradient) r.set_gradient(0, target, static_cast<float>(-slopes * (factor * weight)));
        return total * weight;
    }

    static double row(Row& r, Scratch&, float factor, bool& outside) {
        return r.a.parameters[0] == 2.0f ? typed<true>(r, factor, outside) : typed<false>(r, factor, outside);
    }
};

// Σ_{t in the list} Σ_{c not in it} max(0, 1 − x_t + x_c) / C
struct MultilabelMargin {
    static constexpr int tensors = 1;
    struct Scratch {
        explicit Scratch(const FusedArgs& a) : others(a.width), slopes(a.width) {}
        bool ready() const { return others.data && slopes.data; }
        // 1 for a class that the list does not name, else 0; the derivative by each class.
        RowScratch others, slopes;
    };

    // Whether every entry lies in [-1, classes).
    __attribute__((noinline)) static bool in_range(const int64_t* list, int64_t classes) {
        uint64_t signs = 0;
        const uint64_t last = static_cast<uint64_t>(classes) - 1;
        // A number below -1 or above the last class makes one of the two negative; comparisons of 64 bits do not
        // vectorise on baseline x86-64.
#pragma omp simd reduction(| : signs)
        for (int64_t i = 0; i < classes; ++i) {
            const uint64_t entry = static_cast<uint64_t>(list[i]);
            signs |= (entry + 1) | (last - entry);
        }
        return !(signs >> 63);
    }

    template <bool kGradient>
    __attribute__((noinline)) static double margins(const float* x, const float* others, int64_t n, float gap, float* slopes,
                                                    double& active) {
        double sum = 0.0, count = 0.0;
#pragma omp simd reduction(+ : sum, count)
        for (int64_t i = 0; i < n; ++i) {
            const float z = gap + x[i];
            const bool idle = (others[i] == 0.0f) | (z <= 0.0f);
            sum += idle ? 0.0f : z;
            if constexpr (kGradient) {
                const float one = idle ? 0.0f : 1.0f;
                count += one;
                slopes[i] += one;
            }
        }
        active += count;
        return sum;
    }

    static double row(Row& r, Scratch& scratch, float factor, bool& outside) {
        const int64_t width = r.a.width;
        const int64_t* list = static_cast<const int64_t*>(r.a.tensors[1]) + r.row * width;
        float* others = scratch.others.data;
        float* slopes = scratch.slopes.data;
        if (!in_range(list, width)) {
            outside = true;
            return 0.0;
        }
        for (int64_t i = 0; i < width; ++i) others[i] = 1.0f;
        for (int64_t i = 0; i < width; ++i) slopes[i] = 0.0f;
        // Each entry is read once more and its range looked at each time: another thread may be writing the list.
        const auto entry = [&](int64_t i) {
            const int64_t label = i < width ? list[i] : -1;
            return static_cast<uint64_t>(label) < static_cast<uint64_t>(width) ? label : -1;
        };
        for (int64_t i = 0, label; (label = entry(i)) >= 0; ++i) others[label] = 0.0f;
        const bool gradient = r.a.grads[0];
        double total = 0.0;
        for (int64_t i = 0, label; (label = entry(i)) >= 0; ++i) {
            const float gap = 1.0f - r.element(0, label);
            double active = 0.0;
            r.for_blocks([&](int64_t begin, int64_t n) {
                const float* x = r.read(0, begin, n);
                total += gradient ? margins<true>(x, others + begin, n, gap, slopes + begin, active)
                                  : margins<false>(x, others + begin, n, gap, nullptr, active);
            });
            slopes[label] -= static_cast<float>(active);
        }
        const float share = 1.0f / static_cast<float>(width);
        if (gradient) {
            const float scale = factor * share;
            r.for_blocks([&](int64_t begin, int64_t n) {
                float* out = r.gradient(0, begin);
#pragma omp simd
                for (int64_t i = 0; i < n; ++i) out[i] = slopes[begin + i] * scale;
                r.written(0, begin, n);
            });
        }
        return total * share;
    }
};

// Σ_c w_c·(binary cross entropy of σ(x_c) against y_c) / C
struct MultilabelSoftMargin {
    static constexpr int tensors = 2;
    struct Scratch {
        explicit Scratch(const FusedArgs&) {}
        bool ready() const { return true; }
    };

    template <bool kWeighted, bool kGradient>
    __attribute__((noinline)) static double elements(const float* x, const float* y, const float* weight, int64_t n,
                                                     float factor, float* out) {
        double sum = 0.0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < n; ++i) {
            float e = BceWithLogits::first(x[i]);
            float value = BceWithLogits::value(x[i], y[i], e, 0.0f, 1.0f);
            float slope = slope_of<BceWithLogits>(x[i], y[i], e, 0.0f, 1.0f);
            if constexpr (kWeighted) {
                value *= weight[i];
                slope *= weight[i];
            }
            sum += value;
            if constexpr (kGradient) out[i] = slope * factor;
        }
        return sum;
    }

    static double row(Row& r, Scratch&, float factor, bool&) {
        const double share = 1.0 / static_cast<double>(r.a.width);
        const float scale = static_cast<float>(factor * share);
        double total = 0.0;
        r.for_blocks([&](int64_t begin, int64_t n) {
            const float* x = r.read(0, begin, n);
            const float* y = r.read(1, begin, n);
            const float* weight = r.a.class_weight ? r.a.class_weight + begin : nullptr;
            if (!r.a.grads[0]) {
                total += weight ? elements<true, false>(x, y, weight, n, scale, nullptr)
                                : elements<false, false>(x, y, nullptr, n, scale, nullptr);
                return;
            }
            float* out = r.gradient(0, begin);
            total += weight ? elements<true, true>(x, y, weight, n, scale, out)
                            : elements<false, true>(x, y, nullptr, n, scale, out);
            r.written(0, begin, n);
        });
        return total * share;
    }
};

// out = a·x + b·y, in double: where x and y point the same way, as trained vectors do, the two terms cancel.
__attribute__((noinline)) void combine(const float* x, const float* y, double a, double b, float* out, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        const double u = x[i], v = y[i];
        out[i] = static_cast<float>(a * u + b * v);
    }
}

// 1 − cos(x, y) for a target of 1, max(0, cos(x, y) − margin) for −1, 0 for any other
struct CosineEmbedding {
    static constexpr int tensors = 2;
    struct Scratch {
        explicit Scratch(const FusedArgs&) {}
        bool ready() const { return true; }
    };

    struct Products {
        double xy, xx, yy;
    };

    __attribute__((noinline)) static void products(const float* x, const float* y, int64_t n, Products& total) {
        double xy = 0.0, xx = 0.0, yy = 0.0;
#pragma omp simd reduction(+ : xy, xx, yy)
        for (int64_t i = 0; i < n; ++i) {
            const double a = x[i], b = y[i];
            xy += a * b;
            xx += a * a;
            yy += b * b;
        }
        total.xy += xy;
        total.xx += xx;
        total.yy += yy;
    }

    static double row(Row& r, Scratch&, float factor, bool&) {
        const float target = r.number(2);
        if (target != 1.0f && target != -1.0f) {
            r.clear_gradients();
            return 0.0;
        }
        Products p{0.0, 0.0, 0.0};
        r.for_blocks([&](int64_t begin, int64_t n) { products(r.read(0, begin, n), r.read(1, begin, n), n, p); });
        // PyTorch's constant, which keeps a vector of zeros from dividing by 0.
        const double xx = p.xx + 1e-12, yy = p.yy + 1e-12, length = std::sqrt(xx) * std::sqrt(yy);
        const double cosine = p.xy / length, excess = cosine - r.a.parameters[0];
        const bool same = target == 1.0f, idle = !same && excess < 0.0;
        if (idle) {
            r.clear_gradients();
            return 0.0;
        }
        const double slope = same ? -factor : factor;
        const double cross = slope / length, along_x = -slope * cosine / xx, along_y = -slope * cosine / yy;
        r.for_blocks([&](int64_t begin, int64_t n) {
            if (!r.a.grads[0] && !r.a.grads[1]) return;
            const float* x = r.read(0, begin, n);
            const float* y = r.read(1, begin, n);
            if (r.a.grads[0]) {
                combine(x, y, along_x, cross, r.gradient(0, begin), n);
                r.written(0, begin, n);
            }
            if (r.a.grads[1]) {
                combine(x, y, cross, along_y, r.gradient(1, begin), n);
                r.written(1, begin, n);
            }
        });
        return same ? 1.0 - cosine : excess;
    }
};

// max(0, margin + d(a, p) − d(a, n)), with d(p, n) in the place of d(a, n) where it is smaller and `swap` is set;
// d(x, y) = ‖x − y + eps‖, of order 1 or 2
struct TripletMargin {
    static constexpr int tensors = 3;
    struct Scratch {
        explicit Scratch(const FusedArgs&) {}
        bool ready() const { return true; }
    };

    struct Sums {
        double positive, negative, swapped;
    };

    template <bool kSquared, bool kSwap>
    __attribute__((noinline)) static void distances(const float* a, const float* p, const float* n, float eps, int64_t count,
                                                    Sums& total) {
        double positive = 0.0, negative = 0.0, swapped = 0.0;
#pragma omp simd reduction(+ : positive, negative, swapped)
        for (int64_t i = 0; i < count; ++i) {
            const float u = a[i] - p[i] + eps, v = a[i] - n[i] + eps;
            const double du = u, dv = v;
            positive += kSquared ? du * du : __builtin_fabs(du);
            negative += kSquared ? dv * dv : __builtin_fabs(dv);
            if constexpr (kSwap) {
                const float w = p[i] - n[i] + eps;
                const double dw = w;
                swapped += kSquared ? dw * dw : __builtin_fabs(dw);
            }
        }
        total.positive += positive;
        total.negative += negative;
        total.swapped += swapped;
    }

    // The derivative of a distance by an element of its difference, times `factor`.
    template <bool kSquared>
    LOSSKIT_INLINE static float slope(float difference, float factor) {
        if constexpr (kSquared) return difference * factor;
        const float sign = static_cast<float>((difference > 0.0f) - (difference < 0.0f));
        return sign * factor;
    }

    // Factors of the derivatives of d(a, p), d(a, n) and d(p, n).
    struct Factors {
        float positive, negative, swapped;
    };

    template <bool kSquared, bool kSwap>
    __attribute__((noinline)) static void gradients(const float* a, const float* p, const float* n, float eps, Factors f,
                                                    float* to_a, float* to_p, float* to_n, int64_t count) {
#pragma omp simd
        for (int64_t i = 0; i < count; ++i) {
            const float u = slope<kSquared>(a[i] - p[i] + eps, f.positive), v = slope<kSquared>(a[i] - n[i] + eps, f.negative);
            float w = 0.0f;
            if constexpr (kSwap) w = slope<kSquared>(p[i] - n[i] + eps, f.swapped);
            to_a[i] = u - v;
            to_p[i] = kSwap ? -u - w : -u;
            to_n[i] = kSwap ? v + w : v;
        }
    }

    template <bool kSquared, bool kSwap>
    static double typed(Row& r, float factor) {
        const float margin = r.a.parameters[0], eps = r.a.parameters[2];
        Sums sums{0.0, 0.0, 0.0};
        r.for_blocks([&](int64_t begin, int64_t n) {
            distances<kSquared, kSwap>(r.read(0, begin, n), r.read(1, begin, n), r.read(2, begin, n), eps, n, sums);
        });
        if constexpr (kSquared) sums = {std::sqrt(sums.positive), std::sqrt(sums.negative), std::sqrt(sums.swapped)};
        // Where two distances are the same, each takes half of the derivative.
        const double swapped = !kSwap || sums.negative < sums.swapped ? 0.0 : sums.negative > sums.swapped ? 1.0 : 0.5;
        const double smaller = kSwap && sums.swapped < sums.negative ? sums.swapped : sums.negative;
        const double loss = margin + sums.positive - smaller;
        if (loss < 0.0) {
            r.clear_gradients();
            return 0.0;
        }
        if (!r.a.grads[0] && !r.a.grads[1] && !r.a.grads[2]) return loss;
        const auto by = [&](double distance, double share) {
            // At a distance of 0 the derivative is 0.
            if (!kSquared) return static_cast<float>(share * factor);
            return distance == 0.0 ? 0.0f : static_cast<float>(share * factor / distance);
        };
        const Factors f{by(sums.positive, 1.0), by(sums.negative, 1.0 - swapped), by(sums.swapped, swapped)};
        // A gradient that nobody asked for goes to where it is not read.
        float unread[kPiece];
        r.for_blocks([&](int64_t begin, int64_t n) {
            float* out[3];
            for (int t = 0; t < 3; ++t) out[t] = r.a.grads[t] ? r.gradient(t, begin) : unread;
            gradients<kSquared, kSwap>(r.read(0, begin, n), r.read(1, begin, n), r.read(2, begin, n), eps, f, out[0], out[1],
                                       out[2], n);
            for (int t = 0; t < 3; ++t) {
                if (r.a.grads[t]) r.written(t, begin, n);
            }
        });
        return loss;
    }

    static double row(Row& r, Scratch&, float factor, bool&) {
        const bool swap = r.a.parameters[3] != 0.0f;
        if (r.a.parameters[1] == 2.0f) return swap ? typed<true, true>(r, factor) : typed<true, false>(r, factor);
        return swap ? typed<false, true>(r, factor) : typed<false, false>(r, factor);
    }
};

// C.
// Rows of one chunk: about as many elements as the pointwise losses take.
inline int64_t rows_per_sum(const FusedArgs& a) {
    int64_t rows = kPointwiseChunk / (a.width > 0 ? a.width : 1);
    return rows < 1 ? 1 : rows;
}

inline int64_t row_chunks(const FusedArgs& a) {
    int64_t step = rows_per_sum(a);
    return (a.n + step - 1) / step;
}

template <class Loss>
inline void run_fused_rows(const FusedArgs& a) {
    const int64_t step = rows_per_sum(a);
    int found = 0;
    for_chunks(row_chunks(a), a.threads, [&](int64_t chunk) {
        const int64_t begin = chunk * step, end = begin + step < a.n ? begin + step : a.n;
        Row r(a);
        typename Loss::Scratch scratch(a);
        double sum = 0.0;
        bool outside = false;
        for (int64_t row = begin; row < end && scratch.ready(); ++row) {
            r.move_to(row);
            double loss = 0.0;
            if (a.mask && !a.mask[row]) {
                // Nothing of the row is read: a NaN there stays unseen.
                r.clear_gradients();
            } else {
                const float weight = a.weight ? a.weight[row] : 1.0f;
                const float upstream = a.grad_output ? load_one(a.grad_output, a.grad_output_dtype, row) : 1.0f;
                loss = Loss::row(r, scratch, upstream * a.scale * weight, outside) * weight;
            }
            sum += loss;
            if (a.loss_out) store_one(static_cast<float>(loss), a.loss_out, a.loss_dtype, row);
        }
        if (a.partial) a.partial[chunk] = sum;
        const int state = scratch.ready() ? outside : kNoMemory;
        if (state) {
#pragma omp critical
            found = state > found ? state : found;
        }
    });
    if (found) *a.outside = found;
}

}  // namespace
}  // namespace losskit::LOSSKIT_ISA
