#include "faults.h"

#include <vector>

#include "cuda_shim.h"

namespace shim {
namespace {

void half_reaches_the_barrier() {
  if (threadIdx.x < 32) __syncthreads();
}

void lane_is_gone() {
  if (threadIdx.x == 3) return;
  __shfl_xor_sync(0xffffffffu, 1, 1);
}

void unaligned(const char* p) { check_aligned(p + 4, 16); }

void beyond_shared() { dynamic_shared()[64 + threadIdx.x] = 1; }

// Each thread writes its number and reads its neighbour's, without a barrier between.
void no_barrier(int* out) {
  int* const shared = reinterpret_cast<int*>(dynamic_shared());
  const int i = static_cast<int>(threadIdx.x);
  shared[i] = i;
  out[i] = shared[(i + 1) % 64];
}

}  // namespace

bool run_fault(const std::string& name) {
  if (name == "barrier") launch([] { half_reaches_the_barrier(); }, 1, 64, 0);
  if (name == "lane") launch([] { lane_is_gone(); }, 1, 32, 0);
  if (name == "shared") launch([] { beyond_shared(); }, 1, 1, 64);
  if (name == "alignment") {
    alignas(16) static const char bytes[32] = {};
    launch([] { unaligned(bytes); }, 1, 1, 0);
  }
  if (name == "race") {
    std::vector<int> out(64);
    launch([&] { no_barrier(out.data()); }, 1, 64, 64 * sizeof(int));
    for (int i = 0; i < 64; ++i)
      if (out[i] != (i + 1) % 64) return false;
  }
  return true;
}

}  // namespace shim
