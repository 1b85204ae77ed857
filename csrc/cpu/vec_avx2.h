// 8 floats. Included inside a namespace, by files that are compiled for AVX2, FMA and F16C; see vec_avx512.h.

struct Vec {
  static constexpr int kWidth = 8;
  __m256 v;
};

static inline Vec of_bf16(__m128i h) { return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16))}; }
static inline __m128i to_bf16(Vec x) {
  const __m256i u = _mm256_castps_si256(x.v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  const __m256i up = _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF))), 16);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x.v, x.v, _CMP_UNORD_Q));
  const __m256i r = _mm256_blendv_epi8(up, _mm256_set1_epi32(0x7FC0), nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1));
}
static inline __m128i to_f16(Vec x) { return _mm256_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

static inline Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
static inline Vec load(const bf16* p) { return of_bf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
static inline Vec load(const f16* p) { return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))}; }
static inline void store(float* p, Vec x) { _mm256_storeu_ps(p, x.v); }
static inline void store(bf16* p, Vec x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), to_bf16(x)); }
static inline void store(f16* p, Vec x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), to_f16(x)); }
template <class T> static inline Vec load_n(const T* p, int n) {
  T some[8] = {};
  for (int i = 0; i < n && i < 8; ++i) some[i] = p[i];
  return load(some);
}
template <class T> static inline void store_n(T* p, Vec x, int n) {
  T some[8];
  store(some, x);
  for (int i = 0; i < n && i < 8; ++i) p[i] = some[i];
}
template <class T> static inline Vec rounded(Vec x);
template <> inline Vec rounded<float>(Vec x) { return x; }
template <> inline Vec rounded<bf16>(Vec x) { return of_bf16(to_bf16(x)); }
template <> inline Vec rounded<f16>(Vec x) { return {_mm256_cvtph_ps(to_f16(x))}; }
static inline void stream(float* p, Vec x) { _mm256_stream_ps(p, x.v); }
static inline void stream(bf16* p, Vec x) { _mm_stream_si128(reinterpret_cast<__m128i*>(p), to_bf16(x)); }
static inline void stream(f16* p, Vec x) { _mm_stream_si128(reinterpret_cast<__m128i*>(p), to_f16(x)); }
constexpr int kStreamBytes = 32;
static inline void stream_bytes(char* dst, const char* src) {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(dst), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(src)));
}
static inline void fence() { _mm_sfence(); }

static inline Vec set1(float f) { return {_mm256_set1_ps(f)}; }
static inline Vec add(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
static inline Vec sub(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
static inline Vec mul(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
static inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
static inline Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }

static inline Vec exp(Vec x) {
  const __m256 low = _mm256_set1_ps(-87.0f);
  const __m256 seen = _mm256_cmp_ps(x.v, low, _CMP_GE_OQ), y = _mm256_max_ps(x.v, low);
  const __m256 n = _mm256_round_ps(_mm256_mul_ps(y, _mm256_set1_ps(1.44269504088896341f)), 8);
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), y);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
  __m256 p = _mm256_set1_ps(1.0f / 720);
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 120));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 24));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 6));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
  const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return {_mm256_and_ps(seen, _mm256_mul_ps(p, _mm256_castsi256_ps(power)))};
}
static inline float reduce_max(Vec x) {
  float a[8];
  store(a, x);
  float m = a[0];
  for (int i = 1; i < 8; ++i) m = a[i] > m ? a[i] : m;
  return m;
}
static inline float reduce_add(Vec x) {
  float a[8];
  store(a, x);
  return ((a[0] + a[4]) + (a[1] + a[5])) + ((a[2] + a[6]) + (a[3] + a[7]));
}
