#include "dense.h"

#include "isa.h"

namespace vz {

extern const DenseKernels dense_scalar;
#ifdef VZ_X86
extern const DenseKernels dense_avx2, dense_avx512, dense_avx512bf16;
#endif

const DenseKernels& dense_kernels() {
#ifdef VZ_X86
  if (has_bf16_dot()) return dense_avx512bf16;
  if (isa() >= Isa::avx512) return dense_avx512;
  if (isa() == Isa::avx2) return dense_avx2;
#endif
  return dense_scalar;
}

}  // namespace vz
