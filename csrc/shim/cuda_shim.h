// As much of CUDA as the kernels in csrc/cuda use, on the CPU, so that g++ compiles the same .cu files and runs them:
// a grid is a loop over blocks, the threads of a block are fibers, barriers and warp shuffles switch between them.
//
// It finds: wrong indices and numbers, accesses of 16 bytes that are not aligned, writes beyond the shared memory that
// was asked for, shared memory read before it is written (it starts as NaN), barriers that not all threads reach,
// shuffles whose mask names a lane that is elsewhere or gone, a missing barrier if some order of threads shows it
// (three orders are tried). It cannot show: races within an order it does not try, the memory model, coalescing and bank
// conflicts, registers and spills (the resource check does), a GPU's own rounding of FMA and exp2f, any timing.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) uint4 { uint32_t x, y, z, w; };

namespace shim {

// Thrown in a fiber, reported by launch() as std::runtime_error.
struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Indices { dim3 thread, block, block_size; };
const Indices& here();  // of the running fiber
void barrier();         // __syncthreads
// Gives `bits` to the lanes of `mask` and returns what lane `from` gave.
uint64_t exchange(unsigned mask, uint64_t bits, int from, const char* name);
int lane();
unsigned char* dynamic_shared();
void launch(const std::function<void()>& kernel, dim3 grid, dim3 block, size_t shared_bytes);
void set_order(const std::string& order);  // "forward", "backward", "shuffled"

inline void check_aligned(const void* p, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(p) % bytes) throw Fault("an access of " + std::to_string(bytes) + " bytes is not aligned");
}

}  // namespace shim

#define threadIdx (shim::here().thread)
#define blockIdx (shim::here().block)
#define blockDim (shim::here().block_size)

inline void __syncthreads() { shim::barrier(); }

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32) {
  static_assert(sizeof(T) <= 8, "shuffles move at most 8 bytes");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  const int lane = shim::lane(), from = lane ^ lane_mask;
  // As on the GPU, a source outside of the lane's segment gives the lane's own value.
  const bool inside = from / width == lane / width;
  bits = shim::exchange(mask, bits, inside ? from : lane, "__shfl_xor_sync");
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

// bfloat16 and float16, rounded to nearest even as the GPU's conversions do.
struct __nv_bfloat16 { uint16_t bits; };
struct __half { _Float16 value; };

inline float __bfloat162float(__nv_bfloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline __nv_bfloat16 __float2bfloat16(float value) {
  if (value != value) return {0x7fff};
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}
inline float __half2float(__half x) { return static_cast<float>(x.value); }
inline __half __float2half(float value) { return {static_cast<_Float16>(value)}; }

// The runtime, as far as launch.h uses it.
using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0 };
inline cudaError_t cudaGetDevice(int* device) { *device = 0; return cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }
