#include <immintrin.h>

#include "attention.h"
#include "half.h"

namespace vz {
namespace {
#include "vec_avx2.h"

#include "transpose.h"

#include "attention_math.h"

#include "attention_generic.h"

#include "attention_few.h"

template <class T>
constexpr AttentionKernel kernel = {scratch_bytes<FloatMath<T>>, run<FloatMath<T>>, join<FloatMath<T>>, kMaxRows};
}  // namespace

const AttentionKernels attention_avx2 = {kernel<float>, kernel<bf16>, kernel<f16>};
}  // namespace vz
