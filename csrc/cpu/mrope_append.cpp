// q <- R q, k_pages[slot] <- R k, v_pages[slot] <- v; formula, shapes and bytes in kernels/mrope_append/op.py.

#include <string>

#include "../ops/mrope_append.h"
#include "move.h"
#include "threads.h"

namespace vz {
namespace {

void check_dtypes(const MropeAppend& a) {
  if (a.q) want_float("q", *a.q);
  want_float("k", a.k);
  if (a.q) {
    want_dtype("q", *a.q, a.k.dtype);
    want_last_contiguous("q", *a.q);
  }
  for (const auto& [name, view] : {Named{"k", a.k}, {"v", a.v}, {"k_pages", a.k_pages}, {"v_pages", a.v_pages}}) {
    want_dtype(name, view, a.k.dtype);
    want_last_contiguous(name, view);
  }
  want_dtype("slots", a.slots, Dtype::i64);
  if (!a.cos != !a.sin) throw BadArgument("cos and sin must both be given or both be None");
  if (!a.cos) {
    if (a.q) throw BadArgument("q is given, but no cos and sin to rotate it by");
    return;
  }
  if (a.cos->dtype != Dtype::f32) want_dtype("cos", *a.cos, a.k.dtype);
  want_dtype("sin", *a.sin, a.cos->dtype);
  for (const auto& [name, view] : {Named{"cos", *a.cos}, {"sin", *a.sin}}) {
    want_last_contiguous(name, view);
  }
}

void mrope_append(const MropeAppend& a) {
  check_dtypes(a);
  Dims dims;
  if (a.q) dims.bind("q", *a.q, "THD");
  dims.bind("k", a.k, "TGD");
  dims.bind("v", a.v, "TGD");
  if (a.cos) {
    dims.bind("cos", *a.cos, "TR");
    dims.bind("sin", *a.sin, "TR");
    if (dims['R'] > kMaxPairs) throw BadArgument("head_dim must be at most 1024");
    if (dims['D'] != 2 * dims['R'])
      throw BadArgument("cos must hold head_dim / 2 = " + std::to_string(dims['D'] / 2) + " angles per token, got " +
                        std::to_string(dims['R']));
  }
  dims.bind("slots", a.slots, "T");
  dims.bind("k_pages", a.k_pages, "NGPD");
  dims.bind("v_pages", a.v_pages, "NGPD");
  const int64_t tokens = dims.as_int('T'), block_size = dims['P'], num_slots = dims['N'] * block_size;
  const int heads = a.q ? dims.as_int('H') : 0, kv_heads = dims.as_int('G');
  const int pairs = dims.as_int('D') / 2;
  const auto slot_of = [&](int64_t t) { return read_once(a.slots.as<int64_t>() + t * a.slots.stride[0]); };
  for (int64_t t = 0; t < tokens; ++t) {  // before anything is written
    const int64_t slot = slot_of(t);
    if (slot >= num_slots)
      throw BadArgument("slots[" + std::to_string(t) + "] = " + std::to_string(slot) + ", but the pages have " +
                        std::to_string(num_slots) + " slots");
  }

  const bool rotates_q = a.q && !a.q->empty(), appends = !a.k.empty();
  const Dtype dtype = a.k.dtype, angles = a.cos ? a.cos->dtype : Dtype::f32;
  const int64_t e = bytes(dtype), angle_bytes = bytes(angles), row_bytes = dims['D'] * e;
  const MoveKernels& run = move_kernels();
  const auto copy_rows = [&](const View& from, int64_t t, const View& pages, char* page) {
    const char* row = from.data + t * from.stride[0] * e;
    for (int g = 0; g < kv_heads; ++g)
      run.copy(page + g * pages.stride[1] * e, row + g * from.stride[1] * e, row_bytes, false);
  };
  in_parts(tokens, (heads + 2 * kv_heads) * row_bytes, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const char* cos = a.cos ? a.cos->data + t * a.cos->stride[0] * angle_bytes : nullptr;
      const char* sin = a.sin ? a.sin->data + t * a.sin->stride[0] * angle_bytes : nullptr;
      if (rotates_q) {
        char* row = a.q->data + t * a.q->stride[0] * e;
        const int64_t head = a.q->stride[1] * e;
        run.rotate({row, head, row, head, heads, pairs, cos, sin, false}, dtype, angles);
      }
      if (!appends) continue;
      const int64_t slot = slot_of(t);
      if (slot < 0 || slot >= num_slots) continue;
      const int64_t block = slot / block_size, offset = slot % block_size;
      char* k_page = a.k_pages.data + (block * a.k_pages.stride[0] + offset * a.k_pages.stride[2]) * e;
      char* v_page = a.v_pages.data + (block * a.v_pages.stride[0] + offset * a.v_pages.stride[2]) * e;
      if (cos)
        run.rotate({a.k.data + t * a.k.stride[0] * e, a.k.stride[1] * e, k_page, a.k_pages.stride[1] * e, kv_heads, pairs,
                    cos, sin, false}, dtype, angles);
      else
        copy_rows(a.k, t, a.k_pages, k_page);
      copy_rows(a.v, t, a.v_pages, v_page);
    }
  });
}

}  // namespace

VZ_CPU_OP("mrope_append", MropeAppend, mrope_append)

}  // namespace vz
