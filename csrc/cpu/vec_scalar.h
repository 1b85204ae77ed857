// One float at a time, for any machine. Included inside a namespace; see vec_avx512.h for what each function means.

struct Vec {
  static constexpr int kWidth = 1;
  float v;
};

static inline float float_of(uint32_t bits) { float f; __builtin_memcpy(&f, &bits, 4); return f; }
static inline uint32_t bits_of(float f) { uint32_t u; __builtin_memcpy(&u, &f, 4); return u; }

static inline uint16_t to_bf16(float f) {
  const uint32_t u = bits_of(f);
  return f != f ? 0x7FC0 : static_cast<uint16_t>((u + 0x7FFF + ((u >> 16) & 1)) >> 16);
}

static inline float from_f16(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, rest = h & 0x7FFF;
  if (rest >= 0x7C00) return float_of(sign | 0x7F800000 | (rest & 0x3FF) << 13);
  if (rest >= 0x400) return float_of(sign | ((rest << 13) + 0x38000000));
  const float magnitude = static_cast<float>(rest) * 5.9604644775390625e-8f;  // denormal: units of 2^-24
  return sign ? -magnitude : magnitude;
}

static inline uint16_t to_f16(float f) {
  const uint32_t u = bits_of(f), magnitude = u & 0x7FFFFFFF;
  const uint16_t sign = static_cast<uint16_t>(u >> 16 & 0x8000);
  if (magnitude > 0x7F800000) return static_cast<uint16_t>(sign | 0x7E00);
  if (magnitude >= 0x477FF000) return static_cast<uint16_t>(sign | 0x7C00);  // rounds to 2^16 or above
  if (magnitude < 0x38800000)  // denormal: adding 0.5 leaves units of 2^-24 in the last bits, rounded to even
    return static_cast<uint16_t>(sign | (bits_of(float_of(magnitude) + 0.5f) - 0x3F000000));
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000 + 0xFFF + ((magnitude >> 13) & 1)) >> 13));
}

static inline Vec load(const float* p) { return {*p}; }
static inline Vec load(const bf16* p) { return {float_of(static_cast<uint32_t>(p->bits) << 16)}; }
static inline Vec load(const f16* p) { return {from_f16(p->bits)}; }
static inline void store(float* p, Vec x) { *p = x.v; }
static inline void store(bf16* p, Vec x) { p->bits = to_bf16(x.v); }
static inline void store(f16* p, Vec x) { p->bits = to_f16(x.v); }
template <class T> static inline Vec load_n(const T* p, int n) { return n > 0 ? load(p) : Vec{0}; }
template <class T> static inline void store_n(T* p, Vec x, int n) { if (n > 0) store(p, x); }
template <class T> static inline Vec rounded(Vec x) { T t; store(&t, x); return load(&t); }
template <class T> static inline void stream(T* p, Vec x) { store(p, x); }
static inline void stream_bytes(char* dst, const char* src) { *dst = *src; }
constexpr int kStreamBytes = 1;
static inline void fence() {}

static inline Vec set1(float f) { return {f}; }
static inline Vec add(Vec a, Vec b) { return {a.v + b.v}; }
static inline Vec sub(Vec a, Vec b) { return {a.v - b.v}; }
static inline Vec mul(Vec a, Vec b) { return {a.v * b.v}; }
static inline Vec fma(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
static inline Vec max(Vec a, Vec b) { return {a.v > b.v ? a.v : b.v}; }
static inline Vec exp(Vec x) { return {x.v < -87.0f ? 0.0f : __builtin_expf(x.v)}; }
static inline float reduce_max(Vec x) { return x.v; }
static inline float reduce_add(Vec x) { return x.v; }
