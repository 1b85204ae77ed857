// Math in floats for any stored type, and what both Maths share. Included inside a namespace after vec_*.h.

constexpr int kMaxDim = 512;

// out = sums / row_sum in the stored type, and lse = row_max + log(row_sum). No key seen: 0 and -inf.
template <class T>
static inline void finish(const AttentionArgs& args, const AttentionTile& tile, int group, int row, float row_max,
                          float row_sum, const float* sums, int dim) {
  const int64_t token = tile.first_token + row / args.heads_per_group;
  const int64_t head = static_cast<int64_t>(tile.group + group) * args.heads_per_group + row % args.heads_per_group;
  T* out = reinterpret_cast<T*>(args.out) + token * args.out_token + head * args.out_head;
  const Vec inverse = set1(row_sum > 0 ? 1 / row_sum : 0);
  for (int d = 0; d < dim; d += Vec::kWidth) store_n(out + d, mul(load_n(sums + d, dim - d), inverse), dim - d);
  if (args.lse)
    args.lse[token * args.lse_token + head * args.lse_head] =
        row_sum > 0 ? row_max + __builtin_logf(row_sum) : -__builtin_inff();
}

template <class T>
struct FloatMath {
  using Stored = T;
  using Cell = float;
  static constexpr int kPair = 1;
  static inline Vec cells(const float* p) { return load(p); }
  static inline Vec all(float a) { return set1(a); }
  static inline Vec madd(Vec acc, Vec a, Vec b) { return fma(a, b, acc); }

  using Cells = Vec;
  static inline Vec as_cells(Vec x) { return x; }
  static inline Vec key_cells(const T* row, int d, int dim) { return some(row + d, dim - d); }
  static inline Vec whole_cells(const T* row, int d) { return load(row + d); }
  static inline void mixed_value_cells(const T* const* rows, int n, int d, Vec& left, Vec& right) {
    left = load(rows[n] + d);
    right = load(rows[n] + d + Vec::kWidth);
  }
  static inline void some_mixed_value_cells(const T* const* rows, int n, int, int d, int dim, Vec& left, Vec& right) {
    left = some(rows[n] + d, dim - d);
    right = some(rows[n] + d + Vec::kWidth, dim - d - Vec::kWidth);
  }
  static inline void unmix(float*) {}
  static inline Vec some(const T* p, int n) {
    return n >= Vec::kWidth ? load(p) : n > 0 ? load_n(p, n) : set1(0);
  }
  static inline void pack_row(const T* row, int dim, float* out, int stride) {
    for (int d = 0; d < stride; d += Vec::kWidth) store(out + d, some(row + d, dim - d));
  }
  // keys[panel][d][key of the panel], zeros after `count`.
  static inline void pack_keys(const T* const* rows, int count, int keys, int dim, int d_cells, float* out) {
    constexpr int W = Vec::kWidth, panel = 2 * W;
    for (int n = 0; n < keys; n += W)
      for (int d = 0; d < dim; d += W) {
        Vec block[W];
        for (int i = 0; i < W; ++i) block[i] = n + i < count ? some(rows[n + i] + d, dim - d) : set1(0);
        transpose(block);
        float* to = out + static_cast<int64_t>(n / panel) * panel * d_cells + n % panel + static_cast<int64_t>(d) * panel;
        for (int i = 0; i < W && d + i < dim; ++i) store(to + i * panel, block[i]);
      }
  }
  static inline void pack_values(const T* const* rows, int count, int dim, int d_padded, float* out) {
    for (int n = 0; n < count; ++n)
      for (int d = 0; d < d_padded; d += Vec::kWidth) store(out + static_cast<int64_t>(n) * d_padded + d, some(rows[n] + d, dim - d));
  }
  static inline void pack_weights(const float* weights, int keys, float* out) {
    for (int n = 0; n < keys; n += Vec::kWidth) store(out + n, load(weights + n));
  }
};
