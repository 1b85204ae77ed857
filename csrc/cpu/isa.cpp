#include "isa.h"

#include <string>

#include "../tensor_view.h"

namespace vz {
namespace {

Isa detect() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vbmi") &&
      __builtin_cpu_supports("avx512vnni"))
    return Isa::avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
    return Isa::avx2;
#endif
  return Isa::scalar;
}

const Isa best = detect();
Isa current = best;

}  // namespace

Isa isa() { return current; }

bool has_bf16_dot() {
#if defined(__x86_64__)
  static const bool there = __builtin_cpu_supports("avx512bf16");
  return there && current == Isa::avx512;
#else
  return false;
#endif
}

const char* isa_name() {
  constexpr const char* names[] = {"scalar", "avx2", "avx512"};
  return names[static_cast<int>(current)];
}

void set_isa(const char* name) {
  const std::string wanted = name;
  const Isa found = wanted == "auto"     ? best
                    : wanted == "scalar" ? Isa::scalar
                    : wanted == "avx2"   ? Isa::avx2
                    : wanted == "avx512" ? Isa::avx512
                                         : throw BadArgument("isa must be auto, scalar, avx2 or avx512, got " + wanted);
  if (found > best) throw BadArgument("this machine has no " + wanted);
  current = found;
}

}  // namespace vz
