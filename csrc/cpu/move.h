// What the ops that move keys and values share: copies and rotations of rows, one table per instruction set.
#pragma once

#include <cstdint>

#include "../tensor_view.h"

namespace vz {

// Rows of `2 * pairs` elements, `src_stride` and `dst_stride` bytes apart, all rotated by the same angles:
// dst[i] = x[i] cos[i] - x[i + pairs] sin[i], dst[i + pairs] = x[i + pairs] cos[i] + x[i] sin[i]. dst may be src.
struct Rotation {
  const char* src;
  int64_t src_stride;
  char* dst;
  int64_t dst_stride;
  int rows, pairs;
  const void *cos, *sin;
  bool past_caches;  // for amounts that no cache would keep; dst rows are then 64-byte aligned or it is ignored
};

constexpr int kMaxPairs = 512;

struct MoveKernels {
  // Angles in the rows' 16-bit type round every product to it, as torch does; float32 angles round once.
  void (*rotate)(const Rotation&, Dtype data, Dtype angles);
  void (*copy)(char* dst, const char* src, int64_t bytes, bool past_caches);
  // out = a * weight_a + b * weight_b over `size` elements; a side whose weight is 0 is not read.
  void (*blend)(Dtype, const char* a, float weight_a, const char* b, float weight_b, char* out, int size);
  void (*fence)();  // after the last store past the caches of a thread
};

const MoveKernels& move_kernels();

// Amounts above this do not stay in a cache, so stores go past it: the line need not be read first.
constexpr int64_t kPastCachesBytes = int64_t{8} << 20;

}  // namespace vz
