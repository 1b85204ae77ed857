#include "half.h"
#include "move.h"

namespace vz {
namespace {
#include "vec_scalar.h"

#include "move_generic.h"
}  // namespace

extern const MoveKernels move_scalar;
const MoveKernels move_scalar = {rotate, copy, blend, fence};
}  // namespace vz
