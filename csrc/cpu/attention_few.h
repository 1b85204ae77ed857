// Few rows (decode): groups of one tile go through the keys together, so that pages are read in the order of their
// addresses. Included after attention_generic.h.

// Some keys' lines of K's or V's pages in the order of their addresses, one by one.
template <class T>
struct Lines {
  const AttentionArgs* args;
  const AttentionTile* tile;
  bool values;
  int key, end;  // of the piece at hand, and of all
  int group = 0, keys = 0;
  const char *at = nullptr, *piece_end = nullptr;

  inline void fetch() {
    if (at >= piece_end) return;
    __builtin_prefetch(at, 0, 2);
    at += 64;
    if (at >= piece_end) next_piece();
  }
  // A piece: the keys of a block in one group, or one of them if they do not follow each other.
  void find_piece() {
    const int block = key / args->block_size, offset = key % args->block_size;
    const int64_t of_block = values ? args->v_block : args->k_block, of_group = values ? args->v_group : args->k_group;
    const int64_t of_offset = values ? args->v_offset : args->k_offset, size = sizeof(T);
    keys = args->block_size - offset < end - key ? args->block_size - offset : end - key;
    if (of_offset != args->dim) keys = 1;
    at = (values ? args->v_pages : args->k_pages) +
         (tile->blocks[block] * of_block + (tile->group + group) * of_group + offset * of_offset) * size;
    piece_end = at + keys * args->dim * size;
  }
  __attribute__((noinline)) void next_piece() {
    if (++group == tile->num_groups) {
      group = 0;
      key += keys;
      if (key == end) return;
    }
    find_piece();
  }
};

// The pages of the next keys, fetched on the way so that memory works while the core does: pages are anywhere, so the
// core's own prefetcher starts anew in each. Keys and values in turns, because lines of one page wait together until
// the address of the page is found.
template <class T>
struct Ahead {
  Lines<T> keys, values;
  Ahead(const AttentionArgs& args, const AttentionTile& tile, int begin, int end)
      : keys{&args, &tile, false, begin, end}, values{&args, &tile, true, begin, end} {
    if (begin == end) return;
    keys.find_piece();
    values.find_piece();
  }
  inline void fetch_both() {
    keys.fetch();
    values.fetch();
  }
};

// The two products for few rows, straight from the pages: packing would cost more than it saves.

// q: [step][kMaxRows][kW], kW Cells along D per step. sums[r]: the products of q[r] with kPairOfKeys keys, those from
// `count` on zero, added up as far as `quad_half` goes. kWhole: all of them are there, in whole registers. Two keys at
// a time: each register of q is loaded once for both.
constexpr int kPairOfKeys = kQuad < 2 ? kQuad : 2;
template <class Math, int kRows, bool kWhole>
static inline void score_pair(const typename Math::Cell* q, int steps, const typename Math::Stored* const* rows,
                              Ahead<typename Math::Stored>& ahead, int count, int dim, Vec* sums) {
  Vec first[kRows], second[kRows];
  for (int r = 0; r < kRows; ++r) first[r] = second[r] = set1(0);
  const auto key = [&](int n, int d) {
    return Math::as_cells(kWhole ? Math::whole_cells(rows[n], d)
                                 : Math::key_cells(rows[n < count ? n : 0], d, n < count ? dim : 0));
  };
  for (int step = 0; step < steps; ++step, q += kMaxRows * kW) {
    const auto first_key = key(0, step * kW), second_key = key(kPairOfKeys - 1, step * kW);
    if (kW > 1) ahead.fetch_both();
    for (int r = 0; r < kRows; ++r) {
      const auto of_row = Math::cells(q + r * kW);
      first[r] = Math::madd(first[r], of_row, first_key);
      if (kPairOfKeys > 1) second[r] = Math::madd(second[r], of_row, second_key);
    }
  }
  for (int r = 0; r < kRows; ++r) sums[r] = quad_half(first[r], second[r]);
}

// parts[r]: the same for kQuad keys.
template <class Math, int kRows, bool kWhole>
static inline void score_quad(const typename Math::Cell* q, int steps, const typename Math::Stored* const* rows,
                              Ahead<typename Math::Stored>& ahead, int count, int dim, Vec* parts) {
  Vec low[kRows], high[kRows];
  score_pair<Math, kRows, kWhole>(q, steps, rows, ahead, count, dim, low);
  if (kQuad > 2) score_pair<Math, kRows, kWhole>(q, steps, rows + 2, ahead, count - 2, dim, high);
  for (int r = 0; r < kRows; ++r) parts[r] = kQuad > 2 ? quad(low[r], high[r]) : low[r];
}

// scores[r][n] of `keys` keys, whole panels; those from `count` on are zero.
template <class Math, int kRows>
static inline void score_rows(const typename Math::Cell* q, int steps, const typename Math::Stored* const* rows,
                              Ahead<typename Math::Stored>& ahead, int count, int keys, int dim, float* scores) {
  const int whole = dim % (kW * Math::kPair) == 0 ? count / kW * kW : 0;
  for (int n = 0; n < keys; n += kW) {
    Vec parts[kW / kQuad][kRows];
    for (int i = 0; i < kW / kQuad; ++i) {
      const int at = n + i * kQuad;
      if (n < whole)
        score_quad<Math, kRows, true>(q, steps, rows + at, ahead, kQuad, dim, parts[i]);
      else
        score_quad<Math, kRows, false>(q, steps, rows + at, ahead, count - at, dim, parts[i]);
    }
    for (int r = 0; r < kRows; ++r) {
      Vec of_row[kW / kQuad];
      for (int i = 0; i < kW / kQuad; ++i) of_row[i] = parts[i][r];
      store(scores + r * kKeys + n, join_quads(of_row));
    }
  }
}

// sums[r][d] = sums[r][d] alpha[r] + sum_n weights[r][n] value[n][d], d in the order of Math::mixed_value_cells
template <class Math, int kRows>
static inline void add_rows(const typename Math::Cell* weights, int n_cells, const typename Math::Stored* const* rows,
                            Ahead<typename Math::Stored>& ahead, int count, int dim, float* sums, int d_padded,
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
      Math::mixed_value_cells(rows, k * Math::kPair, d, b_left, b_right);
      ahead.fetch_both();
      add(k, b_left, b_right);
    }
    for (int k = whole; k * Math::kPair < count; ++k) {
      Math::some_mixed_value_cells(rows, k * Math::kPair, count, d, dim, b_left, b_right);
      add(k, b_left, b_right);
    }
    for (int r = 0; r < kRows; ++r) {
      store(sums + r * d_padded + d, left[r]);
      store(sums + r * d_padded + d + kW, right[r]);
    }
  }
}

// Where the parts of the scratch memory are. Rows are padded to kMaxRows, see with_rows.
template <class Math>
struct FewScratch {
  using Cell = typename Math::Cell;
  int q_stride, d_padded, n_cells;  // Cells of a row of q, floats of a row of sums, Cells of a row of weights
  Cell *q, *row, *weights;          // q[group][q_stride / kW][row][kW], row[q_stride], weights[row][n_cells]
  float *scores, *sums, *row_max, *row_sum;  // scores[row][kKeys], the others [group][row] and [d_padded]
  const typename Math::Stored **k_rows, **v_rows;

  int64_t lay_out(const AttentionArgs& args, int groups, char* base) {
    q_stride = up(up(args.dim, Math::kPair) / Math::kPair, kW);
    d_padded = up(args.dim, kPanel);
    n_cells = kKeys / Math::kPair;
    Taker take{base};
    take(q, static_cast<int64_t>(groups) * kMaxRows * q_stride);
    take(row, q_stride);
    take(weights, static_cast<int64_t>(kMaxRows) * n_cells);
    take(scores, static_cast<int64_t>(kMaxRows) * kKeys);
    take(sums, static_cast<int64_t>(groups) * kMaxRows * d_padded);
    take(row_max, static_cast<int64_t>(groups) * kMaxRows);
    take(row_sum, static_cast<int64_t>(groups) * kMaxRows);
    take(k_rows, kKeys);
    take(v_rows, kKeys);
    return take.at;
  }
};

template <class Math>
static void run_few(const AttentionArgs& args, const AttentionTile& tile, char* memory) {
  using T = typename Math::Stored;
  const int rows = tile.row_end - tile.row_begin, dim = args.dim;
  FewScratch<Math> s;
  s.lay_out(args, tile.num_groups, memory);
  __builtin_memset(s.q, 0, sizeof(*s.q) * tile.num_groups * kMaxRows * s.q_stride);
  __builtin_memset(s.weights, 0, sizeof(*s.weights) * kMaxRows * s.n_cells);
  __builtin_memset(s.sums, 0, sizeof(float) * tile.num_groups * kMaxRows * s.d_padded);
  for (int g = 0; g < tile.num_groups; ++g)
    for (int r = 0; r < rows; ++r) {
      Math::pack_row(query<T>(args, tile, g, r), dim, s.row, s.q_stride);
      for (int d = 0; d < s.q_stride; ++d)
        s.q[(static_cast<int64_t>(g) * s.q_stride + d / kW * kW) * kMaxRows + r * kW + d % kW] = s.row[d];
      s.row_max[g * kMaxRows + r] = -__builtin_inff();
      s.row_sum[g * kMaxRows + r] = 0;
    }

  const int last_seen = visible(args, tile, tile.row_end - 1);
  const int key_end = tile.key_end < last_seen ? tile.key_end : last_seen;
  for (int begin = tile.key_begin; begin < key_end; begin += kKeys) {
    const int count = key_end - begin < kKeys ? key_end - begin : kKeys, keys = up(count, kPanel);
    Ahead<T> ahead(args, tile, begin + count, key_end - begin - count < kKeys ? key_end : begin + 2 * kKeys);
    for (int g = 0; g < tile.num_groups; ++g) {
      find_rows(args.k_pages, args.k_block, args.k_offset, (tile.group + g) * args.k_group, tile.blocks,
                args.block_size, begin, count, s.k_rows);
      find_rows(args.v_pages, args.v_block, args.v_offset, (tile.group + g) * args.v_group, tile.blocks,
                args.block_size, begin, count, s.v_rows);
      with_rows(rows, [&](auto number) {
        constexpr int kRows = decltype(number)::value;
        score_rows<Math, kRows>(s.q + static_cast<int64_t>(g) * kMaxRows * s.q_stride, s.q_stride / kW, s.k_rows, ahead,
                                count, keys, dim, s.scores);
      });
      float alpha[kMaxRows] = {};
      weigh<Math>(args, tile, 0, rows, begin, count, keys, s.scores, s.row_max + g * kMaxRows, s.row_sum + g * kMaxRows,
                  s.weights, s.n_cells, alpha);
      with_rows(rows, [&](auto number) {
        constexpr int kRows = decltype(number)::value;
        add_rows<Math, kRows>(s.weights, s.n_cells, s.v_rows, ahead, count, dim,
                              s.sums + static_cast<int64_t>(g) * kMaxRows * s.d_padded, s.d_padded, alpha);
      });
    }
  }
  for (int g = 0; g < tile.num_groups; ++g)
    for (int r = 0; r < rows; ++r) {
      const int at = g * kMaxRows + r;
      for (int d = 0; d < s.d_padded; d += kPanel) Math::unmix(s.sums + static_cast<int64_t>(at) * s.d_padded + d);
      put(args, tile, g, r, s.row_max[at], s.row_sum[at], s.sums + static_cast<int64_t>(at) * s.d_padded, T());
    }
}

template <class Math>
static int64_t scratch_bytes(const AttentionArgs& args, const AttentionTile& tile) {
  const int rows = tile.row_end - tile.row_begin;
  return rows <= kMaxRows ? FewScratch<Math>().lay_out(args, tile.num_groups, nullptr)
                          : Scratch<Math>().lay_out(args, rows, nullptr);
}

template <class Math>
static void run(const AttentionArgs& args, const AttentionTile& tile, char* memory) {
  tile.row_end - tile.row_begin <= kMaxRows ? run_few<Math>(args, tile, memory) : run_many<Math>(args, tile, memory);
}
