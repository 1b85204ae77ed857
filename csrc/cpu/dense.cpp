#include "dense.h"

#include "isa.h"

namespace vz {

extern const DenseKernels dense_scalar;
#if defined(__x86_64__)
extern const DenseKernels dense_avx2, dense_avx512, dense_avx512bf16;
#endif

const DenseKernels& dense_kernels() {
#if defined(__x86_64__)
  if (has_bf16_dot()) return dense_avx512bf16;
  if (isa() >= Isa::avx512) return dense_avx512;
  if (isa() == Isa::avx2) return dense_avx2;
#endif
  return dense_scalar;
}

}  // namespace vz
