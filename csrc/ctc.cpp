// Connectionist temporal classification: from Python's tensors to `Kernels::ctc` and back.
#include "call.h"

#include <vector>

#include "buffer_pool.h"

namespace losskit {
namespace {

// A buffer of the pool for the length of a call.
class Scratch {
public:
    explicit Scratch(size_t bytes) : buffer_(acquire_buffer(bytes)) {
        if (!buffer_.data) throw std::bad_alloc();
    }
    ~Scratch() { release_buffer(buffer_); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    float* data() const { return static_cast<float*>(buffer_.data); }

private:
    Buffer buffer_;
};

struct CtcOptions {
    int64_t blank = 0;
    bool zero_infinity = false;
    // Divide each loss by the number of its labels.
    bool per_label = true;
    nb::handle weight = nb::none(), mask = nb::none(), grad_output = nb::none();
    // Reduce to one number, the sum divided by `divisor`; else one loss per sample.
    bool total = true;
    double divisor = 1.0;
    // The gradient of the result; multiplies the gradient alone.
    double upstream = 1.0;
    bool want_loss = true, want_grad = false;
    DType out_dtype = DType::float32;
};

// The log-probabilities as the kernel walks them: frames and samples in either order, without gaps.
bool has_ctc_layout(const Tensor& x) {
    if (x.ndim != 3 || !is_float(x.dtype) || x.numel == 0) return false;
    const int64_t frames = x.shape[0], batch = x.shape[1], classes = x.shape[2];
    if (classes != 1 && x.strides[2] != 1) return false;
    const bool frames_first = (frames == 1 || x.strides[0] == batch * classes) && (batch == 1 || x.strides[1] == classes);
    const bool samples_first = (batch == 1 || x.strides[1] == frames * classes) && (frames == 1 || x.strides[0] == classes);
    return frames_first || samples_first;
}

bool has_ctc_targets(const Tensor& targets, int64_t batch) {
    return targets.dtype == DType::int64 && targets.contiguous() &&
           (targets.ndim == 1 || (targets.ndim == 2 && targets.shape[0] == batch));
}

bool has_lengths(const Tensor& lengths, int64_t batch) {
    return lengths.dtype == DType::int64 && lengths.numel == batch && lengths.contiguous();
}

// Finds where the labels of each sample begin; false where a length or a label is out of range. Nothing is read before it
// has been checked. A masked sample may hold any label; its lengths fit.
bool check_and_find(const Tensor& targets, CtcArgs& args, std::vector<int64_t>& starts) {
    const bool padded = targets.ndim == 2;
    const int64_t room = padded ? targets.shape[1] : targets.numel;
    starts.resize(static_cast<size_t>(args.batch));
    int64_t next = 0;
    for (int64_t n = 0; n < args.batch; ++n) {
        const int64_t frames = args.input_lengths[n], labels = args.target_lengths[n];
        if (frames < 0 || frames > args.frames || labels < 0 || labels > (padded ? room : room - next)) return false;
        const int64_t start = padded ? n * room : next;
        starts[static_cast<size_t>(n)] = start;
        next += labels;
        if (labels > args.max_labels) args.max_labels = labels;
        if (args.mask && !args.mask[n]) continue;
        for (int64_t i = start; i < start + labels; ++i) {
            if (args.targets[i] < 0 || args.targets[i] >= args.classes) return false;
        }
    }
    args.target_starts = starts.data();
    return padded || next == room;
}

// Runs the kernel. False where a length or a label is out of range.
bool run(const Tensor& x, const Tensor& targets, const int64_t* input_lengths, const int64_t* target_lengths,
         const CtcOptions& o, nb::object& loss_result, nb::object& grad_result) {
    CtcArgs args{};
    args.dtype = x.dtype;
    args.log_probs = x.data;
    args.frames = x.shape[0];
    args.batch = x.shape[1];
    args.classes = x.shape[2];
    args.frame_stride = x.strides[0];
    args.sample_stride = x.strides[1];
    // Copies of all that leads to an address: another thread may write to the tensors after they have been checked.
    const auto* given = static_cast<const int64_t*>(targets.data);
    const std::vector<int64_t> labels(given, given + targets.numel);
    const std::vector<int64_t> frames(input_lengths, input_lengths + args.batch);
    const std::vector<int64_t> label_counts(target_lengths, target_lengths + args.batch);
    const auto* mask = static_cast<const uint8_t*>(optional_data(o.mask, "mask", DType::boolean, args.batch));
    const std::vector<uint8_t> kept_mask(mask, mask ? mask + args.batch : mask);
    args.targets = labels.data();
    args.input_lengths = frames.data();
    args.target_lengths = label_counts.data();
    args.blank = o.blank;
    args.zero_infinity = o.zero_infinity;
    args.mask = mask ? kept_mask.data() : nullptr;
    const float* weights = static_cast<const float*>(optional_data(o.weight, "weight", DType::float32, args.batch));
    const float* above = static_cast<const float*>(optional_data(o.grad_output, "grad_output", DType::float32, args.batch));
    std::vector<int64_t> starts;
    if (!check_and_find(targets, args, starts)) return false;
    const size_t batch = static_cast<size_t>(args.batch);
    auto counts = [&](size_t n) { return !args.mask || args.mask[n]; };
    // What each loss is multiplied by in the sum, and each gradient in the result.
    std::vector<double> losses(batch), factors(batch);
    std::vector<float> scales(batch);
    for (size_t n = 0; n < batch; ++n) {
        const double divisor = o.per_label && label_counts[n] > 0 ? static_cast<double>(label_counts[n]) : 1.0;
        factors[n] = (weights && counts(n) ? weights[n] : 1.0) / divisor;
        scales[n] = static_cast<float>(factors[n] / o.divisor * (above ? above[n] : o.upstream));
    }
    args.losses = losses.data();
    args.scales = scales.data();
    Tensor view;
    if (o.want_grad) {
        grad_result = make_tensor(args.dtype, 3, x.shape, x.strides, view);
        args.grad = view.data;
    }
    {
        Work work(x.numel);
        args.threads = work.threads > args.batch ? static_cast<int>(args.batch) : work.threads;
        Scratch scratch(static_cast<size_t>(active->ctc_workspace(args)) * sizeof(float) * static_cast<size_t>(args.threads));
        args.workspace = scratch.data();
        active->ctc(args);
    }
    if (!o.want_loss) return true;
    for (size_t n = 0; n < batch; ++n) losses[n] = counts(n) ? losses[n] * factors[n] : 0.0;
    if (o.total) {
        double sum = 0.0;
        for (size_t n = 0; n < batch; ++n) sum += losses[n];
        loss_result = loss_scalar(sum / o.divisor, o.out_dtype);
    } else {
        loss_result = make_tensor(DType::float64, 1, &args.batch, nullptr, view);
        for (size_t n = 0; n < batch; ++n) static_cast<double*>(view.data)[n] = losses[n];
    }
    return true;
}

// (loss or None, gradient or None), or None where a length or a label is out of range.
nb::object ctc(nb::handle log_probs, nb::handle targets, nb::handle input_lengths, nb::handle target_lengths, int64_t blank,
               bool zero_infinity, bool per_label, nb::handle weight, nb::handle mask, nb::handle grad_output, bool total,
               double divisor, double upstream, bool want_loss, bool want_grad, int out_dtype) {
    Tensor x, labels, frames, counts;
    if (!parse(log_probs, x) || !has_ctc_layout(x)) throw nb::value_error("log_probs does not fit the kernel");
    if (!parse(targets, labels) || !has_ctc_targets(labels, x.shape[1]) || !parse(input_lengths, frames) ||
        !has_lengths(frames, x.shape[1]) || !parse(target_lengths, counts) || !has_lengths(counts, x.shape[1]) ||
        blank < 0 || blank >= x.shape[2]) {
        throw nb::value_error("targets, lengths or blank do not fit the kernel");
    }
    CtcOptions o{blank,   zero_infinity, per_label, weight,    mask,      grad_output,
                 total,   divisor,       upstream,  want_loss, want_grad, static_cast<DType>(out_dtype)};
    nb::object loss_result = nb::none(), grad_result = nb::none();
    if (!run(x, labels, static_cast<const int64_t*>(frames.data), static_cast<const int64_t*>(counts.data), o, loss_result,
             grad_result)) {
        return nb::none();
    }
    return nb::make_tuple(loss_result, grad_result);
}

// The lengths of a tensor as they lie, or those of a tuple or list in `kept`; null for anything else.
const int64_t* lengths_of(PyObject* object, int64_t batch, std::vector<int64_t>& kept) {
    if (!PyTuple_Check(object) && !PyList_Check(object)) {
        Tensor view;
        return parse(object, view) && has_lengths(view, batch) ? static_cast<const int64_t*>(view.data) : nullptr;
    }
    if (PySequence_Fast_GET_SIZE(object) != batch) return nullptr;
    for (int64_t n = 0; n < batch; ++n) {
        PyObject* length = PySequence_Fast_GET_ITEM(object, n);
        if (!PyLong_CheckExact(length)) return nullptr;
        kept.push_back(PyLong_AsLongLong(length));
    }
    if (PyErr_Occurred()) {
        PyErr_Clear();
        return nullptr;
    }
    return kept.data();
}

// The lean path: log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity. None: not here. A
// tensor: the loss, which needs no gradient. A list [loss, gradient]: to be joined to the graph.
nb::object lean_ctc(PyObject* const* given) {
    const int kind = reduction_of(given[5]);
    Tensor x, labels;
    if (kind < 1 || !PyLong_CheckExact(given[4]) || !PyBool_Check(given[6]) || !quiet() || !parse(given[0], x) ||
        !has_ctc_layout(x) || !parse(given[1], labels) || !has_ctc_targets(labels, x.shape[1])) {
        return nb::none();
    }
    std::vector<int64_t> kept_frames, kept_counts;
    const bool numbers = PyTuple_Check(given[2]) || PyList_Check(given[2]);
    if (numbers != (PyTuple_Check(given[3]) || PyList_Check(given[3]))) return nb::none();
    const int64_t* frames = lengths_of(given[2], x.shape[1], kept_frames);
    const int64_t* counts = frames ? lengths_of(given[3], x.shape[1], kept_counts) : nullptr;
    CtcOptions o;
    o.blank = PyLong_AsLongLong(given[4]);
    if (PyErr_Occurred()) {
        PyErr_Clear();
        return nb::none();
    }
    if (!counts || o.blank < 0 || o.blank >= x.shape[2]) return nb::none();
    o.zero_infinity = given[6] == Py_True;
    o.per_label = kind == 1;
    o.divisor = kind == 1 ? static_cast<double>(x.shape[1]) : 1.0;
    o.want_grad = grad_enabled() && requires_grad(given[0]);
    o.out_dtype = x.dtype;
    nb::object loss_result, grad_result;
    if (!run(x, labels, frames, counts, o, loss_result, grad_result)) return nb::none();
    if (!o.want_grad) return loss_result;
    nb::list result;
    result.append(loss_result);
    result.append(grad_result);
    return result;
}

PyObject* call_lean_ctc(PyObject*, PyObject* const* given, Py_ssize_t count) {
    if (count != 7) {
        PyErr_SetString(PyExc_TypeError, "lean_ctc takes seven arguments");
        return nullptr;
    }
    try {
        return lean_ctc(given).release().ptr();
    } catch (...) {
        return raise_current();
    }
}

PyMethodDef lean_functions[] = {
    {"lean_ctc", as_method(call_lean_ctc), METH_FASTCALL,
     "log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity"},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

void bind_ctc(nb::module_& m) {
    if (PyModule_AddFunctions(m.ptr(), lean_functions) != 0) throw nb::python_error();
    m.def("ctc", &ctc, nb::arg("log_probs"), nb::arg("targets"), nb::arg("input_lengths"), nb::arg("target_lengths"),
          nb::arg("blank"), nb::arg("zero_infinity"), nb::arg("per_label"), nb::arg("weight").none(), nb::arg("mask").none(),
          nb::arg("grad_output").none(), nb::arg("total"), nb::arg("divisor"), nb::arg("upstream"), nb::arg("want_loss"),
          nb::arg("want_grad"), nb::arg("out_dtype"));
    m.def("has_ctc_layout", [](nb::handle tensor) {
        Tensor view;
        return parse(tensor, view) && has_ctc_layout(view);
    });
}

}  // namespace losskit
