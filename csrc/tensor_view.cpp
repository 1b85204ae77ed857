#include "tensor_view.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace vz {

// The DLPack 1.x binary interface, as far as it is used here.
struct DLDevice { int32_t device_type; int32_t device_id; };
struct DLDataType { uint8_t code, bits; uint16_t lanes; };
struct DLTensor {
  void* data; DLDevice device; int32_t ndim; DLDataType dtype; int64_t* shape; int64_t* strides; uint64_t byte_offset;
};
struct DLManagedTensor { DLTensor dl_tensor; void* manager_ctx; void (*deleter)(DLManagedTensor*); };
struct DLVersion { uint32_t major, minor; };
struct DLManagedTensorVersioned {
  DLVersion version; void* manager_ctx; void (*deleter)(DLManagedTensorVersioned*); uint64_t flags; DLTensor dl_tensor;
};
struct ExchangeTable {
  DLVersion version;
  void* previous;
  void* allocate;
  void* from_object_managed;
  void* to_object;
  int (*from_object)(void* object, DLTensor* out);
  int (*current_stream)(int32_t device_type, int32_t device_id, void** out);
};

namespace {

constexpr int32_t kDLCPU = 1, kDLCUDA = 2, kDLCUDAHost = 3;
constexpr uint64_t kReadOnly = 1, kCopied = 2;  // a copy that is written is lost
constexpr const char *kCapsule = "dltensor", *kVersionedCapsule = "dltensor_versioned";

// A reference that is given back.
class Ref {
 public:
  explicit Ref(PyObject* object) : object_(object) {}
  ~Ref() { Py_XDECREF(object_); }
  Ref(const Ref&) = delete;
  Ref& operator=(const Ref&) = delete;
  operator PyObject*() const { return object_; }

 private:
  PyObject* object_;
};

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

void check_ndim(const char* name, int64_t ndim) {
  if (ndim < 0 || ndim > kMaxDims)
    throw BadArgument(std::string(name) + " has " + std::to_string(ndim) + " dimensions, at most " +
                      std::to_string(kMaxDims) + " are possible");
}

void read_dlpack(const char* name, const DLTensor& t, View& v) {
  check_ndim(name, t.ndim);
  v.data = static_cast<char*>(t.data);
  if (v.data) v.data += t.byte_offset;
  v.ndim = t.ndim;
  for (int i = 0; i < t.ndim; ++i) {
    v.shape[i] = t.shape[i];
    v.stride[i] = t.strides ? t.strides[i] : 0;
  }
  if (!t.strides) {  // the elements are in the order of the dimensions; what overflows is refused as too large
    uint64_t dense = 1;
    for (int i = t.ndim - 1; i >= 0; --i) {
      v.stride[i] = static_cast<int64_t>(dense);
      dense *= static_cast<uint64_t>(t.shape[i]);
    }
  }
  v.dtype = dtype_of(t.dtype);
  const int32_t type = t.device.device_type;
  v.device = type == kDLCPU || type == kDLCUDAHost ? Device::cpu : type == kDLCUDA ? Device::cuda : Device::other;
  v.device_id = v.device == Device::cpu ? 0 : t.device.device_id;
}

// The exchange table of a type, or nullptr. One type is remembered: tensors are nearly all of one type.
const ExchangeTable* exchange_table(PyTypeObject* type) {
  static PyTypeObject* known_type = nullptr;
  static const ExchangeTable* known = nullptr;
  if (type == known_type) return known;
  const ExchangeTable* table = nullptr;
  const Ref capsule(PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__dlpack_c_exchange_api__"));
  if (capsule) {
    table = static_cast<const ExchangeTable*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
    if (table && (table->version.major != 1 || !table->from_object)) table = nullptr;
  }
  PyErr_Clear();
  Py_INCREF(type);  // a type that is remembered must not be replaced by another at the same address
  PyTypeObject* const forgotten = known_type;
  known_type = type;
  known = table;
  Py_XDECREF(forgotten);  // last, because its destructor may come back here
  return table;
}

Dtype dtype_of_buffer(const Py_buffer& buffer) {
  const char* format = buffer.format;
  Dtype dtype = Dtype::other;
  switch (format ? (std::strlen(format) == 1 ? format[0] : '?') : 'B') {
    case 'B': dtype = Dtype::u8; break;
    case 'f': dtype = Dtype::f32; break;
    case 'd': dtype = Dtype::f64; break;
    case 'e': dtype = Dtype::f16; break;
    case 'i': dtype = Dtype::i32; break;
    case 'l': case 'q': dtype = Dtype::i64; break;
    default: break;
  }
  return buffer.itemsize == bytes(dtype) ? dtype : Dtype::other;
}

void read_buffer(const char* name, const Py_buffer& buffer, View& v) {
  check_ndim(name, buffer.ndim);
  v.data = static_cast<char*>(buffer.buf);
  v.ndim = buffer.ndim;
  v.dtype = dtype_of_buffer(buffer);
  v.read_only = buffer.readonly;
  for (int i = 0; i < buffer.ndim; ++i) {
    v.shape[i] = buffer.shape[i];
    if (v.dtype == Dtype::other) continue;
    v.stride[i] = buffer.strides[i] / buffer.itemsize;
    if (buffer.strides[i] % buffer.itemsize && v.shape[i] > 1)
      throw BadArgument(std::string(name) + " has a stride of " + std::to_string(buffer.strides[i]) +
                        " bytes, which is not a multiple of its elements: copy it");
  }
}

// The capsule of object.__dlpack__(), which may be of the first version or of the one that knows read-only memory.
PyObject* dlpack_capsule(PyObject* object) {
  const Ref method(PyObject_GetAttrString(object, "__dlpack__"));
  if (!method) return nullptr;
  const Ref none(PyTuple_New(0)), newest(Py_BuildValue("{s(ii)}", "max_version", 1, 0));
  if (!none || !newest) return nullptr;
  PyObject* capsule = PyObject_Call(method, none, newest);
  if (capsule || !PyErr_ExceptionMatches(PyExc_TypeError)) return capsule;
  PyErr_Clear();  // it is older than that argument
  return PyObject_CallObject(method, nullptr);
}

std::string strides_text(const View& view) {
  std::string text = "(";
  for (int i = 0; i < view.ndim; ++i) text += (i ? ", " : "") + std::to_string(view.stride[i]);
  return text + ")";
}

// Finds where the view's memory begins and ends, and checks all that View promises.
void measure(const char* name, View& v) {
  if (v.dtype == Dtype::other)
    throw BadArgument(std::string(name) +
                      " must be float32, bfloat16, float16, float64, uint8, int32 or int64, got another element type");
  const int64_t size = bytes(v.dtype);
  int64_t total = size, low = 0, high = size;
  bool empty = false, too_large = false;
  for (int i = 0; i < v.ndim; ++i) {
    const int64_t n = v.shape[i];
    if (n < 0) throw BadArgument(std::string(name) + " has a negative size: " + shape_text(v));
    if (n == 0) empty = true;
    if (n < 2) {  // its stride does not count; one that could overflow is not kept
      if (v.stride[i] > kMostBytes || v.stride[i] < -kMostBytes) v.stride[i] = 0;
      continue;
    }
    int64_t reach;
    too_large = too_large || __builtin_mul_overflow(total, n, &total) || total > kMostBytes ||
                __builtin_mul_overflow(v.stride[i], size * (n - 1), &reach) || reach > kMostBytes || reach < -kMostBytes;
    if (too_large) break;
    (reach < 0 ? low : high) += reach;
  }
  if (too_large)
    throw BadArgument(std::string(name) + " is too large: shape " + shape_text(v) + ", strides " + strides_text(v));
  if (empty) return;
  if (!v.data) throw BadArgument(std::string(name) + " has no memory: its storage was freed, or it never had one");
  if (reinterpret_cast<uintptr_t>(v.data) % static_cast<uintptr_t>(size))
    throw BadArgument(std::string(name) + " does not begin at a multiple of its " + std::to_string(size) +
                      "-byte elements: copy it");
  v.low = low;
  v.high = high;
}

// Whether two elements of the view may be one. Dimensions are taken from the least stride on; each must step over all
// that the ones before it reach.
bool folds(const View& v) {
  int order[kMaxDims], count = 0;
  for (int i = 0; i < v.ndim; ++i) {
    if (v.shape[i] < 2) continue;
    int at = count++;
    for (; at > 0 && std::abs(v.stride[order[at - 1]]) > std::abs(v.stride[i]); --at) order[at] = order[at - 1];
    order[at] = i;
  }
  int64_t reach = 1;
  for (int at = 0; at < count; ++at) {
    const int64_t stride = std::abs(v.stride[order[at]]);
    if (stride < reach) return true;
    reach += (v.shape[order[at]] - 1) * stride;
  }
  return false;
}

// The bytes of a view modulo `period`: dimensions that step by multiples of it only repeat what the others touch.
struct Residue { int64_t begin, length; };
Residue modulo(const View& v, int64_t period) {
  const int64_t size = bytes(v.dtype);
  int64_t low = 0, high = size;
  for (int i = 0; i < v.ndim; ++i) {
    const int64_t stride = v.stride[i] * size;
    if (v.shape[i] > 1 && stride % period) (stride < 0 ? low : high) += (v.shape[i] - 1) * stride;
  }
  const int64_t begin = static_cast<int64_t>((reinterpret_cast<uintptr_t>(v.data) + static_cast<uintptr_t>(low)) %
                                             static_cast<uintptr_t>(period));
  return {begin, high - low};
}

// Whether a and b, whose memory is entangled, are surely apart: columns of one matrix, say, or the q and k of one
// projection. The stride of either is tried as the period of both.
bool interleaved(const View& a, const View& b) {
  for (const View* v : {&a, &b})
    for (int i = 0; i < v->ndim; ++i) {
      const int64_t period = std::abs(v->stride[i]) * bytes(v->dtype);
      if (v->shape[i] < 2 || period == 0) continue;
      const Residue of_a = modulo(a, period), of_b = modulo(b, period);
      const int64_t distance = (of_b.begin - of_a.begin + period) % period;
      if (distance >= of_a.length && distance + of_b.length <= period) return true;
    }
  return false;
}

bool share_memory(const View& a, const View& b) {
  if (a.empty() || b.empty()) return false;
  const char *a_begin = a.data + a.low, *a_end = a.data + a.high, *b_begin = b.data + b.low, *b_end = b.data + b.high;
  return a_begin < b_end && b_begin < a_end && !interleaved(a, b);
}

}  // namespace

Borrowed::Borrowed(const char* name, PyObject* object) : name_(name), object_(object) {
  table_ = exchange_table(Py_TYPE(object));
  if (table_) return;
  if (PyObject_CheckBuffer(object)) {
    if (PyObject_GetBuffer(object, &buffer_, PyBUF_STRIDED_RO | PyBUF_FORMAT) != 0) {
      PyErr_Clear();
      throw BadArgument(std::string(name) + " does not lend its buffer");
    }
    has_buffer_ = true;
    return;
  }
  capsule_ = dlpack_capsule(object);
  if (!capsule_) {
    PyErr_Clear();
    throw BadArgument(std::string(name) + " must be a tensor or an array that does not require gradients");
  }
}

Borrowed::~Borrowed() {
  Py_XDECREF(capsule_);  // never renamed, so its own destructor frees the managed tensor
  if (has_buffer_) PyBuffer_Release(&buffer_);
}

const View& Borrowed::read() {
  if (table_) {
    DLTensor t;
    if (table_->from_object(object_, &t) != 0) {
      PyErr_Clear();
      throw BadArgument(std::string(name_) + " has no memory that DLPack can lend: it must be a dense tensor on the CPU or a GPU");
    }
    read_dlpack(name_, t, view_);
  } else if (has_buffer_) {
    read_buffer(name_, buffer_, view_);
  } else if (PyCapsule_IsValid(capsule_, kVersionedCapsule)) {
    const auto* managed = static_cast<DLManagedTensorVersioned*>(PyCapsule_GetPointer(capsule_, kVersionedCapsule));
    if (managed->version.major != 1)
      throw BadArgument(std::string(name_) + " comes through DLPack " + std::to_string(managed->version.major) +
                        ", and vzoom knows version 1");
    read_dlpack(name_, managed->dl_tensor, view_);
    view_.read_only = managed->flags & (kReadOnly | kCopied);
  } else if (PyCapsule_IsValid(capsule_, kCapsule)) {
    read_dlpack(name_, static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule_, kCapsule))->dl_tensor, view_);
  } else {
    throw BadArgument(std::string(name_) + ": its __dlpack__ gives no DLPack capsule");
  }
  measure(name_, view_);
  return view_;
}

void check_call(const Given* given, int count, Device device) {
  for (int i = 0; i < count; ++i) {
    const View& view = *given[i].view;
    if (view.device != device)
      throw BadArgument(std::string(given[i].name) + " is not on " + (device == Device::cpu ? "the CPU" : "a GPU") +
                        ": move it there");
    if (view.device_id != given[0].view->device_id)
      throw BadArgument(std::string(given[i].name) + " is on GPU " + std::to_string(view.device_id) + " but " +
                        given[0].name + " is on GPU " + std::to_string(given[0].view->device_id));
    if (!given[i].written) continue;
    if (view.read_only)
      throw BadArgument(std::string(given[i].name) + " is read-only, or a copy was lent: it would be written");
    if (folds(view) && !view.empty())
      throw BadArgument(std::string(given[i].name) + " would be written, but some of its elements share memory: shape " +
                        shape_text(view) + ", strides " + strides_text(view));
    for (int j = 0; j < count; ++j)
      if (j != i && (j > i || !given[j].written) && share_memory(view, *given[j].view))
        throw BadArgument(std::string(given[i].name) + " would be written, but shares memory with " + given[j].name);
  }
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

int Dims::as_int(char letter) const {
  for (int i = 0; i < count_; ++i)
    if (letter_[i] == letter) return checked_int(owner_[i], size_[i]);
  throw std::logic_error("a dimension was never bound");
}

int checked_int(const char* what, int64_t size) {
  if (size > kMostInt)
    throw BadArgument(std::string(what) + " is too large: a size of " + std::to_string(size) + ", at most 2^30 is possible");
  return static_cast<int>(size);
}

int64_t checked_product(const char* what, std::initializer_list<int64_t> factors) {
  int64_t product = 1;
  for (const int64_t factor : factors)
    if (__builtin_mul_overflow(product, factor, &product)) throw BadArgument(std::string(what) + " is too much for one call");
  return product;
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

void want_contiguous(const char* name, const View& view) {
  int64_t dense = 1;
  for (int i = view.ndim - 1; i >= 0; --i) {
    if (view.shape[i] > 1 && view.stride[i] != dense)
      throw BadArgument(std::string(name) + " must be contiguous: call .contiguous() on it");
    dense *= std::max<int64_t>(view.shape[i], 1);
  }
}

}  // namespace vz
