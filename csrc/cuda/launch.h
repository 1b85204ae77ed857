// What the host side of the CUDA kernels shares: launching on the tensors' device and stream, choosing instances.
#pragma once

#include <cstdint>
#include <string>

#include "../tensor_view.h"
#include "device.h"

namespace vz::gpu {

// The device of the tensors is current for as long as this lives.
class OnDevice {
 public:
  explicit OnDevice(int device) : device_(device) {
    if (cudaGetDevice(&before_) == cudaSuccess && before_ != device) cudaSetDevice(device);
  }
  ~OnDevice() {
    if (before_ != device_) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int device_, before_ = 0;
};

// Asynchronous: allocates nothing, waits for nothing, so it can be captured in a CUDA graph.
template <class... P>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, void* stream, P... arguments) {
#ifdef VZ_SHIM
  (void)stream;
  shim::launch([&] { kernel(arguments...); }, grid, block, shared_bytes);
#else
  kernel<<<grid, block, shared_bytes, static_cast<cudaStream_t>(stream)>>>(arguments...);
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA kernel launch: ") + cudaGetErrorString(error));
#endif
}

template <class T>
struct Type { using type = T; };

// Calls f(Type<float>), f(Type<bf16>) or f(Type<half>).
template <class F>
void with_type(const char* name, Dtype dtype, F&& f) {
  switch (dtype) {
    case Dtype::f32: return f(Type<float>());
    case Dtype::bf16: return f(Type<bf16>());
    case Dtype::f16: return f(Type<half>());
    default:
      throw BadArgument(std::string(name) + " must be float32, bfloat16 or float16 for CUDA, got " + vz::name(dtype));
  }
}

// Calls f(std::true_type) or f(std::false_type).
template <class F>
void with_bool(bool value, F&& f) {
  value ? f(std::true_type()) : f(std::false_type());
}

// Whether every row of `v` (all dimensions but the last) starts on 16 bytes.
inline bool rows_aligned(const View& v) {
  if (reinterpret_cast<uintptr_t>(v.data) % 16) return false;
  for (int i = 0; i + 1 < v.ndim; ++i)
    if (v.shape[i] > 1 && v.stride[i] * bytes(v.dtype) % 16) return false;
  return true;
}

// For sizes of grids, which are ints.
inline int ceil_div(int64_t a, int64_t b) { return checked_int("the work of one call", (a + b - 1) / b); }

// The strides of pages of one layer, [blocks, block_size, kv_heads, head_dim]; `first` skips a layer dimension.
struct PageStrides { int64_t layer = 0, block = 0, offset = 0, head = 0; };
inline PageStrides page_strides(const View& v) {
  const int first = v.ndim - 4;
  return {first ? v.stride[0] : 0, v.stride[first], v.stride[first + 1], v.stride[first + 2]};
}

}  // namespace vz::gpu
