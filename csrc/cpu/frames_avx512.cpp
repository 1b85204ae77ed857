// frames_to_patches with AVX-512 VBMI and VNNI. A weight is split in three signed bytes, so that a pass is byte dot
// products (vpdpbusd, 4 taps an instruction): exact, because every partial sum fits in 32 bits.

#include <immintrin.h>

#include "frames_to_patches.h"

namespace vz {
namespace {

struct Sums {
  __m512i high, middle, low;
};

inline Sums zero_sums() {
  return {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_set1_epi32(1 << 21)};
}

inline __m512i shifted(const Sums& s) {
  const __m512i sum =
      _mm512_add_epi32(_mm512_slli_epi32(_mm512_add_epi32(_mm512_slli_epi32(s.high, 8), s.middle), 8), s.low);
  return _mm512_srai_epi32(sum, 22);
}

// kRows rows at a time, so that a block's index and digits are loaded once for all of them.
template <int kRows>
inline void horizontal_rows(const Pass& pass, const uint8_t* src, int64_t src_stride, uint8_t* dst, int64_t dst_stride,
                            __mmask64 readable) {
  const int groups = pass.taps / 4, batches = (pass.out_size + pass.pixels - 1) / pass.pixels;
  const Pass::Block* block = pass.blocks;
  const int32_t* base = pass.base;
  for (int b = 0; b < batches; ++b) {
    Sums sums[kRows];
    for (int r = 0; r < kRows; ++r) sums[r] = zero_sums();
    for (int g = 0; g < groups; ++g, ++block, ++base) {
      const __m512i index = _mm512_load_si512(block->index), low = _mm512_load_si512(block->digits[0]),
                    middle = _mm512_load_si512(block->digits[1]), high = _mm512_load_si512(block->digits[2]);
      for (int r = 0; r < kRows; ++r) {
        const __m512i bytes = _mm512_maskz_loadu_epi8(readable, src + r * src_stride + *base);
        const __m512i taps = _mm512_permutexvar_epi8(index, bytes);
        sums[r].low = _mm512_dpbusd_epi32(sums[r].low, taps, low);
        sums[r].middle = _mm512_dpbusd_epi32(sums[r].middle, taps, middle);
        sums[r].high = _mm512_dpbusd_epi32(sums[r].high, taps, high);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      const __m512i v = _mm512_max_epi32(shifted(sums[r]), _mm512_setzero_si512());
      _mm_storeu_si128(reinterpret_cast<__m128i*>(dst + r * dst_stride + b * pass.pixels * 3),
                       _mm512_cvtusepi32_epi8(v));
    }
  }
}

void horizontal(const Pass& pass, const uint8_t* src, int64_t src_stride, int rows, uint8_t* dst, int64_t dst_stride) {
  const int row_bytes = pass.in_size * 3;
  const __mmask64 readable = row_bytes >= 64 ? ~0ull : (1ull << row_bytes) - 1;
  int r = 0;
  for (; r + 4 <= rows; r += 4)
    horizontal_rows<4>(pass, src + r * src_stride, src_stride, dst + r * dst_stride, dst_stride, readable);
  for (; r < rows; ++r)
    horizontal_rows<1>(pass, src + r * src_stride, src_stride, dst + r * dst_stride, dst_stride, readable);
}

// 64 columns at a time: 4 rows interleaved to 4 x 16 groups of 4 taps. The packs at the end undo the interleaving.
void vertical(const Pass& pass, int y, const uint8_t* src, int row0, int64_t stride, int bytes, uint8_t* dst) {
  const int groups = (pass.count[y] + 3) / 4;
  const int32_t* quads = pass.quads + static_cast<int64_t>(y) * (pass.taps / 4) * 3;
  const uint8_t* in = src + (pass.first[y] - row0) * stride;
  const int last = pass.count[y] - 1;
  for (int x = 0; x < bytes; x += 64) {
    const __mmask64 mask = bytes - x >= 64 ? ~0ull : (1ull << (bytes - x)) - 1;
    Sums s0 = zero_sums(), s1 = s0, s2 = s0, s3 = s0;
    for (int g = 0; g < groups; ++g) {
      const auto row = [&](int j) {  // weights after the last tap are zero, but its row must exist
        return _mm512_maskz_loadu_epi8(mask, in + static_cast<int64_t>(j < last ? j : last) * stride + x);
      };
      const __m512i a = row(4 * g), b = row(4 * g + 1), c = row(4 * g + 2), d = row(4 * g + 3);
      const __m512i ab_lo = _mm512_unpacklo_epi8(a, b), ab_hi = _mm512_unpackhi_epi8(a, b);
      const __m512i cd_lo = _mm512_unpacklo_epi8(c, d), cd_hi = _mm512_unpackhi_epi8(c, d);
      const __m512i low = _mm512_set1_epi32(quads[3 * g]), middle = _mm512_set1_epi32(quads[3 * g + 1]),
                    high = _mm512_set1_epi32(quads[3 * g + 2]);
      const auto add = [&](Sums& s, __m512i taps) {
        s.low = _mm512_dpbusd_epi32(s.low, taps, low);
        s.middle = _mm512_dpbusd_epi32(s.middle, taps, middle);
        s.high = _mm512_dpbusd_epi32(s.high, taps, high);
      };
      add(s0, _mm512_unpacklo_epi16(ab_lo, cd_lo));
      add(s1, _mm512_unpackhi_epi16(ab_lo, cd_lo));
      add(s2, _mm512_unpacklo_epi16(ab_hi, cd_hi));
      add(s3, _mm512_unpackhi_epi16(ab_hi, cd_hi));
    }
    const __m512i lo = _mm512_packs_epi32(shifted(s0), shifted(s1)), hi = _mm512_packs_epi32(shifted(s2), shifted(s3));
    _mm512_mask_storeu_epi8(dst + x, mask, _mm512_packus_epi16(lo, hi));
  }
}

// 64 lookups in a table of 256 bytes in four registers.
inline __m512i look_up(const __m512i table[4], __m512i at, __mmask64 upper) {
  return _mm512_mask_blend_epi8(upper, _mm512_permutex2var_epi8(table[0], at, table[1]),
                                _mm512_permutex2var_epi8(table[2], at, table[3]));
}

constexpr int kMinPatch = 8, kMaxPatch = 16;  // pixels a side that fit this path

// The pixels of 4 neighbouring patches, one register per channel: 16 bytes per patch.
inline void split_channels(const Patches& p, const uint8_t* row, __m512i index, __mmask64 mask, __m512i out[3]) {
  __m512i patches[4];
  for (int j = 0; j < 4; ++j)
    patches[j] = _mm512_permutexvar_epi8(index, _mm512_maskz_loadu_epi8(mask, row + 3 * p.patch * j));
  const __m512i a = _mm512_shuffle_i32x4(patches[0], patches[1], 0x44), b = _mm512_shuffle_i32x4(patches[2], patches[3], 0x44);
  const __m512i c = _mm512_shuffle_i32x4(patches[0], patches[1], 0xEE), d = _mm512_shuffle_i32x4(patches[2], patches[3], 0xEE);
  out[0] = _mm512_shuffle_i32x4(a, b, 0x88);
  out[1] = _mm512_shuffle_i32x4(a, b, 0xDD);
  out[2] = _mm512_shuffle_i32x4(c, d, 0x88);
}

// The order of bytes that leaves each patch in one piece when the planes of its values are interleaved.
inline __m512i order_of(int element_bytes) {
  return element_bytes == 4 ? _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)
                            : _mm512_setr_epi32(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15);
}

// A patch's row is written as its first 8 and its last 8 values, which overlap: masked stores are several times slower.
template <int kBytes>
inline void store_row(char* to, __m512i values, __m512i last, int64_t last_bytes, int temporal, int64_t next_frame) {
  if constexpr (kBytes == 4) {
    const __m256i a = _mm512_castsi512_si256(values);
    const __m256i b = _mm512_castsi512_si256(_mm512_permutexvar_epi32(last, values));
    for (int t = 0; t < temporal; ++t, to += next_frame) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), a);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + last_bytes), b);
    }
  } else {
    const __m128i a = _mm512_castsi512_si128(values);
    const __m128i b = _mm512_castsi512_si128(_mm512_permutexvar_epi16(last, values));
    for (int t = 0; t < temporal; ++t, to += next_frame) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), a);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + last_bytes), b);
    }
  }
}

// 4 patches at a time, whole: what is written is in one place, in the core's first cache.
template <int kBytes>
void emit_as(const Patches& p, int gy, const uint8_t* rows, int64_t stride, char* frame_out) {
  alignas(64) uint8_t index_bytes[64];
  for (int i = 0; i < 64; ++i) {
    const int x = i % 16 < p.patch ? i % 16 : 0, c = i / 16 < 3 ? i / 16 : 0;
    index_bytes[i] = static_cast<uint8_t>(3 * x + c);
  }
  const __m512i index = _mm512_load_si512(index_bytes), order = order_of(kBytes);
  const __mmask64 mask = (1ull << (3 * p.patch)) - 1;
  const __m256i eight = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m512i ascending = _mm512_zextsi256_si512(
      kBytes == 4 ? eight : _mm256_zextsi128_si256(_mm256_cvtepi32_epi16(eight)));
  const int from = p.patch - 8;
  const __m512i last = kBytes == 4 ? _mm512_add_epi32(ascending, _mm512_set1_epi32(from))
                                   : _mm512_add_epi16(ascending, _mm512_set1_epi16(static_cast<short>(from)));
  const int64_t area = int64_t{p.patch} * p.patch, row_elements = 3 * p.temporal * area;
  const int64_t line = int64_t{gy / p.merge} * (p.columns / p.merge);
  for (int gx = 0; gx < p.columns; gx += 4) {
    __m512i pixels[kMaxPatch][3];
    for (int py = 0; py < p.patch; ++py) {
      split_channels(p, rows + py * stride + 3 * p.patch * gx, index, mask, pixels[py]);
      for (int c = 0; c < 3; ++c) pixels[py][c] = _mm512_permutexvar_epi32(order, pixels[py][c]);
    }
    const int num = p.columns - gx < 4 ? p.columns - gx : 4;
    char* patches[4] = {};
    for (int j = 0; j < num; ++j) {
      const int64_t x = gx + j, at = ((line + x / p.merge) * p.merge + gy % p.merge) * p.merge + x % p.merge;
      patches[j] = frame_out + at * row_elements * kBytes;
    }
    for (int c = 0; c < 3; ++c) {
      __m512i table[kBytes][4];
      for (int plane = 0; plane < kBytes; ++plane)
        for (int q = 0; q < 4; ++q)
          table[plane][q] = _mm512_loadu_si512(p.planes + (c * kBytes + plane) * 256 + 64 * q);
      for (int py = 0; py < p.patch; ++py) {
        const __m512i at = pixels[py][c];
        const __mmask64 upper = _mm512_movepi8_mask(at);
        const __m512i b0 = look_up(table[0], at, upper), b1 = look_up(table[1], at, upper);
        const __m512i lo = _mm512_unpacklo_epi8(b0, b1), hi = _mm512_unpackhi_epi8(b0, b1);
        __m512i values[4];
        if constexpr (kBytes == 4) {
          const __m512i b2 = look_up(table[2], at, upper), b3 = look_up(table[3], at, upper);
          const __m512i lo2 = _mm512_unpacklo_epi8(b2, b3), hi2 = _mm512_unpackhi_epi8(b2, b3);
          values[0] = _mm512_unpacklo_epi16(lo, lo2);
          values[1] = _mm512_unpackhi_epi16(lo, lo2);
          values[2] = _mm512_unpacklo_epi16(hi, hi2);
          values[3] = _mm512_unpackhi_epi16(hi, hi2);
        } else {
          values[0] = lo;
          values[1] = _mm512_castsi256_si512(_mm512_extracti64x4_epi64(lo, 1));
          values[2] = hi;
          values[3] = _mm512_castsi256_si512(_mm512_extracti64x4_epi64(hi, 1));
        }
        for (int j = 0; j < num; ++j)
          store_row<kBytes>(patches[j] + (c * p.temporal * area + py * p.patch) * kBytes, values[j], last,
                            from * kBytes, p.temporal, area * kBytes);
      }
    }
  }
}

void emit(const Patches& p, int gy, const uint8_t* rows, int64_t stride, char* frame_out) {
  if (p.patch < kMinPatch || p.patch > kMaxPatch) return frames_avx2.emit(p, gy, rows, stride, frame_out);
  p.element_bytes == 4 ? emit_as<4>(p, gy, rows, stride, frame_out) : emit_as<2>(p, gy, rows, stride, frame_out);
}

}  // namespace

const FrameKernels frames_avx512 = {horizontal, vertical, emit};

}  // namespace vz
