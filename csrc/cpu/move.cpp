#include "move.h"

#include "isa.h"

namespace vz {

extern const MoveKernels move_scalar;
#if defined(__x86_64__)
extern const MoveKernels move_avx2, move_avx512;
#endif

const MoveKernels& move_kernels() {
#if defined(__x86_64__)
  if (isa() >= Isa::avx512) return move_avx512;
  if (isa() == Isa::avx2) return move_avx2;
#endif
  return move_scalar;
}

}  // namespace vz
