// bf16 with AVX512_BF16: products of pairs, summed in float32. Weights are rounded to bf16, as flash attention does.

#include <immintrin.h>

#include "attention.h"
#include "half.h"

namespace vz {
namespace {
#include "vec_avx512.h"

#include "transpose.h"

#include "attention_math.h"

struct PairMath {
  using Stored = bf16;
  using Cell = uint32_t;  // two bf16, the first in the low half
  static constexpr int kPair = 2;
  static inline __m512bh cells(const uint32_t* p) { return reinterpret_cast<__m512bh>(_mm512_loadu_si512(p)); }
  static inline __m512bh all(uint32_t a) { return reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(a))); }
  static inline Vec madd(Vec acc, __m512bh a, __m512bh b) { return {_mm512_dpbf16_ps(acc.v, a, b)}; }

  using Cells = __m512bh;
  static inline __m512bh as_cells(Vec x) { return reinterpret_cast<__m512bh>(x.v); }
  static inline Vec key_cells(const bf16* row, int d, int dim) {
    return {_mm512_castsi512_ps(load_pairs(row + 2 * d, dim - 2 * d))};
  }
  static inline Vec whole_cells(const bf16* row, int d) {
    return {_mm512_loadu_ps(reinterpret_cast<const float*>(row + 2 * d))};
  }
  // Pairs within 128-bit lanes: of the 8 columns of lane i, `left` has the first four and `right` the others.
  static inline void mixed_value_cells(const bf16* const* rows, int n, int d, Cells& left, Cells& right) {
    mix(_mm512_loadu_si512(rows[n] + d), _mm512_loadu_si512(rows[n + 1] + d), left, right);
  }
  static inline void some_mixed_value_cells(const bf16* const* rows, int n, int count, int d, int dim, Cells& left,
                                            Cells& right) {
    mix(load_pairs(rows[n] + d, dim - d), n + 1 < count ? load_pairs(rows[n + 1] + d, dim - d) : _mm512_setzero_si512(),
        left, right);
  }
  static inline void mix(__m512i a, __m512i b, Cells& left, Cells& right) {
    left = reinterpret_cast<__m512bh>(_mm512_unpacklo_epi16(a, b));
    right = reinterpret_cast<__m512bh>(_mm512_unpackhi_epi16(a, b));
  }
  static inline void unmix(float* panel) {
    const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const __m512 left = _mm512_loadu_ps(panel), right = _mm512_loadu_ps(panel + 16);
    _mm512_storeu_ps(panel, _mm512_permutex2var_ps(left, first, right));
    _mm512_storeu_ps(panel + 16, _mm512_permutex2var_ps(left, _mm512_add_epi32(first, _mm512_set1_epi32(8)), right));
  }

  // Takes the first 16 of two rows of 32 to pairs.
  static inline __m512i low_pairs() {
    return _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36, 4, 35,
                            3, 34, 2, 33, 1, 32, 0);
  }
  // n of 32 bf16 at p, zeros after them.
  static inline __m512i load_pairs(const bf16* p, int n) {
    return _mm512_maskz_loadu_epi16(n >= 32 ? ~0u : n > 0 ? (1u << n) - 1 : 0, p);
  }
  static inline void pack_row(const bf16* row, int dim, uint32_t* out, int stride) {
    for (int d = 0; d < stride; d += 16) _mm512_storeu_si512(out + d, load_pairs(row + 2 * d, dim - 2 * d));
  }
  static inline void pack_keys(const bf16* const* rows, int count, int keys, int dim, int d_cells, uint32_t* out) {
    constexpr int W = 16, panel = 2 * W;
    for (int n = 0; n < keys; n += W)
      for (int d = 0; d < d_cells; d += W) {
        Vec block[W];
        for (int i = 0; i < W; ++i)
          block[i].v = _mm512_castsi512_ps(n + i < count ? load_pairs(rows[n + i] + 2 * d, dim - 2 * d) : _mm512_setzero_si512());
        transpose(block);
        uint32_t* to = out + static_cast<int64_t>(n / panel) * panel * d_cells + n % panel + static_cast<int64_t>(d) * panel;
        for (int i = 0; i < W && d + i < d_cells; ++i) _mm512_storeu_ps(to + i * panel, block[i].v);
      }
  }
  // values[pair of keys][d]
  static inline void pack_values(const bf16* const* rows, int count, int dim, int d_padded, uint32_t* out) {
    const __m512i low = low_pairs(), high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    for (int n = 0; n < count; n += 2)
      for (int d = 0; d < d_padded; d += 32) {
        const __m512i a = load_pairs(rows[n] + d, dim - d);
        const __m512i b = n + 1 < count ? load_pairs(rows[n + 1] + d, dim - d) : _mm512_setzero_si512();
        uint32_t* to = out + static_cast<int64_t>(n / 2) * d_padded + d;
        _mm512_storeu_si512(to, _mm512_permutex2var_epi16(a, low, b));
        _mm512_storeu_si512(to + 16, _mm512_permutex2var_epi16(a, high, b));
      }
  }
  static inline void pack_weights(const float* weights, int keys, uint32_t* out) {
    for (int n = 0; n < keys; n += 32) {
      const __m512bh both = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(weights + n + 16), _mm512_loadu_ps(weights + n));
      _mm512_storeu_si512(out + n / 2, reinterpret_cast<__m512i>(both));
    }
  }
};

#include "attention_generic.h"

#include "attention_few.h"
}  // namespace

const AttentionKernel attention_avx512bf16 = {scratch_bytes<PairMath>, run<PairMath>, join<PairMath>, kMaxRows};
}  // namespace vz
