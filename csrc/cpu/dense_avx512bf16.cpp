// As dense_avx512.cpp, with products of bf16 pairs that are summed in float32.

#include <immintrin.h>

#include "dense.h"
#include "half.h"

#define VZ_IN_REGISTER(a) asm("" : "+v"(a))

namespace vz {
namespace {
#include "vec_avx512.h"

#include "dense_math.h"

struct Bf16Math {
  using Cell = bf16;
  using Operand = __m512bh;
  using Sum = Vec;
  static constexpr int kStep = 32;
  static inline __m512bh operand(const bf16* p) { return reinterpret_cast<__m512bh>(_mm512_loadu_si512(p)); }
  static inline __m512bh operand_n(const bf16* p, int n) {
    return reinterpret_cast<__m512bh>(_mm512_maskz_loadu_epi16((1u << n) - 1, p));
  }
  static inline Vec madd(__m512bh a, __m512bh b, Vec sum) { return {_mm512_dpbf16_ps(sum.v, a, b)}; }
  static inline Vec zero() { return set1(0); }
  static inline float total(Vec sum) { return reduce_add(sum); }
  static inline void keep(__m512bh& a) { VZ_IN_REGISTER(a); }
  static inline void pack(const bf16* x, int n, bf16* to) {
    _mm512_storeu_si512(to, reinterpret_cast<__m512i>(n < kStep ? operand_n(x, n) : operand(x)));
  }
};

#include "dense_generic.h"
}  // namespace

extern const DenseKernels dense_avx512bf16;
const DenseKernels dense_avx512bf16 = {pack, dots, finish, rms_norm, silu_mul};
}  // namespace vz
