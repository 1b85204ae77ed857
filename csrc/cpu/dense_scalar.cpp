#include "dense.h"
#include "half.h"

namespace vz {
namespace {
#include "vec_scalar.h"

// Sixteen sums, as a vector has them: one alone would err more, and wait for itself.
template <class T> struct FloatMath {
  static constexpr int kStep = 16;
  struct Operand { float v[kStep]; };
  using Cell = float;
  using Sum = Operand;
  template <class A> static inline Operand operand(const A* p) {
    Operand a;
    for (int i = 0; i < kStep; ++i) a.v[i] = load(p + i).v;
    return a;
  }
  static inline Operand operand_n(const T* p, int n) {
    Operand a = zero();
    for (int i = 0; i < n; ++i) a.v[i] = load(p + i).v;
    return a;
  }
  static inline Sum madd(const Operand& a, const Operand& b, Sum sum) {
    for (int i = 0; i < kStep; ++i) sum.v[i] += a.v[i] * b.v[i];
    return sum;
  }
  static inline Sum zero() { return {}; }
  static inline float total(Sum sum) {
    for (int half = kStep / 2; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) sum.v[i] += sum.v[i + half];
    return sum.v[0];
  }
  static inline void keep(Operand&) {}
  static inline void pack(const T* x, int n, float* to) {
    const Operand a = operand_n(x, n);
    for (int i = 0; i < kStep; ++i) to[i] = a.v[i];
  }
};
using Bf16Math = FloatMath<bf16>;

#include "dense_generic.h"
}  // namespace

extern const DenseKernels dense_scalar;
const DenseKernels dense_scalar = {pack, dots, finish, rms_norm, silu_mul};
}  // namespace vz
