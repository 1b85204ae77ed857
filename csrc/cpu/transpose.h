// Square transpositions of kWidth registers, and sums across lanes of kWidth registers at once. Included inside a
// namespace after vec_*.h.
//   quad(quad_half(a, b), quad_half(c, d))   in each 128-bit lane the sums of that lane of a, b, c and d
//   join_quads(x)   sums over the lanes of kWidth / kQuad such registers: one sum for each of kWidth registers

#if defined(__AVX512F__)
static inline void transpose(Vec x[16]) {
  __m512 t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(x[i].v, x[i + 1].v);
    t[i + 1] = _mm512_unpackhi_ps(x[i].v, x[i + 1].v);
  }
  __m512 u[16];  // u[4g + j]: in each 128-bit lane, element j of the lane of rows 4g .. 4g + 3
  for (int g = 0; g < 4; ++g) {
    const __m512d a = _mm512_castps_pd(t[4 * g]), b = _mm512_castps_pd(t[4 * g + 1]);
    const __m512d c = _mm512_castps_pd(t[4 * g + 2]), d = _mm512_castps_pd(t[4 * g + 3]);
    u[4 * g] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
    u[4 * g + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
    u[4 * g + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
    u[4 * g + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
  }
  for (int j = 0; j < 4; ++j) {
    const __m512 a = _mm512_shuffle_f32x4(u[j], u[4 + j], 0x88), b = _mm512_shuffle_f32x4(u[8 + j], u[12 + j], 0x88);
    const __m512 c = _mm512_shuffle_f32x4(u[j], u[4 + j], 0xDD), d = _mm512_shuffle_f32x4(u[8 + j], u[12 + j], 0xDD);
    x[j].v = _mm512_shuffle_f32x4(a, b, 0x88);
    x[8 + j].v = _mm512_shuffle_f32x4(a, b, 0xDD);
    x[4 + j].v = _mm512_shuffle_f32x4(c, d, 0x88);
    x[12 + j].v = _mm512_shuffle_f32x4(c, d, 0xDD);
  }
}
constexpr int kQuad = 4;
static inline Vec quad_half(Vec a, Vec b) {
  return {_mm512_add_ps(_mm512_unpacklo_ps(a.v, b.v), _mm512_unpackhi_ps(a.v, b.v))};
}
static inline Vec quad(Vec ab, Vec cd) {
  const __m512d x = _mm512_castps_pd(ab.v), y = _mm512_castps_pd(cd.v);
  return {_mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)))};
}
static inline Vec join_lanes(Vec a, Vec b) {
  return {_mm512_add_ps(_mm512_shuffle_f32x4(a.v, b.v, 0x88), _mm512_shuffle_f32x4(a.v, b.v, 0xDD))};
}
static inline Vec join_quads(const Vec x[4]) { return join_lanes(join_lanes(x[0], x[1]), join_lanes(x[2], x[3])); }
#elif defined(__AVX2__)
static inline void transpose(Vec x[8]) {
  __m256 t[8], u[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(x[i].v, x[i + 1].v);
    t[i + 1] = _mm256_unpackhi_ps(x[i].v, x[i + 1].v);
  }
  for (int g = 0; g < 2; ++g) {
    u[4 * g] = _mm256_shuffle_ps(t[4 * g], t[4 * g + 2], 0x44);
    u[4 * g + 1] = _mm256_shuffle_ps(t[4 * g], t[4 * g + 2], 0xEE);
    u[4 * g + 2] = _mm256_shuffle_ps(t[4 * g + 1], t[4 * g + 3], 0x44);
    u[4 * g + 3] = _mm256_shuffle_ps(t[4 * g + 1], t[4 * g + 3], 0xEE);
  }
  for (int j = 0; j < 4; ++j) {
    x[j].v = _mm256_permute2f128_ps(u[j], u[4 + j], 0x20);
    x[4 + j].v = _mm256_permute2f128_ps(u[j], u[4 + j], 0x31);
  }
}
constexpr int kQuad = 4;
static inline Vec quad_half(Vec a, Vec b) {
  return {_mm256_add_ps(_mm256_unpacklo_ps(a.v, b.v), _mm256_unpackhi_ps(a.v, b.v))};
}
static inline Vec quad(Vec ab, Vec cd) {
  const __m256d x = _mm256_castps_pd(ab.v), y = _mm256_castps_pd(cd.v);
  return {_mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(x, y)), _mm256_castpd_ps(_mm256_unpackhi_pd(x, y)))};
}
static inline Vec join_quads(const Vec x[2]) {
  return {_mm256_add_ps(_mm256_permute2f128_ps(x[0].v, x[1].v, 0x20), _mm256_permute2f128_ps(x[0].v, x[1].v, 0x31))};
}
#else
constexpr int kQuad = 1;
static inline void transpose(Vec*) {}
static inline Vec quad_half(Vec a, Vec) { return a; }
static inline Vec quad(Vec a, Vec) { return a; }
static inline Vec join_quads(const Vec x[1]) { return x[0]; }
#endif
