#include "isa.h"

#include <atomic>
#include <string>

#include "../tensor_view.h"

namespace vz {
namespace {

Isa detect() {
#ifdef VZ_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vbmi") &&
      __builtin_cpu_supports("avx512vnni"))
    return __builtin_cpu_supports("avx512bf16") ? Isa::avx512bf16 : Isa::avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
    return Isa::avx2;
#endif
  return Isa::scalar;
}

constexpr const char* kNames[] = {"scalar", "avx2", "avx512", "avx512bf16"};
const Isa best = detect();
std::atomic<Isa> current = best;  // a call that is running may find another one

}  // namespace

Isa isa() { return current; }

const char* isa_name() { return kNames[static_cast<int>(isa())]; }

bool has_bf16_dot() { return isa() == Isa::avx512bf16; }

void set_isa(const std::string& wanted) {
  if (wanted == "auto") {
    current = best;
    return;
  }
  for (int i = 0; i < 4; ++i) {
    if (wanted != kNames[i]) continue;
    if (static_cast<Isa>(i) > best) throw BadArgument("this machine has no " + wanted);
    current = static_cast<Isa>(i);
    return;
  }
  throw BadArgument("isa must be auto, scalar, avx2, avx512 or avx512bf16, got " + wanted);
}

}  // namespace vz
