// frames_to_patches: uint8 frames -> resized by Pillow's integer arithmetic -> one table per channel -> patches in
// merge order. Work goes row by row through buffers that stay in the core's cache; a frame is read once and its
// patches are written once.
#pragma once

#include <cstdint>
#include <vector>

#include "../tensor_view.h"

namespace vz {

constexpr int kMaxSide = 1 << 16;  // pixels, and taps of a pass
constexpr int kMaxSteps = 8;
constexpr int kSlack = 192;  // bytes that rows may be written or read beyond their end

// One pass along one axis: out[i] = clip8((2^21 + sum_j weights[i * taps + j] * in[first[i] + j]) >> 22).
// Bare pointers, because the files of one instruction set must not instantiate std:: templates (see isa.h).
struct Pass {
  int in_size = 0, out_size = 0, taps = 0;  // taps is a multiple of 4; rows are filled up with zeros
  const int32_t *first = nullptr, *count = nullptr, *weights = nullptr;
  bool identity() const { return in_size == out_size; }

  // For the byte dot products of AVX-512: a weight is digits[2] << 16 + digits[1] << 8 + digits[0], each signed.
  // Vertical: [out][taps / 4][3] groups of 4 digits.
  const int32_t* quads = nullptr;
  // Horizontal: for each batch of `pixels` outputs and each group of 4 taps one Block, and its first input byte.
  struct alignas(64) Block { uint8_t index[64]; int8_t digits[3][64]; };
  int pixels = 0;
  const Block* blocks = nullptr;
  const int32_t* base = nullptr;
};

// A pass and the memory that it points to. It can be moved, not copied.
struct OwnedPass {
  Pass pass;
  std::vector<int32_t> first, count, weights, quads, base;
  std::vector<Pass::Block> blocks;
  OwnedPass() = default;
  OwnedPass(OwnedPass&&) = default;
  OwnedPass& operator=(OwnedPass&&) = default;
};

// Fills a pass from the first inputs [out] and weights [out, taps] that Python computed, and packs it.
OwnedPass make_pass(int in_size, const View& first, const View& weights, bool horizontal);

struct Step {
  OwnedPass horizontal, vertical;
  bool vertical_first = false;
};

// Made once and never changed, so that any number of threads may use it. Sides are 1 to kMaxSide.
struct Plan {
  int in_height, in_width;
  std::vector<Step> steps;
  Plan(int in_height, int in_width);
  void add_step(Step step);  // while it is made
  bool resizes() const;      // whether any step changes a size
  int out_height() const { return steps.empty() ? in_height : steps.back().vertical.pass.out_size; }
  int out_width() const { return steps.empty() ? in_width : steps.back().horizontal.pass.out_size; }
};

// Where the bytes of a row of pixels go. `table` is 3 x 256 elements of element_bytes.
struct Patches {
  int patch, merge, temporal, columns;  // columns: patches in a row of patches
  int element_bytes;
  const uint8_t* table;
  const uint8_t* planes;  // the table's bytes apart: [3][element_bytes][256]
};

// What each instruction set implements. Source rows are `stride` bytes apart; `bytes` is the length of a row.
struct FrameKernels {
  void (*horizontal)(const Pass&, const uint8_t* src, int64_t src_stride, int rows, uint8_t* dst, int64_t dst_stride);
  // One output row y from input rows; src points at input row `row0`.
  void (*vertical)(const Pass&, int y, const uint8_t* src, int row0, int64_t stride, int bytes, uint8_t* dst);
  // A row of patches, number gy, from `patch` rows of pixels into its place in the frame's patches. Rows have kSlack
  // bytes after them.
  void (*emit)(const Patches&, int gy, const uint8_t* rows, int64_t stride, char* frame_out);
};
extern const FrameKernels frames_scalar;
#ifdef VZ_X86
extern const FrameKernels frames_avx2, frames_avx512;
#endif

void frames_to_patches(const Plan&, const View& frames, const View& table, const View& out, int patch, int merge,
                       int temporal);
void resize_frames(const Plan&, const View& frames, const View& out);

}  // namespace vz
