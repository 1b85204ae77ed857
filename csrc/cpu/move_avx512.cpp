#include <immintrin.h>

#include "half.h"
#include "move.h"

namespace vz {
namespace {
#include "vec_avx512.h"

#include "move_generic.h"
}  // namespace

extern const MoveKernels move_avx512;
const MoveKernels move_avx512 = {rotate, copy, blend, fence};
}  // namespace vz
