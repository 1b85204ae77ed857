// out = x weight^T + bias, gated or not, + add; formula, shapes and bytes in kernels/linear/op.py.

#include <algorithm>
#include <string>
#include <vector>

#include "../op.h"
#include "dense.h"
#include "threads.h"

namespace vz {
namespace {

constexpr int kRowsTogether = 16;  // of x that share one reading of the weights

struct Linear {
  View x, weight;
  Maybe bias, gate, gate_bias, add;
  Out out;
  VZ_ARGUMENTS(x, weight, bias, gate, gate_bias, add, out)
};

void check(const char* name, const View& view, const char* letters, Dtype dtype, Dims& dims) {
  dims.bind(name, view, letters);
  want_dtype(name, view, dtype);
  want_last_contiguous(name, view);
}

void linear(const Linear& a) {
  want_float("x", a.x);
  if (a.gate_bias && !a.gate) throw BadArgument("gate_bias is given, but no gate");
  Dims dims;
  check("x", a.x, "TI", a.x.dtype, dims);
  check("weight", a.weight, "OI", a.x.dtype, dims);
  if (a.bias) check("bias", *a.bias, "O", a.x.dtype, dims);
  if (a.gate) check("gate", *a.gate, "OI", a.x.dtype, dims);
  if (a.gate_bias) check("gate_bias", *a.gate_bias, "O", a.x.dtype, dims);
  if (a.add) check("add", *a.add, "TO", a.x.dtype, dims);
  check("out", a.out, "TO", a.x.dtype, dims);
  const DenseKernels& run = dense_kernels();
  const Dtype dtype = a.x.dtype;
  const int64_t e = bytes(dtype), tokens = dims['T'], outputs = dims['O'];
  const int size = dims.as_int('I');
  if (tokens == 0 || outputs == 0) return;
  const int64_t num_blocks = (outputs + kWeightRowsAtOnce - 1) / kWeightRowsAtOnce;
  const auto row = [e](const View& view, int64_t t) {
    return view.empty() ? view.data : view.data + t * view.stride[0] * e;
  };
  // Element n of row t; null for what is not given. A bias has one row.
  const auto maybe = [e](const Maybe& view, int64_t t, int64_t n) {
    return view ? view->data + (t ? t * view->stride[0] + n : n) * e : nullptr;
  };
  std::vector<char> memory(std::min<int64_t>(tokens, kRowsTogether) * 4 * (size + 32) + 64);
  char* packed = memory.data() + 64 - reinterpret_cast<int64_t>(memory.data()) % 64;
  int64_t first = 0;  // of the rows of x that are packed
  int rows = 0;
  const auto work = [&](int64_t begin, int64_t end) {
    float sums[kRowsTogether * kWeightRowsAtOnce], gates[kRowsTogether * kWeightRowsAtOnce];
    for (int64_t block = begin; block < end; ++block) {
      const int64_t n = block * kWeightRowsAtOnce;
      const int count = static_cast<int>(std::min<int64_t>(kWeightRowsAtOnce, outputs - n));
      run.dots(dtype, {packed, rows, row(a.weight, n), a.weight.stride[0], count, size, sums});
      if (a.gate) run.dots(dtype, {packed, rows, row(*a.gate, n), a.gate->stride[0], count, size, gates});
      for (int t = 0; t < rows; ++t)
        run.finish(dtype, {sums + t * kWeightRowsAtOnce, a.gate ? gates + t * kWeightRowsAtOnce : nullptr,
                           maybe(a.bias, 0, n), maybe(a.gate_bias, 0, n), maybe(a.add, first + t, n),
                           row(a.out, first + t) + n * e, count});
    }
  };
  for (; first < tokens; first += rows) {
    rows = static_cast<int>(std::min<int64_t>(kRowsTogether, tokens - first));
    run.pack(dtype, row(a.x, first), a.x.stride[0], rows, size, packed);
    in_parts(num_blocks, outputs * size * e / num_blocks, work);
  }
}

}  // namespace

VZ_CPU_OP("linear", Linear, linear)

}  // namespace vz
