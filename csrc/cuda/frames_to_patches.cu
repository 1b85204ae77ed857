// frames_to_patches: a block of threads makes one tile of output pixels of one frame. The first pass runs from the frame
// into shared memory, rounded to 8 bits as Pillow does it, the second from there; the tile's levels then go through the
// table and out in patch order, 16 bytes a store. Source pixels are read as bytes: neighbours share them in L1.
#include <utility>

#include "../op.h"
#include "launch.h"

namespace vz::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kBits = 22;  // of the integer weights
constexpr size_t kMaxShared = 48 * 1024;
constexpr int kMaxSide = 1 << 16;  // pixels, and taps of a pass

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

  // middle [span][one_count][3] where columns are summed, [one_count][span][3] where rows are: as the frame is stored.
  for (int item = threadIdx.x; item < span * one_count; item += kThreads) {
    const int line = rows_first ? item % span : item / one_count;
    const int i = rows_first ? item / span : item % one_count;
    const int from = one.first[one0 + i];
    const int* const weights = one.weights + static_cast<int64_t>(one0 + i) * one.taps;
    const uint8_t* const pixels = source + (begin + line) * two_stride;
    int red = kHalf, green = kHalf, blue = kHalf;
    for (int t = 0; t < one.taps; ++t) {
      // The last taps may be outside of the frame; their weights are 0.
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

// One resize, to patches (table given) or to uint8 frames [N, h, w, 3] (no table; patch, merge and temporal do not count).
// first [out] and weights [out, taps] int32 of each axis; span: the most source pixels that a tile's side needs.
struct Resize {
  View frames;
  Maybe table;
  Out out;
  View x_first, x_weights;
  int x_span;
  View y_first, y_weights;
  int y_span;
  bool vertical_first;
  int patch, merge, temporal, tile;
  VZ_ARGUMENTS(frames, table, out, x_first, x_weights, x_span, y_first, y_weights, y_span, vertical_first, patch, merge,
               temporal, tile)
};

AxisArgs axis_args(const char* name, const View& first, const View& weights, int64_t in_size) {
  for (const View* v : {&first, &weights}) {
    want_dtype(name, *v, Dtype::i32);
    want_contiguous(name, *v);
  }
  if (first.ndim != 1 || weights.ndim != 2 || weights.shape[0] != first.shape[0])
    throw BadArgument(std::string(name) + ": first must be [out] and weights [out, taps]");
  for (const int64_t size : {first.shape[0], weights.shape[1], in_size})
    if (size < 1 || size > kMaxSide)
      throw BadArgument(std::string(name) + ": inputs, outputs and taps must be 1 to 65536, got " + std::to_string(in_size) +
                        ", " + std::to_string(first.shape[0]) + " and " + std::to_string(weights.shape[1]));
  return {first.as<const int>(), weights.as<const int>(), static_cast<int>(weights.shape[1]),
          static_cast<int>(in_size), static_cast<int>(first.shape[0])};
}

void resize(const Resize& in, void* stream) {
  Dims dims;
  dims.bind("frames", in.frames, "NHWC");
  want_dtype("frames", in.frames, Dtype::u8);
  if (dims['C'] != 3 || in.frames.stride[3] != 1 || in.frames.stride[2] != 3)
    throw BadArgument("frames must be [N, H, W, 3] with the pixels of a row next to each other");
  want_contiguous("out", in.out);
  ResizeArgs a = {};
  a.frames = in.frames.as<const uint8_t>(), a.table = in.table ? in.table->data : nullptr, a.out = in.out.data;
  a.frame_stride = in.frames.stride[0], a.row_stride = in.frames.stride[1];
  a.x = axis_args("x", in.x_first, in.x_weights, dims['W']);
  a.y = axis_args("y", in.y_first, in.y_weights, dims['H']);
  const int patch = in.patch, merge = in.merge, temporal = in.temporal, tile = in.tile;
  for (const auto& [name, number] : {std::pair{"patch", patch}, {"merge", merge}, {"temporal", temporal}, {"tile", tile},
                                     {"x_span", in.x_span}, {"y_span", in.y_span}})
    if (number < 1 || number > kMaxSide)
      throw BadArgument(std::string(name) + " must be 1 to 65536, got " + std::to_string(number));
  a.patch = patch, a.merge = merge, a.temporal = temporal, a.tile = tile;
  a.tiles_x = ceil_div(a.x.out_size, tile), a.tiles_y = ceil_div(a.y.out_size, tile);
  a.rows_first = in.vertical_first;
  a.middle_pixels = checked_int("a tile", int64_t{in.vertical_first ? in.x_span : in.y_span} * tile);
  // The middle is followed by levels, whose first byte need not be aligned.
  const size_t shared_bytes = size_t(3) * a.middle_pixels + (in.table ? size_t(3) * tile * tile : 0);
  if (shared_bytes > kMaxShared)
    throw BadArgument("frames shrink too steeply for one pass: a tile needs " + std::to_string(shared_bytes) +
                      " bytes of shared memory; resize in two steps, or use impl='triton'");
  if (in.table && tile % patch) throw BadArgument("tile must be whole patches");
  if (in.table) {
    want_contiguous("table", *in.table);
    want_dtype("out", in.out, in.table->dtype);
    if (in.table->ndim != 2 || in.table->shape[0] != 3 || in.table->shape[1] != 256)
      throw BadArgument("table must be [3, 256], got " + shape_text(*in.table));
    checked_int("a patch", int64_t{3} * temporal * patch * patch);
    const int64_t side = int64_t{patch} * merge;
    if (a.y.out_size % side || a.x.out_size % side)
      throw BadArgument("the size after the resize is not whole merged patches");
    const int64_t rows = checked_product("frames", {dims['N'], a.y.out_size / patch, a.x.out_size / patch});
    if (in.out.ndim != 2 || in.out.shape[0] != rows || in.out.shape[1] != int64_t{3} * temporal * patch * patch)
      throw BadArgument("out has shape " + shape_text(in.out) + ", which is not [patches, 3 temporal patch**2]");
  } else {
    want_dtype("out", in.out, Dtype::u8);
    if (in.out.ndim != 4 || in.out.shape[0] != dims['N'] || in.out.shape[1] != a.y.out_size || in.out.shape[2] != a.x.out_size ||
        in.out.shape[3] != 3)
      throw BadArgument("out has shape " + shape_text(in.out) + ", which is not [N, h, w, 3]");
  }
  if (!dims['N']) return;

  const OnDevice device(in.frames.device_id);
  const dim3 grid(checked_int("frames", checked_product("frames", {dims['N'], a.tiles_x, a.tiles_y})));
  if (!in.table) return launch(resize_kernel<uint8_t, false, false>, grid, dim3(kThreads), shared_bytes, stream, a);
  with_type("table", in.table->dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    const bool wide = rows_aligned(in.out) && 3 * temporal * patch * patch * sizeof(T) % 16 == 0;
    with_bool(wide, [&](auto w) {
      launch(resize_kernel<T, true, decltype(w)::value>, grid, dim3(kThreads), shared_bytes, stream, a);
    });
  });
}

}  // namespace

VZ_CUDA_OP("frames_to_patches", Resize, resize)

}  // namespace vz::gpu
