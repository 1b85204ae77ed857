#include <immintrin.h>

#include "half.h"
#include "move.h"

namespace vz {
namespace {
#include "vec_avx2.h"

#include "move_generic.h"
}  // namespace

extern const MoveKernels move_avx2;
const MoveKernels move_avx2 = {rotate, copy, blend, fence};
}  // namespace vz
