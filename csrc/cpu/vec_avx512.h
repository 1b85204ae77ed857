// 16 floats. Included inside a namespace, by files that are compiled for AVX-512.
// load/store convert from and to float, bf16 and f16 (round to nearest even, denormals kept); *_n touch the first n only.

struct Vec {
  static constexpr int kWidth = 16;
  __m512 v;
};

static inline __mmask16 first(int n) { return static_cast<__mmask16>(n >= 16 ? 0xFFFF : (1u << n) - 1); }
static inline Vec of_bf16(__m256i h) { return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16))}; }
static inline __m256i to_bf16(Vec x) {  // vcvtneps2bf16 would flush denormals
  const __m512i u = _mm512_castps_si512(x.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  const __m512i up = _mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF))), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(up, nan, _mm512_set1_epi32(0x7FC0)));
}
static inline __m256i to_f16(Vec x) { return _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

static inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
static inline Vec load(const bf16* p) { return of_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
static inline Vec load(const f16* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
static inline void store(float* p, Vec x) { _mm512_storeu_ps(p, x.v); }
static inline void store(bf16* p, Vec x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_bf16(x)); }
static inline void store(f16* p, Vec x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_f16(x)); }
static inline Vec load_n(const float* p, int n) { return {_mm512_maskz_loadu_ps(first(n), p)}; }
static inline Vec load_n(const bf16* p, int n) { return of_bf16(_mm256_maskz_loadu_epi16(first(n), p)); }
static inline Vec load_n(const f16* p, int n) { return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), p))}; }
static inline void store_n(float* p, Vec x, int n) { _mm512_mask_storeu_ps(p, first(n), x.v); }
static inline void store_n(bf16* p, Vec x, int n) { _mm256_mask_storeu_epi16(p, first(n), to_bf16(x)); }
static inline void store_n(f16* p, Vec x, int n) { _mm256_mask_storeu_epi16(p, first(n), to_f16(x)); }
template <class T> static inline Vec rounded(Vec x);  // to T and back
template <> inline Vec rounded<float>(Vec x) { return x; }
template <> inline Vec rounded<bf16>(Vec x) {  // of products of bf16: a NaN among them keeps its quiet bit
  const __m512i u = _mm512_castps_si512(x.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7FFF)), odd);
  return {_mm512_castsi512_ps(_mm512_and_si512(up, _mm512_set1_epi32(static_cast<int>(0xFFFF0000))))};
}
template <> inline Vec rounded<f16>(Vec x) { return {_mm512_cvtph_ps(to_f16(x))}; }
// Stores past the caches; p is aligned to the bytes that are stored.
static inline void stream(float* p, Vec x) { _mm512_stream_ps(p, x.v); }
static inline void stream(bf16* p, Vec x) { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), to_bf16(x)); }
static inline void stream(f16* p, Vec x) { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), to_f16(x)); }
constexpr int kStreamBytes = 64;
static inline void stream_bytes(char* dst, const char* src) {
  _mm512_stream_si512(reinterpret_cast<__m512i*>(dst), _mm512_loadu_si512(src));
}
static inline void fence() { _mm_sfence(); }

static inline Vec set1(float f) { return {_mm512_set1_ps(f)}; }
static inline Vec add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
static inline Vec sub(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
static inline Vec mul(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
static inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
static inline Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }

// exp for x <= 88, about 1 ulp; below -87 it is 0. 2^n times the Taylor polynomial of degree 6 on [-ln2 / 2, ln2 / 2].
static inline Vec exp(Vec x) {
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x.v, _mm512_set1_ps(1.44269504088896341f)), 8);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x.v);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.0f / 720);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  const __mmask16 seen = _mm512_cmp_ps_mask(x.v, _mm512_set1_ps(-87.0f), _CMP_GE_OQ);
  return {_mm512_maskz_scalef_ps(seen, p, n)};
}
static inline float reduce_max(Vec x) { return _mm512_reduce_max_ps(x.v); }
static inline float reduce_add(Vec x) { return _mm512_reduce_add_ps(x.v); }
