// Projections, norms and gates over Vec; included inside a namespace after one of vec_*.h. See dense.h.
// The multiplication M of an element type T comes from the including file, FloatMath<T> or Bf16Math: Cell is what x is
// packed to, Operand what a register holds, and madd adds the products of two to a Sum, whose total is a float.

template <int N> struct Number { static constexpr int value = N; };

// One row of x takes the weights in the order of their addresses, as fast as the memory delivers them. More rows reuse
// each weight from registers; then the order of use is another, and the memory is asked for ahead of it.
constexpr int kWeightsTogether = 2, kRowsTogether = Vec::kWidth == 16 ? 8 : 4;  // as many sums as registers hold
constexpr int64_t kWeightsInCache = 64 << 10;  // bytes in the second cache, while as many more are on their way there
constexpr int64_t kPackedInCache = 16 << 10;   // bytes of x that stay in the first cache beside the weights

static inline Vec ratio(Vec a, Vec b) { return {a.v / b.v}; }
// x / (1 + exp(-x)); below -88 that is -0 to within a float's least values.
static inline Vec silu(Vec x) { return ratio(x, add(set1(1), exp(sub(set1(0), max(x, set1(-88)))))); }

// x as [steps][rows][kStep], zeros after the last.
template <class T, class M>
static void pack_as(const char* x, int64_t stride, int rows, int size, char* packed) {
  auto* to = reinterpret_cast<typename M::Cell*>(packed);
  for (int i = 0; i < size; i += M::kStep)
    for (int t = 0; t < rows; ++t, to += M::kStep)
      M::pack(reinterpret_cast<const T*>(x) + t * stride + i, size - i < M::kStep ? size - i : M::kStep, to);
}

// One row of x and one of w, in four sums that do not wait for each other.
template <class T, class M>
static inline float dot(const typename M::Cell* x, const T* w, int size) {
  constexpr int S = M::kStep;
  typename M::Sum sum[4] = {M::zero(), M::zero(), M::zero(), M::zero()};
  int i = 0;
  for (; i + 4 * S <= size; i += 4 * S)
    for (int j = 0; j < 4; ++j) sum[j] = M::madd(M::operand(x + i + j * S), M::operand(w + i + j * S), sum[j]);
  for (; i + S <= size; i += S) sum[0] = M::madd(M::operand(x + i), M::operand(w + i), sum[0]);
  if (i < size) sum[1] = M::madd(M::operand(x + i), M::operand_n(w + i, size - i), sum[1]);
  return (M::total(sum[0]) + M::total(sum[1])) + (M::total(sum[2]) + M::total(sum[3]));
}

// X of `rows` packed rows against R rows of w, elements [begin, end): into the sums, or onto them.
// Unrolled, because sums that are indexed by a loop's variable would live in memory.
template <class T, class M, int R, int X>
static inline void dots_tile(const Dots& d, int row, int base, int begin, int end, const char* ahead) {
  constexpr int S = M::kStep;
  const auto* x = reinterpret_cast<const typename M::Cell*>(d.packed) + (static_cast<int64_t>(begin) * d.rows + row * S);
  const T* w = reinterpret_cast<const T*>(d.w) + base * d.w_stride;
  typename M::Sum sum[R][X];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int t = 0; t < X; ++t) sum[r][t] = M::zero();
  for (int i = begin; i < end; i += S, x += S * d.rows) {
    typename M::Operand b[R];
    if (ahead) {
      for (int r = 0; r < R; ++r) __builtin_prefetch(ahead + r * 64, 0, 2);
      ahead += R * 64;
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
      b[r] = i + S <= end ? M::operand(w + r * d.w_stride + i) : M::operand_n(w + r * d.w_stride + i, end - i);
#pragma GCC unroll 8
    for (int t = 0; t < X; ++t) {
      typename M::Operand a = M::operand(x + t * S);
      M::keep(a);  // in a register: read from memory for each of the R it would be the bottleneck
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) sum[r][t] = M::madd(a, b[r], sum[r][t]);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < X; ++t)
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      float& to = d.sums[(row + t) * kWeightRowsAtOnce + base + r];
      to = M::total(sum[r][t]) + (begin ? to : 0.0f);
    }
}

// R rows of w against all of x; the first tile asks for what the next rows need.
template <class T, class M, int R>
static inline void dots_rows(const Dots& d, int base, int begin, int end, const char* ahead) {
  int row = 0;
  const auto tiles = [&](auto many) {
    constexpr int X = decltype(many)::value;
    for (; row + X <= d.rows; row += X) dots_tile<T, M, R, X>(d, row, base, begin, end, row ? nullptr : ahead);
  };
  tiles(Number<kRowsTogether>{});
  if (kRowsTogether > 4) tiles(Number<4>{});
  tiles(Number<2>{});
  tiles(Number<1>{});
}

template <class T, class M>
static void dots_as(const Dots& d) {
  if (d.size == 0) {
    for (int t = 0; t < d.rows; ++t)
      for (int n = 0; n < d.weight_rows; ++n) d.sums[t * kWeightRowsAtOnce + n] = 0;
    return;
  }
  if (d.rows == 1) {
    const T* w = reinterpret_cast<const T*>(d.w);
    const auto* x = reinterpret_cast<const typename M::Cell*>(d.packed);
    for (int n = 0; n < d.weight_rows; ++n) d.sums[n] = dot<T, M>(x, w + n * d.w_stride, d.size);
    return;
  }
  const int64_t row_bytes = d.w_stride * static_cast<int64_t>(sizeof(T));
  const int fit = static_cast<int>(kPackedInCache / sizeof(typename M::Cell)) / d.rows;
  const int part = fit - fit % M::kStep;
  int64_t block = row_bytes > 0 ? kWeightsInCache / row_bytes : 0;  // 0: one row for all, or they run backwards
  block = block < kWeightsTogether ? kWeightsTogether : block - block % kWeightsTogether;
  for (int64_t from = 0; from < d.weight_rows; from += block) {
    const int to = static_cast<int>(from + block < d.weight_rows ? from + block : d.weight_rows);
    const char* ahead = d.w + to * row_bytes;
    for (int begin = 0; begin < d.size; begin += part) {
      const int end = begin + part < d.size ? begin + part : d.size;
      const int64_t used = (end - begin) * static_cast<int64_t>(sizeof(T));
      int n = static_cast<int>(from);
      for (; n + kWeightsTogether <= to; n += kWeightsTogether, ahead += kWeightsTogether * used)
        dots_rows<T, M, kWeightsTogether>(d, n, begin, end, ahead);
      for (; n < to; ++n) dots_rows<T, M, 1>(d, n, begin, end, nullptr);
    }
  }
}

static void dots(Dtype dtype, const Dots& d) {
  if (dtype == Dtype::f32) return dots_as<float, FloatMath<float>>(d);
  if (dtype == Dtype::bf16) return dots_as<bf16, Bf16Math>(d);
  dots_as<f16, FloatMath<f16>>(d);
}

static void pack(Dtype dtype, const char* x, int64_t stride, int rows, int size, char* packed) {
  if (dtype == Dtype::f32) return pack_as<float, FloatMath<float>>(x, stride, rows, size, packed);
  if (dtype == Dtype::bf16) return pack_as<bf16, Bf16Math>(x, stride, rows, size, packed);
  pack_as<f16, FloatMath<f16>>(x, stride, rows, size, packed);
}

template <class T>
static void finish_as(const Finish& f) {
  const auto at = [](const char* p, int i) { return reinterpret_cast<const T*>(p) + i; };
  for (int i = 0; i < f.count; i += Vec::kWidth) {
    const int n = f.count - i;
    Vec y = load_n(f.sums + i, n);
    if (f.bias) y = add(y, load_n(at(f.bias, i), n));
    if (f.gates) {
      Vec g = load_n(f.gates + i, n);
      if (f.gate_bias) g = add(g, load_n(at(f.gate_bias, i), n));
      y = mul(silu(g), y);
    }
    if (f.add) y = add(y, load_n(at(f.add, i), n));
    store_n(reinterpret_cast<T*>(f.out) + i, y, n);
  }
}

static void finish(Dtype dtype, const Finish& f) {
  if (dtype == Dtype::f32) return finish_as<float>(f);
  if (dtype == Dtype::bf16) return finish_as<bf16>(f);
  finish_as<f16>(f);
}

// Normalised, rounded to T, then weighted: the order in which transformers rounds.
template <class T>
static void rms_norm_as(const char* from, const char* weight_bytes, float epsilon, char* to, int size) {
  constexpr int W = Vec::kWidth;
  const T *x = reinterpret_cast<const T*>(from), *weight = reinterpret_cast<const T*>(weight_bytes);
  T* out = reinterpret_cast<T*>(to);
  Vec sum[4] = {set1(0), set1(0), set1(0), set1(0)};
  for (int i = 0; i < size; i += 4 * W)
    for (int j = 0; j < 4 && i + j * W < size; ++j) {
      const Vec v = load_n(x + i + j * W, size - i - j * W);
      sum[j] = fma(v, v, sum[j]);
    }
  const float mean = reduce_add(add(add(sum[0], sum[1]), add(sum[2], sum[3]))) / static_cast<float>(size);
  const Vec scale = set1(1.0f / __builtin_sqrtf(mean + epsilon));
  for (int i = 0; i < size; i += W) {
    const int n = size - i;
    store_n(out + i, mul(rounded<T>(mul(load_n(x + i, n), scale)), load_n(weight + i, n)), n);
  }
}

static void rms_norm(Dtype dtype, const char* x, const char* weight, float epsilon, char* out, int size) {
  if (dtype == Dtype::f32) return rms_norm_as<float>(x, weight, epsilon, out, size);
  if (dtype == Dtype::bf16) return rms_norm_as<bf16>(x, weight, epsilon, out, size);
  rms_norm_as<f16>(x, weight, epsilon, out, size);
}

template <class T>
static void silu_mul_as(char* gate_bytes, const char* up_bytes, int64_t size) {
  constexpr int W = Vec::kWidth;
  T* gate = reinterpret_cast<T*>(gate_bytes);
  const T* up = reinterpret_cast<const T*>(up_bytes);
  int64_t i = 0;
  for (; i + W <= size; i += W) store(gate + i, mul(silu(load(gate + i)), load(up + i)));
  if (i < size) {
    const int n = static_cast<int>(size - i);
    store_n(gate + i, mul(silu(load_n(gate + i, n)), load_n(up + i, n)), n);
  }
}

static void silu_mul(Dtype dtype, char* gate, const char* up, int64_t size) {
  if (dtype == Dtype::f32) return silu_mul_as<float>(gate, up, size);
  if (dtype == Dtype::bf16) return silu_mul_as<bf16>(gate, up, size);
  silu_mul_as<f16>(gate, up, size);
}
