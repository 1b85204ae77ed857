// paged_attention for decode: a block of threads holds one query token, the heads of one group and one piece of the
// context, so that K and V are read once for the group.
//
// LANES threads read one key: each holds PER_LANE packs of 16 bytes of it. A warp reads 32 / LANES keys at a time, the
// warps of a block take turns, and each thread has BATCH keys in flight. Scores are summed over the lanes of a key by
// shuffles; every group of lanes keeps its own online softmax; they are joined at the end, first inside each warp, then
// between the warps through shared memory. Scores are in units of log 2.
#include <cmath>

#include "../ops/paged_attention.h"
#include "launch.h"

namespace vz::gpu {
namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps;
constexpr float kLn2 = 0.6931471805599453f;

struct AttendArgs {
  const void *q, *k_pages, *v_pages;
  const int *block_table, *kv_lens, *cu_seqlens_q;
  void* out;
  float *lse, *part_out, *part_lse;
  int64_t q_token, q_head, o_token, o_head, l_token, l_head, table_row;
  PageStrides kp, vp;
  int seqs, heads, group, dim, block_size, splits;
  float scale_log2;
  bool causal;
};

// The sequence that owns a token: the last one that begins at or before it; `seqs` for a token after them all.
__device__ __forceinline__ int sequence_of(const int* cu_seqlens, int seqs, int token) {
  if (token >= cu_seqlens[seqs]) return seqs;
  int low = 0, high = seqs;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (cu_seqlens[middle] <= token ? low : high) = middle;
  }
  return low;
}

// Joins the softmax of another set of keys: (top, total, acc) with (other_top, ...), all scaled to the larger top.
struct Joint { float mine, other, top; };
__device__ __forceinline__ Joint joint(float top, float other_top) {
  const float higher = fmaxf(top, other_top);
  const float safe = higher == -INFINITY ? 0.f : higher;  // neither has seen a key
  return {exp2f(top - safe), exp2f(other_top - safe), higher};
}

// Grid: token, group x tile of HEADS heads, piece of the context.
template <class T, int LANES, int PER_LANE, int HEADS, bool WIDE>
__global__ void __launch_bounds__(kThreads) attend_kernel(AttendArgs a) {
  constexpr int N = Pack<T>::N, KEYS_A_WARP = 32 / LANES, KEYS_A_TURN = kWarps * KEYS_A_WARP;
  constexpr int BATCH = PER_LANE * HEADS * N <= 32 ? 4 : 2;  // more would spill registers
  const int token = blockIdx.x;
  const int tiles = (a.group + HEADS - 1) / HEADS;
  const int group = blockIdx.y / tiles, first = blockIdx.y % tiles * HEADS;  // of the heads of the group
  const int num_heads = a.group - first < HEADS ? a.group - first : HEADS;
  const int lane = threadIdx.x % LANES, turn = threadIdx.x / LANES;
  const int warp = threadIdx.x / 32;

  const int seq = sequence_of(a.cu_seqlens_q, a.seqs, token);
  if (seq == a.seqs) return;  // padding
  const int begin = a.cu_seqlens_q[seq], num_queries = a.cu_seqlens_q[seq + 1] - begin;
  int stop = a.kv_lens[seq];
  if (a.causal) stop += token - begin - num_queries + 1;
  int piece = (stop + a.splits - 1) / a.splits;
  piece = (piece + KEYS_A_TURN - 1) / KEYS_A_TURN * KEYS_A_TURN;
  const int start = static_cast<int>(blockIdx.z) * piece;
  if (start + piece < stop) stop = start + piece;

  float q[HEADS][PER_LANE * N], acc[HEADS][PER_LANE * N], top[HEADS], total[HEADS];
#pragma unroll
  for (int h = 0; h < HEADS; ++h) {
    top[h] = -INFINITY;
    total[h] = 0.f;
#pragma unroll
    for (int p = 0; p < PER_LANE; ++p) {
      const int i = (lane + p * LANES) * N;
      Pack<T> pack = {};
      if (h < num_heads && i < a.dim)
        pack = load_pack<WIDE>(static_cast<const T*>(a.q) + token * a.q_token +
                                   (group * a.group + first + h) * a.q_head + i, a.dim - i);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        q[h][p * N + j] = h < num_heads && i < a.dim ? to_float(pack.x[j]) * a.scale_log2 : 0.f;
        acc[h][p * N + j] = 0.f;
      }
    }
  }

  const int* table = a.block_table + seq * a.table_row;
  for (int key = start + turn; key - turn < stop; key += BATCH * KEYS_A_TURN) {
    Pack<T> k[BATCH][PER_LANE], v[BATCH][PER_LANE];
#pragma unroll
    for (int b = 0; b < BATCH; ++b) {
      const int at = key + b * KEYS_A_TURN;
      const bool real = at < stop;
      const int64_t block = real ? table[at / a.block_size] : 0, offset = real ? at % a.block_size : 0;
      const T* from_k = static_cast<const T*>(a.k_pages) + block * a.kp.block + offset * a.kp.offset + group * a.kp.head;
      const T* from_v = static_cast<const T*>(a.v_pages) + block * a.vp.block + offset * a.vp.offset + group * a.vp.head;
#pragma unroll
      for (int p = 0; p < PER_LANE; ++p) {
        const int i = (lane + p * LANES) * N;
        k[b][p] = Pack<T>{};
        v[b][p] = Pack<T>{};
        if (real && i < a.dim) {
          k[b][p] = load_pack<WIDE>(from_k + i, a.dim - i);
          v[b][p] = load_pack<WIDE>(from_v + i, a.dim - i);
        }
      }
    }
#pragma unroll
    for (int h = 0; h < HEADS; ++h) {
      float score[BATCH], highest = top[h];
#pragma unroll
      for (int b = 0; b < BATCH; ++b) {
        float sum = 0.f;
#pragma unroll
        for (int p = 0; p < PER_LANE; ++p)
#pragma unroll
          for (int j = 0; j < N; ++j) sum += q[h][p * N + j] * to_float(k[b][p].x[j]);
#pragma unroll
        for (int step = LANES / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
        score[b] = key + b * KEYS_A_TURN < stop ? sum : -INFINITY;
        highest = fmaxf(highest, score[b]);
      }
      const float safe = highest == -INFINITY ? 0.f : highest;
      const float shrink = exp2f(top[h] - safe);
      top[h] = highest;
      total[h] *= shrink;
#pragma unroll
      for (int i = 0; i < PER_LANE * N; ++i) acc[h][i] *= shrink;
#pragma unroll
      for (int b = 0; b < BATCH; ++b) {
        const float weight = exp2f(score[b] - safe);
        total[h] += weight;
#pragma unroll
        for (int p = 0; p < PER_LANE; ++p)
#pragma unroll
          for (int j = 0; j < N; ++j) acc[h][p * N + j] += weight * to_float(v[b][p].x[j]);
      }
    }
  }

  // Inside the warp: the same dimensions are LANES apart.
#pragma unroll
  for (int step = LANES; step < 32; step *= 2) {
#pragma unroll
    for (int h = 0; h < HEADS; ++h) {
      const Joint w = joint(top[h], __shfl_xor_sync(kAllLanes, top[h], step));
      total[h] = total[h] * w.mine + __shfl_xor_sync(kAllLanes, total[h], step) * w.other;
      top[h] = w.top;
#pragma unroll
      for (int i = 0; i < PER_LANE * N; ++i)
        acc[h][i] = acc[h][i] * w.mine + __shfl_xor_sync(kAllLanes, acc[h][i], step) * w.other;
    }
  }

  // Between the warps: [warp][head][dim] sums, then [warp][head] tops and totals.
  VZ_DYNAMIC_SHARED(shared);
  float* const sums = reinterpret_cast<float*>(shared);
  float* const tops = sums + kWarps * HEADS * a.dim;
  float* const totals = tops + kWarps * HEADS;
  if (threadIdx.x % 32 < LANES) {
#pragma unroll
    for (int h = 0; h < HEADS; ++h) {
      if (lane == 0) {
        tops[warp * HEADS + h] = top[h];
        totals[warp * HEADS + h] = total[h];
      }
#pragma unroll
      for (int p = 0; p < PER_LANE; ++p)
#pragma unroll
        for (int j = 0; j < N; ++j) {
          const int i = (lane + p * LANES) * N + j;
          if (i < a.dim) sums[(warp * HEADS + h) * a.dim + i] = acc[h][p * N + j];
        }
    }
  }
  __syncthreads();

  const int packs = (a.dim + N - 1) / N;
  for (int item = threadIdx.x; item < num_heads * packs; item += kThreads) {
    const int h = item / packs, i = (item - h * packs) * N, count = a.dim - i < N ? a.dim - i : N;
    float highest = -INFINITY;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) highest = fmaxf(highest, tops[w * HEADS + h]);
    const float safe = highest == -INFINITY ? 0.f : highest;
    float sum[N] = {}, weights = 0.f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float weight = exp2f(tops[w * HEADS + h] - safe);
      weights += weight * totals[w * HEADS + h];
#pragma unroll
      for (int j = 0; j < N; ++j)
        if (j < count) sum[j] += weight * sums[(w * HEADS + h) * a.dim + i + j];
    }
    const float scale = weights > 0 ? 1.f / weights : 0.f;
    const float lse = weights > 0 ? highest * kLn2 + logf(weights) : -INFINITY;
    const int64_t head = group * a.group + first + h;
    if (a.part_out) {
      const int64_t row = (token * int64_t{a.heads} + head) * a.splits + blockIdx.z;
#pragma unroll
      for (int j = 0; j < N; ++j)
        if (j < count) a.part_out[row * a.dim + i + j] = sum[j] * scale;
      if (i == 0) a.part_lse[row] = lse;
    } else {
      Pack<T> pack = {};
#pragma unroll
      for (int j = 0; j < N; ++j) pack.x[j] = from_float<T>(sum[j] * scale);
      store_pack<WIDE>(static_cast<T*>(a.out) + token * a.o_token + head * a.o_head + i, pack, count);
      if (a.lse && i == 0) a.lse[token * a.l_token + head * a.l_head] = lse;
    }
  }
}

// Joins the pieces of the context. Grid: token, head.
template <class T>
__global__ void __launch_bounds__(64) join_kernel(AttendArgs a) {
  const int token = blockIdx.x, head = blockIdx.y;
  if (sequence_of(a.cu_seqlens_q, a.seqs, token) == a.seqs) return;
  const int64_t row = (token * int64_t{a.heads} + head) * a.splits;
  float highest = -INFINITY;
  for (int p = 0; p < a.splits; ++p) highest = fmaxf(highest, a.part_lse[row + p]);
  const float safe = highest == -INFINITY ? 0.f : highest;
  float weights = 0.f;
  for (int p = 0; p < a.splits; ++p) weights += expf(a.part_lse[row + p] - safe);
  const float scale = weights > 0 ? 1.f / weights : 0.f;
  for (int i = threadIdx.x; i < a.dim; i += 64) {
    float sum = 0.f;
    for (int p = 0; p < a.splits; ++p) sum += expf(a.part_lse[row + p] - safe) * a.part_out[(row + p) * a.dim + i];
    static_cast<T*>(a.out)[token * a.o_token + head * a.o_head + i] = from_float<T>(sum * scale);
  }
  if (a.lse && threadIdx.x == 0)
    a.lse[token * a.l_token + head * a.l_head] = weights > 0 ? safe + logf(weights) : -INFINITY;
}

template <class T, int LANES, int PER_LANE, int HEADS, bool WIDE>
void run(const AttendArgs& a, int tokens, int kv_heads, void* stream) {
  const int tiles = ceil_div(a.group, HEADS);
  const size_t shared_bytes = sizeof(float) * kWarps * HEADS * (a.dim + 2);
  const dim3 grid(tokens, kv_heads * tiles, a.splits);
  launch(attend_kernel<T, LANES, PER_LANE, HEADS, WIDE>, grid, dim3(kThreads), shared_bytes, stream, a);
}

// As few lanes per key as hold its packs, at least 8 (16 in float32); unaligned rows have one instance, which is right and slow.
template <class T>
void choose(const AttendArgs& a, bool wide, int tokens, int kv_heads, void* stream) {
  const int packs = ceil_div(a.dim, Pack<T>::N);
  if (a.dim > 256) throw BadArgument("head_dim is at most 256 for CUDA, got " + std::to_string(a.dim));
  if (!wide) return run<T, 32, sizeof(T) / 2, 4, false>(a, tokens, kv_heads, stream);
  if constexpr (sizeof(T) == 4)
    if (packs > 32) return run<T, 32, 2, 4, true>(a, tokens, kv_heads, stream);
  const auto with_lanes = [&](auto heads) {
    constexpr int HEADS = decltype(heads)::value;
    if constexpr (sizeof(T) == 2)
      if (packs <= 8) return run<T, 8, 1, HEADS, true>(a, tokens, kv_heads, stream);
    if (packs <= 16) return run<T, 16, 1, HEADS, true>(a, tokens, kv_heads, stream);
    return run<T, 32, 1, HEADS, true>(a, tokens, kv_heads, stream);
  };
  if (a.group <= 4) return with_lanes(std::integral_constant<int, 4>());
  return with_lanes(std::integral_constant<int, 8>());
}

// Any number of queries per sequence, one block of threads for each query, group and piece of the context: made for
// decode. part_out [T, H, X, D] and part_lse [T, H, X], float32 and contiguous, are scratch for X pieces; none for one.
struct SplitAttention : PagedAttention {
  MaybeOut part_out, part_lse;
  VZ_MORE_ARGUMENTS(PagedAttention, part_out, part_lse)
};

void paged_attention(const SplitAttention& in, void* stream) {
  Dims dims;
  dims.bind("q", in.q, "THD");
  dims.bind("out", in.out, "THD");
  dims.bind("k_pages", in.k_pages, "NPGD");
  dims.bind("v_pages", in.v_pages, "NPGD");
  dims.bind("block_table", in.block_table, "SB");
  dims.bind("kv_lens", in.kv_lens, "S");
  bool wide = dims['D'] * bytes(in.q.dtype) % 16 == 0;
  for (const auto& [name, view] : {Named{"q", in.q}, {"k_pages", in.k_pages}, {"v_pages", in.v_pages}, {"out", in.out}}) {
    want_dtype(name, view, in.q.dtype);
    want_last_contiguous(name, view);
    wide = wide && rows_aligned(view);
  }
  for (const auto& [name, view] :
       {Named{"block_table", in.block_table}, {"kv_lens", in.kv_lens}, {"cu_seqlens_q", in.cu_seqlens_q}}) {
    want_dtype(name, view, Dtype::i32);
    want_last_contiguous(name, view);
  }
  if (in.cu_seqlens_q.ndim != 1 || in.cu_seqlens_q.shape[0] != dims['S'] + 1)
    throw BadArgument("cu_seqlens_q must hold S + 1 numbers, got " + shape_text(in.cu_seqlens_q));
  if (dims['G'] == 0 || dims['H'] % dims['G'])
    throw BadArgument(std::to_string(dims['H']) + " query heads are not a multiple of " + std::to_string(dims['G']) +
                      " key/value heads");
  if (dims['P'] < 1) throw BadArgument("pages must hold at least one token, got " + shape_text(in.k_pages));
  if (!(static_cast<float>(in.scale) > 0)) throw BadArgument("scale must be above 0, got " + std::to_string(in.scale));
  if (in.lse) {
    dims.bind("lse", *in.lse, "TH");
    want_dtype("lse", *in.lse, Dtype::f32);
  }
  if (!in.part_out != !in.part_lse) throw BadArgument("part_out and part_lse must both be given or both be None");
  if (in.part_out) {
    dims.bind("part_out", *in.part_out, "THXD");
    dims.bind("part_lse", *in.part_lse, "THX");
    for (const auto& [name, view] : {Named{"part_out", *in.part_out}, {"part_lse", *in.part_lse}}) {
      want_dtype(name, view, Dtype::f32);
      want_contiguous(name, view);
    }
  }
  if (in.out.empty() || !dims['S']) return;

  AttendArgs a = {};
  a.q = in.q.data, a.k_pages = in.k_pages.data, a.v_pages = in.v_pages.data, a.out = in.out.data;
  a.block_table = in.block_table.as<const int>(), a.kv_lens = in.kv_lens.as<const int>();
  a.cu_seqlens_q = in.cu_seqlens_q.as<const int>();
  if (in.lse) a.lse = in.lse->as<float>(), a.l_token = in.lse->stride[0], a.l_head = in.lse->stride[1];
  if (in.part_out) a.part_out = in.part_out->as<float>(), a.part_lse = in.part_lse->as<float>();
  a.q_token = in.q.stride[0], a.q_head = in.q.stride[1], a.o_token = in.out.stride[0], a.o_head = in.out.stride[1];
  a.table_row = in.block_table.stride[0];
  a.kp = page_strides(in.k_pages), a.vp = page_strides(in.v_pages);
  a.seqs = dims.as_int('S'), a.heads = dims.as_int('H'), a.dim = dims.as_int('D');
  a.group = static_cast<int>(dims['H'] / dims['G']), a.block_size = dims.as_int('P');
  a.splits = in.part_out ? dims.as_int('X') : 1;
  if (a.splits < 1) throw BadArgument("part_out must have at least one piece");
  a.scale_log2 = static_cast<float>(in.scale / 0.6931471805599453);
  a.causal = in.causal;
  const int tokens = dims.as_int('T'), kv_heads = dims.as_int('G');
  const OnDevice device(in.q.device_id);
  with_type("q", in.q.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    choose<T>(a, wide, tokens, kv_heads, stream);
    if (in.part_out) launch(join_kernel<T>, dim3(tokens, a.heads), dim3(64), 0, stream, a);
  });
}

}  // namespace

VZ_CUDA_OP("paged_attention", SplitAttention, paged_attention)

}  // namespace vz::gpu
