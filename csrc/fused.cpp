// The losses of several tensors: from Python's tensors to `Kernels::fused` and back.
#include "call.h"

#include <nanobind/stl/vector.h>

#include <new>
#include <vector>

namespace losskit {
namespace {

struct FusedOptions {
    nb::handle weight = nb::none(), mask = nb::none(), class_weight = nb::none(), grad_output = nb::none();
    // Reduce to one number, the sum divided by `divisor`; else one value per loss.
    bool total = true;
    double divisor = 1.0;
    // The gradient of the result; multiplies the gradients alone.
    double upstream = 1.0;
    bool want_loss = true;
    // Bit i: the gradient by tensor i.
    unsigned wants = 0;
    DType out_dtype = DType::float32;
};

// The tensors of one call.
struct FusedTensors {
    Tensor of[kMaxTensors];
    int count = 0;
    // Elements of all losses.
    int64_t numel() const { return of[0].numel; }
};

// Parses the tensors and tells whether they are as the kernel walks them: contiguous, of the shapes and dtypes of their
// roles.
bool fits(Fused loss, PyObject* const* objects, int count, FusedTensors& tensors, FusedArgs& args) {
    const FusedLayout& layout = kFusedLayouts[static_cast<int>(loss)];
    for (int i = 0; i < kMaxTensors; ++i) {
        if ((layout.roles[i] != Role::none) != (i < count)) return false;
    }
    Tensor& first = tensors.of[0];
    if (!parse(objects[0], first) || !is_float(first.dtype) || !first.contiguous()) return false;
    if (layout.rows && (first.ndim == 0 || (layout.matrix && first.ndim > 2))) return false;
    args.loss = loss;
    args.dtype = first.dtype;
    args.width = layout.rows ? first.shape[first.ndim - 1] : 1;
    args.n = 1;
    const int loss_dims = first.ndim - (layout.rows ? 1 : 0);
    for (int i = 0; i < loss_dims; ++i) args.n *= first.shape[i];
    args.tensors[0] = first.data;
    for (int i = 1; i < count; ++i) {
        Tensor& tensor = tensors.of[i];
        const Role role = layout.roles[i];
        const bool whole = role == Role::element || role == Role::element_index;
        const bool index = role == Role::row_index || role == Role::element_index;
        if (!parse(objects[i], tensor) || !tensor.contiguous()) return false;
        if (tensor.dtype != (index ? DType::int64 : first.dtype)) return false;
        if (tensor.ndim != (whole ? first.ndim : loss_dims)) return false;
        for (int d = 0; d < tensor.ndim; ++d) {
            if (tensor.shape[d] != first.shape[d]) return false;
        }
        args.tensors[i] = tensor.data;
    }
    tensors.count = count;
    return true;
}

// Runs the kernel. False where a value lies outside the domain of the loss.
bool run(const FusedTensors& tensors, FusedArgs& args, const FusedOptions& o, nb::object& loss_result, nb::object* grads) {
    const Tensor& first = tensors.of[0];
    const int loss_dims = first.ndim - (kFusedLayouts[static_cast<int>(args.loss)].rows ? 1 : 0);
    args.weight = static_cast<const float*>(optional_data(o.weight, "weight", DType::float32, args.n));
    args.mask = static_cast<const uint8_t*>(optional_data(o.mask, "mask", DType::boolean, args.n));
    args.class_weight = static_cast<const float*>(optional_data(o.class_weight, "class_weight", DType::float32, args.width));
    if (!o.grad_output.is_none()) {
        Tensor upstream;
        if (!parse(o.grad_output, upstream) || upstream.numel != args.n || !upstream.contiguous()) {
            throw nb::value_error("grad_output does not fit the kernel");
        }
        args.grad_output = upstream.data;
        args.grad_output_dtype = upstream.dtype;
    }
    Tensor view;
    for (int i = 0; i < tensors.count; ++i) {
        if (!(o.wants >> i & 1)) continue;
        grads[i] = make_tensor(args.dtype, first.ndim, first.shape, nullptr, view);
        args.grads[i] = view.data;
    }
    if (o.want_loss && !o.total) {
        loss_result = make_tensor(o.out_dtype, loss_dims, first.shape, nullptr, view);
        args.loss_out = view.data;
        args.loss_dtype = o.out_dtype;
    }
    args.scale = o.upstream / o.divisor;
    int outside = 0;
    args.outside = &outside;
    Partials partials(active->fused_chunks(args));
    args.partial = partials.data();
    {
        Work work(tensors.numel());
        args.threads = work.threads;
        active->fused(args);
    }
    if (outside == kNoMemory) throw std::bad_alloc();
    if (outside) return false;
    if (o.want_loss && o.total) loss_result = loss_scalar(partials.sum() / o.divisor, o.out_dtype);
    return true;
}

void set_parameters(FusedArgs& args, const std::vector<double>& parameters) {
    for (size_t i = 0; i < parameters.size() && i < kMaxParameters; ++i) args.parameters[i] = static_cast<float>(parameters[i]);
}

// (loss or None, [gradient or None, …]), or None where a value lies outside the domain.
nb::object fused(int loss, nb::list objects, const std::vector<double>& parameters, nb::handle weight, nb::handle mask,
                 nb::handle class_weight, nb::handle grad_output, bool total, double divisor, double upstream, bool want_loss,
                 unsigned wants, int out_dtype) {
    FusedTensors tensors;
    FusedArgs args{};
    const int count = static_cast<int>(nb::len(objects));
    PyObject* pointers[kMaxTensors] = {};
    for (int i = 0; i < count && i < kMaxTensors; ++i) pointers[i] = nb::handle(objects[i]).ptr();
    if (loss < 0 || loss >= static_cast<int>(Fused::count) || count < 1 || count > kMaxTensors ||
        !fits(static_cast<Fused>(loss), pointers, count, tensors, args)) {
        throw nb::value_error("the tensors do not fit the kernel");
    }
    set_parameters(args, parameters);
    FusedOptions o{weight, mask, class_weight, grad_output, total, divisor, upstream, want_loss, wants, static_cast<DType>(out_dtype)};
    nb::object loss_result = nb::none(), grads[kMaxTensors];
    if (!run(tensors, args, o, loss_result, grads)) return nb::none();
    nb::list found;
    for (int i = 0; i < count; ++i) found.append(grads[i].is_valid() ? grads[i] : nb::none());
    return nb::make_tuple(loss_result, found);
}

// The lean path: loss, reduction, a tuple of parameters, the tensors. None: not here. A tensor: the loss, which needs no
// gradient. A list [loss, gradient or None, …]: to be joined to the graph.
nb::object lean_fused(PyObject* const* given, Py_ssize_t count) {
    const int tensor_count = static_cast<int>(count) - 3;
    const int loss = static_cast<int>(PyLong_AsLong(given[0]));
    const bool batchmean = loss == static_cast<int>(Fused::kl_div) && PyUnicode_Check(given[1]) &&
                           PyUnicode_CompareWithASCIIString(given[1], "batchmean") == 0;
    const int kind = batchmean ? 2 : reduction_of(given[1]);
    FusedTensors tensors;
    FusedArgs args{};
    if (kind < 1 || !quiet() || !fits(static_cast<Fused>(loss), given + 3, tensor_count, tensors, args)) return nb::none();
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(given[2]) && i < kMaxParameters; ++i) {
        args.parameters[i] = static_cast<float>(PyFloat_AsDouble(PyTuple_GET_ITEM(given[2], i)));
    }
    if (PyErr_Occurred()) {
        PyErr_Clear();
        return nb::none();
    }
    // Some losses refuse empty rows.
    if (args.width == 0) return nb::none();
    FusedOptions o;
    o.divisor = kind == 1 ? static_cast<double>(args.n) : 1.0;
    // Of a tensor without dimensions it is the sum.
    if (batchmean && tensors.of[0].ndim > 0) o.divisor = static_cast<double>(tensors.of[0].shape[0]);
    o.out_dtype = args.dtype;
    if (grad_enabled()) {
        for (int i = 0; i < tensor_count; ++i) {
            if (requires_grad(given[3 + i])) o.wants |= 1u << i;
        }
        if (o.wants & ~kFusedLayouts[loss].grads) return nb::none();
    }
    nb::object loss_result, grads[kMaxTensors];
    if (!run(tensors, args, o, loss_result, grads)) return nb::none();
    if (!o.wants) return loss_result;
    nb::list result;
    result.append(loss_result);
    for (int i = 0; i < tensor_count; ++i) result.append(grads[i].is_valid() ? grads[i] : nb::none());
    return result;
}

PyObject* call_lean_fused(PyObject*, PyObject* const* given, Py_ssize_t count) {
    if (count < 4 || count > 3 + kMaxTensors || !PyLong_Check(given[0]) || !PyTuple_Check(given[2])) {
        PyErr_SetString(PyExc_TypeError, "lean_fused takes a code, a reduction, a tuple of parameters and the tensors");
        return nullptr;
    }
    const long loss = PyLong_AsLong(given[0]);
    if (loss < 0 || loss >= static_cast<long>(Fused::count)) {
        PyErr_SetString(PyExc_ValueError, "lean_fused: unknown code");
        return nullptr;
    }
    try {
        return lean_fused(given, count).release().ptr();
    } catch (...) {
        return raise_current();
    }
}

PyMethodDef lean_functions[] = {
    {"lean_fused", as_method(call_lean_fused), METH_FASTCALL, "loss, reduction, parameters, *tensors"},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

void bind_fused(nb::module_& m) {
    if (PyModule_AddFunctions(m.ptr(), lean_functions) != 0) throw nb::python_error();
    m.def("fused", &fused, nb::arg("loss"), nb::arg("tensors"), nb::arg("parameters"), nb::arg("weight").none(),
          nb::arg("mask").none(), nb::arg("class_weight").none(), nb::arg("grad_output").none(), nb::arg("total"),
          nb::arg("divisor"), nb::arg("upstream"), nb::arg("want_loss"), nb::arg("wants"), nb::arg("out_dtype"));
}

}  // namespace losskit
