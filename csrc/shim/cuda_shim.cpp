#include "cuda_shim.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "fiber.h"

namespace shim {
namespace {

constexpr int kWarp = 32;
constexpr size_t kGuardBytes = 64;  // after the dynamic shared memory
constexpr unsigned char kGuard = 0xa5;

struct Thread {
  Fiber fiber;
  Indices indices;
  enum { ready, at_barrier, at_exchange, gone } state = ready;
};

// Values change hands in two alternating rows: a lane can be one exchange ahead of the others, never two.
struct Warp {
  uint64_t row[2][kWarp];
  unsigned arrived = 0, mask = 0;
  uint64_t generation = 0;
  const char* name = "";
};

struct Block {
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  const std::function<void()>* kernel = nullptr;
  size_t current = 0, num_threads = 0, at_barrier = 0, gone = 0;
  std::vector<unsigned char> shared;
  unsigned char* shared_start = nullptr;
  std::string fault;
};

// One launch at a time: its callers hold the interpreter's lock.
Block block;
std::string order = "forward";

std::vector<size_t> in_order(size_t count, unsigned seed) {
  std::vector<size_t> indices(count);
  std::iota(indices.begin(), indices.end(), 0);
  if (order == "backward") std::reverse(indices.begin(), indices.end());
  if (order == "shuffled") std::shuffle(indices.begin(), indices.end(), std::mt19937(seed));
  return indices;
}

dim3 unravel(size_t i, dim3 size) { return dim3(i % size.x, i / size.x % size.y, i / size.x / size.y); }

void run_thread(void*) {
  Thread& self = block.threads[block.current];
  try {
    (*block.kernel)();
  } catch (const Fault& fault) {
    if (block.fault.empty()) block.fault = fault.what();
  }
  self.state = Thread::gone;
  ++block.gone;
  self.fiber.leave();
}

// Why nobody can continue: the first thread that waits, and for what.
std::string deadlock() {
  if (block.at_barrier) {
    return "__syncthreads was reached by " + std::to_string(block.at_barrier) + " of " +
           std::to_string(block.num_threads) + " threads; " + std::to_string(block.gone) + " have returned";
  }
  for (const Warp& warp : block.warps) {
    if (!warp.arrived) continue;
    return std::string(warp.name) + " waits for lanes that never come: mask " + std::to_string(warp.mask) +
           ", arrived " + std::to_string(warp.arrived);
  }
  return "threads wait for nothing";
}

void run_block(dim3 size, unsigned seed) {
  block.at_barrier = block.gone = 0;
  for (Warp& warp : block.warps) warp = Warp();
  for (size_t i = 0; i < block.num_threads; ++i) {
    block.threads[i].state = Thread::ready;
    block.threads[i].indices.thread = unravel(i, size);
    block.threads[i].fiber.start(run_thread, nullptr);
  }
  const std::vector<size_t> turns = in_order(block.num_threads, seed);
  while (block.gone < block.num_threads) {
    bool moved = false;
    for (const size_t i : turns) {
      if (block.threads[i].state != Thread::ready) continue;
      block.current = i;
      block.threads[i].fiber.enter();
      moved = true;
      if (!block.fault.empty()) throw std::runtime_error(block.fault);
    }
    if (!moved) throw std::runtime_error(deadlock());
  }
}

}  // namespace

const Indices& here() { return block.threads[block.current].indices; }
int lane() { return static_cast<int>(block.current % kWarp); }
unsigned char* dynamic_shared() { return block.shared_start; }

void barrier() {
  Thread& self = block.threads[block.current];
  if (++block.at_barrier == block.num_threads) {
    block.at_barrier = 0;
    for (size_t i = 0; i < block.num_threads; ++i) block.threads[i].state = Thread::ready;
    return;
  }
  self.state = Thread::at_barrier;
  self.fiber.leave();
}

uint64_t exchange(unsigned mask, uint64_t bits, int from, const char* name) {
  const int me = lane();
  const size_t first = block.current / kWarp * kWarp;
  Warp& warp = block.warps[block.current / kWarp];
  if (!(mask >> me & 1)) throw Fault(std::string(name) + ": lane " + std::to_string(me) + " is not in its own mask");
  if (!(mask >> from & 1)) throw Fault(std::string(name) + ": lane " + std::to_string(from) + " is not in the mask");
  if (warp.arrived && (warp.mask != mask || std::strcmp(warp.name, name) != 0))
    throw Fault("lanes of a warp meet in different warp operations");
  warp.mask = mask;
  warp.name = name;
  const int row = warp.generation & 1;
  warp.row[row][me] = bits;
  warp.arrived |= 1u << me;
  Thread& self = block.threads[block.current];
  if (warp.arrived == mask) {
    warp.arrived = 0;
    ++warp.generation;
    for (int i = 0; i < kWarp && first + i < block.num_threads; ++i) {
      Thread& other = block.threads[first + i];
      if (mask >> i & 1 && other.state == Thread::at_exchange) other.state = Thread::ready;
    }
  } else {
    self.state = Thread::at_exchange;
    self.fiber.leave();
  }
  return warp.row[row][from];
}

void launch(const std::function<void()>& kernel, dim3 grid, dim3 size, size_t shared_bytes) {
  if (!grid.x || !grid.y || !grid.z || grid.y > 65535 || grid.z > 65535)
    throw std::runtime_error("a grid that a GPU cannot launch");
  block.num_threads = size_t{size.x} * size.y * size.z;
  if (!block.num_threads || block.num_threads > 1024) throw std::runtime_error("a block that a GPU cannot launch");
  if (shared_bytes > 48 * 1024) throw std::runtime_error("more than 48 KiB of shared memory without asking for it");
  if (block.threads.size() < block.num_threads) block.threads = std::vector<Thread>(block.num_threads);
  block.warps.assign((block.num_threads + kWarp - 1) / kWarp, Warp());
  block.kernel = &kernel;
  block.fault.clear();
  block.shared.assign(shared_bytes + kGuardBytes + 16, 0);
  auto start = (reinterpret_cast<uintptr_t>(block.shared.data()) + 15) & ~uintptr_t{15};
  block.shared_start = reinterpret_cast<unsigned char*>(start);
  const size_t blocks = size_t{grid.x} * grid.y * grid.z;
  for (const size_t b : in_order(blocks, 1)) {
    std::memset(block.shared_start, 0xff, shared_bytes);  // as floats, NaN
    std::memset(block.shared_start + shared_bytes, kGuard, kGuardBytes);
    for (size_t i = 0; i < block.num_threads; ++i) {
      Indices& indices = block.threads[i].indices;
      indices.block = unravel(b, grid);
      indices.block_size = size;
    }
    run_block(size, static_cast<unsigned>(b));
    const unsigned char* guard = block.shared_start + shared_bytes;
    if (std::any_of(guard, guard + kGuardBytes, [](unsigned char byte) { return byte != kGuard; }))
      throw std::runtime_error("written beyond the dynamic shared memory");
  }
}

void set_order(const std::string& wanted) {
  if (wanted != "forward" && wanted != "backward" && wanted != "shuffled")
    throw std::invalid_argument("order must be forward, backward or shuffled, got " + wanted);
  order = wanted;
}

}  // namespace shim
