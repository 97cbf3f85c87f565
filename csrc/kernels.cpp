// Compiled once for each instruction set: see CMakeLists.txt and isa.h.
#include "kernels.h"

#include "ctc.h"
#include "fused.h"
#include "pointwise.h"
#include "softmax.h"

namespace losskit {
namespace LOSSKIT_ISA {
namespace {

template <class T>
inline void scale_typed(T* data, int64_t n, float factor, int threads) {
    constexpr int64_t step = 65536;
    for_chunks((n + step - 1) / step, threads, [&](int64_t chunk) {
        int64_t begin = chunk * step, end = begin + step < n ? begin + step : n;
#pragma omp simd
        for (int64_t i = begin; i < end; ++i) {
            // 0 stays 0, also times an infinite factor: what does not count has no gradient.
            float value = load(data[i]), scaled = value * factor;
            store(data + i, value == 0.0f ? value : scaled);
        }
    });
}

void scale(void* data, DType dtype, int64_t n, float factor, int threads) {
    switch (dtype) {
        case DType::bfloat16: return scale_typed(static_cast<bfloat16*>(data), n, factor, threads);
        case DType::float16: return scale_typed(static_cast<float16*>(data), n, factor, threads);
        default: return scale_typed(static_cast<float*>(data), n, factor, threads);
    }
}

}  // namespace
}  // namespace LOSSKIT_ISA

#define LOSSKIT_JOIN_(a, b) a##b
#define LOSSKIT_JOIN(a, b) LOSSKIT_JOIN_(a, b)
#define LOSSKIT_STRING_(a) #a
#define LOSSKIT_STRING(a) LOSSKIT_STRING_(a)

const Kernels LOSSKIT_JOIN(kernels_, LOSSKIT_ISA) = {
    LOSSKIT_STRING(LOSSKIT_ISA), LOSSKIT_ISA::pointwise, LOSSKIT_ISA::class_chunks, LOSSKIT_ISA::count_targets,
    LOSSKIT_ISA::softmax, LOSSKIT_ISA::nll, LOSSKIT_ISA::fused_chunks, LOSSKIT_ISA::fused, LOSSKIT_ISA::ctc_workspace, LOSSKIT_ISA::ctc,
    LOSSKIT_ISA::scale};

}  // namespace losskit
