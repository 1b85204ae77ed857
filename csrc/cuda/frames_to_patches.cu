// frames_to_patches: a block of threads makes one tile of output pixels of one frame. The first pass runs from the frame
// into shared memory, rounded to 8 bits as Pillow does it, the second from there; the tile's levels then go through the
// table and out in patch order, 16 bytes a store. Source pixels are read as bytes: neighbours share them in L1.
#include "launch.h"
#include "ops.h"

namespace vz::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kBits = 22;  // of the integer weights
constexpr size_t kMaxShared = 48 * 1024;

struct AxisArgs {
  const int *first, *weights;
  int taps, in_size, out_size;
};

struct ResizeArgs {
  const uint8_t* frames;
  const void* table;
  void* out;
  int64_t frame_stride, row_stride;
  AxisArgs x, y;
  int patch, merge, temporal;
  int tile, tiles_x, tiles_y;
  int middle_pixels;  // room for the first pass
  bool rows_first;    // rows are summed first (Pillow's vertical pass), then columns
};

__device__ __forceinline__ int least(int a, int b) { return a < b ? a : b; }
__device__ __forceinline__ int to_level(int total) {
  total >>= kBits;
  return total < 0 ? 0 : total > 255 ? 255 : total;
}

// Grid: frame x tile. PATCHES: through the table into patches; else levels into [N, h, w, 3].
template <class T, bool PATCHES, bool WIDE>
__global__ void __launch_bounds__(kThreads) resize_kernel(ResizeArgs a) {
  VZ_DYNAMIC_SHARED(shared);
  uint8_t* const middle = shared;
  uint8_t* const levels = shared + a.middle_pixels * 3;  // [3][tile][tile]
  const int tile_x = blockIdx.x % a.tiles_x, tile_y = blockIdx.x / a.tiles_x % a.tiles_y;
  const int64_t frame = blockIdx.x / a.tiles_x / a.tiles_y;
  const int x0 = tile_x * a.tile, y0 = tile_y * a.tile;
  const int width = least(a.tile, a.x.out_size - x0), height = least(a.tile, a.y.out_size - y0);
  const uint8_t* const source = a.frames + frame * a.frame_stride;
  constexpr int kHalf = 1 << (kBits - 1);

  // The axis that is summed first, and the one that stays as it is in the middle: rows or columns of the frame.
  const bool rows_first = a.rows_first;
  const AxisArgs& one = rows_first ? a.y : a.x;
  const AxisArgs& two = rows_first ? a.x : a.y;
  const int one0 = rows_first ? y0 : x0, one_count = rows_first ? height : width;
  const int two0 = rows_first ? x0 : y0, two_count = rows_first ? width : height;
  const int begin = two.first[two0];
  const int span = least(two.first[two0 + two_count - 1] + two.taps, two.in_size) - begin;
  const int64_t one_stride = rows_first ? a.row_stride : 3, two_stride = rows_first ? 3 : a.row_stride;

  // middle [span][one_count][3] where columns are summed, [one_count][span][3] where rows are: as the frame lies.
  for (int item = threadIdx.x; item < span * one_count; item += kThreads) {
    const int line = rows_first ? item % span : item / one_count;
    const int i = rows_first ? item / span : item % one_count;
    const int from = one.first[one0 + i];
    const int* const weights = one.weights + static_cast<int64_t>(one0 + i) * one.taps;
    const uint8_t* const pixels = source + (begin + line) * two_stride;
    int red = kHalf, green = kHalf, blue = kHalf;
    for (int t = 0; t < one.taps; ++t) {
      // The last taps may lie behind the frame; their weights are 0.
      const uint8_t* const pixel = pixels + least(from + t, one.in_size - 1) * one_stride;
      const int weight = weights[t];
      red += weight * pixel[0];
      green += weight * pixel[1];
      blue += weight * pixel[2];
    }
    middle[item * 3] = to_level(red);
    middle[item * 3 + 1] = to_level(green);
    middle[item * 3 + 2] = to_level(blue);
  }
  __syncthreads();

  const int line_stride = rows_first ? 3 : one_count * 3, i_stride = rows_first ? span * 3 : 3;
  for (int item = threadIdx.x; item < height * width; item += kThreads) {
    const int y = item / width, x = item - y * width;
    const int i = rows_first ? y : x, j = rows_first ? x : y;
    const int from = two.first[two0 + j] - begin;
    const int* const weights = two.weights + static_cast<int64_t>(two0 + j) * two.taps;
    int red = kHalf, green = kHalf, blue = kHalf;
    for (int t = 0; t < two.taps; ++t) {
      const uint8_t* const pixel = middle + least(from + t, span - 1) * line_stride + i * i_stride;
      const int weight = weights[t];
      red += weight * pixel[0];
      green += weight * pixel[1];
      blue += weight * pixel[2];
    }
    if constexpr (PATCHES) {
      const int at = y * a.tile + x;
      levels[at] = to_level(red);
      levels[a.tile * a.tile + at] = to_level(green);
      levels[2 * a.tile * a.tile + at] = to_level(blue);
    } else {
      uint8_t* const to =
          static_cast<uint8_t*>(a.out) + ((frame * a.y.out_size + y0 + y) * a.x.out_size + x0 + x) * 3;
      to[0] = to_level(red);
      to[1] = to_level(green);
      to[2] = to_level(blue);
    }
  }
  if constexpr (PATCHES) {
    __syncthreads();
    constexpr int N = Pack<T>::N;
    const int across = width / a.patch, patches = across * (height / a.patch);
    const int elements = 3 * a.temporal * a.patch * a.patch, packs = (elements + N - 1) / N;
    const int rows = a.y.out_size / a.patch, columns = a.x.out_size / a.patch;
    const T* const table = static_cast<const T*>(a.table);
    for (int item = threadIdx.x; item < patches * packs; item += kThreads) {
      const int nth = item / packs, e = (item - nth * packs) * N;
      const int in_y = nth / across, in_x = nth - in_y * across;
      const int gy = y0 / a.patch + in_y, gx = x0 / a.patch + in_x, m = a.merge;
      const int64_t row = ((frame * (rows / m) + gy / m) * (columns / m) + gx / m) * m * m + gy % m * m + gx % m;
      const int area = a.patch * a.patch, copy = e / area;
      int channel = copy / a.temporal, repeat = copy - channel * a.temporal;
      int y = (e - copy * area) / a.patch, x = e - copy * area - y * a.patch;
      Pack<T> pack = {};
#pragma unroll
      for (int j = 0; j < N; ++j) {
        if (WIDE || e + j < elements) {
          const int at = (in_y * a.patch + y) * a.tile + in_x * a.patch + x;
          pack.x[j] = table[channel * 256 + levels[channel * a.tile * a.tile + at]];
        }
        if (++x == a.patch) {
          x = 0;
          if (++y == a.patch) {
            y = 0;
            if (++repeat == a.temporal) repeat = 0, ++channel;
          }
        }
      }
      store_pack<WIDE>(static_cast<T*>(a.out) + row * elements + e, pack, elements - e);
    }
  }
}

AxisArgs axis_args(const char* name, const Axis& axis, int64_t in_size) {
  for (const View* v : {&axis.first, &axis.weights}) {
    want_dtype(name, *v, Dtype::i32);
    want_contiguous(name, *v);
  }
  if (axis.first.ndim != 1 || axis.weights.ndim != 2 || axis.weights.shape[0] != axis.first.shape[0])
    throw BadArgument(std::string(name) + ": first must be [out] and weights [out, taps]");
  return {axis.first.as<const int>(), axis.weights.as<const int>(), static_cast<int>(axis.weights.shape[1]),
          static_cast<int>(in_size), static_cast<int>(axis.first.shape[0])};
}

}  // namespace

void resize(const View& frames, const View* table, const View& out, const Axis& x, const Axis& y, bool vertical_first,
            int patch, int merge, int temporal, int tile, void* stream) {
  Dims dims;
  dims.bind("frames", frames, "NHWC");
  want_dtype("frames", frames, Dtype::u8);
  if (dims['C'] != 3 || frames.stride[3] != 1 || frames.stride[2] != 3)
    throw BadArgument("frames must be [N, H, W, 3] with the pixels of a row next to each other");
  want_contiguous("out", out);
  ResizeArgs a;
  a.frames = frames.as<const uint8_t>(), a.table = table ? table->data : nullptr, a.out = out.data;
  a.frame_stride = frames.stride[0], a.row_stride = frames.stride[1];
  a.x = axis_args("x", x, dims['W']), a.y = axis_args("y", y, dims['H']);
  a.patch = patch, a.merge = merge, a.temporal = temporal, a.tile = tile;
  a.tiles_x = ceil_div(a.x.out_size, tile), a.tiles_y = ceil_div(a.y.out_size, tile);
  a.rows_first = vertical_first;
  a.middle_pixels = (vertical_first ? x.span : y.span) * tile;
  // The middle is followed by levels, whose first byte need not be aligned.
  const size_t shared_bytes = size_t(3) * a.middle_pixels + (table ? size_t(3) * tile * tile : 0);
  if (shared_bytes > kMaxShared)
    throw BadArgument("frames shrink too steeply for one pass: a tile needs " + std::to_string(shared_bytes) +
                      " bytes of shared memory; resize in two steps, or use impl='triton'");
  if (tile < 1 || (table && tile % patch)) throw BadArgument("tile must be whole patches");
  if (table) {
    want_contiguous("table", *table);
    want_dtype("out", out, table->dtype);
    if (table->ndim != 2 || table->shape[0] != 3 || table->shape[1] != 256)
      throw BadArgument("table must be [3, 256], got " + shape_text(*table));
    if (a.y.out_size % (patch * merge) || a.x.out_size % (patch * merge))
      throw BadArgument("the size after the resize is not whole merged patches");
    const int64_t rows = dims['N'] * (a.y.out_size / patch) * (a.x.out_size / patch);
    if (out.ndim != 2 || out.shape[0] != rows || out.shape[1] != int64_t{3} * temporal * patch * patch)
      throw BadArgument("out has shape " + shape_text(out) + ", which is not [patches, 3 temporal patch**2]");
  } else {
    want_dtype("out", out, Dtype::u8);
    if (out.ndim != 4 || out.shape[0] != dims['N'] || out.shape[1] != a.y.out_size || out.shape[2] != a.x.out_size ||
        out.shape[3] != 3)
      throw BadArgument("out has shape " + shape_text(out) + ", which is not [N, h, w, 3]");
  }
  if (!dims['N']) return;

  const OnDevice device(frames.device_id);
  const dim3 grid(static_cast<unsigned>(dims['N'] * a.tiles_x * a.tiles_y));
  if (!table) return launch(resize_kernel<uint8_t, false, false>, grid, dim3(kThreads), shared_bytes, stream, a);
  with_type("table", table->dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    const bool wide = rows_aligned(out) && 3 * temporal * patch * patch * sizeof(T) % 16 == 0;
    with_bool(wide, [&](auto w) {
      launch(resize_kernel<T, true, decltype(w)::value>, grid, dim3(kThreads), shared_bytes, stream, a);
    });
  });
}

}  // namespace vz::gpu
