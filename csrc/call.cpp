#include "call.h"

#include <cmath>
#include <new>
#include <stdexcept>

namespace losskit {

const Kernels* active = nullptr;

nb::object loss_scalar(double value, DType dtype) {
    if (dtype == DType::float32 || dtype == DType::float64) return make_scalar(value, dtype);
    // Through the kernels' own rounding: the scale of 1 converts.
    Tensor view;
    nb::object result = make_tensor(dtype, 0, nullptr, nullptr, view);
    float narrow = static_cast<float>(value);
    PointwiseArgs args{};
    float zero = 0.0f;
    args.loss = Pointwise::l1;
    args.dtype = DType::float32;
    args.input = &narrow;
    args.target = &zero;
    args.n = 1;
    args.threads = 1;
    args.scale = 1.0;
    args.loss_out = view.data;
    args.loss_dtype = dtype;
    active->pointwise(args);
    // |x - 0|; the sign bit is the highest of the sixteen.
    if (std::signbit(narrow) && !std::isnan(narrow)) *static_cast<uint16_t*>(view.data) |= 0x8000u;
    return result;
}

bool same_dense_layout(const Tensor& a, const Tensor& b) {
    if (a.contiguous() && b.contiguous()) return true;
    int64_t expected = 1;
    bool used[kMaxDims] = {};
    for (int i = 0; i < a.ndim; ++i) {
        if (a.strides[i] != b.strides[i] && a.shape[i] != 1) return false;
    }
    for (int step = 0; step < a.ndim; ++step) {
        int found = -1;
        for (int i = 0; i < a.ndim && found < 0; ++i) {
            if (!used[i] && (a.shape[i] == 1 || a.strides[i] == expected)) found = i;
        }
        if (found < 0) return false;
        used[found] = true;
        expected *= a.shape[found];
    }
    return true;
}

const void* optional_data(nb::handle object, const char* name, DType dtype, int64_t numel) {
    if (object.is_none()) return nullptr;
    Tensor view;
    if (!parse(object, view) || view.dtype != dtype || view.numel != numel || !view.contiguous()) {
        throw nb::value_error((std::string(name) + " does not fit the kernel").c_str());
    }
    return view.data;
}

int reduction_of(nb::handle name) {
    if (!PyUnicode_Check(name.ptr())) return -1;
    if (PyUnicode_CompareWithASCIIString(name.ptr(), "mean") == 0) return 1;
    if (PyUnicode_CompareWithASCIIString(name.ptr(), "sum") == 0) return 2;
    return PyUnicode_CompareWithASCIIString(name.ptr(), "none") == 0 ? 0 : -1;
}

PyObject* raise_current() {
    try {
        throw;
    } catch (nb::python_error& error) {
        error.restore();
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
    }
    return nullptr;
}

}  // namespace losskit
