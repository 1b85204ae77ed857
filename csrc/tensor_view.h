// A view of a tensor that belongs to Python: pointer, sizes, strides, element type, device. No torch headers:
// tensors come through DLPack (its C exchange table if the type has one, about 20 ns; its capsule otherwise)
// and numpy arrays through the buffer protocol, which serves read-only arrays too.
//
// This is the border: what passes it is safe to compute with. Here is checked what is true of any tensor; an op checks
// what it makes of shapes and of values. Values that it follows (slots, block numbers, lengths) may be written by another
// thread meanwhile: it copies them before it checks them, or checks them where it follows them too. What a tensor says of its own memory is believed:
// nobody may resize its storage during a call, as with torch's own functions.
#pragma once

#include <Python.h>

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>

namespace vz {

constexpr int kMaxDims = 6;

enum class Dtype { f32, bf16, f16, f64, u8, i32, i64, other };

constexpr const char* kDtypeNames[] = {"float32", "bfloat16", "float16", "float64", "uint8", "int32", "int64", "other"};
constexpr int kDtypeBytes[] = {4, 2, 2, 8, 1, 4, 8, 0};

inline const char* name(Dtype d) { return kDtypeNames[static_cast<int>(d)]; }
inline int bytes(Dtype d) { return kDtypeBytes[static_cast<int>(d)]; }

enum class Device { cpu, cuda, other };

// A user's mistake; becomes a Python ValueError.
struct BadArgument : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

// Strides count elements. `data` points at the first element. What is true of every view that an op gets: its element
// type is none of `other`, `data` is aligned to it, and no size, stride or product of sizes is above kMostBytes.
struct View {
  char* data = nullptr;
  int ndim = 0;
  int64_t shape[kMaxDims] = {};
  int64_t stride[kMaxDims] = {};
  Dtype dtype = Dtype::other;
  Device device = Device::cpu;
  int device_id = 0;
  bool read_only = false;
  int64_t low = 0, high = 0;  // bytes from `data` to the first byte of an element and to the end of the last; equal if empty

  template <class T>
  T* as() const { return reinterpret_cast<T*>(data); }
  bool empty() const { return low == high; }
};

// Bytes of a tensor, each repetition of a broadcast one counted: more than any machine addresses. Products of what is of
// one tensor do not overflow; those of several go through checked_product.
constexpr int64_t kMostBytes = int64_t{1} << 48;

// Borrows a tensor from a Python object, keeps what it borrows alive for as long as it lives, and reads its view.
class Borrowed {
 public:
  // May run Python code, that of the object's class. So all arguments of a call are borrowed before the first is read:
  // nothing can change between what is read, what is checked and what is used.
  Borrowed(const char* name, PyObject* object);
  ~Borrowed();
  Borrowed(const Borrowed&) = delete;
  Borrowed& operator=(const Borrowed&) = delete;
  // Runs no Python code. Throws BadArgument if the view is none that an op can get.
  const View& read();

 private:
  const char* name_;
  PyObject* object_;
  const struct ExchangeTable* table_ = nullptr;  // if the type has one
  View view_;
  PyObject* capsule_ = nullptr;
  Py_buffer buffer_ = {};
  bool has_buffer_ = false;
};

// One tensor of a call.
struct Given {
  const char* name;
  const View* view;
  bool written;
};

// Throws BadArgument unless all tensors are on one device of this kind, and each that is written may be written, has its
// memory for itself, and no element of it twice.
void check_call(const Given* given, int count, Device device);

// The stream that the tensor's framework works on now: nullptr on the CPU, or if the framework does not tell.
void* current_stream(PyObject* tensor, int device_id);

// A number that another thread may write meanwhile: read once, so that what is checked is what is used.
template <class T>
T read_once(const T* p) { return *static_cast<const volatile T*>(p); }

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
  int as_int(char letter) const;  // throws BadArgument if the size is above kMostInt

 private:
  static constexpr int kMax = 12;
  int count_ = 0;
  char letter_[kMax];
  int64_t size_[kMax];
  const char* owner_[kMax];
};

// Sizes that are counted by an int: a power of two below its end, so that a block more does not overflow.
constexpr int kMostInt = 1 << 30;
int checked_int(const char* what, int64_t size);
// The product, none of whose factors is negative. Throws BadArgument if it does not fit.
int64_t checked_product(const char* what, std::initializer_list<int64_t> factors);

struct Named { const char* name; const View& view; };

inline bool is_float(Dtype d) { return d == Dtype::f32 || d == Dtype::bf16 || d == Dtype::f16; }
std::string shape_text(const View& view);
void want_float(const char* name, const View& view);
void want_dtype(const char* name, const View& view, Dtype dtype);
void want_last_contiguous(const char* name, const View& view);
void want_contiguous(const char* name, const View& view);

}  // namespace vz
