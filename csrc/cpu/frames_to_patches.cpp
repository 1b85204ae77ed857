#include "frames_to_patches.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "isa.h"
#include "threads.h"

namespace vz {
namespace {

const FrameKernels& kernels() {
#ifdef VZ_X86
  if (isa() >= Isa::avx512) return frames_avx512;
  if (isa() == Isa::avx2) return frames_avx2;
#endif
  return frames_scalar;
}

// A buffer of rows with room after each for whole registers. It grows and is kept, one per thread and step.
struct Rows {
  std::unique_ptr<uint8_t[]> memory;
  size_t size = 0;
  int64_t stride = 0;
  uint8_t* reserve(int rows, int bytes) {
    stride = (bytes + kSlack + 63) / 64 * 64;
    const size_t wanted = static_cast<size_t>(stride) * rows + kSlack;
    if (wanted > size) {
      memory.reset(new uint8_t[wanted]);
      size = wanted;
    }
    return memory.get();
  }
};

struct Source {
  const uint8_t* row0;  // pointer to row `first_row`
  int first_row;
  int64_t stride;
};

// Rows [begin, end) after `num_steps` steps of the plan. Only the rows that they need are computed before them.
Source rows_after(const Plan& plan, int num_steps, const uint8_t* frame, int64_t frame_stride, int begin, int end,
                  std::vector<Rows>& buffers) {
  if (num_steps == 0) return {frame + begin * frame_stride, begin, frame_stride};
  const Step& step = plan.steps[num_steps - 1];
  const Pass &h = step.horizontal.pass, &v = step.vertical.pass;
  int need_begin = begin, need_end = end;
  if (!v.identity()) {
    need_begin = v.in_size, need_end = 0;
    for (int y = begin; y < end; ++y) {
      need_begin = std::min(need_begin, v.first[y]);
      need_end = std::max(need_end, v.first[y] + v.count[y]);
    }
  }
  Source in = rows_after(plan, num_steps - 1, frame, frame_stride, need_begin, need_end, buffers);
  Rows &first = buffers[2 * num_steps - 2], &second = buffers[2 * num_steps - 1];
  const auto run_horizontal = [&](Source from, int rows, Rows& to) -> Source {
    if (h.identity()) return from;
    uint8_t* out = to.reserve(rows, h.out_size * 3);
    kernels().horizontal(h, from.row0, from.stride, rows, out, to.stride);
    return {out, from.first_row, to.stride};
  };
  const auto run_vertical = [&](Source from, int row_bytes, Rows& to) -> Source {
    if (v.identity()) return from;
    uint8_t* out = to.reserve(end - begin, row_bytes);
    for (int y = begin; y < end; ++y)
      kernels().vertical(v, y, from.row0, from.first_row, from.stride, row_bytes, out + (y - begin) * to.stride);
    return {out, begin, to.stride};
  };
  if (step.vertical_first) return run_horizontal(run_vertical(in, h.in_size * 3, first), end - begin, second);
  return run_vertical(run_horizontal(in, need_end - need_begin, first), h.out_size * 3, second);
}

struct Frames {
  const uint8_t* data;
  int64_t num, frame_stride, row_stride;
};

Frames check_frames(const Plan& plan, const View& frames) {
  Dims dims;
  dims.bind("frames", frames, "NHWC");
  want_dtype("frames", frames, Dtype::u8);
  if (dims['C'] != 3 || dims['H'] != plan.in_height || dims['W'] != plan.in_width)
    throw BadArgument("frames " + shape_text(frames) + " do not fit a plan for " + std::to_string(plan.in_height) + " x " +
                      std::to_string(plan.in_width) + " pixels of 3 channels");
  if (dims['N'] && (frames.stride[3] != 1 || (frames.stride[2] != 3 && dims['W'] > 1)))
    throw BadArgument("the pixels of a row of frames must follow each other: call .contiguous() on it");
  return {frames.as<uint8_t>(), dims['N'], frames.stride[0], frames.stride[1]};
}

}  // namespace

void frames_to_patches(const Plan& plan, const View& frames, const View& table, const View& out, int patch, int merge,
                       int temporal) {
  const Frames in = check_frames(plan, frames);
  Dims dims;
  dims.bind("table", table, "CV");
  dims.bind("out", out, "RE");
  want_contiguous("table", table);
  want_contiguous("out", out);
  for (const auto& [name, number] : {std::pair{"patch", patch}, {"merge", merge}, {"temporal", temporal}})
    if (number < 1 || number > kMaxSide)
      throw BadArgument(std::string(name) + " must be 1 to 65536, got " + std::to_string(number));
  const int height = plan.out_height(), width = plan.out_width();
  const int side = static_cast<int>(std::min<int64_t>(int64_t{patch} * merge, kMaxSide + 1));  // none is larger
  if (height % side || width % side)
    throw BadArgument(std::to_string(height) + " x " + std::to_string(width) + " pixels are not whole patches of " +
                      std::to_string(patch) + " merged by " + std::to_string(merge));
  const int64_t rows = checked_product("frames", {in.num, height / patch, width / patch});
  const int64_t elements = checked_product("temporal", {3, temporal, patch, patch});
  if (dims['R'] != rows || dims['E'] != elements)
    throw BadArgument("out must have shape [" + std::to_string(rows) + ", " + std::to_string(elements) + "], got " +
                      shape_text(out));
  if (dims['C'] != 3 || dims['V'] != 256) throw BadArgument("table must have shape [3, 256], got " + shape_text(table));
  want_dtype("table", table, out.dtype);
  const int element_bytes = bytes(out.dtype);
  if (element_bytes != 4 && element_bytes != 2)
    throw BadArgument(std::string("out must be float32, bfloat16 or float16, got ") + name(out.dtype));

  std::vector<uint8_t> planes(static_cast<size_t>(3) * element_bytes * 256);
  for (int c = 0; c < 3; ++c)
    for (int b = 0; b < element_bytes; ++b)
      for (int v = 0; v < 256; ++v)
        planes[(c * element_bytes + b) * 256 + v] = table.as<uint8_t>()[(c * 256 + v) * element_bytes + b];
  const Patches patches = {patch, merge, temporal, width / patch, element_bytes, table.as<uint8_t>(), planes.data()};

  // Units of work: whole frames, cut into bands if there are more threads than frames.
  const int bands_wanted = static_cast<int>((threads() + in.num - 1) / std::max<int64_t>(in.num, 1));
  const int bands = std::max(1, std::min(height / side, bands_wanted));
  const bool resizes = plan.resizes();
  const int64_t frame_bytes = int64_t{height} * width * 3 * temporal * element_bytes;
  parallel_for(in.num * bands, [&](int64_t begin, int64_t end) {
    static thread_local std::vector<Rows> buffers;
    if (buffers.size() < 2 * plan.steps.size() + 1) buffers.resize(2 * plan.steps.size() + 1);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t n = unit / bands, band = unit % bands;
      const int y0 = static_cast<int>(height / side * band / bands) * side;
      const int y1 = static_cast<int>(height / side * (band + 1) / bands) * side;
      const uint8_t* frame = in.data + n * in.frame_stride;
      Source rows_in = rows_after(plan, static_cast<int>(plan.steps.size()), frame, in.row_stride, y0, y1, buffers);
      Rows& padded = buffers.back();
      if (!resizes) {  // they are the caller's: no room after the rows
        uint8_t* copy = padded.reserve(y1 - y0, width * 3);
        for (int y = 0; y < y1 - y0; ++y)
          std::copy_n(rows_in.row0 + y * rows_in.stride, width * 3, copy + y * padded.stride);
        rows_in = {copy, y0, padded.stride};
      }
      for (int y = y0; y < y1; y += patch)
        kernels().emit(patches, y / patch, rows_in.row0 + (y - y0) * rows_in.stride, rows_in.stride,
                       out.as<char>() + n * frame_bytes);
    }
  });
}

void resize_frames(const Plan& plan, const View& frames, const View& out) {
  const Frames in = check_frames(plan, frames);
  Dims dims;
  dims.bind("frames", frames, "N...");
  dims.bind("out", out, "NHWC");
  want_dtype("out", out, Dtype::u8);
  want_contiguous("out", out);
  const int height = plan.out_height(), width = plan.out_width();
  if (dims['H'] != height || dims['W'] != width || dims['C'] != 3)
    throw BadArgument("out " + shape_text(out) + " does not fit " + std::to_string(height) + " x " + std::to_string(width));
  parallel_for(in.num, [&](int64_t begin, int64_t end) {
    std::vector<Rows> buffers(2 * plan.steps.size());
    for (int64_t n = begin; n < end; ++n) {
      const Source rows = rows_after(plan, static_cast<int>(plan.steps.size()), in.data + n * in.frame_stride,
                                     in.row_stride, 0, height, buffers);
      for (int y = 0; y < height; ++y) {
        const uint8_t* row = rows.row0 + y * rows.stride;
        std::copy(row, row + width * 3, out.as<uint8_t>() + (n * height + y) * width * 3);
      }
    }
  });
}

}  // namespace vz
