// What every call of a kernel needs: the choice of instruction set, threads and the GIL, sums, results, optional arguments.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdlib>
#include <memory>
#include <string>

#include "kernels.h"
#include "tensors.h"

namespace losskit {

// The kernels of the chosen instruction set.
extern const Kernels* active;

// Below this many elements one thread is faster than waking another, and the GIL is not worth giving up.
constexpr int64_t kParallel = 32768;

inline bool is_float(DType dtype) { return dtype == DType::float32 || dtype == DType::bfloat16 || dtype == DType::float16; }

class Work {
public:
    explicit Work(int64_t elements) {
        if (elements >= kParallel) {
            threads = torch_threads();
            state_ = PyEval_SaveThread();
        }
    }
    ~Work() {
        if (state_) PyEval_RestoreThread(state_);
    }
    Work(const Work&) = delete;
    Work& operator=(const Work&) = delete;
    int threads = 1;

private:
    PyThreadState* state_ = nullptr;
};

struct Free {
    void operator()(double* data) const { std::free(data); }
};

// Partial sums, on the stack where they are few.
class Partials {
public:
    explicit Partials(int64_t count) : count_(count) {
        if (count > kInline) {
            heap_.reset(static_cast<double*>(std::malloc(sizeof(double) * static_cast<size_t>(count))));
            if (!heap_) throw std::bad_alloc();
        }
    }
    double* data() { return heap_ ? heap_.get() : inline_; }
    double sum() {
        double total = 0.0;
        for (int64_t i = 0; i < count_; ++i) total += data()[i];
        return total;
    }

private:
    static constexpr int64_t kInline = 64;
    int64_t count_;
    double inline_[kInline];
    std::unique_ptr<double, Free> heap_;
};

// A 0-dim result; float16 and bfloat16 round as the kernels do.
nb::object loss_scalar(double value, DType dtype);

// Memory order is all that matters to a pointwise loss: dense tensors with equal strides are walked as they lie.
bool same_dense_layout(const Tensor& a, const Tensor& b);

// Optional arguments: None gives null; what does not fit throws, since it has been checked before.
const void* optional_data(nb::handle object, const char* name, DType dtype, int64_t numel);

// 0 none, 1 mean, 2 sum, -1 anything else.
int reduction_of(nb::handle name);

// Turns the exception that is being handled into Python's; for functions without a wrapper.
PyObject* raise_current();

template <class Function>
PyCFunction as_method(Function function) {
    // METH_FASTCALL functions have another signature than PyCFunction names.
    return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

void bind_ctc(nb::module_& m);
void bind_fused(nb::module_& m);

}  // namespace losskit
