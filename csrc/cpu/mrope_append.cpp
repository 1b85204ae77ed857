// q <- R q, k_pages[slot] <- R k, v_pages[slot] <- v; formula, shapes and bytes in kernels/mrope_append/op.py.

#include <string>

#include "move.h"
#include "threads.h"

namespace vz {
namespace {

constexpr int64_t kBytesWorthAThread = 64 << 10;

void check_dtypes(const View& q, const View& k, const View& v, const View& cos, const View& sin, const View& k_pages,
                  const View& v_pages, const View& slots) {
  if (!is_float(q.dtype)) throw BadArgument(std::string("q must be float32, bfloat16 or float16, got ") + name(q.dtype));
  const struct { const char* name; const View& view; } same[] = {
      {"k", k}, {"v", v}, {"k_pages", k_pages}, {"v_pages", v_pages}};
  for (const auto& [name, view] : same) {
    want_dtype(name, view, q.dtype);
    want_last_contiguous(name, view);
    want_cpu(name, view);
  }
  want_last_contiguous("q", q);
  want_last_contiguous("cos", cos);
  want_last_contiguous("sin", sin);
  want_dtype("slots", slots, Dtype::i64);
  want_dtype("sin", sin, cos.dtype);
  if (cos.dtype != Dtype::f32) want_dtype("cos", cos, q.dtype);
  want_cpu("cos", cos);
  want_cpu("sin", sin);
  want_cpu("slots", slots);
}

}  // namespace

void mrope_append(const View& q, const View& k, const View& v, const View& cos, const View& sin, const View& k_pages,
                  const View& v_pages, const View& slots) {
  check_dtypes(q, k, v, cos, sin, k_pages, v_pages, slots);
  Dims dims;
  dims.bind("q", q, "THD");
  dims.bind("k", k, "TGD");
  dims.bind("v", v, "TGD");
  dims.bind("cos", cos, "TR");
  dims.bind("sin", sin, "TR");
  dims.bind("slots", slots, "T");
  dims.bind("k_pages", k_pages, "NGBD");
  dims.bind("v_pages", v_pages, "NGBD");
  if (dims['R'] > kMaxPairs) throw BadArgument("head_dim must be at most 1024");
  const int64_t tokens = dims['T'], block_size = dims['B'], num_slots = dims['N'] * block_size;
  const int heads = static_cast<int>(dims['H']), groups = static_cast<int>(dims['G']);
  const int pairs = static_cast<int>(dims['R']);
  if (dims['D'] != 2 * dims['R'])
    throw BadArgument("cos must hold head_dim / 2 = " + std::to_string(dims['D'] / 2) + " angles a token, got " +
                      std::to_string(dims['R']));
  const auto slot_of = [&](int64_t t) { return slots.as<int64_t>()[t * slots.stride[0]]; };
  for (int64_t t = 0; t < tokens; ++t)  // before anything is written
    if (slot_of(t) >= num_slots)
      throw BadArgument("slots[" + std::to_string(t) + "] = " + std::to_string(slot_of(t)) + ", but the pages have " +
                        std::to_string(num_slots) + " slots");

  const int64_t e = bytes(q.dtype), a = bytes(cos.dtype), row_bytes = 2 * pairs * e;
  const MoveKernels& run = move_kernels();
  const auto work = [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const char *c = cos.data + t * cos.stride[0] * a, *s = sin.data + t * sin.stride[0] * a;
      char* q_row = q.data + t * q.stride[0] * e;
      run.rotate({q_row, q.stride[1] * e, q_row, q.stride[1] * e, heads, pairs, c, s, false}, q.dtype, cos.dtype);
      const int64_t slot = slot_of(t);
      if (slot < 0) continue;
      const int64_t block = slot / block_size, offset = slot % block_size;
      char* k_page = k_pages.data + (block * k_pages.stride[0] + offset * k_pages.stride[2]) * e;
      char* v_page = v_pages.data + (block * v_pages.stride[0] + offset * v_pages.stride[2]) * e;
      run.rotate({k.data + t * k.stride[0] * e, k.stride[1] * e, k_page, k_pages.stride[1] * e, groups, pairs, c, s, false},
                 q.dtype, cos.dtype);
      const char* v_row = v.data + t * v.stride[0] * e;
      for (int g = 0; g < groups; ++g)
        run.copy(v_page + g * v_pages.stride[1] * e, v_row + g * v.stride[1] * e, row_bytes, false);
    }
  };
  if (tokens * (heads + 2 * groups) * row_bytes < kBytesWorthAThread)
    work(0, tokens);
  else
    parallel_for(tokens, work);
}

}  // namespace vz
