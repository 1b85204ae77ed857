// The plain C++ of frames_to_patches, compiled once for any machine and once for AVX2. Included inside a namespace of
// its own by each; holds nothing that the linker could share between them.

inline uint8_t clip8(int32_t sum) {
  const int32_t v = sum >> 22;
  return static_cast<uint8_t>(v < 0 ? 0 : v > 255 ? 255 : v);
}

static void horizontal(const Pass& pass, const uint8_t* src, int64_t src_stride, int rows, uint8_t* dst,
                       int64_t dst_stride) {
  const int32_t *first = pass.first, *count = pass.count, *weights = pass.weights;
  for (int r = 0; r < rows; ++r) {
    const uint8_t* row = src + r * src_stride;
    uint8_t* out = dst + r * dst_stride;
    for (int x = 0; x < pass.out_size; ++x) {
      const int32_t* w = weights + static_cast<int64_t>(x) * pass.taps;
      const uint8_t* in = row + 3 * first[x];
      int32_t red = 1 << 21, green = red, blue = red;
      for (int j = 0; j < count[x]; ++j) {
        red += w[j] * in[3 * j];
        green += w[j] * in[3 * j + 1];
        blue += w[j] * in[3 * j + 2];
      }
      out[3 * x] = clip8(red);
      out[3 * x + 1] = clip8(green);
      out[3 * x + 2] = clip8(blue);
    }
  }
}

static void vertical(const Pass& pass, int y, const uint8_t* src, int row0, int64_t stride, int bytes, uint8_t* dst) {
  constexpr int kBlock = 256;
  const int32_t* w = pass.weights + static_cast<int64_t>(y) * pass.taps;
  const uint8_t* in = src + (pass.first[y] - row0) * stride;
  for (int x0 = 0; x0 < bytes; x0 += kBlock) {
    const int n = bytes - x0 < kBlock ? bytes - x0 : kBlock;
    int32_t sums[kBlock];
    for (int i = 0; i < n; ++i) sums[i] = 1 << 21;
    for (int j = 0; j < pass.count[y]; ++j) {
      const uint8_t* row = in + j * stride + x0;
      const int32_t weight = w[j];
      for (int i = 0; i < n; ++i) sums[i] += weight * row[i];
    }
    for (int i = 0; i < n; ++i) dst[x0 + i] = clip8(sums[i]);
  }
}

template <class T>
static void emit_as(const Patches& p, int y, const uint8_t* row, char* frame_out) {
  const T* table = reinterpret_cast<const T*>(p.table);
  const int64_t area = int64_t{p.patch} * p.patch, row_elements = 3 * p.temporal * area;
  const int64_t gy = y / p.patch, py = y % p.patch;
  const int64_t line = gy / p.merge * (p.columns / p.merge);
  for (int gx = 0; gx < p.columns; ++gx) {
    const int64_t index = ((line + gx / p.merge) * p.merge + gy % p.merge) * p.merge + gx % p.merge;
    T* out = reinterpret_cast<T*>(frame_out) + index * row_elements + py * p.patch;
    for (int c = 0; c < 3; ++c) {
      for (int t = 0; t < p.temporal; ++t) {
        T* to = out + (c * p.temporal + t) * area;
        for (int i = 0; i < p.patch; ++i) to[i] = table[c * 256 + row[3 * (gx * p.patch + i) + c]];
      }
    }
  }
}

static void emit(const Patches& p, int gy, const uint8_t* rows, int64_t stride, char* frame_out) {
  for (int py = 0; py < p.patch; ++py) {
    if (p.element_bytes == 4)
      emit_as<uint32_t>(p, gy * p.patch + py, rows + py * stride, frame_out);
    else
      emit_as<uint16_t>(p, gy * p.patch + py, rows + py * stride, frame_out);
  }
}
