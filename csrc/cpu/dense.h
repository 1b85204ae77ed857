// What surrounds attention in a layer, for few rows: projections, norms and gates; one table per instruction set.
#pragma once

#include <cstdint>

#include "../tensor_view.h"

namespace vz {

constexpr int kWeightRowsAtOnce = 64;

// sums[t * kWeightRowsAtOnce + n] = x[t] . w[n] in float32, of `rows` rows of x that `pack` has laid out.
struct Dots {
  const char* packed;
  int rows;
  const char* w;
  int64_t w_stride;  // in elements
  int weight_rows;   // at most kWeightRowsAtOnce
  int size;
  float* sums;
};

// out[t][n] = sums + bias, or silu(gates + gate_bias) * (sums + bias), + add[t][n]; null for what is not given.
struct Finish {
  const float *sums, *gates;
  const char *bias, *gate_bias, *add;
  char* out;
  int count;
};

struct DenseKernels {
  // At most 4 (size + 32) bytes per row; `stride` of x in elements.
  void (*pack)(Dtype, const char* x, int64_t stride, int rows, int size, char* packed);
  void (*dots)(Dtype, const Dots&);
  void (*finish)(Dtype, const Finish&);  // of one row
  void (*rms_norm)(Dtype, const char* x, const char* weight, float epsilon, char* out, int size);
  void (*silu_mul)(Dtype, char* gate, const char* up, int64_t size);
};

const DenseKernels& dense_kernels();

}  // namespace vz
