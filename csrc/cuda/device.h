// What device code shares: element types, accesses of 16 bytes. Compiled by nvcc, and by g++ with -DVZ_SHIM.
//
// A Pack is 16 bytes of elements. If rows start on 16 bytes and hold whole packs (WIDE, decided on the host) a pack
// is one access; else its elements are moved one by one. Both are instances of the same kernels.
#pragma once

#include <cstdint>

#ifdef VZ_SHIM
#include "../shim/cuda_shim.h"
#define VZ_CHECK_ALIGNED(p, bytes) shim::check_aligned(p, bytes)
#define VZ_DYNAMIC_SHARED(name) unsigned char* const name = shim::dynamic_shared()
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define VZ_CHECK_ALIGNED(p, bytes)
#define VZ_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

namespace vz::gpu {

using bf16 = __nv_bfloat16;
using half = __half;
constexpr unsigned kAllLanes = 0xffffffffu;

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(half x) { return __half2float(x); }

template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) { return x; }
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) { return __float2bfloat16(x); }
template <>
__device__ __forceinline__ half from_float<half>(float x) { return __float2half(x); }

template <class T>
struct alignas(16) Pack {
  static constexpr int N = 16 / sizeof(T);
  T x[N];
};

// `count` elements at p, the rest of the pack zero bits. WIDE: count is ignored, all are there.
template <bool WIDE, class T>
__device__ __forceinline__ Pack<T> load_pack(const T* p, int count) {
  Pack<T> pack;
  if constexpr (WIDE) {
    VZ_CHECK_ALIGNED(p, 16);
    *reinterpret_cast<uint4*>(&pack) = *reinterpret_cast<const uint4*>(p);
  } else {
    *reinterpret_cast<uint4*>(&pack) = uint4{0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < Pack<T>::N; ++i)
      if (i < count) pack.x[i] = p[i];
  }
  return pack;
}

template <bool WIDE, class T>
__device__ __forceinline__ void store_pack(T* p, const Pack<T>& pack, int count) {
  if constexpr (WIDE) {
    VZ_CHECK_ALIGNED(p, 16);
    *reinterpret_cast<uint4*>(p) = *reinterpret_cast<const uint4*>(&pack);
  } else {
#pragma unroll
    for (int i = 0; i < Pack<T>::N; ++i)
      if (i < count) p[i] = pack.x[i];
  }
}

// N values of type C as floats; WIDE: in accesses of 16 bytes.
template <bool WIDE, int N, class C>
__device__ __forceinline__ void load_floats(const C* p, int count, float (&out)[N]) {
  constexpr int M = Pack<C>::N;
  static_assert(N % M == 0 || !WIDE, "whole packs");
  if constexpr (WIDE) {
#pragma unroll
    for (int i = 0; i < N / M; ++i) {
      const Pack<C> pack = load_pack<true>(p + i * M, M);
#pragma unroll
      for (int j = 0; j < M; ++j) out[i * M + j] = to_float(pack.x[j]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) out[i] = i < count ? to_float(p[i]) : 0.f;
  }
}

// (first, second) of the pairs (i, i + R) turned by their angles, in float32 and rounded once.
template <class T>
__device__ __forceinline__ void rotate(Pack<T>& first, Pack<T>& second, const float* cos, const float* sin) {
#pragma unroll
  for (int i = 0; i < Pack<T>::N; ++i) {
    const float a = to_float(first.x[i]), b = to_float(second.x[i]);
    first.x[i] = from_float<T>(a * cos[i] - b * sin[i]);
    second.x[i] = from_float<T>(b * cos[i] + a * sin[i]);
  }
}

}  // namespace vz::gpu
