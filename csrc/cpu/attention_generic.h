// paged_attention over Vec; included inside a namespace after one of vec_*.h and a Math:
//   Math::Stored            element type of q, pages and out
//   Math::Cell              what the packed matrices hold: a float, or a pair of bf16
//   Math::kPair             dimensions (or keys) a Cell holds
//   Math::madd(acc, a, b)   acc + a * b, a one Cell for all lanes, b kWidth Cells at an address
//   Math::Cells, as_cells   what a register holds of them
//   Math::key_cells(row, d, dim)   a register of Cells of one key, zeros from `dim` on
//   Math::whole_cells       the same where nothing is missing
//   Math::mixed_value_cells, some_mixed_value_cells   two registers of Cells of the keys n .. n + kPair - 1 from
//                           dimension d on, in an order that is cheap to make; Math::unmix puts a panel right
//   Math::pack_keys, pack_values, pack_row, pack_weights

constexpr int kW = Vec::kWidth;
constexpr int kPanel = 2 * kW;  // keys in a panel of packed keys
constexpr int kKeys = 64;       // keys in a block
constexpr int kMaxRows = kW == 16 ? 12 : kW == 8 ? 6 : 4;

static inline int up(int n, int to) { return (n + to - 1) / to * to; }

// C[r][j] = sum_k A[r][k] B[k][j] for `kRows` rows and 2 registers of columns; with kAdd C[r] is scaled by alpha[r] and
// added to. A's rows are a_stride Cells apart, B's b_stride, C's c_stride floats.
template <class Math, int kRows, bool kAdd>
static inline void multiply(const typename Math::Cell* a, int a_stride, const typename Math::Cell* b, int b_stride,
                            int depth, float* c, int c_stride, const float* alpha) {
  Vec left[kRows], right[kRows];
  for (int r = 0; r < kRows; ++r) {
    left[r] = kAdd ? mul(load(c + r * c_stride), set1(alpha[r])) : set1(0);
    right[r] = kAdd ? mul(load(c + r * c_stride + kW), set1(alpha[r])) : set1(0);
  }
  for (int k = 0; k < depth; ++k) {
    const auto b_left = Math::cells(b + static_cast<int64_t>(k) * b_stride);
    const auto b_right = Math::cells(b + static_cast<int64_t>(k) * b_stride + kW);
    for (int r = 0; r < kRows; ++r) {
      const auto cell = Math::all(a[r * a_stride + k]);
      left[r] = Math::madd(left[r], cell, b_left);
      right[r] = Math::madd(right[r], cell, b_right);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    store(c + r * c_stride, left[r]);
    store(c + r * c_stride + kW, right[r]);
  }
}

// Calls f with the number of rows as a type, so that it is known when f is compiled: `rows` or the next greater of a
// few sizes. Rows after the last are padding, for which the scratch memory has room.
template <int n> struct Number { static constexpr int value = n; };
template <class F>
static inline void with_rows(int rows, const F& f) {
  if (rows <= 1) return f(Number<1>());
  if (rows <= 2) return f(Number<2>());
  if (rows <= 4 || kMaxRows == 4) return f(Number<4>());
  if (rows <= 7 && kMaxRows > 7) return f(Number<(kMaxRows > 7 ? 7 : 4)>());
  if (rows <= 8 && kMaxRows > 8) return f(Number<(kMaxRows > 8 ? 8 : 4)>());
  f(Number<kMaxRows>());
}

// Cuts a piece of memory into 64-byte aligned arrays; base nullptr: only counts.
struct Taker {
  char* base;
  int64_t at = 0;
  template <class T> void operator()(T*& pointer, int64_t count) {
    pointer = reinterpret_cast<T*>(base + at);
    at += (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
  }
};

// Where the parts of the scratch memory are.
template <class Math>
struct Scratch {
  using Cell = typename Math::Cell;
  int d_cells, q_stride, d_padded, n_cells;  // Cells along D, and in whole registers; floats of a row of out, whole
                                             // panels; Cells along N
  Cell *q, *keys, *values, *weights;
  float *scores, *sums, *row_max, *row_sum;
  const typename Math::Stored **k_rows, **v_rows;

  int64_t lay_out(const AttentionArgs& args, int rows, char* base) {
    d_cells = up(args.dim, Math::kPair) / Math::kPair;
    q_stride = up(d_cells, kW);
    d_padded = up(args.dim, kPanel);
    n_cells = kKeys / Math::kPair;
    Taker take{base};
    const int padded = rows + kMaxRows;  // see with_rows
    take(q, static_cast<int64_t>(padded) * q_stride);
    take(keys, static_cast<int64_t>(kKeys) * d_cells);
    take(values, static_cast<int64_t>(n_cells) * d_padded);
    take(weights, static_cast<int64_t>(kMaxRows) * n_cells);
    take(scores, static_cast<int64_t>(kMaxRows) * kKeys);
    take(sums, static_cast<int64_t>(padded) * d_padded);
    take(row_max, padded);
    take(row_sum, padded);
    take(k_rows, kKeys);
    take(v_rows, kKeys);
    return take.at;
  }
};

static inline int visible(const AttentionArgs& args, const AttentionTile& tile, int row) {
  const int last = tile.num_keys - tile.num_queries + row / args.heads_per_group + 1;
  const int seen = args.causal ? last : tile.num_keys;
  return seen < 0 ? 0 : seen;
}

// Scores [rows][kKeys] of the keys from `begin` on -> weights [rows][n_cells]; keys that a row does not see count
// nothing. row is the first one's number in the tile; alpha[r]: what its older sums are scaled by.
template <class Math>
static inline void weigh(const AttentionArgs& args, const AttentionTile& tile, int row, int rows, int begin, int count,
                         int keys, float* scores, float* row_max, float* row_sum, typename Math::Cell* weights,
                         int n_cells, float* alpha) {
  const Vec factor = set1(args.scale);
  float new_max[kMaxRows];
  for (int r = 0; r < rows; ++r) {
    float* of_row = scores + r * kKeys;
    const int seen = visible(args, tile, tile.row_begin + row + r) - begin;
    for (int n = seen < 0 ? 0 : seen < count ? seen : count; n < keys; ++n) of_row[n] = -__builtin_inff();
    Vec high = set1(row_max[r]);
    for (int n = 0; n < keys; n += kW) {
      const Vec x = mul(load(of_row + n), factor);
      store(of_row + n, x);
      high = max(high, x);
    }
    new_max[r] = reduce_max(high);
  }
  for (int r = 0; r < rows; ++r) {
    float* of_row = scores + r * kKeys;
    // Nothing seen so far: exp(-inf + inf) is no number, and exp(-inf - 0) is 0.
    const float shift = new_max[r] == -__builtin_inff() ? 0 : new_max[r];
    const Vec shifts = set1(shift);
    alpha[r] = row_max[r] - shift;
    Vec total = set1(0);
    for (int n = 0; n < keys; n += kW) {
      const Vec p = exp(sub(load(of_row + n), shifts));
      store(of_row + n, p);
      total = add(total, p);
    }
    row_max[r] = new_max[r];
    new_max[r] = reduce_add(total);
    Math::pack_weights(of_row, keys, weights + r * n_cells);
  }
  for (int r = 0; r < rows; r += kW) store_n(alpha + r, exp(load_n(alpha + r, rows - r)), rows - r);
  for (int r = 0; r < rows; ++r) row_sum[r] = row_sum[r] * alpha[r] + new_max[r];
}

// Pointers to `count` consecutive rows of pages from token `begin`.
template <class T>
static inline void find_rows(const char* pages, int64_t block_stride, int64_t offset_stride, int64_t start,
                             const int32_t* blocks, int block_size, int begin, int count, const T** rows) {
  int block = begin / block_size, offset = begin % block_size;
  for (int i = 0; i < count; ++block, offset = 0) {
    const T* row = reinterpret_cast<const T*>(pages) + start + blocks[block] * block_stride + offset * offset_stride;
    for (; offset < block_size && i < count; ++offset, ++i, row += offset_stride) rows[i] = row;
  }
}

// The query of a row of a tile, in its group number `group`.
template <class T>
static inline const T* query(const AttentionArgs& args, const AttentionTile& tile, int group, int r) {
  const int row = tile.row_begin + r, per_group = args.heads_per_group;
  return reinterpret_cast<const T*>(args.q) + (tile.first_token + row / per_group) * args.q_token +
         (static_cast<int64_t>(tile.group + group) * per_group + row % per_group) * args.q_head;
}

// What a row has come to: into out and lse, or into the part's memory.
template <class T>
static inline void put(const AttentionArgs& args, const AttentionTile& tile, int group, int r, float row_max,
                       float row_sum, const float* sums, T) {
  if (!tile.part_out) return finish<T>(args, tile, group, tile.row_begin + r, row_max, row_sum, sums, args.dim);
  const int64_t row = static_cast<int64_t>(group) * (tile.row_end - tile.row_begin) + r;
  for (int d = 0; d < args.dim; d += kW) store_n(tile.part_out + row * args.dim + d, load(sums + d), args.dim - d);
  tile.part_max[row] = row_max;
  tile.part_sum[row] = row_sum;
}

template <class Math>
static void run_many(const AttentionArgs& args, const AttentionTile& tile, char* memory) {
  using T = typename Math::Stored;
  const int rows = tile.row_end - tile.row_begin, dim = args.dim;
  Scratch<Math> s;
  s.lay_out(args, rows, memory);
  for (int r = 0; r < rows; ++r) {
    Math::pack_row(query<T>(args, tile, 0, r), dim, s.q + static_cast<int64_t>(r) * s.q_stride, s.q_stride);
    s.row_max[r] = -__builtin_inff();
    s.row_sum[r] = 0;
  }
  for (int64_t i = 0; i < static_cast<int64_t>(rows + kMaxRows) * s.d_padded; i += kW) store(s.sums + i, set1(0));
  __builtin_memset(s.q + static_cast<int64_t>(rows) * s.q_stride, 0, sizeof(*s.q) * kMaxRows * s.q_stride);
  __builtin_memset(s.weights, 0, sizeof(*s.weights) * kMaxRows * s.n_cells);

  const int last_seen = visible(args, tile, tile.row_end - 1);
  const int key_end = tile.key_end < last_seen ? tile.key_end : last_seen;
  for (int begin = tile.key_begin; begin < key_end; begin += kKeys) {
    const int count = key_end - begin < kKeys ? key_end - begin : kKeys, keys = up(count, kPanel);
    find_rows(args.k_pages, args.k_block, args.k_offset, tile.group * args.k_group, tile.blocks, args.block_size, begin,
              count, s.k_rows);
    find_rows(args.v_pages, args.v_block, args.v_offset, tile.group * args.v_group, tile.blocks, args.block_size, begin,
              count, s.v_rows);
    Math::pack_keys(s.k_rows, count, keys, dim, s.d_cells, s.keys);
    Math::pack_values(s.v_rows, count, dim, s.d_padded, s.values);
    const int depth = up(count, Math::kPair) / Math::kPair;
    for (int r = 0; r < rows; r += kMaxRows) {
      const int some = rows - r < kMaxRows ? rows - r : kMaxRows;
      if (visible(args, tile, tile.row_begin + r + some - 1) <= begin) continue;
      const typename Math::Cell* q = s.q + static_cast<int64_t>(r) * s.q_stride;
      float* sums = s.sums + static_cast<int64_t>(r) * s.d_padded;
      with_rows(some, [&](auto number) {
        constexpr int kRows = decltype(number)::value;
        for (int n = 0; n < keys; n += kPanel)
          multiply<Math, kRows, false>(q, s.q_stride, s.keys + static_cast<int64_t>(n) * s.d_cells, kPanel, s.d_cells,
                                       s.scores + n, kKeys, nullptr);
      });
      float alpha[kMaxRows] = {};
      weigh<Math>(args, tile, r, some, begin, count, keys, s.scores, s.row_max + r, s.row_sum + r, s.weights, s.n_cells,
                  alpha);
      with_rows(some, [&](auto number) {
        constexpr int kRows = decltype(number)::value;
        for (int d = 0; d < s.d_padded; d += kPanel)
          multiply<Math, kRows, true>(s.weights, s.n_cells, s.values + d, s.d_padded, depth, sums + d, s.d_padded,
                                      alpha);
      });
    }
  }
  for (int r = 0; r < rows; ++r)
    put(args, tile, 0, r, s.row_max[r], s.row_sum[r], s.sums + static_cast<int64_t>(r) * s.d_padded, T());
}

template <class Math>
static void join(const AttentionArgs& args, const AttentionTile& tile, int parts, const float* outs,
                 const float* maxima, const float* part_sums) {
  const int of_group = tile.row_end - tile.row_begin, rows = tile.num_groups * of_group, dim = args.dim;
  float sums[kMaxDim];
  for (int r = 0; r < rows; ++r) {
    float high = -__builtin_inff(), total = 0;
    for (int p = 0; p < parts; ++p) high = maxima[p * rows + r] > high ? maxima[p * rows + r] : high;
    for (int d = 0; d < dim; ++d) sums[d] = 0;
    for (int p = 0; p < parts; ++p) {
      const float part_max = maxima[p * rows + r];
      if (part_max == -__builtin_inff()) continue;
      const float weight = __builtin_expf(part_max - high);
      const float* out = outs + (static_cast<int64_t>(p) * rows + r) * dim;
      total += part_sums[p * rows + r] * weight;
      for (int d = 0; d < dim; ++d) sums[d] += out[d] * weight;
    }
    finish<typename Math::Stored>(args, tile, r / of_group, tile.row_begin + r % of_group, high, total, sums, dim);
  }
}
