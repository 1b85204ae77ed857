#include <immintrin.h>

#include "dense.h"
#include "half.h"

namespace vz {
namespace {
#include "vec_avx2.h"

static inline void keep(Vec& a) { asm("" : "+x"(a.v)); }

template <int N> struct Number { static constexpr int value = N; };
template <class T> struct FloatMath;
using Bf16Math = FloatMath<bf16>;

#include "dense_generic.h"
}  // namespace

extern const DenseKernels dense_avx2;
const DenseKernels dense_avx2 = {pack, dots, finish, rms_norm, silu_mul};
}  // namespace vz
