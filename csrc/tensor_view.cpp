#include "tensor_view.h"

#include <cstring>

namespace vz {
namespace {

// The DLPack 1.x binary interface, as far as it is used here.
struct DLDevice { int32_t device_type; int32_t device_id; };
struct DLDataType { uint8_t code, bits; uint16_t lanes; };
struct DLTensor {
  void* data; DLDevice device; int32_t ndim; DLDataType dtype; int64_t* shape; int64_t* strides; uint64_t byte_offset;
};
struct DLManagedTensor { DLTensor dl_tensor; void* manager_ctx; void (*deleter)(DLManagedTensor*); };
struct ExchangeTable {
  struct { uint32_t major, minor; } version;
  void* previous;
  void* allocate;
  void* from_object_managed;
  void* to_object;
  int (*from_object)(void* object, DLTensor* out);
  int (*current_stream)(int32_t device_type, int32_t device_id, void** out);
};
constexpr int32_t kDLCPU = 1, kDLCUDA = 2, kDLCUDAHost = 3;

Dtype dtype_of(DLDataType t) {
  if (t.lanes != 1) return Dtype::other;
  switch (t.code << 8 | t.bits) {
    case 2 << 8 | 32: return Dtype::f32;
    case 2 << 8 | 16: return Dtype::f16;
    case 2 << 8 | 64: return Dtype::f64;
    case 4 << 8 | 16: return Dtype::bf16;
    case 1 << 8 | 8: return Dtype::u8;
    case 0 << 8 | 32: return Dtype::i32;
    case 0 << 8 | 64: return Dtype::i64;
    default: return Dtype::other;
  }
}

View view_of(const char* name, const DLTensor& t) {
  if (t.ndim > kMaxDims) throw BadArgument(std::string(name) + " has " + std::to_string(t.ndim) + " dimensions");
  View v;
  v.data = static_cast<char*>(t.data) + t.byte_offset;
  v.ndim = t.ndim;
  int64_t dense = 1;
  for (int i = t.ndim - 1; i >= 0; --i) {
    v.shape[i] = t.shape[i];
    v.stride[i] = t.strides ? t.strides[i] : dense;
    dense *= t.shape[i];
  }
  v.dtype = dtype_of(t.dtype);
  v.on_cpu = t.device.device_type == kDLCPU || t.device.device_type == kDLCUDAHost;
  v.device_id = t.device.device_id;
  return v;
}

// The exchange table of a type, or nullptr. One type is remembered: tensors are nearly all of one type.
const ExchangeTable* exchange_table(PyTypeObject* type) {
  static PyTypeObject* known_type = nullptr;
  static const ExchangeTable* known = nullptr;
  if (type == known_type) return known;
  const ExchangeTable* table = nullptr;
  PyObject* capsule = PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__dlpack_c_exchange_api__");
  if (capsule) {
    table = static_cast<const ExchangeTable*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
    if (table && (table->version.major != 1 || !table->from_object)) table = nullptr;
    Py_DECREF(capsule);
  }
  PyErr_Clear();
  Py_INCREF(type);  // a type that is remembered must not be replaced by another at the same address
  Py_XDECREF(known_type);
  known_type = type;
  return known = table;
}

Dtype dtype_of_buffer(const char* format) {
  const char c = format ? (std::strlen(format) == 1 ? format[0] : '?') : 'B';
  switch (c) {
    case 'B': return Dtype::u8;
    case 'f': return Dtype::f32;
    case 'd': return Dtype::f64;
    case 'e': return Dtype::f16;
    case 'i': return Dtype::i32;
    case 'l': case 'q': return Dtype::i64;
    default: return Dtype::other;
  }
}

}  // namespace

Borrowed::Borrowed(const char* name, PyObject* object) {
  if (const ExchangeTable* table = exchange_table(Py_TYPE(object))) {
    DLTensor t;
    if (table->from_object(object, &t) != 0) {
      PyErr_Clear();
      throw BadArgument(std::string(name) + " cannot be exchanged through DLPack (does it require gradients?)");
    }
    view_ = view_of(name, t);
    return;
  }
  if (PyObject_CheckBuffer(object)) {
    if (PyObject_GetBuffer(object, &buffer_, PyBUF_STRIDED_RO | PyBUF_FORMAT) != 0) {
      PyErr_Clear();
      throw BadArgument(std::string(name) + " does not lend its buffer");
    }
    has_buffer_ = true;
    if (buffer_.ndim > kMaxDims) {
      PyBuffer_Release(&buffer_);  // the destructor does not run for an object that was never made
      throw BadArgument(std::string(name) + " has too many dimensions");
    }
    view_.data = static_cast<char*>(buffer_.buf);
    view_.ndim = buffer_.ndim;
    for (int i = 0; i < buffer_.ndim; ++i) {
      view_.shape[i] = buffer_.shape[i];
      view_.stride[i] = buffer_.strides[i] / buffer_.itemsize;
    }
    view_.dtype = dtype_of_buffer(buffer_.format);
    return;
  }
  capsule_ = PyObject_CallMethod(object, "__dlpack__", nullptr);
  auto* managed = capsule_ ? static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule_, "dltensor")) : nullptr;
  if (!managed) {
    PyErr_Clear();
    Py_CLEAR(capsule_);
    throw BadArgument(std::string(name) + " must be a tensor or an array that does not require gradients");
  }
  view_ = view_of(name, managed->dl_tensor);
}

Borrowed::~Borrowed() {
  Py_XDECREF(capsule_);  // never renamed, so its own destructor frees the managed tensor
  if (has_buffer_) PyBuffer_Release(&buffer_);
}

void* current_stream(PyObject* tensor, int device_id) {
  const ExchangeTable* table = exchange_table(Py_TYPE(tensor));
  void* stream = nullptr;
  if (table && table->current_stream && table->current_stream(kDLCUDA, device_id, &stream) != 0) PyErr_Clear();
  return stream;
}

std::string shape_text(const View& view) {
  std::string text = "[";
  for (int i = 0; i < view.ndim; ++i) text += (i ? ", " : "") + std::to_string(view.shape[i]);
  return text + "]";
}

void Dims::bind(const char* name, const View& view, const char* letters) {
  if (view.ndim != static_cast<int>(std::strlen(letters)))
    throw BadArgument(std::string(name) + " must have dimensions [" + letters + "], got shape " + shape_text(view));
  for (int i = 0; i < view.ndim; ++i) {
    if (letters[i] == '.') continue;
    int at = 0;
    while (at < count_ && letter_[at] != letters[i]) ++at;
    if (at == count_) {
      if (count_ == kMax) throw std::logic_error("too many letters");
      letter_[at] = letters[i];
      size_[at] = view.shape[i];
      owner_[at] = name;
      ++count_;
    } else if (size_[at] != view.shape[i]) {
      throw BadArgument(std::string(name) + " has " + letters[i] + " = " + std::to_string(view.shape[i]) + " but " +
                        owner_[at] + " has " + letters[i] + " = " + std::to_string(size_[at]) + " (" + name + ": " +
                        shape_text(view) + ")");
    }
  }
}

int64_t Dims::operator[](char letter) const {
  for (int i = 0; i < count_; ++i)
    if (letter_[i] == letter) return size_[i];
  throw std::logic_error("a dimension was never bound");
}

void want_float(const char* name, const View& view) {
  if (!is_float(view.dtype))
    throw BadArgument(std::string(name) + " must be float32, bfloat16 or float16, got " + vz::name(view.dtype));
}

void want_dtype(const char* name, const View& view, Dtype dtype) {
  if (view.dtype != dtype)
    throw BadArgument(std::string(name) + " must be " + vz::name(dtype) + ", got " + vz::name(view.dtype));
}

void want_last_contiguous(const char* name, const View& view) {
  if (view.ndim && view.shape[view.ndim - 1] > 1 && view.stride[view.ndim - 1] != 1)
    throw BadArgument(std::string("the last dimension of ") + name + " must be contiguous, got stride " +
                      std::to_string(view.stride[view.ndim - 1]));
}

void want_cpu(const char* name, const View& view) {
  if (!view.on_cpu) throw BadArgument(std::string(name) + " is not on the CPU: move it there");
}

void want_contiguous(const char* name, const View& view) {
  int64_t dense = 1;
  for (int i = view.ndim - 1; i >= 0; --i) {
    if (view.shape[i] > 1 && view.stride[i] != dense)
      throw BadArgument(std::string(name) + " must be contiguous: call .contiguous() on it");
    dense *= view.shape[i];
  }
}

}  // namespace vz
