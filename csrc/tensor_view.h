// A view of a tensor that belongs to Python: pointer, sizes, strides, element type, device. No torch headers:
// tensors come through DLPack (its C exchange table if the type has one, about 20 ns; its capsule otherwise)
// and numpy arrays through the buffer protocol, which serves read-only arrays too.
#pragma once

#include <Python.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace vz {

constexpr int kMaxDims = 6;

enum class Dtype { f32, bf16, f16, f64, u8, i32, i64, other };

constexpr const char* kDtypeNames[] = {"float32", "bfloat16", "float16", "float64", "uint8", "int32", "int64", "other"};
constexpr int kDtypeBytes[] = {4, 2, 2, 8, 1, 4, 8, 0};

inline const char* name(Dtype d) { return kDtypeNames[static_cast<int>(d)]; }
inline int bytes(Dtype d) { return kDtypeBytes[static_cast<int>(d)]; }

// A user's mistake; becomes a Python ValueError.
struct BadArgument : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

// Strides count elements. `data` points at the first element.
struct View {
  char* data = nullptr;
  int ndim = 0;
  int64_t shape[kMaxDims] = {};
  int64_t stride[kMaxDims] = {};
  Dtype dtype = Dtype::other;
  bool on_cpu = true;
  int device_id = 0;

  template <class T>
  T* as() const { return reinterpret_cast<T*>(data); }
};

// Reads a view from a Python object and keeps what it borrows alive for as long as it lives.
class Borrowed {
 public:
  Borrowed(const char* name, PyObject* object);
  ~Borrowed();
  Borrowed(const Borrowed&) = delete;
  Borrowed& operator=(const Borrowed&) = delete;
  const View& operator*() const { return view_; }
  const View* operator->() const { return &view_; }

 private:
  View view_;
  PyObject* capsule_ = nullptr;
  Py_buffer buffer_ = {};
  bool has_buffer_ = false;
};

// The stream that the tensor's framework works on now: nullptr on the CPU, or if the framework does not tell.
void* current_stream(PyObject* tensor, int device_id);

// Named dimensions: "THD" gives each dimension of a view a letter; the same letter must have the same size
// everywhere. '.' matches any size. The legend, for every name, check and comment of csrc (kernels/layout.py has the same):
//
//   L  layers                         T  tokens, those of all sequences one after the other
//   N  blocks (pages)                 S  sequences
//   P  tokens per page                B  blocks per row of the block table [S, B]
//   H  query heads                    Q  queries of one sequence in a call
//   G  key/value heads                K  keys of one sequence
//   D  head_dim                       R  rotated pairs (i, i + R) of a head, D / 2
//   C  copies of blocks               X  pieces that a context is cut into
//   I  inputs of a projection         O  outputs of a projection
//   F  features of an MLP
//
// Images have letters of their own: frames [N, H, W, C]; E values of a patch, and R rows of them. Pages are
// [N, G, P, D] on the CPU and [N, P, G, D] on a GPU, with L in front if they are those of all layers.
class Dims {
 public:
  void bind(const char* name, const View& view, const char* letters);
  int64_t operator[](char letter) const;

 private:
  static constexpr int kMax = 12;
  int count_ = 0;
  char letter_[kMax];
  int64_t size_[kMax];
  const char* owner_[kMax];
};

struct Named { const char* name; const View& view; };

inline bool is_float(Dtype d) { return d == Dtype::f32 || d == Dtype::bf16 || d == Dtype::f16; }
std::string shape_text(const View& view);
void want_float(const char* name, const View& view);
void want_dtype(const char* name, const View& view, Dtype dtype);
void want_cpu(const char* name, const View& view);
void want_last_contiguous(const char* name, const View& view);
void want_contiguous(const char* name, const View& view);

}  // namespace vz
