// Tensors in and out of Python without linking to torch.
//
// A. Parsing: torch's DLPack C exchange API where there is one (73 ns a tensor), else the tensor's own attributes.
// B. Making: a DLPack tensor over a buffer of the pool, which goes back when torch drops the tensor.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>

#include "kernels.h"

namespace losskit {

namespace nb = nanobind;

constexpr int kMaxDims = 12;

// A borrowed view, valid while the Python tensor lives and keeps its shape.
struct Tensor {
    void* data = nullptr;
    int ndim = 0;
    DType dtype = DType::other;
    int64_t numel = 0;
    int64_t shape[kMaxDims];
    int64_t strides[kMaxDims];

    bool contiguous() const;
    bool same_shape(const Tensor& other) const;
};

// What is needed of torch, handed over once by the package.
void connect(nb::handle tensor_type, nb::handle parameter_type, nb::handle exchange_api, nb::dict functions);
bool uses_exchange_api();

// No transform, mode, tracing or autocast is active: a kernel may read memory.
bool quiet();
bool grad_enabled();
bool requires_grad(nb::handle tensor);
int torch_threads();

// False, with no Python error set, for what a kernel cannot read: another type, device or layout, a lazy view, a tensor
// without memory.
bool parse(nb::handle object, Tensor& out);
// The same for a tensor that the library made, which is none of that.
bool parse_own(nb::handle object, Tensor& out);

// An uninitialised tensor of the pool. `view` describes it.
nb::object make_tensor(DType dtype, int ndim, const int64_t* shape, const int64_t* strides, Tensor& view);
nb::object make_scalar(double value, DType dtype);

size_t size_of(DType dtype);

}  // namespace losskit
