// out = x weight^T + bias, gated or not, + add; formula, shapes and bytes in kernels/linear/op.py.

#include <algorithm>
#include <string>
#include <vector>

#include "dense.h"
#include "move.h"
#include "threads.h"

namespace vz {
namespace {

constexpr int kRowsTogether = 16;  // of x that share one reading of the weights
constexpr int64_t kBytesWorthAThread = 64 << 10;

void want_like(const char* name, const View& view, const View& x) {
  want_dtype(name, view, x.dtype);
  want_last_contiguous(name, view);
  want_cpu(name, view);
}

}  // namespace

void linear(const View& x, const View& weight, const View* bias, const View* gate, const View* gate_bias,
            const View* add, const View& out) {
  if (!is_float(x.dtype)) throw BadArgument(std::string("x must be float32, bfloat16 or float16, got ") + name(x.dtype));
  if (gate_bias && !gate) throw BadArgument("gate_bias is given, but no gate");
  Dims dims;
  dims.bind("x", x, "TK");
  dims.bind("weight", weight, "NK");
  dims.bind("out", out, "TN");
  const struct { const char* name; const View* view; const char* letters; } all[] = {
      {"x", &x, "TK"},       {"weight", &weight, "NK"},     {"bias", bias, "N"}, {"gate", gate, "NK"},
      {"gate_bias", gate_bias, "N"}, {"add", add, "TN"}, {"out", &out, "TN"}};
  for (const auto& [name, view, letters] : all) {
    if (!view) continue;
    dims.bind(name, *view, letters);
    want_like(name, *view, x);
  }
  const DenseKernels& run = dense_kernels();
  const Dtype dtype = x.dtype;
  const int64_t e = bytes(dtype), tokens = dims['T'], wide = dims['N'];
  const int size = static_cast<int>(dims['K']);
  if (tokens == 0 || wide == 0) return;
  const int64_t num_blocks = (wide + kWeightRowsAtOnce - 1) / kWeightRowsAtOnce;
  const auto row = [e](const View* view, int64_t t) { return view ? view->data + t * view->stride[0] * e : nullptr; };
  const auto from = [e](const char* data, int64_t n) { return data ? data + n * e : nullptr; };
  std::vector<char> memory(std::min<int64_t>(tokens, kRowsTogether) * 4 * (size + 32) + 64);
  char* packed = memory.data() + 64 - reinterpret_cast<int64_t>(memory.data()) % 64;
  int64_t first = 0;  // of the rows of x that are packed
  int rows = 0;
  const auto work = [&](int64_t begin, int64_t end) {
    float sums[kRowsTogether * kWeightRowsAtOnce], gates[kRowsTogether * kWeightRowsAtOnce];
    for (int64_t block = begin; block < end; ++block) {
      const int64_t n = block * kWeightRowsAtOnce;
      const int count = static_cast<int>(std::min<int64_t>(kWeightRowsAtOnce, wide - n));
      run.dots(dtype, {packed, rows, row(&weight, n), weight.stride[0], count, size, sums});
      if (gate) run.dots(dtype, {packed, rows, row(gate, n), gate->stride[0], count, size, gates});
      for (int t = 0; t < rows; ++t)
        run.finish(dtype, {sums + t * kWeightRowsAtOnce, gate ? gates + t * kWeightRowsAtOnce : nullptr,
                           from(bias ? bias->data : nullptr, n), from(gate_bias ? gate_bias->data : nullptr, n),
                           from(row(add, first + t), n), row(&out, first + t) + n * e, count});
    }
  };
  for (; first < tokens; first += rows) {
    rows = static_cast<int>(std::min<int64_t>(kRowsTogether, tokens - first));
    run.pack(dtype, row(&x, first), x.stride[0], rows, size, packed);
    if (wide * size * e < kBytesWorthAThread)
      work(0, num_blocks);
    else
      parallel_for(num_blocks, work);
  }
}

}  // namespace vz
