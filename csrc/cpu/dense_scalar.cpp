#include "dense.h"
#include "half.h"

namespace vz {
namespace {
#include "vec_scalar.h"

static inline void keep(Vec&) {}

template <int N> struct Number { static constexpr int value = N; };
template <class T> struct FloatMath;
using Bf16Math = FloatMath<bf16>;

#include "dense_generic.h"
}  // namespace

extern const DenseKernels dense_scalar;
const DenseKernels dense_scalar = {pack, dots, finish, rms_norm, silu_mul};
}  // namespace vz
