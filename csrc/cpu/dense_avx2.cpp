#include <immintrin.h>

#include "dense.h"
#include "half.h"

#define VZ_IN_REGISTER(a) asm("" : "+x"(a))

namespace vz {
namespace {
#include "vec_avx2.h"

#include "dense_math.h"
using Bf16Math = FloatMath<bf16>;

#include "dense_generic.h"
}  // namespace

extern const DenseKernels dense_avx2;
const DenseKernels dense_avx2 = {pack, dots, finish, rms_norm, silu_mul};
}  // namespace vz
