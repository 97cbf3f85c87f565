#include "tensors.h"

#include <cstdlib>
#include <cstring>

#include "buffer_pool.h"

namespace losskit {
namespace {

// The DLPack ABI, version 1, of which only these structures are used.
struct DLDevice {
    int32_t type, id;
};
struct DLDataType {
    uint8_t code, bits;
    uint16_t lanes;
};
struct DLTensor {
    void* data;
    DLDevice device;
    int32_t ndim;
    DLDataType dtype;
    int64_t* shape;
    int64_t* strides;
    uint64_t byte_offset;
};
struct DLVersion {
    uint32_t major, minor;
};
struct DLManaged {
    DLVersion version;
    void* context;
    void (*deleter)(DLManaged*);
    uint64_t flags;
    DLTensor tensor;
};
// The form before version 1, for the capsule that older torch takes.
struct DLManagedLegacy {
    DLTensor tensor;
    void* context;
    void (*deleter)(DLManagedLegacy*);
};
struct DLExchange {
    DLVersion version;
    DLExchange* previous;
    void* allocate;
    void* export_managed;
    int (*import_managed)(DLManaged*, void** out);
    int (*view)(void* object, DLTensor* out);
    void* stream;
};

constexpr size_t kAlignment = 64;
constexpr int32_t kCPU = 1;
enum Code : uint8_t { kInt = 0, kUInt = 1, kFloat = 2, kBFloat = 4, kBool = 6 };

// Never given back: the interpreter may be gone when static objects are.
struct Torch {
    PyTypeObject* tensor = nullptr;
    PyTypeObject* parameter = nullptr;
    const DLExchange* exchange = nullptr;
    PyObject *interpreter = nullptr, *dispatch_modes = nullptr, *function_modes = nullptr, *tracing = nullptr,
             *autocast = nullptr, *grad_enabled = nullptr, *threads = nullptr, *forward_ad = nullptr, *from_dlpack = nullptr,
             *dtypes = nullptr, *strided = nullptr;
    PyObject *s_level = nullptr, *s_requires_grad = nullptr, *s_is_neg = nullptr, *s_data_ptr = nullptr, *s_shape = nullptr,
             *s_stride = nullptr, *s_dtype = nullptr, *s_is_cpu = nullptr, *s_layout = nullptr;
} torch;

DType dtype_from(DLDataType type) {
    if (type.lanes != 1) return DType::other;
    if (type.code == kFloat) {
        return type.bits == 32 ? DType::float32 : type.bits == 16 ? DType::float16 : type.bits == 64 ? DType::float64 : DType::other;
    }
    if (type.code == kBFloat && type.bits == 16) return DType::bfloat16;
    if (type.code == kInt && type.bits == 64) return DType::int64;
    if (type.code == kUInt && type.bits == 8) return DType::uint8;
    if (type.code == kBool && type.bits == 8) return DType::boolean;
    return DType::other;
}

DLDataType dtype_to(DType type) {
    switch (type) {
        case DType::float16: return {kFloat, 16, 1};
        case DType::bfloat16: return {kBFloat, 16, 1};
        case DType::float64: return {kFloat, 64, 1};
        case DType::int64: return {kInt, 64, 1};
        case DType::uint8: return {kUInt, 8, 1};
        case DType::boolean: return {kBool, 8, 1};
        default: return {kFloat, 32, 1};
    }
}

PyObject* keep(nb::handle object) {
    object.inc_ref();
    return object.ptr();
}

// True where `call()` is None or 0.
bool nothing(PyObject* call) {
    PyObject* result = PyObject_CallNoArgs(call);
    if (!result) {
        PyErr_Clear();
        return false;
    }
    bool none = result == Py_None || result == Py_False || (PyLong_Check(result) && PyLong_AsLong(result) == 0);
    Py_DECREF(result);
    return none;
}

bool is_true(PyObject* result) {
    bool yes = result == Py_True;
    if (!result) PyErr_Clear();
    Py_XDECREF(result);
    return yes;
}

// Lays the numbers of a tuple out; false where they are too many or not numbers.
bool numbers(PyObject* tuple, int64_t* out, int& count) {
    bool good = false;
    if (tuple && PyTuple_Check(tuple) && PyTuple_GET_SIZE(tuple) <= kMaxDims) {
        count = static_cast<int>(PyTuple_GET_SIZE(tuple));
        good = true;
        for (int i = 0; i < count && good; ++i) {
            out[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(tuple, i));
            good = !(out[i] == -1 && PyErr_Occurred());
        }
    }
    if (!good) PyErr_Clear();
    Py_XDECREF(tuple);
    return good;
}

bool parse_attributes(PyObject* object, Tensor& out) {
    if (!is_true(PyObject_GetAttr(object, torch.s_is_cpu))) return false;
    PyObject* layout = PyObject_GetAttr(object, torch.s_layout);
    Py_XDECREF(layout);
    if (layout != torch.strided) {
        PyErr_Clear();
        return false;
    }
    PyObject* dtype = PyObject_GetAttr(object, torch.s_dtype);
    PyObject* code = dtype ? PyDict_GetItem(torch.dtypes, dtype) : nullptr;
    Py_XDECREF(dtype);
    if (!code) {
        PyErr_Clear();
        return false;
    }
    out.dtype = static_cast<DType>(PyLong_AsLong(code));
    int strides = 0;
    if (!numbers(PyObject_GetAttr(object, torch.s_shape), out.shape, out.ndim)) return false;
    if (!numbers(PyObject_CallMethodNoArgs(object, torch.s_stride), out.strides, strides)) return false;
    PyObject* pointer = PyObject_CallMethodNoArgs(object, torch.s_data_ptr);
    if (!pointer) {
        PyErr_Clear();
        return false;
    }
    out.data = PyLong_AsVoidPtr(pointer);
    Py_DECREF(pointer);
    return strides == out.ndim;
}

bool parse_exchange(PyObject* object, Tensor& out) {
    DLTensor view;
    if (torch.exchange->view(object, &view) != 0) {
        PyErr_Clear();
        return false;
    }
    if (view.device.type != kCPU || view.ndim > kMaxDims) return false;
    out.dtype = dtype_from(view.dtype);
    out.ndim = view.ndim;
    for (int i = 0; i < view.ndim; ++i) {
        out.shape[i] = view.shape[i];
        out.strides[i] = view.strides[i];
    }
    out.data = static_cast<char*>(view.data) + view.byte_offset;
    return view.data != nullptr || out.ndim > 0;
}

struct Owner {
    union {
        DLManaged managed;
        DLManagedLegacy legacy;
    };
    // Of capacity 0 where it lies behind this structure.
    Buffer buffer;
    int64_t shape[kMaxDims], strides[kMaxDims];
};

void free_owner(Owner* owner) {
    if (owner->buffer.capacity) release_buffer(owner->buffer);
    std::free(owner);
}

void free_capsule(PyObject* capsule) {
    // Renamed once torch has taken it.
    if (!PyCapsule_IsValid(capsule, "dltensor")) return;
    auto* legacy = static_cast<DLManagedLegacy*>(PyCapsule_GetPointer(capsule, "dltensor"));
    legacy->deleter(legacy);
}

}  // namespace

bool Tensor::contiguous() const {
    int64_t expected = 1;
    for (int i = ndim; i-- > 0;) {
        if (shape[i] != 1 && strides[i] != expected) return numel == 0;
        expected *= shape[i];
    }
    return true;
}

bool Tensor::same_shape(const Tensor& other) const {
    return ndim == other.ndim && std::memcmp(shape, other.shape, sizeof(int64_t) * static_cast<size_t>(ndim)) == 0;
}

size_t size_of(DType dtype) {
    switch (dtype) {
        case DType::float64:
        case DType::int64: return 8;
        case DType::bfloat16:
        case DType::float16: return 2;
        case DType::uint8:
        case DType::boolean: return 1;
        default: return 4;
    }
}

void connect(nb::handle tensor_type, nb::handle parameter_type, nb::handle exchange_api, nb::dict functions) {
    torch.tensor = reinterpret_cast<PyTypeObject*>(keep(tensor_type));
    torch.parameter = reinterpret_cast<PyTypeObject*>(keep(parameter_type));
    torch.exchange = nullptr;
    if (!exchange_api.is_none()) {
        auto* api = static_cast<const DLExchange*>(PyCapsule_GetPointer(keep(exchange_api), "dlpack_exchange_api"));
        if (!api) throw nb::python_error();
        while (api && api->version.major != 1) api = api->previous;
        if (api && api->view && api->import_managed) torch.exchange = api;
    }
    auto get = [&](const char* name) { return keep(functions[name]); };
    torch.interpreter = get("interpreter");
    torch.dispatch_modes = get("dispatch_modes");
    torch.function_modes = get("function_modes");
    torch.tracing = get("tracing");
    torch.autocast = get("autocast");
    torch.grad_enabled = get("grad_enabled");
    torch.threads = get("threads");
    torch.forward_ad = get("forward_ad");
    torch.from_dlpack = get("from_dlpack");
    torch.dtypes = get("dtypes");
    torch.strided = get("strided");
    torch.s_level = PyUnicode_InternFromString("_current_level");
    torch.s_requires_grad = PyUnicode_InternFromString("requires_grad");
    torch.s_is_neg = PyUnicode_InternFromString("is_neg");
    torch.s_data_ptr = PyUnicode_InternFromString("data_ptr");
    torch.s_shape = PyUnicode_InternFromString("shape");
    torch.s_stride = PyUnicode_InternFromString("stride");
    torch.s_dtype = PyUnicode_InternFromString("dtype");
    torch.s_is_cpu = PyUnicode_InternFromString("is_cpu");
    torch.s_layout = PyUnicode_InternFromString("layout");
}

bool uses_exchange_api() { return torch.exchange != nullptr; }

bool quiet() {
    if (!torch.tensor) return false;
    PyObject* level = PyObject_GetAttr(torch.forward_ad, torch.s_level);
    bool forward_ad = !level || PyLong_AsLong(level) >= 0;
    Py_XDECREF(level);
    if (PyErr_Occurred()) PyErr_Clear();
    return !forward_ad && nothing(torch.interpreter) && nothing(torch.dispatch_modes) && nothing(torch.function_modes) &&
           nothing(torch.tracing) && nothing(torch.autocast);
}

bool grad_enabled() { return is_true(PyObject_CallNoArgs(torch.grad_enabled)); }

bool requires_grad(nb::handle tensor) { return is_true(PyObject_GetAttr(tensor.ptr(), torch.s_requires_grad)); }

int torch_threads() {
    if (forked()) return 1;
    PyObject* result = PyObject_CallNoArgs(torch.threads);
    long threads = result ? PyLong_AsLong(result) : 1;
    Py_XDECREF(result);
    if (PyErr_Occurred()) PyErr_Clear();
    return threads < 1 ? 1 : static_cast<int>(threads);
}

bool parse_own(nb::handle handle, Tensor& out) {
    PyObject* object = handle.ptr();
    // A subclass may mean something else by its memory.
    if (Py_TYPE(object) != torch.tensor && Py_TYPE(object) != torch.parameter) return false;
    if (!(torch.exchange ? parse_exchange(object, out) : parse_attributes(object, out))) return false;
    out.numel = 1;
    for (int i = 0; i < out.ndim; ++i) out.numel *= out.shape[i];
    return out.dtype != DType::other && (out.numel == 0 || out.data);
}

bool parse(nb::handle handle, Tensor& out) {
    if (!parse_own(handle, out)) return false;
    if (out.dtype == DType::int64 || out.dtype == DType::uint8 || out.dtype == DType::boolean) return true;
    // A negative that has not been carried out yet: the memory holds the opposite sign.
    PyObject* negative = PyObject_CallMethodNoArgs(handle.ptr(), torch.s_is_neg);
    bool lazy = negative != Py_False;
    if (!negative) PyErr_Clear();
    Py_XDECREF(negative);
    return !lazy;
}

nb::object make_tensor(DType dtype, int ndim, const int64_t* shape, const int64_t* strides, Tensor& view) {
    view.dtype = dtype;
    view.ndim = ndim;
    view.numel = 1;
    for (int i = 0; i < ndim; ++i) view.numel *= shape[i];
    const size_t bytes = static_cast<size_t>(view.numel) * size_of(dtype);
    // What is small lies behind its owner, in one allocation.
    const bool pooled = bytes >= kPooled;
    auto* owner = static_cast<Owner*>(std::malloc(sizeof(Owner) + (pooled ? 0 : bytes + kAlignment)));
    if (!owner) throw std::bad_alloc();
    if (pooled) {
        owner->buffer = acquire_buffer(bytes);
        if (!owner->buffer.data) {
            std::free(owner);
            throw std::bad_alloc();
        }
    } else {
        auto behind = reinterpret_cast<uintptr_t>(owner + 1);
        owner->buffer = {reinterpret_cast<void*>((behind + kAlignment - 1) / kAlignment * kAlignment), 0};
    }
    int64_t expected = 1;
    for (int i = ndim; i-- > 0;) {
        owner->shape[i] = view.shape[i] = shape[i];
        owner->strides[i] = view.strides[i] = strides ? strides[i] : expected;
        expected *= shape[i];
    }
    view.data = owner->buffer.data;
    DLTensor tensor{view.data, {kCPU, 0}, ndim, dtype_to(dtype), owner->shape, owner->strides, 0};
    if (torch.exchange) {
        owner->managed = {{1, 0}, owner, [](DLManaged* self) { free_owner(static_cast<Owner*>(self->context)); }, 0, tensor};
        void* object = nullptr;
        if (torch.exchange->import_managed(&owner->managed, &object) != 0) throw nb::python_error();
        return nb::steal(static_cast<PyObject*>(object));
    }
    owner->legacy = {tensor, owner, [](DLManagedLegacy* self) { free_owner(static_cast<Owner*>(self->context)); }};
    nb::object capsule = nb::steal(PyCapsule_New(&owner->legacy, "dltensor", free_capsule));
    if (!capsule.is_valid()) throw nb::python_error();
    PyObject* object = PyObject_CallOneArg(torch.from_dlpack, capsule.ptr());
    if (!object) throw nb::python_error();
    return nb::steal(object);
}

nb::object make_scalar(double value, DType dtype) {
    Tensor view;
    nb::object result = make_tensor(dtype, 0, nullptr, nullptr, view);
    switch (dtype) {
        case DType::float64: *static_cast<double*>(view.data) = value; break;
        default: *static_cast<float*>(view.data) = static_cast<float>(value); break;
    }
    return result;
}

}  // namespace losskit
