// The extension module. Its functions take tensors that losskit.core.inputs has checked, or, on the lean path, tensors
// that nobody has looked at: what they cannot do they decline with None, and the caller takes the long way, where every
// argument is checked and every error raised.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "buffer_pool.h"
#include "call.h"

namespace losskit {
namespace {

bool runs_here(const Kernels* kernels) {
#ifdef LOSSKIT_X86
    if (kernels == &kernels_v4) {
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && runs_here(&kernels_v3);
    }
    if (kernels == &kernels_v3) {
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
               __builtin_cpu_supports("bmi2");
    }
#endif
    return kernels == &kernels_baseline;
}

std::vector<const Kernels*> all_kernels() {
#ifdef LOSSKIT_X86
    return {&kernels_v4, &kernels_v3, &kernels_baseline};
#else
    return {&kernels_baseline};
#endif
}

std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
    for (const Kernels* kernels : all_kernels()) {
        if (runs_here(kernels)) names.emplace_back(kernels->name);
    }
    return names;
}

// The best one that this processor has, or the named one. False where it has not.
bool choose_instruction_set(const std::string& name) {
    for (const Kernels* kernels : all_kernels()) {
        if (runs_here(kernels) && (name.empty() || name == kernels->name)) {
            active = kernels;
            return true;
        }
    }
    return false;
}

struct PointwiseOptions {
    nb::handle weight = nb::none(), mask = nb::none(), pos_weight = nb::none(), grad_output = nb::none();
    // Reduce to one number, the sum divided by `divisor`; else one loss per element.
    bool total = true;
    double divisor = 1.0;
    // The gradient of the result; multiplies the gradient alone.
    double upstream = 1.0;
    bool want_loss = true, want_grad = false;
    DType out_dtype = DType::float32;
};

// (loss or None, gradient or None), or None where a value lies outside the domain.
nb::object pointwise_checked(Pointwise loss, const Tensor& input, const Tensor& target, double parameter,
                             const PointwiseOptions& o, nb::object& loss_result, nb::object& grad_result) {
    PointwiseArgs args{};
    args.loss = loss;
    args.dtype = input.dtype;
    args.input = input.data;
    args.target = target.data;
    args.parameter = static_cast<float>(parameter);
    args.n = input.numel;
    args.weight = static_cast<const float*>(optional_data(o.weight, "weight", DType::float32, args.n));
    args.mask = static_cast<const uint8_t*>(optional_data(o.mask, "mask", DType::boolean, args.n));
    args.pos_weight = static_cast<const float*>(optional_data(o.pos_weight, "pos_weight", DType::float32, args.n));
    if (!o.grad_output.is_none()) {
        Tensor upstream;
        if (!parse(o.grad_output, upstream) || upstream.numel != args.n || !same_dense_layout(input, upstream)) {
            throw nb::value_error("grad_output does not fit the kernel");
        }
        args.grad_output = upstream.data;
        args.grad_output_dtype = upstream.dtype;
    }
    Tensor view;
    const int64_t* strides = input.contiguous() ? nullptr : input.strides;
    if (o.want_grad) {
        grad_result = make_tensor(input.dtype, input.ndim, input.shape, strides, view);
        args.grad = view.data;
    }
    if (o.want_loss && !o.total) {
        loss_result = make_tensor(o.out_dtype, input.ndim, input.shape, strides, view);
        args.loss_out = view.data;
        args.loss_dtype = o.out_dtype;
    }
    args.scale = o.upstream / o.divisor;
    int outside = 0;
    args.outside = &outside;
    Partials partials((args.n + kPointwiseChunk - 1) / kPointwiseChunk);
    args.partial = partials.data();
    {
        Work work(args.n);
        args.threads = work.threads;
        active->pointwise(args);
    }
    if (outside) return nb::none();
    if (o.want_loss && o.total) loss_result = loss_scalar(partials.sum() / o.divisor, o.out_dtype);
    return nb::bool_(true);
}

nb::object pointwise(int loss, nb::handle input, nb::handle target, double parameter, nb::handle weight, nb::handle mask,
                     nb::handle pos_weight, nb::handle grad_output, bool total, double divisor, double upstream,
                     bool want_loss, bool want_grad, int out_dtype) {
    Tensor x, y;
    if (!parse(input, x) || !parse(target, y) || !is_float(x.dtype) || y.dtype != x.dtype || !x.same_shape(y) ||
        !same_dense_layout(x, y)) {
        throw nb::value_error("input and target do not fit the kernel");
    }
    // The other tensors are read in the order of memory too.
    if (!x.contiguous() && !(weight.is_none() && mask.is_none() && pos_weight.is_none())) {
        throw nb::value_error("weights and masks need a contiguous input");
    }
    PointwiseOptions o{weight,   mask,      pos_weight, grad_output, total, divisor, upstream,
                       want_loss, want_grad, static_cast<DType>(out_dtype)};
    nb::object loss_result = nb::none(), grad_result = nb::none();
    nb::object good = pointwise_checked(static_cast<Pointwise>(loss), x, y, parameter, o, loss_result, grad_result);
    if (good.is_none()) return good;
    return nb::make_tuple(loss_result, grad_result);
}

// The lean path of a pointwise loss that is reduced to one number. None: not here. A tensor: the loss, which needs no
// gradient. A list [loss, gradient]: to be joined to the graph.
nb::object lean_pointwise(int loss, nb::handle input, nb::handle target, double parameter, nb::handle reduction, bool symmetric) {
    int kind = reduction_of(reduction);
    Tensor x, y;
    if (kind < 1 || !quiet() || !parse(input, x) || !parse(target, y) || !is_float(x.dtype) || y.dtype != x.dtype ||
        !x.same_shape(y) || !same_dense_layout(x, y)) {
        return nb::none();
    }
    PointwiseOptions o;
    o.divisor = kind == 1 ? static_cast<double>(x.numel) : 1.0;
    o.out_dtype = x.dtype;
    if (grad_enabled()) {
        bool target_grad = requires_grad(target);
        if (target_grad && !symmetric) return nb::none();
        o.want_grad = target_grad || requires_grad(input);
    }
    nb::object loss_result, grad_result;
    nb::object good = pointwise_checked(static_cast<Pointwise>(loss), x, y, parameter, o, loss_result, grad_result);
    if (good.is_none()) return good;
    if (!o.want_grad) return loss_result;
    nb::list result;
    result.append(loss_result);
    result.append(grad_result);
    return result;
}

// How the samples lie: rows of contiguous classes, or (outer, classes, inner). False for anything else.
bool class_layout(const Tensor& x, ClassArgs& args) {
    if (x.ndim == 0) return false;
    args.classes = x.shape[x.ndim > 1 ? 1 : 0];
    args.outer = x.ndim > 1 ? x.shape[0] : 1;
    args.inner = 1;
    for (int i = 2; i < x.ndim; ++i) args.inner *= x.shape[i];
    if (args.inner == 0) {
        // No samples, said in the way that the kernels divide by.
        args.outer = 0;
        args.inner = 1;
    }
    if (args.classes == 1) {
        // Rows of one class, whichever way it is seen.
        args.outer *= args.inner;
        args.inner = 1;
    }
    if (x.contiguous()) return true;
    if (x.ndim < 3) return false;
    // Channels last: the classes of a position are neighbours.
    int64_t expected = args.classes;
    if (x.strides[1] != 1 && args.classes != 1) return false;
    for (int i = x.ndim; i-- > 2;) {
        if (x.shape[i] != 1 && x.strides[i] != expected) return false;
        expected *= x.shape[i];
    }
    if (x.shape[0] != 1 && x.strides[0] != expected) return false;
    args.outer *= args.inner;
    args.inner = 1;
    return true;
}

bool has_class_layout(nb::handle input) {
    Tensor x;
    ClassArgs args{};
    return parse(input, x) && class_layout(x, args);
}

struct ClassOptions {
    nb::handle row_weight = nb::none(), row_mask = nb::none(), grad_output = nb::none();
    bool log_probs = false, total = true;
    // None: the number that the targets and class weights give.
    std::optional<double> divisor;
    double upstream = 1.0;
    bool want_loss = true, want_grad = false, inplace = false;
    DType out_dtype = DType::float32;
    nb::handle stats = nb::none();
};

// False where a class index is out of range.
bool class_loss_checked(const Tensor& x, ClassArgs& args, const ClassOptions& o, bool mean, nb::object& loss_result,
                        nb::object& grad_result) {
    const int64_t samples = args.outer * args.inner;
    args.row_weight = static_cast<const float*>(optional_data(o.row_weight, "row_weight", DType::float32, samples));
    args.row_mask = static_cast<const uint8_t*>(optional_data(o.row_mask, "row_mask", DType::boolean, samples));
    if (!o.grad_output.is_none()) {
        Tensor upstream;
        if (!parse(o.grad_output, upstream) || upstream.numel != samples || !upstream.contiguous()) {
            throw nb::value_error("grad_output does not fit the kernel");
        }
        args.grad_output = upstream.data;
        args.grad_output_dtype = upstream.dtype;
    }
    // It is written to.
    args.stats = const_cast<float*>(static_cast<const float*>(optional_data(o.stats, "stats", DType::float32, samples * kStats)));
    if (has_score_options(args) && args.inner != 1) throw nb::value_error("these options take rows of classes");
    double divisor = static_cast<double>(samples);
    if (args.kind == Targets::indices) {
        double counted = 0.0;
        bool good;
        {
            Work work(samples);
            args.threads = work.threads;
            good = active->count_targets(args, &counted);
        }
        if (!good) return false;
        divisor = counted;
    }
    if (o.divisor) {
        divisor = *o.divisor;
    } else if (!mean) {
        divisor = 1.0;
    }
    args.scale = static_cast<float>(o.upstream / divisor);
    Tensor view;
    if (o.want_grad) {
        if (o.inplace) {
            args.grad = x.data;
        } else {
            grad_result = make_tensor(x.dtype, x.ndim, x.shape, x.contiguous() ? nullptr : x.strides, view);
            args.grad = view.data;
        }
    }
    if (o.want_loss && !o.total) {
        int64_t shape[kMaxDims];
        int ndim = 0;
        for (int i = 0; i < x.ndim; ++i) {
            if (i != (x.ndim > 1 ? 1 : 0)) shape[ndim++] = x.shape[i];
        }
        loss_result = make_tensor(o.out_dtype, ndim, shape, nullptr, view);
        args.loss_out = view.data;
        args.loss_dtype = o.out_dtype;
    }
    Partials partials(active->class_chunks(args));
    args.partial = partials.data();
    {
        Work work(x.numel);
        args.threads = work.threads;
        (o.log_probs ? active->nll : active->softmax)(args);
    }
    if (o.want_loss && o.total) loss_result = loss_scalar(partials.sum() / divisor, o.out_dtype);
    return true;
}

bool class_arguments(nb::handle input, nb::handle target, bool log_probs, Tensor& x, Tensor& t, ClassArgs& args) {
    if (!parse(input, x) || !parse(target, t) || !is_float(x.dtype) || !class_layout(x, args) || args.classes == 0) return false;
    args.logit_scale = 1.0f;
    args.dtype = x.dtype;
    args.input = x.data;
    args.target = t.data;
    args.target_dtype = t.dtype;
    if (t.dtype == DType::int64 || t.dtype == DType::uint8) {
        args.kind = Targets::indices;
        return t.numel == args.outer * args.inner && t.contiguous();
    }
    // Probabilities lie as the input does.
    args.kind = Targets::probabilities;
    return !log_probs && t.dtype == x.dtype && t.same_shape(x) && same_dense_layout(x, t);
}

// (loss or None, gradient or None), or None where a class index is out of range.
nb::object class_loss(bool log_probs, nb::handle input, nb::handle target, nb::handle weight, int64_t ignore_index,
                      double label_smoothing, nb::handle row_weight, nb::handle row_mask, nb::handle grad_output, bool total,
                      bool mean, std::optional<double> divisor, double upstream, bool want_loss, bool want_grad, bool inplace,
                      int out_dtype, double logit_scale, double softcap, double z_loss, nb::handle stats) {
    Tensor x, t;
    ClassArgs args{};
    if (!class_arguments(input, target, log_probs, x, t, args)) throw nb::value_error("input and target do not fit the kernel");
    args.logit_scale = static_cast<float>(logit_scale);
    args.softcap = static_cast<float>(softcap);
    args.z_loss = static_cast<float>(z_loss);
    args.ignore_index = ignore_index;
    args.label_smoothing = static_cast<float>(label_smoothing);
    args.weight = static_cast<const float*>(optional_data(weight, "weight", DType::float32, args.classes));
    ClassOptions o{row_weight, row_mask, grad_output, log_probs, total, divisor, upstream, want_loss, want_grad,
                   inplace, static_cast<DType>(out_dtype), stats};
    nb::object loss_result = nb::none(), grad_result = nb::none();
    if (!class_loss_checked(x, args, o, mean, loss_result, grad_result)) return nb::none();
    return nb::make_tuple(loss_result, grad_result);
}

// The lean path of cross_entropy and nll_loss with class indices, reduced to one number; results as for lean_pointwise.
nb::object lean_class_loss(bool log_probs, nb::handle input, nb::handle target, nb::handle weight, nb::handle ignore_index,
                           nb::handle label_smoothing, nb::handle reduction) {
    int kind = reduction_of(reduction);
    Tensor x, t;
    ClassArgs args{};
    if (kind < 1 || !quiet() || !class_arguments(input, target, log_probs, x, t, args)) return nb::none();
    if (args.kind != Targets::indices || !PyLong_CheckExact(ignore_index.ptr()) || !PyFloat_CheckExact(label_smoothing.ptr())) {
        return nb::none();
    }
    // (N, C) against (N), (N, C, d1, …) against (N, d1, …): the count of elements alone would let (N, 1) through.
    if (t.ndim != x.ndim - 1) return nb::none();
    for (int i = 0; i < t.ndim; ++i) {
        if (t.shape[i] != x.shape[i == 0 ? 0 : i + 1]) return nb::none();
    }
    args.ignore_index = PyLong_AsLongLong(ignore_index.ptr());
    if (args.ignore_index == -1 && PyErr_Occurred()) {
        PyErr_Clear();
        return nb::none();
    }
    double smoothing = PyFloat_AS_DOUBLE(label_smoothing.ptr());
    if (!(smoothing >= 0.0 && smoothing <= 1.0)) return nb::none();
    args.label_smoothing = static_cast<float>(smoothing);
    bool grad = grad_enabled();
    if (!weight.is_none()) {
        Tensor w;
        if (!parse(weight, w) || w.dtype != DType::float32 || x.dtype != DType::float32 || w.ndim != 1 ||
            w.shape[0] != args.classes || !w.contiguous() || requires_grad(weight)) {
            return nb::none();
        }
        args.weight = static_cast<const float*>(w.data);
    }
    ClassOptions o;
    o.log_probs = log_probs;
    o.want_grad = grad && requires_grad(input);
    o.out_dtype = x.dtype;
    nb::object loss_result, grad_result;
    if (!class_loss_checked(x, args, o, kind == 1, loss_result, grad_result)) return nb::none();
    if (!o.want_grad) return loss_result;
    nb::list result;
    result.append(loss_result);
    result.append(grad_result);
    return result;
}

// Multiplies a gradient by the 0-dim grad_output, in place: True. False where the result must be computed anew: the
// gradient is float16 or bfloat16, and rounding it before scaling would lose what a loss scale is there to keep. None
// where grad_output is none that can be read.
nb::object scale_gradient(nb::handle grad, nb::handle grad_output) {
    Tensor g, upstream;
    if (!parse_own(grad, g) || !parse(grad_output, upstream) || upstream.numel != 1) return nb::none();
    float factor;
    switch (upstream.dtype) {
        case DType::float32: factor = *static_cast<const float*>(upstream.data); break;
        case DType::float64: factor = static_cast<float>(*static_cast<const double*>(upstream.data)); break;
        default: {
            nb::object number = nb::steal(PyObject_CallMethod(grad_output.ptr(), "item", nullptr));
            if (!number.is_valid()) throw nb::python_error();
            factor = static_cast<float>(nb::cast<double>(number));
        }
    }
    if (factor == 1.0f) return nb::bool_(true);
    if (g.dtype != DType::float32) return nb::bool_(false);
    Work work(g.numel);
    active->scale(g.data, g.dtype, g.numel, factor, work.threads);
    return nb::bool_(true);
}

// The lean functions take their arguments without a wrapper: converting and matching them would cost more than the rest
// of a small call. The package alone calls them, with the types it knows.
PyObject* call_lean_pointwise(PyObject*, PyObject* const* args, Py_ssize_t count) {
    if (count != 6) {
        PyErr_SetString(PyExc_TypeError, "lean_pointwise takes 6 arguments");
        return nullptr;
    }
    int loss = static_cast<int>(PyLong_AsLong(args[0]));
    double parameter = PyFloat_AsDouble(args[3]);
    if (PyErr_Occurred()) return nullptr;
    try {
        return lean_pointwise(loss, args[1], args[2], parameter, args[4], args[5] == Py_True).release().ptr();
    } catch (...) {
        return raise_current();
    }
}

PyObject* call_lean_class_loss(PyObject*, PyObject* const* args, Py_ssize_t count) {
    if (count != 7) {
        PyErr_SetString(PyExc_TypeError, "lean_class_loss takes 7 arguments");
        return nullptr;
    }
    try {
        return lean_class_loss(args[0] == Py_True, args[1], args[2], args[3], args[4], args[5], args[6]).release().ptr();
    } catch (...) {
        return raise_current();
    }
}

PyObject* call_scale_gradient(PyObject*, PyObject* const* args, Py_ssize_t count) {
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "scale_gradient takes 2 arguments");
        return nullptr;
    }
    try {
        return scale_gradient(args[0], args[1]).release().ptr();
    } catch (...) {
        return raise_current();
    }
}

PyMethodDef lean_functions[] = {
    {"lean_pointwise", as_method(call_lean_pointwise), METH_FASTCALL,
     "loss, input, target, parameter, reduction, symmetric"},
    {"lean_class_loss", as_method(call_lean_class_loss), METH_FASTCALL,
     "log_probs, input, target, weight, ignore_index, label_smoothing, reduction"},
    {"scale_gradient", as_method(call_scale_gradient), METH_FASTCALL, "grad, grad_output"},
    {nullptr, nullptr, 0, nullptr},
};

nb::object empty(int64_t rows, int64_t columns) {
    if (rows < 0 || columns < 0) throw nb::value_error("a shape below 0");
    const int64_t shape[] = {rows, columns};
    Tensor view;
    return make_tensor(DType::float32, 2, shape, nullptr, view);
}

nb::dict memory_stats() {
    PoolStats stats = pool_stats();
    nb::dict result;
    result["active_bytes"] = stats.active_bytes;
    result["cached_bytes"] = stats.cached_bytes;
    result["peak_active_bytes"] = stats.peak_active_bytes;
    result["limit_bytes"] = stats.limit_bytes;
    result["hits"] = stats.hits;
    result["misses"] = stats.misses;
    return result;
}

}  // namespace
}  // namespace losskit

NB_MODULE(_kernels, m) {
    using namespace losskit;
    install_fork_handlers();
    m.def("connect", &connect, nb::arg("tensor_type"), nb::arg("parameter_type"), nb::arg("exchange_api").none(),
          nb::arg("functions"));
    m.def("uses_exchange_api", &uses_exchange_api);
    m.def("instruction_sets", &instruction_sets);
    m.def("choose_instruction_set", &choose_instruction_set);
    m.def("instruction_set", [] { return std::string(active ? active->name : ""); });
    if (PyModule_AddFunctions(m.ptr(), lean_functions) != 0) throw nb::python_error();
    m.def("pointwise", &pointwise, nb::arg("loss"), nb::arg("input"), nb::arg("target"), nb::arg("parameter"),
          nb::arg("weight").none(), nb::arg("mask").none(), nb::arg("pos_weight").none(), nb::arg("grad_output").none(),
          nb::arg("total"), nb::arg("divisor"), nb::arg("upstream"), nb::arg("want_loss"), nb::arg("want_grad"),
          nb::arg("out_dtype"));
    m.def("has_class_layout", &has_class_layout);
    m.def("class_loss", &class_loss, nb::arg("log_probs"), nb::arg("input"), nb::arg("target"), nb::arg("weight").none(),
          nb::arg("ignore_index"), nb::arg("label_smoothing"), nb::arg("row_weight").none(), nb::arg("row_mask").none(),
          nb::arg("grad_output").none(), nb::arg("total"), nb::arg("mean"), nb::arg("divisor").none(), nb::arg("upstream"),
          nb::arg("want_loss"), nb::arg("want_grad"), nb::arg("inplace"), nb::arg("out_dtype"), nb::arg("logit_scale") = 1.0,
          nb::arg("softcap") = 0.0, nb::arg("z_loss") = 0.0, nb::arg("stats").none() = nb::none());
    bind_ctc(m);
    bind_fused(m);
    m.def("empty", &empty);
    m.def("empty_cache", &empty_cache);
    m.def("memory_stats", &memory_stats);
    m.def("set_cache_limit", [](uint64_t bytes) { set_cache_limit(bytes); });
}
