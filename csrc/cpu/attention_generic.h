// paged_attention over Vec; included inside a namespace behind one of vec_*.h and a Math:
//   Math::Stored            element type of q, pages and out
//   Math::Cell              what the packed matrices hold: a float, or a pair of bf16
//   Math::kPair             dimensions (or keys) a Cell holds
//   Math::madd(acc, a, b)   acc + a * b, a one Cell for all lanes, b kWidth Cells at an address
//   Math::Cells, as_cells   what a register holds of them
//   Math::key_cells(row, d, dim)   a register of Cells of one key, zeros from `dim` on
//   Math::whole_cells, whole_value_cells   the same where nothing is missing
//   Math::value_cells       two registers of Cells of the keys n .. n + kPair - 1 from dimension d on
//   Math::pack_keys, pack_values, pack_row, pack_weights
// Letters: R rows of the tile, N keys of a block, D head_dim, W lanes.

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
// few sizes. Rows behind the last are padding, for which the scratch memory has room.
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

// What the next block will read, fetched on the way so that memory works while the core does. Lines go in the order of
// their addresses, which also wakes the core's own prefetcher; a column at a time reached half of its bandwidth.
template <class T>
struct Ahead {
  const T* const* rows;
  int num_rows, row_bytes;
  int row = 0, at = 0;
  inline void fetch(int lines) {
    for (int i = 0; i < lines && row < num_rows; ++i) {
      __builtin_prefetch(reinterpret_cast<const char*>(rows[row]) + at, 0, 2);
      at += 64;
      if (at >= row_bytes) {
        at = 0;
        ++row;
      }
    }
  }
};

// The same two products for few rows, straight from the pages: packing would cost more than it saves.

// scores[r][i] = sum_d q[r][d] key[i][d] for one register of keys. kWhole: all of them are there, in whole registers;
// otherwise those from `count` on are zero.
template <class Math, int kRows, bool kWhole>
static inline void score_register(const typename Math::Cell* q, int q_stride, const typename Math::Stored* const* rows,
                                  Ahead<typename Math::Stored>& ahead, int count, int dim, float* scores) {
  Vec sums[kRows];
  for (int r = 0; r < kRows; ++r) sums[r] = set1(0);
  for (int d = 0; d < q_stride; d += kW) {
    Vec block[kW];
    for (int i = 0; i < kW; ++i)
      block[i] = kWhole ? Math::whole_cells(rows[i], d) : Math::key_cells(rows[i < count ? i : 0], d, i < count ? dim : 0);
    ahead.fetch(kW);
    transpose(block);
    for (int i = 0; i < kW; ++i)
      for (int r = 0; r < kRows; ++r)
        sums[r] = Math::madd(sums[r], Math::all(q[r * q_stride + d + i]), Math::as_cells(block[i]));
  }
  for (int r = 0; r < kRows; ++r) store(scores + r * kKeys, sums[r]);
}

// scores[r][n] of `keys` keys, whole panels; those from `count` on are zero.
template <class Math, int kRows>
static inline void score_rows(const typename Math::Cell* q, int q_stride, const typename Math::Stored* const* rows,
                              Ahead<typename Math::Stored> ahead, int count, int keys, int dim, float* scores) {
  const int whole = dim % (kW * Math::kPair) == 0 ? count / kW * kW : 0;
  int n = 0;
  for (; n < whole; n += kW)
    score_register<Math, kRows, true>(q, q_stride, rows + n, ahead, kW, dim, scores + n);
  for (; n < keys; n += kW)
    score_register<Math, kRows, false>(q, q_stride, rows + n, ahead, count - n, dim, scores + n);
}

// sums[r][d] = sums[r][d] alpha[r] + sum_n weights[r][n] value[n][d]
template <class Math, int kRows>
static inline void add_rows(const typename Math::Cell* weights, int n_cells, const typename Math::Stored* const* rows,
                            Ahead<typename Math::Stored> ahead, int count, int dim, float* sums, int d_padded,
                            const float* alpha) {
  for (int d = 0; d < d_padded; d += kPanel) {
    Vec left[kRows], right[kRows];
    for (int r = 0; r < kRows; ++r) {
      left[r] = mul(load(sums + r * d_padded + d), set1(alpha[r]));
      right[r] = mul(load(sums + r * d_padded + d + kW), set1(alpha[r]));
    }
    const auto add = [&](int k, typename Math::Cells b_left, typename Math::Cells b_right) {
      for (int r = 0; r < kRows; ++r) {
        const auto weight = Math::all(weights[r * n_cells + k]);
        left[r] = Math::madd(left[r], weight, b_left);
        right[r] = Math::madd(right[r], weight, b_right);
      }
    };
    const int whole = d + kPanel <= dim ? count / Math::kPair : 0;
    typename Math::Cells b_left, b_right;
    for (int k = 0; k < whole; ++k) {
      Math::whole_value_cells(rows + k * Math::kPair, d, b_left, b_right);
      ahead.fetch(2);
      add(k, b_left, b_right);
    }
    for (int k = whole; k * Math::kPair < count; ++k) {
      Math::value_cells(rows, k * Math::kPair, count, d, dim, b_left, b_right);
      add(k, b_left, b_right);
    }
    for (int r = 0; r < kRows; ++r) {
      store(sums + r * d_padded + d, left[r]);
      store(sums + r * d_padded + d + kW, right[r]);
    }
  }
}

// Where the parts of the scratch memory lie.
template <class Math>
struct Scratch {
  using Cell = typename Math::Cell;
  int d_cells, q_stride, d_padded, n_cells;  // Cells along D, and in whole registers; floats of a row of out, whole
                                             // panels; Cells along N
  Cell *q, *keys, *values, *weights;
  float *scores, *sums, *row_max, *row_sum;
  const typename Math::Stored **k_rows, **v_rows, **next_k_rows, **next_v_rows;

  int64_t lay_out(const AttentionArgs& args, int rows, char* base) {
    d_cells = up(args.dim, Math::kPair) / Math::kPair;
    q_stride = up(d_cells, kW);
    d_padded = up(args.dim, kPanel);
    n_cells = kKeys / Math::kPair;
    int64_t at = 0;
    const auto take = [&](auto*& pointer, int64_t count) {
      pointer = reinterpret_cast<Plain<decltype(pointer)>>(base + at);
      at += (count * static_cast<int64_t>(sizeof(*pointer)) + 63) / 64 * 64;
    };
    const int padded = rows + kMaxRows;  // see with_rows
    take(q, static_cast<int64_t>(padded) * q_stride);
    take(keys, static_cast<int64_t>(kKeys) * d_cells);
    take(values, static_cast<int64_t>(n_cells) * d_padded);
    take(weights, static_cast<int64_t>(kMaxRows) * n_cells);
    take(scores, static_cast<int64_t>(kMaxRows) * kKeys);
    take(sums, static_cast<int64_t>(padded) * d_padded);
    take(row_max, rows);
    take(row_sum, rows);
    take(k_rows, kKeys);
    take(v_rows, kKeys);
    take(next_k_rows, kKeys);
    take(next_v_rows, kKeys);
    return at;
  }
};

template <class Math>
static int64_t scratch_bytes(const AttentionArgs& args, int rows) {
  return Scratch<Math>().lay_out(args, rows, nullptr);
}

static inline int visible(const AttentionArgs& args, const AttentionTile& tile, int row) {
  const int last = tile.num_keys - tile.num_queries + row / args.heads_per_group + 1;
  const int seen = args.causal ? last : tile.num_keys;
  return seen < 0 ? 0 : seen;
}

// Scores [kKeys] of one row -> weights; keys from `seen` on count nothing. Returns what older sums are scaled by.
template <class Math>
static inline float weigh(float* scores, int seen, float scale, float& row_max, float& row_sum,
                          typename Math::Cell* weights, int keys) {
  float* end = scores + keys;
  for (float* s = scores + seen; s < end; ++s) *s = -__builtin_inff();
  Vec high = set1(-__builtin_inff());
  const Vec factor = set1(scale);
  for (float* s = scores; s < end; s += kW) {
    const Vec x = mul(load(s), factor);
    store(s, x);
    high = max(high, x);
  }
  const float block_max = reduce_max(high), new_max = block_max > row_max ? block_max : row_max;
  if (new_max == -__builtin_inff()) {  // nothing seen so far: exp(-inf + inf) is no number
    for (float* s = scores; s < end; s += kW) store(s, set1(0));
    Math::pack_weights(scores, keys, weights);
    return 1;
  }
  Vec total = set1(0);
  const Vec shift = set1(new_max);
  for (float* s = scores; s < end; s += kW) {
    const Vec p = exp(sub(load(s), shift));
    store(s, p);
    total = add(total, p);
  }
  const float alpha = row_max == -__builtin_inff() ? 0 : __builtin_expf(row_max - new_max);
  row_sum = row_sum * alpha + reduce_add(total);
  row_max = new_max;
  Math::pack_weights(scores, keys, weights);
  return alpha;
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

template <class Math>
static void run(const AttentionArgs& args, const AttentionTile& tile, char* memory) {
  using T = typename Math::Stored;
  const int rows = tile.row_end - tile.row_begin, dim = args.dim, per_group = args.heads_per_group;
  Scratch<Math> s;
  s.lay_out(args, rows, memory);
  const int64_t first_head = static_cast<int64_t>(tile.group) * per_group;
  for (int r = 0; r < rows; ++r) {
    const int row = tile.row_begin + r;
    const T* q = reinterpret_cast<const T*>(args.q) + (tile.first_token + row / per_group) * args.q_token +
                 (first_head + row % per_group) * args.q_head;
    Math::pack_row(q, dim, s.q + static_cast<int64_t>(r) * s.q_stride, s.q_stride);
    s.row_max[r] = -__builtin_inff();
    s.row_sum[r] = 0;
  }
  for (int64_t i = 0; i < static_cast<int64_t>(rows + kMaxRows) * s.d_padded; i += kW) store(s.sums + i, set1(0));
  __builtin_memset(s.q + static_cast<int64_t>(rows) * s.q_stride, 0, sizeof(*s.q) * kMaxRows * s.q_stride);
  __builtin_memset(s.weights, 0, sizeof(*s.weights) * kMaxRows * s.n_cells);

  const int last_seen = visible(args, tile, tile.row_end - 1);
  const int key_end = tile.key_end < last_seen ? tile.key_end : last_seen;
  const bool few = rows <= kMaxRows;
  const int row_bytes = dim * static_cast<int>(sizeof(T));
  const auto rows_of_block = [&](int begin, const T** k_rows, const T** v_rows) {
    const int count = key_end - begin < kKeys ? key_end - begin : kKeys;
    find_rows(args.k_pages, args.k_block, args.k_offset, tile.group * args.k_group, tile.blocks, args.block_size, begin,
              count, k_rows);
    find_rows(args.v_pages, args.v_block, args.v_offset, tile.group * args.v_group, tile.blocks, args.block_size, begin,
              count, v_rows);
  };
  if (tile.key_begin < key_end) rows_of_block(tile.key_begin, s.next_k_rows, s.next_v_rows);
  for (int begin = tile.key_begin; begin < key_end; begin += kKeys) {
    const int count = key_end - begin < kKeys ? key_end - begin : kKeys, keys = up(count, kPanel);
    for (int n = 0; n < count; ++n) {
      s.k_rows[n] = s.next_k_rows[n];
      s.v_rows[n] = s.next_v_rows[n];
    }
    int ahead = key_end - begin - kKeys;  // keys of the next block
    ahead = ahead < 0 ? 0 : ahead < kKeys ? ahead : kKeys;
    if (ahead) rows_of_block(begin + kKeys, s.next_k_rows, s.next_v_rows);
    if (!few) {
      Math::pack_keys(s.k_rows, count, keys, dim, s.d_cells, s.keys);
      Math::pack_values(s.v_rows, count, dim, s.d_padded, s.values);
    }
    const int depth = up(count, Math::kPair) / Math::kPair;
    for (int r = 0; r < rows; r += kMaxRows) {
      const int some = rows - r < kMaxRows ? rows - r : kMaxRows;
      if (visible(args, tile, tile.row_begin + r + some - 1) <= begin) continue;
      const typename Math::Cell* q = s.q + static_cast<int64_t>(r) * s.q_stride;
      float* sums = s.sums + static_cast<int64_t>(r) * s.d_padded;
      with_rows(some, [&](auto number) {
        constexpr int kRows = decltype(number)::value;
        if (few)
          return score_rows<Math, kRows>(q, s.q_stride, s.k_rows, Ahead<T>{s.next_k_rows, ahead, row_bytes}, count, keys,
                                         dim, s.scores);
        for (int n = 0; n < keys; n += kPanel)
          multiply<Math, kRows, false>(q, s.q_stride, s.keys + static_cast<int64_t>(n) * s.d_cells, kPanel, s.d_cells,
                                       s.scores + n, kKeys, nullptr);
      });
      float alpha[kMaxRows] = {};
      for (int i = 0; i < some; ++i) {
        int seen = visible(args, tile, tile.row_begin + r + i) - begin;
        seen = seen < 0 ? 0 : seen < count ? seen : count;
        alpha[i] = weigh<Math>(s.scores + i * kKeys, seen, args.scale, s.row_max[r + i], s.row_sum[r + i],
                               s.weights + i * s.n_cells, keys);
      }
      with_rows(some, [&](auto number) {
        constexpr int kRows = decltype(number)::value;
        if (few)
          return add_rows<Math, kRows>(s.weights, s.n_cells, s.v_rows, Ahead<T>{s.next_v_rows, ahead, row_bytes}, count,
                                       dim, sums, s.d_padded, alpha);
        for (int d = 0; d < s.d_padded; d += kPanel)
          multiply<Math, kRows, true>(s.weights, s.n_cells, s.values + d, s.d_padded, depth, sums + d, s.d_padded, alpha);
      });
    }
  }
  for (int r = 0; r < rows; ++r) {
    const int row = tile.row_begin + r;
    const float* sums = s.sums + static_cast<int64_t>(r) * s.d_padded;
    if (tile.part_out) {
      for (int d = 0; d < dim; d += kW) store_n(tile.part_out + static_cast<int64_t>(r) * dim + d, load(sums + d), dim - d);
      tile.part_max[r] = s.row_max[r];
      tile.part_sum[r] = s.row_sum[r];
      continue;
    }
    finish<T>(args, tile, row, s.row_max[r], s.row_sum[r], sums, dim);
  }
}

template <class Math>
static void join(const AttentionArgs& args, const AttentionTile& tile, int parts, const float* outs,
                 const float* maxima, const float* part_sums) {
  const int rows = tile.row_end - tile.row_begin, dim = args.dim;
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
    finish<typename Math::Stored>(args, tile, tile.row_begin + r, high, total, sums, dim);
  }
}
