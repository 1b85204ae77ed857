// Copies and rotations over Vec; included inside a namespace after one of vec_*.h. See move.h.

template <class T, class A, bool kRoundProducts, bool kStream>
static void rotate_as(const Rotation& r) {
  constexpr int W = Vec::kWidth;
  float cos[kMaxPairs], sin[kMaxPairs];  // converted once for all rows
  for (int i = 0; i < r.pairs; i += W) {
    store_n(cos + i, load_n(static_cast<const A*>(r.cos) + i, r.pairs - i), r.pairs - i);
    store_n(sin + i, load_n(static_cast<const A*>(r.sin) + i, r.pairs - i), r.pairs - i);
  }
  const auto product = [](Vec a, Vec b) { return kRoundProducts ? rounded<T>(mul(a, b)) : mul(a, b); };
  for (int row = 0; row < r.rows; ++row) {
    const T* x = reinterpret_cast<const T*>(r.src + row * r.src_stride);
    T* y = reinterpret_cast<T*>(r.dst + row * r.dst_stride);
    int i = 0;
    for (; i + W <= r.pairs; i += W) {
      const Vec a = load(x + i), b = load(x + r.pairs + i), c = load(cos + i), s = load(sin + i);
      const Vec lo = sub(product(a, c), product(b, s)), hi = add(product(b, c), product(a, s));
      if (kStream) {
        stream(y + i, lo);
        stream(y + r.pairs + i, hi);
      } else {
        store(y + i, lo);
        store(y + r.pairs + i, hi);
      }
    }
    if (i < r.pairs) {
      const int n = r.pairs - i;
      const Vec a = load_n(x + i, n), b = load_n(x + r.pairs + i, n), c = load_n(cos + i, n), s = load_n(sin + i, n);
      store_n(y + i, sub(product(a, c), product(b, s)), n);
      store_n(y + r.pairs + i, add(product(b, c), product(a, s)), n);
    }
  }
}

template <class T, class A, bool kRoundProducts>
static void rotate_maybe_past(const Rotation& r) {
  const int64_t half = r.pairs * static_cast<int64_t>(sizeof(T));
  const int64_t odd = reinterpret_cast<int64_t>(r.dst) | r.dst_stride | half;
  if (r.past_caches && odd % 64 == 0)
    rotate_as<T, A, kRoundProducts, true>(r);
  else
    rotate_as<T, A, kRoundProducts, false>(r);
}

static void rotate(const Rotation& r, Dtype data, Dtype angles) {
  if (data == Dtype::f32) return rotate_maybe_past<float, float, false>(r);
  if (data == Dtype::bf16)
    return angles == Dtype::f32 ? rotate_maybe_past<bf16, float, false>(r) : rotate_maybe_past<bf16, bf16, true>(r);
  return angles == Dtype::f32 ? rotate_maybe_past<f16, float, false>(r) : rotate_maybe_past<f16, f16, true>(r);
}

static void copy(char* dst, const char* src, int64_t bytes, bool past_caches) {
  if (dst == src) return;
  if (!past_caches || reinterpret_cast<int64_t>(dst) % kStreamBytes) {
    __builtin_memcpy(dst, src, bytes);
    return;
  }
  int64_t i = 0;
  for (; i + 4 * kStreamBytes <= bytes; i += 4 * kStreamBytes)
    for (int j = 0; j < 4; ++j) stream_bytes(dst + i + j * kStreamBytes, src + i + j * kStreamBytes);
  __builtin_memcpy(dst + i, src + i, bytes - i);
}

template <class T>
static void blend_as(const char* a_bytes, float weight_a, const char* b_bytes, float weight_b, char* out_bytes, int size) {
  const T *a = reinterpret_cast<const T*>(a_bytes), *b = reinterpret_cast<const T*>(b_bytes);
  T* out = reinterpret_cast<T*>(out_bytes);
  const Vec wa = set1(weight_a), wb = set1(weight_b), zero = set1(0);
  for (int i = 0; i < size; i += Vec::kWidth) {
    const int n = size - i;
    const Vec x = weight_a != 0 ? mul(load_n(a + i, n), wa) : zero;
    store_n(out + i, weight_b != 0 ? add(x, mul(load_n(b + i, n), wb)) : x, n);
  }
}

static void blend(Dtype d, const char* a, float weight_a, const char* b, float weight_b, char* out, int size) {
  if (d == Dtype::f32) return blend_as<float>(a, weight_a, b, weight_b, out, size);
  if (d == Dtype::bf16) return blend_as<bf16>(a, weight_a, b, weight_b, out, size);
  blend_as<f16>(a, weight_a, b, weight_b, out, size);
}
