#include "move.h"

#include "isa.h"

namespace vz {

extern const MoveKernels move_scalar;
#ifdef VZ_X86
extern const MoveKernels move_avx2, move_avx512;
#endif

const MoveKernels& move_kernels() {
#ifdef VZ_X86
  if (isa() >= Isa::avx512) return move_avx512;
  if (isa() == Isa::avx2) return move_avx2;
#endif
  return move_scalar;
}

}  // namespace vz
