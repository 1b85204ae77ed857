// Packs the integer weights of a resize for the CPU's byte dot products.

#include <algorithm>
#include <cstdlib>
#include <string>
#include <utility>

#include "frames_to_patches.h"

namespace vz {
namespace {

// weight = high << 16 + middle << 8 + low, each in [-128, 127].
void split(int32_t weight, int8_t digits[3]) {
  for (int d = 0; d < 2; ++d) {
    digits[d] = static_cast<int8_t>(weight & 0xFF);
    weight = (weight - digits[d]) >> 8;
  }
  if (weight < -128 || weight > 127) throw BadArgument("a resize weight is out of range");
  digits[2] = static_cast<int8_t>(weight);
}

void pack_vertical(OwnedPass& owned) {
  const Pass& p = owned.pass;
  const int groups = p.taps / 4;
  owned.quads.resize(static_cast<size_t>(p.out_size) * groups * 3);
  for (int y = 0; y < p.out_size; ++y)
    for (int g = 0; g < groups; ++g)
      for (int j = 0; j < 4; ++j) {
        int8_t digits[3];
        split(p.weights[static_cast<int64_t>(y) * p.taps + 4 * g + j], digits);
        for (int d = 0; d < 3; ++d)
          reinterpret_cast<int8_t*>(&owned.quads[(static_cast<size_t>(y) * groups + g) * 3 + d])[j] = digits[d];
      }
  owned.pass.quads = owned.quads.data();
}

// Fills one block; false if its input bytes span more than one register.
bool fill_block(const Pass& p, int x0, int g, Pass::Block& block, int32_t& base) {
  const int pixels = std::min(p.pixels, p.out_size - x0), row_bytes = p.in_size * 3;
  int begin = row_bytes, end = 0;
  for (int x = x0; x < x0 + pixels; ++x)
    for (int j = 4 * g; j < std::min(4 * g + 4, p.count[x]); ++j) {
      begin = std::min(begin, 3 * (p.first[x] + j));
      end = std::max(end, 3 * (p.first[x] + j) + 3);
    }
  if (end == 0) begin = 0;
  if (end - begin > 64) return false;
  base = std::max(0, std::min(begin, row_bytes - 64));  // a whole register is read
  block = {};
  for (int x = x0; x < x0 + pixels; ++x)
    for (int j = 4 * g; j < std::min(4 * g + 4, p.count[x]); ++j) {
      int8_t digits[3];
      split(p.weights[static_cast<int64_t>(x) * p.taps + j], digits);
      for (int c = 0; c < 3; ++c) {
        const int byte = ((x - x0) * 3 + c) * 4 + j % 4;
        block.index[byte] = static_cast<uint8_t>(3 * (p.first[x] + j) + c - base);
        for (int d = 0; d < 3; ++d) block.digits[d][byte] = digits[d];
      }
    }
  return true;
}

void pack_horizontal(OwnedPass& owned) {
  Pass& p = owned.pass;
  const int groups = p.taps / 4;
  for (p.pixels = 5; p.pixels > 0; --p.pixels) {  // 5 pixels of 3 channels fill 15 of 16 sums; one always fits
    const int batches = (p.out_size + p.pixels - 1) / p.pixels;
    owned.blocks.resize(static_cast<size_t>(batches) * groups);
    owned.base.resize(owned.blocks.size());
    bool fits = true;
    for (int b = 0; b < batches && fits; ++b)
      for (int g = 0; g < groups && fits; ++g) {
        const size_t i = static_cast<size_t>(b) * groups + g;
        fits = fill_block(p, b * p.pixels, g, owned.blocks[i], owned.base[i]);
      }
    if (fits) break;
  }
  p.blocks = owned.blocks.data();
  p.base = owned.base.data();
}

}  // namespace

Plan::Plan(int height, int width) : in_height(height), in_width(width) {
  if (height < 1 || width < 1 || height > kMaxSide || width > kMaxSide)
    throw BadArgument("frames must have 1 to 65536 pixels a side, got " + std::to_string(height) + " x " +
                      std::to_string(width));
}

void Plan::add_step(Step step) {
  if (steps.size() == kMaxSteps) throw BadArgument("a plan has at most " + std::to_string(kMaxSteps) + " steps");
  steps.push_back(std::move(step));
}

bool Plan::resizes() const {
  return std::any_of(steps.begin(), steps.end(), [](const Step& step) {
    return !step.horizontal.pass.identity() || !step.vertical.pass.identity();
  });
}

OwnedPass make_pass(int in_size, const View& first, const View& weights, bool horizontal) {
  Dims dims;
  dims.bind("first", first, "O");
  dims.bind("weights", weights, "OK");
  if (dims['O'] < 1 || dims['O'] > kMaxSide || dims['K'] < 1 || dims['K'] > kMaxSide)
    throw BadArgument("weights must have 1 to 65536 outputs and taps, got " + shape_text(weights));
  want_dtype("first", first, Dtype::i32);
  want_dtype("weights", weights, Dtype::i32);
  want_contiguous("first", first);
  want_contiguous("weights", weights);
  OwnedPass owned;
  Pass& p = owned.pass;
  const int given = static_cast<int>(dims['K']);
  p.in_size = in_size;
  p.out_size = static_cast<int>(dims['O']);
  p.taps = (given + 3) / 4 * 4;
  owned.first.assign(first.as<int32_t>(), first.as<int32_t>() + p.out_size);
  owned.count.resize(p.out_size);
  owned.weights.assign(static_cast<size_t>(p.out_size) * p.taps, 0);
  for (int i = 0; i < p.out_size; ++i) {  // copies are checked: another thread may write the arrays
    int32_t* const row = owned.weights.data() + static_cast<int64_t>(i) * p.taps;
    std::copy_n(weights.as<int32_t>() + static_cast<int64_t>(i) * given, given, row);
    int count = given;
    while (count > 1 && row[count - 1] == 0) --count;
    const int64_t begin = owned.first[i], end = begin + count;
    if (begin < 0 || end > in_size)
      throw BadArgument("output " + std::to_string(i) + " reads inputs " + std::to_string(begin) + " to " +
                        std::to_string(end) + " of " + std::to_string(in_size));
    int64_t sum = 0;  // what the weights can make of bytes fits in 32 bits
    for (int j = 0; j < count; ++j) sum += std::abs(static_cast<int64_t>(row[j]));
    if (255 * sum + (1 << 21) > INT32_MAX)
      throw BadArgument("the weights of output " + std::to_string(i) + " are too large: " + std::to_string(sum) +
                        " in all, 2^22 is a whole");
    owned.count[i] = count;
  }
  p.first = owned.first.data();
  p.count = owned.count.data();
  p.weights = owned.weights.data();
  if (horizontal)
    pack_horizontal(owned);
  else
    pack_vertical(owned);
  return owned;
}

}  // namespace vz
